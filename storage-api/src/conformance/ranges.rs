//! Ranged reads.

use futures::StreamExt;

use super::subject::{Case, kind, noise};
use crate::{ErrorKind, GetRange};

async fn digits(case: &Case) {
    case.create("object", b"0123456789").await.unwrap();
}

async fn refusal(case: &Case, range: GetRange) -> ErrorKind {
    kind(case.store.get(&case.key("object"), range).await)
}

pub(super) async fn a_range_past_the_end_is_refused(case: Case) {
    digits(&case).await;
    for range in [10..11, 11..20, 1 << 40..1 << 41, u64::MAX - 1..u64::MAX] {
        assert_eq!(refusal(&case, GetRange::Bounded(range.clone())).await, ErrorKind::Range, "{range:?}");
    }
}

#[expect(clippy::reversed_empty_ranges, reason = "this is what must be refused")]
pub(super) async fn an_empty_or_backward_range_is_refused(case: Case) {
    digits(&case).await;
    for range in [0..0, 5..5, 7..3] {
        assert_eq!(refusal(&case, GetRange::Bounded(range.clone())).await, ErrorKind::Range, "{range:?}");
    }
    assert_eq!(refusal(&case, GetRange::Suffix(0)).await, ErrorKind::Range);
}

pub(super) async fn an_empty_object_has_no_ranges(case: Case) {
    case.create("object", b"").await.unwrap();
    assert_eq!(refusal(&case, GetRange::Bounded(0..1)).await, ErrorKind::Range);
    assert_eq!(refusal(&case, GetRange::Suffix(1)).await, ErrorKind::Range);
    assert_eq!(case.read("object").await, b"");
}

pub(super) async fn a_range_is_cut_at_the_end(case: Case) {
    digits(&case).await;
    for end in [11, 1 << 40, u64::MAX] {
        let response = case.store.get(&case.key("object"), GetRange::Bounded(7..end)).await.unwrap();
        assert_eq!((response.range, response.info.size), (7..10, 10), "to {end}");
        assert_eq!(case.read_range("object", GetRange::Bounded(7..end)).await.unwrap(), b"789", "to {end}");
    }
}

pub(super) async fn a_suffix_longer_than_the_object_is_all_of_it(case: Case) {
    digits(&case).await;
    for len in [10, 11, 1 << 40, u64::MAX] {
        let response = case.store.get(&case.key("object"), GetRange::Suffix(len)).await.unwrap();
        assert_eq!((response.range, response.info.size), (0..10, 10), "the last {len}");
        assert_eq!(
            case.read_range("object", GetRange::Suffix(len)).await.unwrap(),
            b"0123456789",
            "the last {len}"
        );
    }
}

pub(super) async fn a_range_inside_is_exact(case: Case) {
    digits(&case).await;
    for (range, expected) in [
        (GetRange::Bounded(0..1), &b"0"[..]),
        (GetRange::Bounded(9..10), b"9"),
        (GetRange::Bounded(3..7), b"3456"),
        (GetRange::Bounded(0..10), b"0123456789"),
        (GetRange::Suffix(1), b"9"),
        (GetRange::Suffix(4), b"6789"),
    ] {
        assert_eq!(case.read_range("object", range.clone()).await.unwrap(), expected, "{range:?}");
    }
}

pub(super) async fn a_large_range_is_streamed(case: Case) {
    let bytes = noise(5, 8 << 20);
    case.create("object", &bytes).await.unwrap();
    let range = 1_000_001..7_000_003;
    let mut response = case.store.get(&case.key("object"), GetRange::Bounded(range.clone())).await.unwrap();
    assert_eq!(response.range, range);
    let mut at = 1_000_001;
    let mut chunks = 0;
    while let Some(chunk) = response.stream.next().await {
        let chunk = chunk.unwrap();
        assert!(bytes[at..].starts_with(&chunk), "other bytes at {at}");
        at += chunk.len();
        chunks += 1;
    }
    assert_eq!(at, 7_000_003);
    assert!(chunks > 1, "six million bytes came in one piece");
}
