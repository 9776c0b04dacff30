//! Lists in the order of SeaweedFS: directory by directory, as if `/` were the least of all bytes.

use std::cmp::Ordering;

use s3s::S3Result;
use storage_api::{KeyPrefix, ListPage, ListRequest, ObjectInfo, ObjectStore, ObjectStoreExt};

use super::answers::{prefix, refusal};

/// A key, or a common prefix.
enum Item {
    Object(ObjectInfo),
    Prefix(KeyPrefix),
}

impl Item {
    fn at(&self) -> &str {
        match self {
            Self::Object(info) => info.key.as_str(),
            Self::Prefix(prefix) => prefix.as_str(),
        }
    }
}

fn by_component(a: &str, b: &str) -> Ordering {
    let rank = |byte| if byte == b'/' { 0 } else { byte };
    a.bytes().map(rank).cmp(b.bytes().map(rank))
}

/// The page that `request` asks for, `start_after` in this order too.
pub(super) async fn page(store: &dyn ObjectStore, request: &ListRequest) -> S3Result<ListPage> {
    let all = store.list_all(&request.prefix).await.map_err(|error| refusal(&error))?;
    let mut items = Vec::new();
    for info in all {
        let rest = &info.key.as_str()[request.prefix.as_str().len()..];
        match rest.split_once('/').filter(|_| request.rolled_up) {
            Some((component, _)) => {
                items.push(Item::Prefix(prefix(Some(&format!("{}{component}/", request.prefix)))?));
            }
            None => items.push(Item::Object(info)),
        }
    }
    items.sort_by(|a, b| by_component(a.at(), b.at()));
    items.dedup_by(|a, b| a.at() == b.at());
    let after = request.start_after.as_deref().unwrap_or_default();
    // Started after a directory's bare name, it is all of the directory that is passed over.
    let dir = format!("{after}/");
    items.retain(|item| {
        after.is_empty()
            || by_component(item.at(), after) == Ordering::Greater
                && (after.ends_with('/') || !item.at().starts_with(&dir))
    });
    let room = request.max_keys.unwrap_or(usize::MAX);
    let is_truncated = items.len() > room;
    items.truncate(room);
    let next = items.last().filter(|_| is_truncated).map(|item| item.at().to_owned());
    let mut page = ListPage { next, ..ListPage::default() };
    for item in items {
        match item {
            Item::Object(info) => page.objects.push(info),
            Item::Prefix(prefix) => page.common_prefixes.push(prefix),
        }
    }
    Ok(page)
}
