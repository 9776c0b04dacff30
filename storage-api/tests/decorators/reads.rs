//! Reads that break off.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use storage_api::{Body, ErrorKind, GetRange, ObjectStore, ObjectStoreExt, PutMode, Result, Retrying};

use crate::script::{Scripted, Step, key, noise};

const LEN: usize = 10_000;

/// A store with an object of [`LEN`] bytes.
async fn scene() -> (Arc<Scripted>, Retrying<Scripted>) {
    let script = Scripted::new();
    script.inner.put(&key("k"), Body::new(noise(1, LEN)), PutMode::Create).await.unwrap();
    let retrying = script.known().await;
    (script, retrying)
}

async fn read(store: &dyn ObjectStore, range: GetRange) -> Result<Vec<u8>> {
    store.get_bytes(&key("k"), range, u64::MAX).await.map(|(_, bytes)| bytes.to_vec())
}

#[tokio::test]
async fn a_read_goes_on_where_it_broke_off() {
    let kinds = [
        ErrorKind::Interrupted,
        ErrorKind::Connection,
        ErrorKind::Timeout,
        ErrorKind::Throttled,
        ErrorKind::Unexpected,
    ];
    let breaks = kinds.into_iter().map(|kind| Step::Break(6_500, kind)).chain([Step::Short(6_500)]);
    for broken in breaks {
        let (script, retrying) = scene().await;
        script.script([broken.clone()]);
        assert!(read(&retrying, GetRange::Full).await.unwrap() == noise(1, LEN), "{broken:?}");
        assert_eq!(script.ranges(), [GetRange::Full, GetRange::Bounded(6_500..10_000)], "{broken:?}");
    }
}

#[tokio::test]
async fn ranges_go_on_inside_themselves() {
    let (script, retrying) = scene().await;
    let whole = noise(1, LEN);
    script.script([Step::Break(1_500, ErrorKind::Connection), Step::Break(0, ErrorKind::Connection)]);
    assert!(read(&retrying, GetRange::Bounded(2_000..5_000)).await.unwrap() == whole[2_000..5_000]);
    let rest = GetRange::Bounded(3_500..5_000);
    assert_eq!(script.ranges(), [GetRange::Bounded(2_000..5_000), rest.clone(), rest]);
    script.script([Step::Break(1_500, ErrorKind::Connection)]);
    assert!(read(&retrying, GetRange::Suffix(4_000)).await.unwrap() == whole[6_000..]);
    assert_eq!(script.ranges(), [GetRange::Suffix(4_000), GetRange::Bounded(7_500..10_000)]);
}

#[tokio::test]
async fn attempts_begin_anew_after_progress() {
    let (script, retrying) = scene().await;
    // More than twice as many failures as one request has attempts, with a byte in between.
    let hiccup = [Step::Break(1, ErrorKind::Connection), Step::Fail(ErrorKind::Throttled)];
    script.script(std::iter::repeat_n(hiccup, 400).flatten());
    assert!(read(&retrying, GetRange::Full).await.unwrap() == noise(1, LEN));
    assert!(script.clock.waits().iter().all(|wait| wait.as_millis() <= 200), "the waits begin anew too");
}

#[tokio::test]
async fn a_read_without_progress_is_given_up() {
    let (script, retrying) = scene().await;
    let nothing = std::iter::repeat_n(Step::Break(0, ErrorKind::Interrupted), 10_000);
    script.script([Step::Break(6_500, ErrorKind::Connection)].into_iter().chain(nothing));
    let error = read(&retrying, GetRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let sent = script.sent().len();
    assert!((30..=152).contains(&sent), "{sent}");
    assert!(script.clock.ran().as_secs() < 300);
}

#[tokio::test]
async fn what_breaks_off_behind_the_last_byte_is_whole() {
    let (script, retrying) = scene().await;
    script.script([Step::Break(LEN, ErrorKind::Connection)]);
    assert!(read(&retrying, GetRange::Full).await.unwrap() == noise(1, LEN));
    assert_eq!(script.sent().len(), 1);
}

#[tokio::test]
async fn what_can_no_longer_be_read_is_an_error() {
    for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied] {
        let (script, retrying) = scene().await;
        script.script([Step::Break(6_500, ErrorKind::Connection), Step::Fail(kind)]);
        assert_eq!(read(&retrying, GetRange::Full).await.unwrap_err().kind(), kind);
        assert_eq!(script.sent().len(), 2);
    }
}

#[tokio::test]
async fn two_objects_are_not_mixed() {
    for other in [noise(2, LEN), noise(2, LEN + 1)] {
        let (script, retrying) = scene().await;
        script.script([Step::Break(6_500, ErrorKind::Connection)]);
        let response = retrying.get(&key("k"), GetRange::Full).await.unwrap();
        script.inner.put(&key("k"), Body::new(other), PutMode::Overwrite).await.unwrap();
        let read: Vec<_> = response.stream.collect().await;
        let error = read.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert_eq!(read.len(), 8, "seven chunks and nothing after the error");
    }
}

#[tokio::test]
async fn the_whole_of_a_resumed_read_has_the_checksum_that_the_store_keeps() {
    let (script, retrying) = scene().await;
    script.script([Step::Break(6_500, ErrorKind::Connection), Step::Flip(17)]);
    assert_eq!(read(&retrying, GetRange::Full).await.unwrap_err().kind(), ErrorKind::Integrity);
    assert_eq!(script.sent().len(), 2, "what was handed out cannot be asked for again");
    // Where the store keeps none the reader has its own.
    script.script([Step::BreakUnkept(6_500), Step::Flip(17)]);
    assert!(read(&retrying, GetRange::Full).await.unwrap() != noise(1, LEN));
    // A range that happens to be all of it is compared too; a part cannot be.
    script.script([Step::Flip(17)]);
    let all = GetRange::Bounded(0..LEN as u64);
    assert_eq!(read(&retrying, all).await.unwrap_err().kind(), ErrorKind::Integrity);
    script.script([Step::Flip(17)]);
    read(&retrying, GetRange::Bounded(1..LEN as u64)).await.unwrap();
}

#[tokio::test]
async fn corruption_that_the_backend_finds_is_handed_on() {
    let (script, retrying) = scene().await;
    script.script([Step::Break(LEN, ErrorKind::Integrity)]);
    let response = retrying.get(&key("k"), GetRange::Full).await.unwrap();
    let error = response.stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!((error.kind(), script.sent().len()), (ErrorKind::Integrity, 1));
}
