//! Lists, page by page.
//!
//! Keys of the bucket that are no [`Key`] are left out: directory markers of web consoles (`dir/`) and the like are
//! nobody's here, and must not keep a backup from being read.

mod by_directory;

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;
use storage_api::{
    ErrorKind, Key, KeyPrefix, ListPage, ListRequest, ObjectInfo, ObjectStore, Operation, Result,
};

use crate::fault::Fault;
use crate::store::{S3Store, length, plain_etag, time};

/// Begins a name that comes after every other one: no key has the last code point of all.
const LAST: char = '\u{10ffff}';

/// What is asked, in keys of the bucket.
#[derive(Clone, Debug)]
struct Query {
    prefix: String,
    /// Is under the prefix.
    after: Option<String>,
    rolled_up: bool,
    room: usize,
}

/// A key or a common prefix, which ends with `/`.
#[derive(Clone, Debug)]
struct Item {
    /// In the bucket.
    at: String,
    /// Of a key.
    object: Option<Object>,
}

#[derive(Clone, Debug)]
struct Object {
    size: u64,
    last_modified: SystemTime,
    etag: Option<String>,
}

/// The answer to one request.
#[derive(Debug)]
struct Native {
    /// In byte order.
    items: Vec<Item>,
    /// Whether they came so.
    came_in_order: bool,
    /// Where there is more.
    token: Option<String>,
}

/// Items in byte order, and whether there are more.
struct Sorted {
    items: Vec<Item>,
    is_truncated: bool,
}

/// Answers [`ObjectStore::list`].
pub(crate) async fn page(store: &S3Store, request: &ListRequest) -> Result<ListPage, Fault> {
    let most = store.capabilities().list_keys_max;
    let room = request.max_keys.unwrap_or(most).min(most);
    if room == 0 {
        return Err(Fault::new(ErrorKind::Invalid, "a page of no keys was asked for".to_owned()));
    }
    let prefix = store.full(request.prefix.as_str());
    let after = request.start_after.as_ref().map(|after| store.full(after));
    let after = match after {
        Some(after) if after.starts_with(&prefix) => Some(after),
        // All that is under the prefix comes before it.
        Some(after) if after > prefix => return Ok(ListPage::default()),
        _ => None,
    };
    let mut query = Query { prefix, after, rolled_up: request.rolled_up, room };
    loop {
        let Sorted { items, is_truncated } = sorted(store, &query).await?;
        let last = items.last().filter(|_| is_truncated).map(|item| item.at.clone());
        let mut page = ListPage::default();
        for item in items {
            add(store, item, &mut page);
        }
        let own = store.config.prefix.as_str().len();
        page.next = last.as_ref().map(|last| last[own..].to_owned());
        if page.next.is_none() || !page.objects.is_empty() || !page.common_prefixes.is_empty() {
            return Ok(page);
        }
        query.after = last;
    }
}

fn add(store: &S3Store, item: Item, page: &mut ListPage) {
    let Some(own) = item.at.strip_prefix(store.config.prefix.as_str()) else { return };
    match item.object {
        Some(Object { size, last_modified, etag }) => {
            let info = |key| ObjectInfo { key, size, last_modified, etag, crc32c: None };
            page.objects.extend(Key::new(own).ok().map(info));
        }
        None => page.common_prefixes.extend(KeyPrefix::new(own)),
    }
}

/// The first items of what `query` asks for, by one request where the server lists in byte order.
async fn sorted(store: &S3Store, query: &Query) -> Result<Sorted, Fault> {
    let by_directory = || store.lists_by_directory.load(Ordering::Relaxed);
    if by_directory() {
        return by_directory::sorted(store, query, None).await;
    }
    let mut native = native(store, query, None).await?;
    if !native.came_in_order {
        store.lists_by_directory.store(true, Ordering::Relaxed);
    }
    // It may be this answer that tells.
    if by_directory() {
        return by_directory::sorted(store, query, Some(native)).await;
    }
    loop {
        native.items.retain(|item| query.wants(item));
        if native.items.is_empty() && native.token.is_some() {
            native = self::native(store, query, native.token).await?;
            continue;
        }
        return Ok(Sorted { is_truncated: native.token.is_some(), items: native.items });
    }
}

impl Query {
    fn wants(&self, item: &Item) -> bool {
        item.at.starts_with(&self.prefix) && self.after.as_ref().is_none_or(|after| item.at > *after)
    }

    /// What a server is told to start after. Inside a common prefix that is its end: S3 would roll the rest of it up
    /// and list it once more.
    fn native_after(&self) -> Option<String> {
        let after = self.after.as_ref()?;
        let rest = &after[self.prefix.len()..];
        match rest.split_once('/') {
            Some((component, _)) if self.rolled_up => Some(format!("{}{component}/{LAST}", self.prefix)),
            _ => Some(after.clone()),
        }
    }
}

/// One request: the beginning of what is asked for, or what follows `token`.
async fn native(store: &S3Store, query: &Query, token: Option<String>) -> Result<Native, Fault> {
    let request = store
        .client
        .list_objects_v2()
        .bucket(store.bucket())
        .set_prefix(Some(query.prefix.clone()).filter(|prefix| !prefix.is_empty()))
        .set_start_after(query.native_after().filter(|_| token.is_none()))
        .set_delimiter(query.rolled_up.then(|| "/".to_owned()))
        .set_max_keys(i32::try_from(query.room).ok().filter(|_| query.room < 1000))
        .set_continuation_token(token.clone())
        .encoding_type(EncodingType::Url);
    let answer = store.call(Operation::List, store.answer_limit(), request.send()).await?;
    // To the parser anything is a list of nothing.
    if answer.name().is_none() && answer.is_truncated().is_none() {
        return Err(Fault::not_s3("a list that is none", &store.place));
    }
    let next = match answer.is_truncated() {
        Some(true) => answer.next_continuation_token().map(str::to_owned),
        _ => None,
    };
    if answer.is_truncated() == Some(true) && (next.is_none() || next == token) {
        return Err(Fault::not_s3("a list that does not go on", &store.place));
    }
    let objects = objects(store, &answer)?;
    let encoding = answer.encoding_type();
    let prefixes = answer.common_prefixes().iter().filter_map(|common| common.prefix());
    let prefixes = prefixes.map(|prefix| Item { at: decoded(prefix, encoding), object: None });
    let prefixes: Vec<_> = prefixes.collect();
    let is_sorted = |items: &[Item]| items.is_sorted_by(|a, b| a.at < b.at);
    let after = query.native_after();
    let is_late = |item: &Item| after.as_ref().is_none_or(|after| item.at > *after);
    let came_in_order = is_sorted(&objects) && is_sorted(&prefixes);
    let mut items = objects;
    items.extend(prefixes);
    let came_in_order = came_in_order && items.iter().all(is_late);
    items.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(Native { items, came_in_order, token: next })
}

fn objects(store: &S3Store, answer: &ListObjectsV2Output) -> Result<Vec<Item>, Fault> {
    let encoding = answer.encoding_type();
    let item = |object: &aws_sdk_s3::types::Object| {
        Ok(Item {
            at: decoded(object.key().unwrap_or_default(), encoding),
            object: Some(Object {
                size: length(object.size(), &store.place)?,
                last_modified: time(object.last_modified(), &store.place)?,
                etag: object.e_tag().map(plain_etag),
            }),
        })
    };
    answer.contents().iter().map(item).collect()
}

/// A key of an answer. Keys that XML cannot hold are why answers are asked for in the encoding of URLs; AWS and MinIO
/// write a space as `+` there (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>). Who does not
/// say that the answer is encoded has not done it.
pub(crate) fn decoded(text: &str, encoding: Option<&EncodingType>) -> String {
    if encoding != Some(&EncodingType::Url) {
        return text.to_owned();
    }
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
