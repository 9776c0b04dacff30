//! Copies inside the store.

use super::subject::{Case, kind, noise};
use crate::ErrorKind;

pub(super) async fn a_copy_of_a_missing_key_is_not_found(case: Case) {
    case.fill(&["kept"]).await;
    for target in ["new", "kept"] {
        let copied = case.store.copy(&case.key("missing"), &case.key(target)).await;
        assert_eq!(kind(copied), ErrorKind::NotFound, "to {target}");
    }
    assert_eq!(case.names().await, ["kept"]);
    assert_eq!(case.read("kept").await, b"kept");
}

pub(super) async fn a_copy_replaces_or_creates(case: Case) {
    let bytes = noise(1, 300_000);
    case.create("from", &bytes).await.unwrap();
    case.fill(&["old"]).await;
    for target in ["old", "deep/down/new"] {
        case.store.copy(&case.key("from"), &case.key(target)).await.unwrap();
        assert!(case.read(target).await == bytes, "{target} differs");
        assert_eq!(case.store.head(&case.key(target)).await.unwrap().size, 300_000);
    }
    assert_eq!(case.names().await, ["deep/down/new", "from", "old"]);
}

pub(super) async fn a_copy_is_independent_of_its_source(case: Case) {
    case.create("from", b"as it was").await.unwrap();
    case.store.copy(&case.key("from"), &case.key("to")).await.unwrap();
    case.overwrite("from", b"changed!!").await.unwrap();
    assert_eq!(case.read("to").await, b"as it was");
    case.delete("from").await;
    assert_eq!(case.read("to").await, b"as it was");
}
