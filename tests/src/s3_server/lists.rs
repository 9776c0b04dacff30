//! Pages of keys and of pending uploads, and bulk deletes.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::dto::{
    CommonPrefix, Delete, DeleteObjectsOutput, DeletedObject, EncodingType, Error, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, MultipartUpload, Object,
};
use s3s::{S3Result, s3_error};
use storage_api::{KeyPrefix, ListPage, ListRequest, ObjectStore};

use super::answers::{etag, key, length, prefix, refusal, time};
use super::by_directory;

/// The most keys and common prefixes, or uploads, of a page.
const PAGE_MAX: usize = 1000;

/// What is not encoded in answers of the encoding type `url`.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

fn page_len(asked: Option<i32>) -> S3Result<usize> {
    let asked = usize::try_from(asked.unwrap_or(1000));
    Ok(asked.map_err(|_| s3_error!(InvalidArgument, "a page has no negative length"))?.min(PAGE_MAX))
}

/// Keys as the client wants them: percent-encoded, or as they are.
fn encoded(encoding: Option<&EncodingType>, text: &str) -> String {
    match encoding {
        Some(encoding) if encoding.as_str() == EncodingType::URL => {
            utf8_percent_encode(text, KEPT).to_string()
        }
        _ => text.to_owned(),
    }
}

/// The order of lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Bytes,
    Directories,
}

/// Answers ListObjectsV2.
pub(super) async fn page(
    store: &dyn ObjectStore,
    input: ListObjectsV2Input,
    order: Order,
) -> S3Result<ListObjectsV2Output> {
    let rolled_up = match input.delimiter.as_deref() {
        None | Some("") => false,
        Some("/") => true,
        Some(other) => return Err(s3_error!(NotImplemented, "no delimiter {other:?} here, only /")),
    };
    let token = input.continuation_token.as_deref().map(from_token).transpose()?;
    let max_keys = page_len(input.max_keys)?;
    let request = ListRequest {
        prefix: prefix(input.prefix.as_deref())?,
        start_after: token.clone().or_else(|| input.start_after.clone()),
        rolled_up,
        max_keys: Some(max_keys),
    };
    let mut page = match (max_keys, order) {
        (0, _) => ListPage::default(),
        (_, Order::Directories) => by_directory::page(store, &request).await?,
        (_, Order::Bytes) => store.list(&request).await.map_err(|error| refusal(&error))?,
    };
    if token.is_none() && max_keys > 0 && order == Order::Bytes {
        add_entered_prefix(store, &request, &mut page).await?;
    }
    let encoding = input.encoding_type.as_ref();
    let count = page.objects.len() + page.common_prefixes.len();
    let contents = page.objects.into_iter().map(|object| Object {
        key: Some(encoded(encoding, object.key.as_str())),
        size: length(object.size),
        e_tag: etag(object.etag),
        last_modified: time(object.last_modified),
        ..Default::default()
    });
    let common_prefixes = page
        .common_prefixes
        .into_iter()
        .map(|common| CommonPrefix { prefix: Some(encoded(encoding, common.as_str())) });
    Ok(ListObjectsV2Output {
        contents: Some(contents.collect()),
        common_prefixes: Some(common_prefixes.collect()),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(to_token),
        key_count: i32::try_from(count).ok(),
        max_keys: i32::try_from(max_keys).ok(),
        prefix: input.prefix.map(|prefix| encoded(encoding, &prefix)),
        delimiter: input.delimiter,
        start_after: input.start_after.map(|after| encoded(encoding, &after)),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        ..Default::default()
    })
}

/// On S3 a list that starts inside a common prefix has that prefix, if keys of it follow. The store's own lists never
/// have it.
async fn add_entered_prefix(
    store: &dyn ObjectStore,
    request: &ListRequest,
    page: &mut ListPage,
) -> S3Result<()> {
    let ListRequest { prefix, start_after, rolled_up, max_keys } = request;
    let after = start_after.as_deref().unwrap_or_default();
    let entered = after.strip_prefix(prefix.as_str()).and_then(|rest| rest.split_once('/'));
    let Some((component, inside)) = entered.filter(|_| *rolled_up) else { return Ok(()) };
    let Ok(entered) = prefix.child(component) else { return Ok(()) };
    if inside.is_empty() {
        return Ok(());
    }
    let rest = ListRequest {
        prefix: entered.clone(),
        start_after: start_after.clone(),
        rolled_up: false,
        max_keys: Some(1),
    };
    if store.list(&rest).await.map_err(|error| refusal(&error))?.objects.is_empty() {
        return Ok(());
    }
    page.common_prefixes.insert(0, entered);
    if page.objects.len() + page.common_prefixes.len() > max_keys.unwrap_or(PAGE_MAX) {
        drop_last(page);
    }
    Ok(())
}

/// Leaves the last key or common prefix to the next page.
fn drop_last(page: &mut ListPage) {
    let key = page.objects.last().map(|object| object.key.as_str());
    let common = page.common_prefixes.last().map(KeyPrefix::as_str);
    if key > common {
        page.objects.pop();
    } else {
        page.common_prefixes.pop();
    }
    let key = page.objects.last().map(|object| object.key.as_str());
    let common = page.common_prefixes.last().map(KeyPrefix::as_str);
    page.next = key.max(common).map(str::to_owned);
}

/// Tokens are nobody's business but the server's: they are not what a client could take for a key.
fn to_token(after: &str) -> String {
    format!("token:{}", utf8_percent_encode(after, NON_ALPHANUMERIC))
}

fn from_token(token: &str) -> S3Result<String> {
    let after = token.strip_prefix("token:").and_then(|after| percent_decode_str(after).decode_utf8().ok());
    let after =
        after.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?;
    Ok(after.into_owned())
}

/// Answers ListMultipartUploads.
pub(super) async fn pending(
    store: &dyn ObjectStore,
    input: ListMultipartUploadsInput,
) -> S3Result<ListMultipartUploadsOutput> {
    let all = store.multipart_list(&prefix(input.prefix.as_deref())?).await;
    let all = all.map_err(|error| refusal(&error))?;
    let key_marker = input.key_marker.as_deref().unwrap_or_default();
    // Without an upload's marker, the uploads of the key that is the marker were listed too.
    let is_after = |key: &str, upload: &str| match input.upload_id_marker.as_deref() {
        Some(marker) if !marker.is_empty() => (key, upload) > (key_marker, marker),
        _ => key > key_marker,
    };
    let mut rest = all.into_iter().filter(|upload| is_after(upload.key.as_str(), &upload.upload.0));
    let max_uploads = page_len(input.max_uploads)?;
    let page: Vec<_> = rest.by_ref().take(max_uploads).collect();
    let is_truncated = rest.next().is_some();
    let last = page.last().filter(|_| is_truncated);
    let encoding = input.encoding_type.as_ref();
    Ok(ListMultipartUploadsOutput {
        is_truncated: Some(is_truncated),
        next_key_marker: last.map(|last| encoded(encoding, last.key.as_str())),
        next_upload_id_marker: last.map(|last| last.upload.0.clone()),
        max_uploads: i32::try_from(max_uploads).ok(),
        uploads: Some(
            page.into_iter()
                .map(|upload| MultipartUpload {
                    key: Some(encoded(encoding, upload.key.as_str())),
                    upload_id: Some(upload.upload.0),
                    initiated: time(upload.begun),
                    ..Default::default()
                })
                .collect(),
        ),
        bucket: Some(input.bucket),
        prefix: input.prefix,
        encoding_type: input.encoding_type,
        ..Default::default()
    })
}

/// Answers DeleteObjects, key by key.
pub(super) async fn delete(store: &dyn ObjectStore, input: Delete) -> S3Result<DeleteObjectsOutput> {
    if input.objects.is_empty() || input.objects.len() > PAGE_MAX {
        return Err(s3_error!(MalformedXML, "1 to 1,000 keys are deleted at once"));
    }
    let (mut keys, mut errors) = (Vec::new(), Vec::new());
    for object in input.objects {
        match key(&object.key) {
            Ok(key) => keys.push(key),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                key: Some(object.key),
                ..Default::default()
            }),
        }
    }
    let mut deleted = Vec::new();
    for outcome in store.delete(&keys).await.map_err(|error| refusal(&error))? {
        let key = Some(outcome.key.to_string());
        match outcome.result {
            Ok(()) => deleted.push(DeletedObject { key, ..Default::default() }),
            Err(error) => {
                let (code, message) = (Some("InternalError".to_owned()), Some(error.to_string()));
                errors.push(Error { code, message, key, ..Default::default() });
            }
        }
    }
    let deleted = Some(deleted).filter(|_| input.quiet != Some(true));
    Ok(DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() })
}
