//! Copies inside the store.

#[cfg(test)]
mod tests;

use aws_sdk_s3::types::CompletedPart;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use storage_api::{ErrorKind, Key, Operation, PutReceipt, Result, UploadId};

use crate::fault::Fault;
use crate::read;
use crate::store::{S3Store, plain_etag, with_attributes};
use crate::uploads::{PART_NUMBER_MAX, abort, create, finish, part_number};

const OPERATION: Operation = Operation::Copy;

/// What need not be encoded in the header that names a copy's source.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

fn source(store: &S3Store, from: &Key) -> String {
    let key = store.full(from.as_str());
    format!("{}/{}", store.bucket(), utf8_percent_encode(&key, KEPT))
}

/// Copies with one request, and where that is refused because the object is too large, in parts.
///
/// What a copy in parts leaves behind when it is cancelled is a pending upload of `to`.
pub(crate) async fn copy(store: &S3Store, from: &Key, to: &Key) -> Result<PutReceipt, Fault> {
    let refused = match copy_whole(store, from, to).await {
        // AWS and MinIO say InvalidRequest, Ceph EntityTooLarge:
        // https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
        Err(fault) if ["InvalidRequest", "InvalidArgument", "EntityTooLarge"].contains(&fault.code()) => {
            fault
        }
        copied => return copied,
    };
    let info = read::head(store, from, OPERATION).await?;
    if info.size <= store.copy_bytes_max {
        return Err(refused);
    }
    copy_in_parts(store, from, to, info.size, info.etag.as_deref()).await
}

async fn copy_whole(store: &S3Store, from: &Key, to: &Key) -> Result<PutReceipt, Fault> {
    let attributes = store.attributes();
    // Without this, tags in the request are ignored and the source's are taken.
    let directive = attributes.tagging.as_ref().map(|_| aws_sdk_s3::types::TaggingDirective::Replace);
    let request = with_attributes!(store.client.copy_object(), attributes)
        .bucket(store.bucket())
        .key(store.full(to.as_str()))
        .copy_source(source(store, from))
        .set_tagging_directive(directive);
    let answer = store.call(OPERATION, store.work_limit(), request.send()).await?;
    // The status is 200 before the copy is made: only a result is a success.
    let etag = answer.copy_object_result().and_then(|result| result.e_tag());
    let etag = etag.ok_or_else(|| Fault::not_s3("an answer to a copy without an ETag", &store.place))?;
    Ok(PutReceipt { etag: Some(plain_etag(etag)) })
}

async fn copy_in_parts(
    store: &S3Store,
    from: &Key,
    to: &Key,
    size: u64,
    etag: Option<&str>,
) -> Result<PutReceipt, Fault> {
    let upload = create(store, to, OPERATION).await?;
    let copied = async {
        let parts = copy_parts(store, from, to, &upload, size, etag).await?;
        finish(store, to, &upload, parts, None, OPERATION).await
    };
    let copied = copied.await;
    if copied.is_err() {
        // The cause is what is told; a later clean-up finds the upload if this fails too.
        let _ = abort(store, to, &upload, OPERATION).await;
    }
    copied
}

async fn copy_parts(
    store: &S3Store,
    from: &Key,
    to: &Key,
    upload: &UploadId,
    size: u64,
    etag: Option<&str>,
) -> Result<Vec<CompletedPart>, Fault> {
    let part_bytes = store.copy_bytes_max.max(size.div_ceil(u64::from(PART_NUMBER_MAX)));
    let mut parts = Vec::new();
    let mut start = 0;
    for number in 1.. {
        if start >= size {
            break;
        }
        let end = (start + part_bytes).min(size);
        let number = part_number(number)?;
        let request = store
            .client
            .upload_part_copy()
            .bucket(store.bucket())
            .key(store.full(to.as_str()))
            .upload_id(&upload.0)
            .part_number(number)
            .copy_source(source(store, from))
            .copy_source_range(format!("bytes={start}-{}", end - 1))
            // Parts of two versions would be an object that never was.
            .set_copy_source_if_match(etag.map(|etag| format!("\"{etag}\"")));
        let answer = store.call(OPERATION, store.work_limit(), request.send()).await?;
        let result = answer.copy_part_result();
        let tag = result
            .and_then(|result| result.e_tag())
            .ok_or_else(|| Fault::not_s3("an answer to the copy of a part without an ETag", &store.place))?;
        let checksum = result.and_then(|result| result.checksum_crc32_c()).map(str::to_owned);
        let part = CompletedPart::builder().part_number(number).e_tag(tag).set_checksum_crc32_c(checksum);
        parts.push(part.build());
        start = end;
    }
    if parts.is_empty() {
        return Err(Fault::new(ErrorKind::Invalid, "an empty object is not copied in parts".to_owned()));
    }
    Ok(parts)
}
