//! How many requests run at once.

use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures::{StreamExt, poll};
use storage_api::{
    Body, ErrorKind, GetRange, Limited, ListRequest, Metered, ObjectStore, ObjectStoreExt, PutMode, Retrying,
};

use crate::script::{Scripted, Step, key, noise, policy};

const LEN: usize = 10_000;

/// A store with an object of [`LEN`] bytes, below a limit of one request.
async fn one_at_a_time() -> (Arc<Scripted>, Arc<Limited<Scripted>>) {
    let script = Scripted::new();
    script.inner.put(&key("k"), Body::new(noise(1, LEN)), PutMode::Create).await.unwrap();
    let limited = Limited::new(Arc::clone(&script), NonZeroUsize::MIN);
    (script, Arc::new(limited))
}

/// Asserts that a request can run, or that it cannot.
async fn assert_free(limited: &Limited<Scripted>, is_free: bool) {
    let everything = ListRequest::default();
    assert_eq!(poll!(pin!(limited.list(&everything))).is_ready(), is_free);
}

#[tokio::test]
async fn no_more_than_the_limit_run_at_once_and_the_first_to_wait_is_next() {
    let script = Scripted::new();
    let limited = Limited::new(Arc::clone(&script), NonZeroUsize::new(3).unwrap());
    script.script(std::iter::repeat_n(Step::Hang, 3));
    let keys: Vec<_> = (0..6).map(|n| key(&format!("k{n}"))).collect();
    let mut running: Vec<_> = keys.iter().map(|key| Some(limited.head(key))).collect();
    for request in running.iter_mut().flatten() {
        assert!(poll!(request.as_mut()).is_pending());
    }
    assert_eq!(script.sent().len(), 3, "the others wait");
    // A caller that is cancelled gives its place back, to the first that waits.
    running[1] = None;
    assert!(poll!(running[5].as_mut().unwrap()).is_pending());
    assert_eq!(script.sent(), [], "the last to come is not the next");
    let next = poll!(running[3].as_mut().unwrap());
    assert!(matches!(next, Poll::Ready(Err(error)) if error.kind() == ErrorKind::NotFound));
    assert_eq!(script.sent()[0].1, "k3");
    // One that is cancelled while it waits does not keep those behind it.
    running[4] = None;
    assert!(poll!(running[5].as_mut().unwrap()).is_ready());
}

#[tokio::test]
async fn every_request_waits_for_its_place() {
    let (script, limited) = one_at_a_time().await;
    let k = key("k");
    let upload = script.inner.multipart_create(&k).await.unwrap();
    let held = limited.get(&k, GetRange::Full).await.unwrap();
    script.sent();
    let part = Body::new("x");
    let crc = part.crc32c();
    let root = storage_api::KeyPrefix::root();
    let list = ListRequest::default();
    let keys = [k.clone()];
    let waiting = async |request: Pin<Box<dyn Future<Output = ()> + Send + '_>>| {
        assert!(poll!(pin!(request)).is_pending());
    };
    waiting(Box::pin(async { drop(limited.put(&k, part.clone(), PutMode::Overwrite).await) })).await;
    waiting(Box::pin(async { drop(limited.get(&k, GetRange::Full).await) })).await;
    waiting(Box::pin(async { drop(limited.head(&k).await) })).await;
    waiting(Box::pin(async { drop(limited.list(&list).await) })).await;
    waiting(Box::pin(async { drop(limited.delete(&keys).await) })).await;
    waiting(Box::pin(async { drop(limited.copy(&k, &k).await) })).await;
    waiting(Box::pin(async { drop(limited.multipart_create(&k).await) })).await;
    waiting(Box::pin(async { drop(limited.multipart_put(&k, &upload, 1, part.clone()).await) })).await;
    waiting(Box::pin(async { drop(limited.multipart_complete(&k, &upload, &[], crc).await) })).await;
    waiting(Box::pin(async { drop(limited.multipart_abort(&k, &upload).await) })).await;
    waiting(Box::pin(async { drop(limited.multipart_list(&root).await) })).await;
    assert_eq!(script.sent(), []);
    drop(held);
    assert_free(&limited, true).await;
}

#[tokio::test]
async fn a_read_keeps_its_place_until_its_stream_has_ended() {
    let (_script, limited) = one_at_a_time().await;
    let mut response = limited.get(&key("k"), GetRange::Full).await.unwrap();
    assert_free(&limited, false).await;
    let mut read = 0;
    while let Some(chunk) = response.stream.next().await {
        assert_free(&limited, read > LEN).await;
        read += chunk.unwrap().len();
    }
    assert_eq!(read, LEN);
    assert_free(&limited, true).await;
    assert!(response.stream.next().await.is_none(), "it has ended for good");
}

#[tokio::test]
async fn a_read_that_is_dropped_or_fails_gives_its_place_back() {
    let (script, limited) = one_at_a_time().await;
    let mut response = limited.get(&key("k"), GetRange::Full).await.unwrap();
    response.stream.next().await.unwrap().unwrap();
    drop(response);
    assert_free(&limited, true).await;

    script.script([Step::Break(0, ErrorKind::Connection)]);
    let mut response = limited.get(&key("k"), GetRange::Full).await.unwrap();
    assert_free(&limited, false).await;
    response.stream.next().await.unwrap().unwrap_err();
    assert_free(&limited, true).await;
    assert!(response.stream.next().await.is_none());

    script.script([Step::Fail(ErrorKind::Throttled)]);
    limited.get(&key("k"), GetRange::Full).await.unwrap_err();
    assert_free(&limited, true).await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_next_attempt_has_no_place() {
    let (script, limited) = one_at_a_time().await;
    // By a clock at which the wait never ends.
    let retrying = Retrying::new(Arc::clone(&limited), policy(), Arc::new(Stopped));
    retrying.list(&ListRequest::default()).await.unwrap();
    script.script([Step::Fail(ErrorKind::Throttled)]);
    let k = key("k");
    let mut waits = retrying.head(&k);
    assert!(poll!(waits.as_mut()).is_pending());
    assert_free(&limited, true).await;

    // Nor has a read that has broken off.
    script.script([Step::Break(1_000, ErrorKind::Connection)]);
    let mut response = retrying.get(&k, GetRange::Full).await.unwrap();
    response.stream.next().await.unwrap().unwrap();
    assert!(poll!(response.stream.next()).is_pending());
    assert_free(&limited, true).await;
}

#[tokio::test]
async fn every_attempt_is_counted() {
    let script = Scripted::new();
    let metered = Arc::new(Metered::new(Arc::clone(&script)));
    let metrics = Arc::clone(metered.metrics());
    let limited = Arc::new(Limited::new(metered, NonZeroUsize::MIN));
    let retrying = Retrying::new(limited, policy(), script.clock.clone());
    let k = key("k");
    script.script([Step::Fail(ErrorKind::Throttled), Step::Lose(ErrorKind::Timeout)]);
    retrying.put(&k, Body::new(noise(1, LEN)), PutMode::Create).await.unwrap();
    script.script([Step::Break(4_000, ErrorKind::Connection)]);
    retrying.get_bytes(&k, GetRange::Full, u64::MAX).await.unwrap();
    let counts = metrics.snapshot();
    let len = LEN as u64;
    // Three puts and the comparison, then the read and the rest of it.
    assert_eq!((counts.put, counts.bytes_sent), (3, 3 * len));
    assert_eq!((counts.get, counts.bytes_received), (3, 2 * len));
}

/// A clock that stands still, for those too who wait.
#[derive(Debug)]
struct Stopped;

#[async_trait::async_trait]
impl storage_api::Clock for Stopped {
    fn now(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH
    }

    async fn sleep(&self, _: std::time::Duration) {
        futures::future::pending().await
    }
}
