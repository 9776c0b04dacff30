//! Requests that may have taken effect although their answers were lost.

use storage_api::{Body, ErrorKind, GetRange, ObjectStore, ObjectStoreExt, Operation, PutMode, RetryClass};

use crate::script::{Scripted, Step, key, noise, policy};

/// What leaves open whether a create took effect.
const OPEN: [ErrorKind; 4] =
    [ErrorKind::Connection, ErrorKind::Timeout, ErrorKind::Interrupted, ErrorKind::Unexpected];

fn body() -> Body {
    Body::new(noise(1, 10_000))
}

fn operations(script: &Scripted) -> Vec<Operation> {
    script.sent().into_iter().map(|(operation, ..)| operation).collect()
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_found_to_be_ours() {
    for kind in OPEN {
        let script = Scripted::new();
        let retrying = script.known().await;
        script.script([Step::Lose(kind)]);
        let receipt = retrying.put(&key("k"), body(), PutMode::Create).await.unwrap();
        assert_eq!(operations(&script), [Operation::PutCreate, Operation::PutCreate, Operation::Get]);
        assert_eq!(receipt.etag, script.inner.head(&key("k")).await.unwrap().etag);
    }
}

#[tokio::test]
async fn a_create_that_never_arrived_is_sent_again() {
    let script = Scripted::new();
    let retrying = script.known().await;
    script.script(OPEN.map(Step::Fail));
    retrying.put(&key("k"), body(), PutMode::Create).await.unwrap();
    assert_eq!(operations(&script), [Operation::PutCreate; 5]);
    let (_, there) = script.inner.get_bytes(&key("k"), GetRange::Full, u64::MAX).await.unwrap();
    assert_eq!(there, body().bytes());
}

#[tokio::test]
async fn a_create_that_lost_to_another_is_refused() {
    let (len, other) = (body().len(), noise(2, 10_000));
    assert_eq!(len, other.len() as u64);
    let almost = [&noise(1, 9_999)[..], b"!"].concat();
    for there in [other, almost, noise(1, 9_999), noise(1, 10_001), Vec::new()] {
        let script = Scripted::new();
        script.inner.put(&key("k"), Body::new(there.clone()), PutMode::Create).await.unwrap();
        let retrying = script.known().await;
        script.script([Step::Fail(ErrorKind::Connection)]);
        let error = retrying.put(&key("k"), body(), PutMode::Create).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::AlreadyExists, Operation::PutCreate));
        let (_, kept) = script.inner.get_bytes(&key("k"), GetRange::Full, u64::MAX).await.unwrap();
        assert_eq!(kept, there);
    }
}

#[tokio::test]
async fn a_create_that_is_refused_at_once_is_not_compared() {
    let script = Scripted::new();
    script.inner.put(&key("k"), body(), PutMode::Create).await.unwrap();
    let retrying = script.known().await;
    // The store has refused the first attempt before it did anything: the same bytes are somebody else's.
    for before in [vec![], vec![Step::Fail(ErrorKind::Throttled)]] {
        let attempts = before.len() + 1;
        script.script(before);
        let error = retrying.put(&key("k"), body(), PutMode::Create).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(operations(&script), vec![Operation::PutCreate; attempts]);
    }
}

#[tokio::test]
async fn the_comparison_is_tried_as_any_request() {
    let script = Scripted::new();
    let retrying = script.known().await;
    for read in [
        Step::Fail(ErrorKind::Throttled),
        Step::Break(4_000, ErrorKind::Connection),
        Step::Short(4_000),
        Step::Short(0),
        Step::Flip(5_000),
    ] {
        let key = key(&format!("{read:?}"));
        script.script([Step::Lose(ErrorKind::Timeout), Step::Pass, read.clone()]);
        retrying.put(&key, body(), PutMode::Create).await.unwrap_or_else(|error| panic!("{read:?}: {error}"));
        assert_eq!(script.sent().len(), 4, "{read:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_found_out_stays_open() {
    let lost = Step::Lose(ErrorKind::Timeout);
    let many = |kind| std::iter::repeat_n(Step::Fail(kind), 1_000);
    let scripts: Vec<Vec<Step>> = vec![
        // Nothing but failures after it.
        [lost.clone()].into_iter().chain(many(ErrorKind::Connection)).collect(),
        [lost.clone()].into_iter().chain(many(ErrorKind::Throttled)).collect(),
        // A refusal that says nothing of the first attempt.
        vec![lost.clone(), Step::Fail(ErrorKind::PermissionDenied)],
        vec![lost.clone(), Step::Fail(ErrorKind::StorageFull)],
        // It exists, and whose it is cannot be read.
        vec![lost.clone(), Step::Pass, Step::Fail(ErrorKind::PermissionDenied)],
        vec![lost.clone(), Step::Pass, Step::Fail(ErrorKind::NotFound)],
        [lost, Step::Pass].into_iter().chain(many(ErrorKind::Connection)).collect(),
    ];
    for steps in scripts {
        let script = Scripted::new();
        let retrying = script.known().await;
        script.script(steps.clone());
        let error = retrying.put(&key("k"), body(), PutMode::Create).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{:?}", &steps[..steps.len().min(3)]);
        assert_eq!(error.retry_class(), RetryClass::Ambiguous);
        assert!(script.clock.ran().as_secs() < 300, "comparing has no time of its own");
    }
}

#[tokio::test]
async fn a_dead_store_leaves_a_create_open() {
    let script = Scripted::new();
    let retrying = script.retried(policy());
    script.script(std::iter::repeat_n(Step::Fail(ErrorKind::Connection), 1_000));
    let error = retrying.put(&key("k"), body(), PutMode::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_class()), (ErrorKind::Connection, RetryClass::Ambiguous));
    assert!(script.clock.ran().as_secs() < 9);
}

#[tokio::test]
async fn an_overwrite_whose_answer_is_lost_is_sent_again() {
    let script = Scripted::new();
    let retrying = script.known().await;
    script.script([Step::Lose(ErrorKind::Timeout)]);
    retrying.put(&key("k"), body(), PutMode::Overwrite).await.unwrap();
    assert_eq!(operations(&script), [Operation::PutOverwrite; 2]);
}

#[tokio::test]
async fn a_completion_whose_answer_is_lost_is_left_to_the_caller() {
    let script = Scripted::new();
    let retrying = script.known().await;
    let k = key("k");
    let upload = retrying.multipart_create(&k).await.unwrap();
    let part = retrying.multipart_put(&k, &upload, 1, body()).await.unwrap();
    script.sent();
    script.script([Step::Lose(ErrorKind::Timeout)]);
    let parts = std::slice::from_ref(&part);
    let error = retrying.multipart_complete(&k, &upload, parts, part.crc32c).await.unwrap_err();
    // The second attempt was told that there is no such upload, which the first has made true.
    assert_eq!((error.kind(), error.retry_class()), (ErrorKind::Timeout, RetryClass::Ambiguous));
    assert_eq!(operations(&script), [Operation::MultipartComplete; 2]);
    assert_eq!(retrying.head(&k).await.unwrap().size, 10_000);

    let gone = retrying.multipart_complete(&k, &upload, parts, part.crc32c).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "nothing is open where nothing was lost");
}

#[tokio::test]
async fn a_completion_that_never_arrived_is_sent_again() {
    let script = Scripted::new();
    let retrying = script.known().await;
    let k = key("k");
    let upload = retrying.multipart_create(&k).await.unwrap();
    let part = retrying.multipart_put(&k, &upload, 1, body()).await.unwrap();
    script.script(OPEN.map(Step::Fail));
    retrying.multipart_complete(&k, &upload, std::slice::from_ref(&part), part.crc32c).await.unwrap();
    assert_eq!(retrying.head(&k).await.unwrap().size, 10_000);
}
