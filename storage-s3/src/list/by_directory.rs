//! Byte order from a server that lists directory by directory.
//!
//! SeaweedFS keeps keys in directories and lists those one after the other, each in the order of its bare names
//! (<https://github.com/seaweedfs/seaweedfs>, `weed/s3api/s3api_object_handlers_list.go`): all of `a/` comes before
//! `a-b`, as if `/` were the least of all bytes. In byte order `-` and what else is less than `/` comes first. So the
//! two orders differ only in where the block of keys below a directory `a/` stands among the names that begin with `a`
//! and one of those bytes.
//!
//! Here is guaranteed: lists of such a server, of any keys, are whole and in byte order, page after page. Where no
//! directory has such a neighbour, which is so of all keys of Layerpack, it takes at most one small request for every
//! directory that a page ends in, and one for every such byte in `start_after` and for its end; else the page is read on to the end of
//! the neighbours. Such a server is known by the name in its answers, or else by the first list that is not in byte
//! order; behind a proxy that hides the name, a list whose pages happen to break exactly between such neighbours is the
//! one case that goes unseen.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use storage_api::Result;

use super::{Item, LAST, Native, Query, Sorted, native};
use crate::fault::Fault;
use crate::store::S3Store;

/// The server's order.
fn by_component(a: &str, b: &str) -> Ordering {
    let rank = |byte| if byte == b'/' { 0 } else { byte };
    a.bytes().map(rank).cmp(b.bytes().map(rank))
}

/// The first items of what `query` asks for, in byte order. `first` is the server's first answer where there is one.
pub(super) async fn sorted(store: &S3Store, query: &Query, first: Option<Native>) -> Result<Sorted, Fault> {
    let mut items = passed_over(store, query).await?;
    let mut closed = BTreeSet::new();
    let mut page = match first {
        Some(page) => page,
        None => native(store, query, None).await?,
    };
    loop {
        let position = page.items.iter().map(|item| &item.at).max_by(|a, b| by_component(a, b)).cloned();
        items.extend(page.items.into_iter().filter(|item| query.wants(item)));
        items.sort_by(|a, b| a.at.cmp(&b.at));
        items.dedup_by(|a, b| a.at == b.at);
        let Some(token) = page.token else {
            let is_truncated = items.len() > query.room;
            items.truncate(query.room);
            return Ok(Sorted { items, is_truncated });
        };
        if let Some(position) = position.filter(|_| items.len() >= query.room)
            && are_first(store, query, &items[..query.room], &position, &mut closed).await?
        {
            items.truncate(query.room);
            return Ok(Sorted { items, is_truncated: true });
        }
        page = native(store, query, Some(token)).await?;
    }
}

/// What comes after `after` in byte order and before it in the server's: the blocks `x/` of every beginning `x` of
/// `after` that a byte less than `/` follows. And that of `after` itself: SeaweedFS starts after all of a directory
/// where it is told to start after its name.
async fn passed_over(store: &S3Store, query: &Query) -> Result<Vec<Item>, Fault> {
    let Some(after) = &query.after else { return Ok(Vec::new()) };
    let mut items = Vec::new();
    for dir in late_dirs(query, after) {
        let block = format!("{dir}/");
        let room = if query.rolled_up { 1 } else { query.room };
        let inside = Query { prefix: block.clone(), after: None, rolled_up: false, room };
        let mut page = native(store, &inside, None).await?;
        if query.rolled_up {
            items.extend((!page.items.is_empty()).then_some(Item { at: block, object: None }));
            continue;
        }
        loop {
            items.append(&mut page.items);
            let Some(token) = page.token else { break };
            page = native(store, &inside, Some(token)).await?;
        }
    }
    Ok(items)
}

/// The beginnings of `after` that may be directories which come after it.
fn late_dirs<'a>(query: &Query, after: &'a str) -> Vec<&'a str> {
    let from = query.prefix.len();
    let low = after.bytes().enumerate().skip(from + 1).filter(|(_, byte)| *byte < b'/').map(|(at, _)| at);
    let ends = low.chain([after.len()]).filter(|end| *end > from);
    let dirs = ends.map(|end| &after[..end]).filter(|dir| !dir.ends_with('/'));
    // Rolled up, what lies deeper is part of a common prefix that `after` is inside of.
    dirs.filter(|dir| !query.rolled_up || !dir[from..].contains('/')).collect()
}

/// Whether nothing that the server lists after `position` belongs between `items`.
async fn are_first(
    store: &S3Store,
    query: &Query,
    items: &[Item],
    position: &str,
    closed: &mut BTreeSet<String>,
) -> Result<bool, Fault> {
    for item in items {
        for dir in dirs(query, &item.at) {
            if !closed.contains(dir) {
                if !is_closed(store, query, dir, position).await? {
                    return Ok(false);
                }
                closed.insert(dir.to_owned());
            }
        }
    }
    Ok(true)
}

/// The directories under the prefix that an item is in, without the `/` at the end.
fn dirs<'a>(query: &Query, at: &'a str) -> impl Iterator<Item = &'a str> {
    let from = query.prefix.len();
    at.match_indices('/').map(|(end, _)| end).filter(move |end| *end >= from).map(|end| &at[..end])
}

/// Whether all names that begin like the directory `dir` and come before its block in byte order have been listed, if
/// `position` is the last that has.
async fn is_closed(store: &S3Store, query: &Query, dir: &str, position: &str) -> Result<bool, Fault> {
    let block = format!("{dir}/");
    // They come before `after` too then, and are not asked for.
    if query.after.as_ref().is_some_and(|after| after.starts_with(&block)) {
        return Ok(true);
    }
    // The byte after '/'.
    let end = format!("{dir}0");
    let is_behind = |at: &str| by_component(at, &end) != Ordering::Less;
    if is_behind(position) {
        return Ok(true);
    }
    if !position.starts_with(&block) {
        return Ok(false);
    }
    let behind = Query { after: Some(format!("{block}{LAST}")), room: 1, ..query.clone() };
    let next = native(store, &behind, None).await?;
    Ok(next.items.first().is_none_or(|next| is_behind(&next.at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_before_the_names_that_begin_like_it() {
        let listed = ["a/1", "a/b/1", "a/b-", "a", "a-b", "a0"];
        for pair in listed.windows(2).filter(|pair| pair[1] != "a") {
            assert_eq!(by_component(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn late_directories_are_the_beginnings_before_a_low_byte() {
        let dirs = |after: &str, rolled_up| {
            let query = Query { prefix: "p-x/".into(), after: Some(after.into()), rolled_up, room: 1 };
            late_dirs(&query, after).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(dirs("p-x/a-b/c.d", false), ["p-x/a", "p-x/a-b/c", "p-x/a-b/c.d"]);
        assert_eq!(dirs("p-x/a-b/c.d", true), ["p-x/a"]);
        assert_eq!(dirs("p-x/b/", false), [""; 0]);
        assert_eq!(dirs("p-x/", false), [""; 0]);
        assert_eq!(dirs("p-x/-a", false), ["p-x/-a"]);
    }
}
