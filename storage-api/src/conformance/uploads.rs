//! Uploads in parts.

use super::subject::{Case, kind, noise};
use crate::{Body, Crc32c, ErrorKind, Key, PartId, PutReceipt, Result, UploadId};

/// What the store must say to parts it cannot join; S3 servers do not agree on one.
const REFUSED: [ErrorKind; 3] = [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Integrity];

/// An upload in progress.
struct Upload {
    case: Case,
    key: Key,
    id: UploadId,
}

impl Upload {
    async fn begin(case: &Case, name: &str) -> Self {
        let key = case.key(name);
        let id = case.store.multipart_create(&key).await.unwrap();
        Self { case: case.clone(), key, id }
    }

    async fn try_put(&self, number: u32, body: Body) -> Result<PartId> {
        self.case.store.multipart_put(&self.key, &self.id, number, body).await
    }

    async fn put(&self, number: u32, bytes: &[u8]) -> PartId {
        let part = self.try_put(number, Body::new(bytes.to_vec())).await.unwrap();
        assert_eq!((part.number, part.crc32c), (number, Crc32c::of(bytes)));
        part
    }

    async fn complete(&self, parts: &[PartId], whole: &[u8]) -> Result<PutReceipt> {
        self.case.store.multipart_complete(&self.key, &self.id, parts, Crc32c::of(whole)).await
    }

    async fn abort(&self) {
        self.case.store.multipart_abort(&self.key, &self.id).await.unwrap();
    }
}

/// Bytes that can be a part which is not the last.
fn part_bytes(case: &Case, seed: u64) -> Vec<u8> {
    let least = usize::try_from(case.store.capabilities().part_bytes_min).unwrap();
    noise(seed, least.max(100_000))
}

async fn pending(case: &Case) -> Vec<(Key, UploadId)> {
    let uploads = case.store.multipart_list(&case.prefix("")).await.unwrap();
    uploads.into_iter().map(|pending| (pending.key, pending.upload)).collect()
}

pub(super) async fn an_upload_is_invisible_until_completed(case: Case) {
    let upload = Upload::begin(&case, "object").await;
    case.assert_absent("object").await;
    let part = upload.put(1, b"all of it").await;
    case.assert_absent("object").await;
    assert_eq!(pending(&case).await, [(upload.key.clone(), upload.id.clone())]);
    upload.complete(&[part], b"all of it").await.unwrap();
    assert_eq!(case.read("object").await, b"all of it");
    assert_eq!(case.names().await, ["object"]);
    assert_eq!(pending(&case).await, []);
}

pub(super) async fn an_upload_that_does_not_exist_is_refused(case: Case) {
    let upload = Upload::begin(&case, "object").await;
    let part = upload.put(1, b"part").await;
    upload.abort().await;
    assert_eq!(kind(upload.try_put(1, Body::new("part")).await), ErrorKind::NotFound);
    assert_eq!(kind(upload.complete(&[part], b"part").await), ErrorKind::NotFound);
    case.assert_absent("object").await;
    assert_eq!(pending(&case).await, []);
}

pub(super) async fn a_part_with_a_wrong_checksum_is_refused(case: Case) {
    let upload = Upload::begin(&case, "object").await;
    let damaged = Body::with_crc32c(b"part".to_vec(), Crc32c::of(b"other"));
    assert_eq!(kind(upload.try_put(1, damaged).await), ErrorKind::Integrity);
    let part = upload.put(1, b"part").await;
    upload.complete(&[part], b"part").await.unwrap();
    assert_eq!(case.read("object").await, b"part");
}

pub(super) async fn an_upload_with_wrong_parts_publishes_nothing(case: Case) {
    let upload = Upload::begin(&case, "object").await;
    let (first, second) = (part_bytes(&case, 1), part_bytes(&case, 2));
    let parts = [upload.put(1, &first).await, upload.put(2, &second).await];
    let whole = [&first[..], &second].concat();
    let [one, two] = parts.clone();
    let unknown = PartId { number: 3, ..two.clone() };
    let exchanged = PartId { number: 1, ..two.clone() };
    let wrong: [(&str, &[PartId]); 5] = [
        ("none", &[]),
        ("a part that was never put", &[one.clone(), two.clone(), unknown]),
        ("out of order", &[two.clone(), one.clone()]),
        ("the same part twice", &[one.clone(), one.clone()]),
        ("another part's tag", &[exchanged, two.clone()]),
    ];
    for (what, parts) in wrong {
        let kind = kind(upload.complete(parts, &whole).await);
        assert!(REFUSED.contains(&kind), "{what}: {kind:?}");
        case.assert_absent("object").await;
    }
    upload.abort().await;
}

pub(super) async fn an_upload_with_a_wrong_whole_checksum_publishes_nothing(case: Case) {
    case.fill(&["replaced"]).await;
    for name in ["object", "replaced"] {
        let upload = Upload::begin(&case, name).await;
        let part = upload.put(1, b"all of it").await;
        assert_eq!(kind(upload.complete(&[part], b"something else").await), ErrorKind::Integrity);
        upload.abort().await;
    }
    case.assert_absent("object").await;
    assert_eq!(case.read("replaced").await, b"replaced");
}

pub(super) async fn a_part_that_is_too_small_is_refused(case: Case) {
    let least = usize::try_from(case.store.capabilities().part_bytes_min).unwrap();
    let upload = Upload::begin(&case, "object").await;
    let small = noise(1, least.saturating_sub(1));
    if small.is_empty() {
        // No part is too small here, and then one of a single byte must do.
        let parts = [upload.put(1, b"a").await, upload.put(2, b"b").await];
        upload.complete(&parts, b"ab").await.unwrap();
        assert_eq!(case.read("object").await, b"ab");
    } else {
        let parts = [upload.put(1, &small).await, upload.put(2, b"last").await];
        let whole = [&small[..], b"last"].concat();
        assert_eq!(kind(upload.complete(&parts, &whole).await), ErrorKind::Invalid);
        case.assert_absent("object").await;
        upload.abort().await;
    }
}

pub(super) async fn an_aborted_upload_is_gone_and_aborts_again(case: Case) {
    let upload = Upload::begin(&case, "object").await;
    upload.put(1, b"part").await;
    for _ in 0..3 {
        upload.abort().await;
        assert_eq!(pending(&case).await, []);
    }
    case.assert_absent("object").await;
}

pub(super) async fn a_part_put_twice_counts_once(case: Case) {
    let upload = Upload::begin(&case, "object").await;
    let (first, second) = (part_bytes(&case, 1), part_bytes(&case, 2));
    upload.put(1, &part_bytes(&case, 9)).await;
    let parts = [upload.put(1, &first).await, upload.put(2, &second).await];
    let whole = [&first[..], &second].concat();
    upload.complete(&parts, &whole).await.unwrap();
    assert!(case.read("object").await == whole, "the first bytes of the part were kept");
}

pub(super) async fn a_completed_upload_is_the_joined_parts(case: Case) {
    let upload = Upload::begin(&case, "deep/down/object").await;
    // Put out of order, numbered with gaps, the last one short.
    let bytes = [part_bytes(&case, 1), part_bytes(&case, 2), b"end".to_vec()];
    let third = upload.put(10, &bytes[2]).await;
    let first = upload.put(2, &bytes[0]).await;
    let second = upload.put(3, &bytes[1]).await;
    let whole = bytes.concat();
    upload.complete(&[first, second, third], &whole).await.unwrap();
    assert!(case.read("deep/down/object").await == whole, "the parts were joined otherwise");
    assert_eq!(case.store.head(&case.key("deep/down/object")).await.unwrap().size, whole.len() as u64);
    assert_eq!(pending(&case).await, []);
}

pub(super) async fn a_completed_upload_replaces_the_object(case: Case) {
    case.create("object", &noise(1, 50_000)).await.unwrap();
    let upload = Upload::begin(&case, "object").await;
    let part = upload.put(1, b"new").await;
    assert!(case.read("object").await == noise(1, 50_000), "replaced before it was completed");
    upload.complete(&[part], b"new").await.unwrap();
    assert_eq!(case.read("object").await, b"new");
}

pub(super) async fn uploads_to_one_key_are_independent(case: Case) {
    let (one, two) = (Upload::begin(&case, "object").await, Upload::begin(&case, "object").await);
    assert_ne!(one.id, two.id);
    assert_eq!(pending(&case).await.len(), 2);
    let parts = [one.put(1, b"one").await, two.put(1, b"two").await];
    one.abort().await;
    assert_eq!(pending(&case).await, [(two.key.clone(), two.id.clone())]);
    two.complete(&parts[1..], b"two").await.unwrap();
    assert_eq!(case.read("object").await, b"two");
}

pub(super) async fn pending_uploads_are_listed_by_prefix(case: Case) {
    let mut uploads = Vec::new();
    for name in ["b/1", "a-b", "a/2", "a/1"] {
        uploads.push(Upload::begin(&case, name).await);
    }
    let names = async |prefix| {
        let pending = case.store.multipart_list(&case.prefix(prefix)).await.unwrap();
        pending.iter().map(|pending| case.rest(pending.key.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["a-b", "a/1", "a/2", "b/1"]);
    assert_eq!(names("a/").await, ["a/1", "a/2"]);
    assert_eq!(names("c/").await, [""; 0]);
    for upload in uploads {
        upload.abort().await;
    }
    assert_eq!(names("").await, [""; 0]);
}
