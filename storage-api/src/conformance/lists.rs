//! Whole lists: order, prefixes, what is seen.

use super::subject::{Case, kind};
use crate::{ErrorKind, KeyPrefix, ListPage, ListRequest, ObjectStoreExt};

pub(super) async fn a_list_of_nothing_is_empty(case: Case) {
    for rolled_up in [false, true] {
        let page = case.page(ListRequest { rolled_up, ..ListRequest::default() }).await;
        assert_eq!(page, ListPage::default());
    }
    assert_eq!(case.store.multipart_list(&case.prefix("")).await.unwrap(), []);
}

pub(super) async fn a_page_of_no_keys_is_refused(case: Case) {
    case.fill(&["object"]).await;
    let request = ListRequest { prefix: case.prefix(""), max_keys: Some(0), ..ListRequest::default() };
    assert_eq!(kind(case.store.list(&request).await), ErrorKind::Invalid);
}

pub(super) async fn a_list_is_in_byte_order(case: Case) {
    // Directory by directory, "a/b" and "b/-/x" would come elsewhere; in UTF-16 or a locale, the last would.
    let sorted = [
        "-", "A", "a b", "a!", "a+", "a-b", "a-b-c", "a.b", "a/b", "a/b-c", "a/c/d", "a/d", "a0", "aa",
        "b-/x", "b/-/x", "b/x", "b0/x", "z", "ä", "\u{ff5e}", "🐘",
    ];
    assert!(sorted.is_sorted());
    let mut shuffled = sorted;
    shuffled.reverse();
    shuffled.swap(3, 17);
    case.fill(&shuffled).await;
    assert_eq!(case.names().await, sorted);
}

pub(super) async fn a_prefix_ends_at_a_separator(case: Case) {
    case.fill(&["a-b", "a/1", "a/2/3", "a0", "aa/1", "b/a/1"]).await;
    let names = async |prefix| {
        let objects = case.store.list_all(&case.prefix(prefix)).await.unwrap();
        objects.iter().map(|object| case.rest(object.key.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(names("a/").await, ["a/1", "a/2/3"]);
    assert_eq!(names("a/2/").await, ["a/2/3"]);
    assert_eq!(names("aa/").await, ["aa/1"]);
    // Neither a file, nor a missing directory, nor half a name is a prefix with anything below it.
    for prefix in ["a-b/", "missing/", "missing/deeper/", "a/2/3/", "b/"] {
        let expected: &[&str] = if prefix == "b/" { &["b/a/1"] } else { &[] };
        assert_eq!(names(prefix).await, expected, "{prefix}");
    }
}

pub(super) async fn a_list_sees_every_put_and_delete(case: Case) {
    let mut expected = Vec::new();
    for n in 0..12 {
        let name = format!("{}/{n:02}", n / 4);
        case.create(&name, b"x").await.unwrap();
        expected.push(name);
        assert_eq!(case.names().await, expected);
    }
    while let Some(name) = expected.pop() {
        case.delete(&name).await;
        assert_eq!(case.names().await, expected);
    }
}

pub(super) async fn the_root_lists_everything(case: Case) {
    case.fill(&["a", "b/c"]).await;
    let listed = case.store.list_all(&KeyPrefix::root()).await.unwrap();
    for name in ["a", "b/c"] {
        assert!(listed.iter().any(|object| object.key == case.key(name)), "{name} is missing");
    }
    assert!(listed.is_sorted_by_key(|object| object.key.as_str()));
    let request = ListRequest { rolled_up: true, ..ListRequest::default() };
    let page = case.store.list(&request).await.unwrap();
    assert!(page.common_prefixes.contains(&case.prefix("")), "{page:?}");
}

pub(super) async fn keys_below_a_separator_are_rolled_up(case: Case) {
    case.fill(&["d-e", "d/1", "d/2/3", "d0/1", "e/1/2/3", "x"]).await;
    let page = case.page(ListRequest { rolled_up: true, ..ListRequest::default() }).await;
    let (objects, common_prefixes) = case.names_of(&page);
    assert_eq!(objects, ["d-e", "x"]);
    assert_eq!(common_prefixes, ["d/", "d0/", "e/"]);
    assert_eq!(page.objects[0].size, 3);
    case.delete("e/1/2/3").await;
    let page = case.page(ListRequest { rolled_up: true, ..ListRequest::default() }).await;
    assert_eq!(case.names_of(&page).1, ["d/", "d0/"], "a prefix is gone with its last key");
}
