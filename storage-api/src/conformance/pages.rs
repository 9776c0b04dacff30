//! Lists page by page.

use futures::StreamExt;

use super::subject::Case;
use crate::{ListPage, ListRequest, ObjectStoreExt};

const NAMES: [&str; 9] = ["a", "b-", "b/1", "b/2", "b/3/4", "b0", "c/1", "d/1/2", "e"];

/// All pages of at most `max_keys` keys, in a bounded number of steps.
async fn pages(case: &Case, rolled_up: bool, max_keys: usize) -> Vec<ListPage> {
    let mut pages = Vec::new();
    let mut start_after = None;
    loop {
        let prefix = case.prefix("");
        let request = ListRequest { prefix, start_after, rolled_up, max_keys: Some(max_keys) };
        let page = case.store.list(&request).await.unwrap();
        let len = page.objects.len() + page.common_prefixes.len();
        assert!(len <= max_keys, "{len} keys on a page of {max_keys}");
        start_after = page.next.clone();
        pages.push(page);
        if start_after.is_none() {
            return pages;
        }
        // A last page may be empty, but no other.
        assert!(len > 0 && pages.len() <= NAMES.len() + 1, "the list does not end");
    }
}

pub(super) async fn pages_of_any_size_join_to_the_whole_list(case: Case) {
    case.fill(&NAMES).await;
    for max_keys in 1..=NAMES.len() + 1 {
        let pages = pages(&case, false, max_keys).await;
        let names: Vec<_> = pages.iter().flat_map(|page| case.names_of(page).0).collect();
        assert_eq!(names, NAMES, "in pages of {max_keys}");
    }
}

pub(super) async fn rolled_up_pages_of_any_size_join_to_the_whole_list(case: Case) {
    case.fill(&NAMES).await;
    for max_keys in 1..=NAMES.len() + 1 {
        let pages = pages(&case, true, max_keys).await;
        let (objects, prefixes): (Vec<_>, Vec<_>) = pages.iter().map(|page| case.names_of(page)).unzip();
        assert_eq!(objects.concat(), ["a", "b-", "b0", "e"], "in pages of {max_keys}");
        assert_eq!(prefixes.concat(), ["b/", "c/", "d/"], "in pages of {max_keys}");
        let mut all: Vec<_> = objects.iter().zip(&prefixes).map(|(o, p)| [&o[..], p].concat()).collect();
        all.iter_mut().for_each(|page| page.sort());
        assert!(all.concat().is_sorted(), "a page of {max_keys} took what belongs to a later one: {all:?}");
    }
}

pub(super) async fn a_list_starts_after_a_key_that_need_not_exist(case: Case) {
    case.fill(&NAMES).await;
    // Present, absent, inside a directory, a directory's own name, before all, after all.
    for start_after in
        ["b/1", "b/2x", "b/", "b", "b/3", "b/3/", "b/3/4", "b/3/4/5", "0", "a", "e", "f", "c/1/"]
    {
        let page = case
            .page(ListRequest { start_after: Some(start_after.to_owned()), ..ListRequest::default() })
            .await;
        let expected: Vec<_> = NAMES.into_iter().filter(|name| *name > start_after).collect();
        assert_eq!(case.names_of(&page).0, expected, "after {start_after}");
    }
    for (start_after, expected) in [("!", &NAMES[..]), ("~", &[])] {
        let start_after = Some(start_after.to_owned());
        let request = ListRequest { prefix: case.prefix(""), start_after, ..ListRequest::default() };
        let page = case.store.list(&request).await.unwrap();
        assert_eq!(case.names_of(&page).0, expected, "{:?} lies outside the prefix", request.start_after);
    }
}

pub(super) async fn a_rolled_up_list_starts_after_a_prefix(case: Case) {
    case.fill(&NAMES).await;
    for start_after in ["a", "b", "b-", "b/", "b/1", "b/2", "b/3/4", "b/9", "b0", "c/", "d/1/2", "e"] {
        let start = Some(start_after.to_owned());
        let page =
            case.page(ListRequest { rolled_up: true, start_after: start, ..ListRequest::default() }).await;
        let after = |names: &[&'static str]| {
            names.iter().copied().filter(|name| *name > start_after).map(str::to_owned).collect::<Vec<_>>()
        };
        let expected = (after(&["a", "b-", "b0", "e"]), after(&["b/", "c/", "d/"]));
        assert_eq!(case.names_of(&page), expected, "after {start_after}");
    }
}

pub(super) async fn a_list_longer_than_the_longest_page_is_whole(case: Case) {
    let longest = case.store.capabilities().list_keys_max;
    assert!(longest <= 10_000, "a page of {longest} keys is too long to be tested");
    let names: Vec<_> = (0..=longest).map(|n| format!("{}/{n:05}", n % 10)).collect();
    futures::stream::iter(&names)
        .for_each_concurrent(32, async |name| {
            case.create(name, b"x").await.unwrap();
        })
        .await;
    let page = case.page(ListRequest::default()).await;
    assert_eq!(page.objects.len(), longest);
    assert!(page.next.is_some());
    let mut expected = names;
    expected.sort();
    assert!(case.names().await == expected);
    assert_eq!(case.store.list_all(&case.prefix("3/")).await.unwrap().len(), expected.len() / 10);
}
