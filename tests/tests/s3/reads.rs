//! Faults of single requests, seen from the store.

use std::sync::Arc;
use std::time::Duration;

use layerpack_tests::{Fault, Remote, RequestKind, Rule, WireProxy};
use storage_api::conformance::skip;
use storage_api::{Body, ErrorKind, GetRange, Key, ObjectStore, ObjectStoreExt, PutMode, Result};

use crate::stores::{decorate, plain};

const OBJECT_BYTES: usize = 6 << 20;
/// Where faults happen: a good way into an object.
const MIDDLE: u64 = 4 << 20;
/// Longer than any answer of a server on this machine takes.
const PROGRESS: Duration = Duration::from_secs(2);

/// A store of which every request goes through a proxy, and an object in it.
struct Scene {
    proxy: WireProxy,
    /// The backend by itself.
    plain: Arc<dyn ObjectStore>,
    /// The backend below the decorators.
    store: Arc<dyn ObjectStore>,
    key: Key,
    bytes: Vec<u8>,
}

impl Scene {
    /// Says that a test is skipped where there is nothing to put a proxy before.
    async fn set() -> Option<Self> {
        let remote = Remote::fresh();
        let Some(endpoint) = &remote.endpoint else {
            skip("s3_read_faults", "the remote's URL has no endpoint to put a proxy before");
            return None;
        };
        let proxy = WireProxy::start(endpoint);
        let remote = remote.by(&proxy.endpoint()).with("progress_timeout", "2");
        let plain: Arc<dyn ObjectStore> = plain(&remote).await;
        let store = decorate(Arc::clone(&plain));
        let (key, bytes) = (Key::new("a/b").unwrap(), noise(OBJECT_BYTES));
        store.put(&key, Body::new(bytes.clone()), PutMode::Create).await.unwrap();
        Some(Self { proxy, plain, store, key, bytes })
    }

    async fn read(&self, range: GetRange) -> Result<Vec<u8>> {
        let (_, bytes) = self.store.get_bytes(&self.key, range, u64::MAX).await?;
        Ok(bytes.to_vec())
    }

    /// The ranges of the reads at the wire, and how many bytes came.
    fn ranges(&self) -> (Vec<Option<String>>, u64) {
        let log = self.proxy.log();
        let gets = || log.iter().filter(|request| request.kind == RequestKind::Get);
        let ranges = gets().map(|request| request.range().map(str::to_owned)).collect();
        (ranges, gets().map(|request| request.bytes_down).sum())
    }
}

/// Bytes of which no two stretches are alike.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The high bytes are the good ones.
        let [first, second, third, fourth, ..] = state.to_be_bytes();
        [first, second, third, fourth]
    };
    (0..len / 4).flat_map(word).collect()
}

/// The first byte of a range that is open or ends with the object.
fn start_of(range: Option<&str>) -> u64 {
    let (start, end) = range.unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    assert!(end.is_empty() || end == (OBJECT_BYTES - 1).to_string(), "{range:?}");
    start.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_breaks_off_goes_on_where_it_stopped() {
    for fault in [Fault::ResetInBody(MIDDLE), Fault::CloseInBody(MIDDLE), Fault::StallInBody(MIDDLE)] {
        let Some(scene) = Scene::set().await else { return };
        scene.proxy.inject(Rule::new(fault.clone()).of(RequestKind::Get));
        assert!(scene.read(GetRange::Full).await.unwrap() == scene.bytes, "{fault:?}");
        let (ranges, came) = scene.ranges();
        assert_eq!((ranges.len(), &ranges[0]), (2, &None), "{fault:?}: {ranges:?}");
        let resumed = start_of(ranges[1].as_deref());
        // What was on its way at the reset may be lost; what had come is not asked for again.
        assert!((MIDDLE / 2..=MIDDLE).contains(&resumed), "{fault:?}: resumed at {resumed}");
        assert_eq!(came, MIDDLE + OBJECT_BYTES as u64 - resumed, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_breaks_off_goes_on_inside_the_range() {
    let Some(scene) = Scene::set().await else { return };
    scene.proxy.inject(Rule::new(Fault::ResetInBody(1 << 20)).of(RequestKind::Get).times(2));
    let range = 1_000_001..5_000_002;
    let read = scene.read(GetRange::Bounded(range.clone())).await.unwrap();
    assert!(read == scene.bytes[1_000_001..5_000_002]);
    let (ranges, came) = scene.ranges();
    assert_eq!(ranges.len(), 3);
    assert!(ranges.iter().flatten().all(|range| range.ends_with("-5000001")), "{ranges:?}");
    assert!(came < 6_000_000, "{came} bytes for {range:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_corrupted_on_the_way_down_is_an_integrity_error() {
    let Some(scene) = Scene::set().await else { return };
    if scene.plain.head(&scene.key).await.unwrap().crc32c.is_none() {
        return skip("s3_corrupt_answers", "the server keeps no CRC32C of an object");
    }
    scene.proxy.inject(Rule::new(Fault::FlipInAnswer(MIDDLE)).of(RequestKind::Get));
    let error = scene.read(GetRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
    assert!(scene.read(GetRange::Full).await.unwrap() == scene.bytes, "the next read is right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_corrupted_on_the_way_up_is_sent_again() {
    let Some(scene) = Scene::set().await else { return };
    scene.proxy.inject(Rule::new(Fault::FlipInRequest(MIDDLE)).of(RequestKind::Put));
    let key = Key::new("up").unwrap();
    scene.store.put(&key, Body::new(scene.bytes.clone()), PutMode::Create).await.unwrap();
    let (_, there) = scene.store.get_bytes(&key, GetRange::Full, u64::MAX).await.unwrap();
    assert!(there == scene.bytes);
    assert_eq!(scene.proxy.counts().put, 3, "the object of the scene, and this one twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_a_timeout_and_slowness_is_not() {
    let Some(scene) = Scene::set().await else { return };
    let put = async |name| {
        let body = Body::new(scene.bytes[..64 << 10].to_vec());
        scene.plain.put(&Key::new(name).unwrap(), body, PutMode::Overwrite).await.map(drop)
    };
    let get = async || scene.plain.get_bytes(&scene.key, GetRange::Full, u64::MAX).await.map(drop);
    let list = async || scene.plain.list_all(&storage_api::KeyPrefix::root()).await.map(drop);
    // A put has the time that its bytes may take besides.
    let room = PROGRESS * 2 + Duration::from_secs(1);
    for fault in [Fault::StallBefore, Fault::StallAfter] {
        scene.proxy.inject(Rule::new(fault).times(3));
        for (what, answer) in [
            ("get", tokio::time::timeout(PROGRESS * 3, get()).await),
            ("list", tokio::time::timeout(PROGRESS * 3, list()).await),
            ("put", tokio::time::timeout(room, put("p")).await),
        ] {
            let answer = answer.unwrap_or_else(|_| panic!("the {what} waits for ever"));
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Timeout, "{what}");
        }
    }
    scene.proxy.inject(Rule::new(Fault::StallInBody(MIDDLE)).of(RequestKind::Get));
    let stalled = tokio::time::timeout(PROGRESS * 3, get()).await.expect("the body waits for ever");
    assert_eq!(stalled.unwrap_err().kind(), ErrorKind::Timeout);
    // More than the bound in all, with something coming all the time.
    scene.proxy.inject(Rule::new(Fault::Trickle(PROGRESS / 8)).of(RequestKind::Get));
    get().await.unwrap();
    let pieces = scene.proxy.log().len();
    assert!(pieces > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_refusals_are_waited_out() {
    for fault in [Fault::error(503, "SlowDown"), Fault::error(500, "InternalError"), Fault::ResetBefore] {
        let Some(scene) = Scene::set().await else { return };
        scene.proxy.inject(Rule::new(fault.clone()).of(RequestKind::Get).times(3));
        scene.proxy.inject(Rule::new(fault.clone()).of(RequestKind::List).times(3));
        scene.proxy.inject(Rule::new(fault.clone()).of(RequestKind::Delete).times(3));
        assert!(scene.read(GetRange::Full).await.unwrap() == scene.bytes, "{fault:?}");
        let listed = scene.store.list_all(&storage_api::KeyPrefix::root()).await.unwrap();
        assert_eq!(listed.len(), 1);
        let outcomes = scene.store.delete(std::slice::from_ref(&scene.key)).await.unwrap();
        assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
        assert_eq!(scene.proxy.broken().len(), 9, "{fault:?}");
    }
}
