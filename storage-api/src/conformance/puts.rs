//! Puts: refused, created, overwritten.

use super::subject::{Case, kind, noise};
use crate::{Body, Crc32c, ErrorKind, PutMode};

pub(super) async fn a_second_create_fails_and_changes_nothing(case: Case) {
    case.create("object", b"the first").await.unwrap();
    let before = case.store.head(&case.key("object")).await.unwrap();
    assert_eq!(kind(case.create("object", b"another").await), ErrorKind::AlreadyExists);
    assert_eq!(
        kind(case.create("object", b"the first").await),
        ErrorKind::AlreadyExists,
        "equal bytes lose too"
    );
    assert_eq!(case.read("object").await, b"the first");
    assert_eq!(case.store.head(&case.key("object")).await.unwrap(), before);
    assert_eq!(case.names().await, ["object"]);
}

pub(super) async fn a_create_over_an_overwrite_fails(case: Case) {
    case.overwrite("object", b"there").await.unwrap();
    assert_eq!(kind(case.create("object", b"late").await), ErrorKind::AlreadyExists);
    assert_eq!(case.read("object").await, b"there");
}

pub(super) async fn a_create_after_a_delete_succeeds(case: Case) {
    case.create("object", b"old").await.unwrap();
    case.delete("object").await;
    case.create("object", b"new").await.unwrap();
    assert_eq!(case.read("object").await, b"new");
}

pub(super) async fn a_wrong_checksum_stores_nothing(case: Case) {
    for mode in [PutMode::Create, PutMode::Overwrite] {
        let body = Body::with_crc32c(noise(1, 10_000), Crc32c(0x0bad_0bad));
        assert_eq!(
            kind(case.store.put(&case.key("object"), body, mode).await),
            ErrorKind::Integrity,
            "{mode:?}"
        );
        case.assert_absent("object").await;
    }
    case.create("object", b"the key is still free").await.unwrap();
}

pub(super) async fn a_wrong_checksum_keeps_the_old_object(case: Case) {
    case.create("object", b"old").await.unwrap();
    let body = Body::with_crc32c(b"new".to_vec(), Crc32c::of(b"old"));
    let refused = case.store.put(&case.key("object"), body, PutMode::Overwrite).await;
    assert_eq!(kind(refused), ErrorKind::Integrity);
    assert_eq!(case.read("object").await, b"old");
}

pub(super) async fn an_overwrite_replaces_the_whole_object(case: Case) {
    case.overwrite("object", &noise(1, 10_000)).await.unwrap();
    case.overwrite("object", b"short").await.unwrap();
    assert_eq!(case.read("object").await, b"short");
    assert_eq!(case.store.head(&case.key("object")).await.unwrap().size, 5);
    assert_eq!(case.names().await, ["object"]);
}

pub(super) async fn an_empty_object_is_an_object(case: Case) {
    case.create("object", b"").await.unwrap();
    assert_eq!(case.read("object").await, b"");
    assert_eq!(case.store.head(&case.key("object")).await.unwrap().size, 0);
    assert_eq!(case.names().await, ["object"]);
    assert_eq!(kind(case.create("object", b"").await), ErrorKind::AlreadyExists);
}

pub(super) async fn a_large_object_makes_the_round_trip(case: Case) {
    let bytes = noise(3, 8 << 20);
    case.create("object", &bytes).await.unwrap();
    let read = case.read("object").await;
    assert_eq!(read.len(), bytes.len());
    assert!(read == bytes, "the bytes differ");
}
