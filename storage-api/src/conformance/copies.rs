//! Copies inside the store.

use super::subject::{Case, kind, noise};
use crate::{ErrorKind, PutMode};

pub(super) async fn a_copy_of_a_missing_key_is_not_found(case: Case) {
    case.fill(&["kept"]).await;
    for mode in [PutMode::Create, PutMode::Overwrite] {
        for target in ["new", "kept"] {
            let copied = case.store.copy(&case.key("missing"), &case.key(target), mode).await;
            let expected: &[_] = match (mode, target) {
                // Which of the two is found first is the store's affair.
                (PutMode::Create, "kept") => &[ErrorKind::NotFound, ErrorKind::AlreadyExists],
                _ => &[ErrorKind::NotFound],
            };
            assert!(expected.contains(&kind(copied)), "{mode:?} to {target}");
        }
    }
    assert_eq!(case.names().await, ["kept"]);
    assert_eq!(case.read("kept").await, b"kept");
}

pub(super) async fn a_create_only_copy_replaces_nothing(case: Case) {
    case.fill(&["from", "to"]).await;
    let copied = case.store.copy(&case.key("from"), &case.key("to"), PutMode::Create).await;
    assert_eq!(kind(copied), ErrorKind::AlreadyExists);
    assert_eq!(case.read("to").await, b"to");
    assert_eq!(case.read("from").await, b"from");
}

pub(super) async fn a_copy_replaces_or_creates(case: Case) {
    let bytes = noise(1, 300_000);
    case.create("from", &bytes).await.unwrap();
    case.fill(&["old"]).await;
    for (target, mode) in [
        ("old", PutMode::Overwrite),
        ("deep/down/new", PutMode::Overwrite),
        ("deep/created", PutMode::Create),
    ] {
        case.store.copy(&case.key("from"), &case.key(target), mode).await.unwrap();
        assert!(case.read(target).await == bytes, "{target} differs");
        assert_eq!(case.store.head(&case.key(target)).await.unwrap().size, 300_000);
    }
    assert_eq!(case.names().await, ["deep/created", "deep/down/new", "from", "old"]);
}

pub(super) async fn a_copy_is_independent_of_its_source(case: Case) {
    case.create("from", b"as it was").await.unwrap();
    case.store.copy(&case.key("from"), &case.key("to"), PutMode::Create).await.unwrap();
    case.overwrite("from", b"changed!!").await.unwrap();
    assert_eq!(case.read("to").await, b"as it was");
    case.delete("from").await;
    assert_eq!(case.read("to").await, b"as it was");
}
