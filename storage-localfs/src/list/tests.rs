//! When a page counts, and what becomes of one that never does.

use std::time::SystemTime;

use storage_api::{ObjectInfo, Operation, RetryClass};

use super::*;

/// A page of objects and a common prefix.
fn page_of(names: &[String]) -> ListPage {
    let object = |name: &String| ObjectInfo {
        key: Key::new(name.as_str()).unwrap(),
        size: 0,
        last_modified: SystemTime::UNIX_EPOCH,
        etag: None,
        crc32c: None,
    };
    let (prefixes, names): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| name.ends_with('/'));
    ListPage {
        objects: names.iter().map(object).collect(),
        common_prefixes: prefixes.into_iter().map(|prefix| KeyPrefix::new(prefix).unwrap()).collect(),
        next: None,
    }
}

#[test]
fn a_page_is_settled_once_a_pass_adds_nothing() {
    for (passes, settled_at) in [
        (["a", "a", "a b", "a b"], 1),
        (["a", "a b", "a b", "a b"], 2),
        (["a b", "a", "a", "a"], 1),
        (["a c", "a b", "a b c", "b c"], 3),
        (["a/", "a/ b/", "b/ c/", "b/"], 3),
    ] {
        let mut taken = 0;
        let page = settled("", || {
            taken += 1;
            Ok(page_of(&passes[taken - 1].split(' ').map(str::to_owned).collect::<Vec<_>>()))
        });
        assert_eq!(taken - 1, settled_at, "{passes:?}");
        let names: Vec<_> = passes[settled_at].split(' ').map(str::to_owned).collect();
        assert_eq!(page.unwrap(), page_of(&names));
    }
}

#[test]
fn a_page_that_never_settles_is_an_error_that_a_retry_can_help() {
    let mut taken: usize = 0;
    let fault = settled("log/", || {
        taken += 1;
        Ok(page_of(&(0..taken).map(|n| format!("log/{n:04}")).collect::<Vec<_>>()))
    });
    assert_eq!(taken, PASSES_MAX);
    let error = fault.unwrap_err().into_storage_error(Operation::List, "log/");
    assert_eq!((error.kind(), error.retry_class()), (ErrorKind::Interrupted, RetryClass::Safe));
}
