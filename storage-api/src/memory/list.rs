//! One page of a sorted map of objects.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{BACKEND, Object};
use crate::{ErrorKind, Key, KeyPrefix, ListPage, ListRequest, Operation, Result, StorageError};

/// The page of `objects` that `request` asks for, with at most `keys_max` keys and common prefixes.
pub(super) fn page(
    objects: &BTreeMap<Key, Object>,
    request: &ListRequest,
    keys_max: usize,
) -> Result<ListPage> {
    let prefix = request.prefix.as_str();
    let invalid = |text: String| {
        StorageError::new(ErrorKind::Invalid, Operation::List, prefix, BACKEND).with_source(text)
    };
    let room = request.max_keys.unwrap_or(keys_max).min(keys_max);
    if room == 0 {
        return Err(invalid("a page of no keys was asked for".to_owned()));
    }
    let after = request.start_after.as_deref().unwrap_or("");
    let mut page = ListPage::default();
    // Where the last key or common prefix of the page ends.
    let mut last: Option<String> = None;
    let mut from =
        if after < prefix { Bound::Included(prefix.to_owned()) } else { Bound::Excluded(after.to_owned()) };
    while let Some((key, object)) =
        objects.range::<str, _>((from.as_ref().map(String::as_str), Bound::Unbounded)).next()
    {
        let Some(rest) = key.as_str().strip_prefix(prefix) else { break };
        let rolled = if request.rolled_up { rest.split_once('/') } else { None };
        let common = rolled.map(|(component, _)| format!("{prefix}{component}/"));
        let is_listed = common.as_deref().is_none_or(|common| common > after);
        if is_listed && page.objects.len() + page.common_prefixes.len() == room {
            page.next = last;
            break;
        }
        match common {
            Some(common) => {
                from = Bound::Included(behind(&common));
                if is_listed {
                    page.common_prefixes
                        .push(KeyPrefix::new(common.as_str()).map_err(|e| invalid(e.to_string()))?);
                    last = Some(common);
                }
            }
            None => {
                from = Bound::Excluded(key.as_str().to_owned());
                last = Some(key.as_str().to_owned());
                page.objects.push(object.info(key));
            }
        }
    }
    Ok(page)
}

/// The least string after everything that begins with `common`, which ends with `/`.
fn behind(common: &str) -> String {
    // '0' is the byte after '/'.
    format!("{}0", common.trim_end_matches('/'))
}
