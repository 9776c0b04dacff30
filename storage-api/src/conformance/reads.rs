//! Gets and heads.

use std::time::Duration;

use super::subject::{Case, kind, noise};
use crate::{Body, Crc32c, ErrorKind, GetRange, ObjectStoreExt, Operation};

pub(super) async fn a_missing_key_is_not_found(case: Case) {
    for range in [GetRange::Full, GetRange::Bounded(0..1), GetRange::Bounded(5..5), GetRange::Suffix(1)] {
        let got = case.store.get(&case.key("missing"), range.clone()).await;
        let expected = if range == GetRange::Bounded(5..5) {
            [ErrorKind::NotFound, ErrorKind::Range]
        } else {
            [ErrorKind::NotFound; 2]
        };
        assert!(expected.contains(&kind(got)), "{range:?}");
    }
    assert_eq!(kind(case.store.head(&case.key("missing")).await), ErrorKind::NotFound);
    assert_eq!(kind(case.store.head(&case.key("missing/deeper")).await), ErrorKind::NotFound);
}

pub(super) async fn errors_name_the_operation_and_the_key(case: Case) {
    let key = case.key("missing");
    let get = case.store.get(&key, GetRange::Full).await.unwrap_err();
    assert_eq!((get.operation(), get.key()), (Operation::Get, key.as_str()));
    let head = case.store.head(&key).await.unwrap_err();
    assert_eq!((head.operation(), head.key()), (Operation::Head, key.as_str()));
    case.fill(&["object"]).await;
    let create = case.create("object", b"x").await.unwrap_err();
    assert_eq!((create.operation(), create.key()), (Operation::PutCreate, case.key("object").as_str()));
    assert!(create.to_string().contains(case.key("object").as_str()), "{create}");
}

pub(super) async fn a_key_is_not_found_by_its_beginning(case: Case) {
    case.fill(&["directory/object"]).await;
    for name in ["directory", "directory/obj", "dir"] {
        assert_eq!(
            kind(case.store.get(&case.key(name), GetRange::Full).await),
            ErrorKind::NotFound,
            "get of {name}"
        );
        assert_eq!(kind(case.store.head(&case.key(name)).await), ErrorKind::NotFound, "head of {name}");
        case.delete(name).await;
    }
    assert_eq!(case.names().await, ["directory/object"]);
}

pub(super) async fn get_head_and_list_agree(case: Case) {
    let receipt = case.create("object", &noise(1, 12_345)).await.unwrap();
    let key = case.key("object");
    let head = case.store.head(&key).await.unwrap();
    let get = case.store.get(&key, GetRange::Bounded(5..7)).await.unwrap();
    let listed = case.store.list_all(&case.prefix("")).await.unwrap().remove(0);
    assert_eq!(get.range, 5..7);
    for info in [&head, &get.info, &listed] {
        assert_eq!(info.key, key);
        assert_eq!(info.size, 12_345);
        assert_eq!(info.etag, head.etag);
        // Some stores keep less than a second in one answer and not in another.
        let (earlier, later) =
            (info.last_modified.min(head.last_modified), info.last_modified.max(head.last_modified));
        assert!(later.duration_since(earlier).unwrap() <= Duration::from_secs(1), "{info:?} and {head:?}");
    }
    if receipt.etag.is_some() {
        assert_eq!(receipt.etag, head.etag);
    }
}

pub(super) async fn a_kept_checksum_is_the_objects(case: Case) {
    let least = usize::try_from(case.store.capabilities().part_bytes_min).unwrap().max(1000);
    let bytes = noise(1, least + 777);
    case.overwrite("put", b"something else").await.unwrap();
    case.overwrite("put", &bytes).await.unwrap();
    let key = case.key("parts");
    let upload = case.store.multipart_create(&key).await.unwrap();
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(bytes.chunks(least)) {
        let body = Body::new(part.to_vec());
        parts.push(case.store.multipart_put(&key, &upload, number, body).await.unwrap());
    }
    case.store.multipart_complete(&key, &upload, &parts, Crc32c::of(&bytes)).await.unwrap();
    case.store.copy(&case.key("put"), &case.key("copy")).await.unwrap();
    for name in ["put", "parts", "copy"] {
        let head = case.store.head(&case.key(name)).await.unwrap();
        let get = case.store.get(&case.key(name), GetRange::Full).await.unwrap().info;
        // Not every store keeps one; that which is kept is right.
        for kept in [head.crc32c, get.crc32c].into_iter().flatten() {
            assert_eq!(kept, Crc32c::of(&bytes), "{name}");
        }
    }
}
