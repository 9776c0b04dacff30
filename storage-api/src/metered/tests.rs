//! What is counted, and when.

use std::sync::Arc;

use futures::StreamExt;

use super::*;
use crate::{MemoryStore, ObjectStoreExt};

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn metered() -> Metered<dyn ObjectStore> {
    let inner: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new().with_part_bytes_min(1));
    Metered::new(inner)
}

#[tokio::test]
async fn every_request_is_counted_under_its_kind() {
    let store = metered();
    let (a, b) = (key("a"), key("b"));
    store.put(&a, Body::new("four"), PutMode::Create).await.unwrap();
    store.put(&a, Body::new("lost"), PutMode::Create).await.unwrap_err();
    store.head(&a).await.unwrap();
    store.head(&b).await.unwrap_err();
    store.head(&b).await.unwrap_err();
    store.copy(&a, &b).await.unwrap();
    store.list_all(&KeyPrefix::root()).await.unwrap();
    let upload = store.multipart_create(&b).await.unwrap();
    let part = store.multipart_put(&b, &upload, 1, Body::new("part one")).await.unwrap();
    store.multipart_complete(&b, &upload, &[part], Crc32c::of(b"part one")).await.unwrap();
    store.multipart_abort(&b, &upload).await.unwrap();
    store.multipart_list(&KeyPrefix::root()).await.unwrap();
    store.delete(&[a, b]).await.unwrap();
    let counts = store.metrics().snapshot();
    let expected = RequestCounts {
        put: 2,
        get: 0,
        list: 1,
        head: 3,
        delete: 1,
        copy: 1,
        multipart: 5,
        bytes_sent: 16,
        bytes_received: 0,
    };
    assert_eq!(counts, expected);
    assert_eq!(counts.requests(), 13);
}

#[tokio::test]
async fn received_bytes_are_counted_as_they_are_read() {
    let store = metered();
    let body = vec![7; 3 << 20];
    store.put(&key("a"), Body::new(body), PutMode::Create).await.unwrap();
    let before = store.metrics().snapshot();
    let mut response = store.get(&key("a"), GetRange::Full).await.unwrap();
    assert_eq!(store.metrics().snapshot().bytes_received, 0, "nothing was read yet");
    let first = response.stream.next().await.unwrap().unwrap().len() as u64;
    assert!(first < 3 << 20, "the test needs more than one chunk");
    assert_eq!(store.metrics().snapshot().bytes_received, first);
    drop(response);
    store.get_bytes(&key("a"), GetRange::Suffix(10), 10).await.unwrap();
    let difference = store.metrics().snapshot().since(&before);
    assert_eq!(difference, RequestCounts { get: 2, bytes_received: first + 10, ..RequestCounts::default() });
}

#[tokio::test]
async fn stores_can_share_counters() {
    let metrics = Arc::new(Metrics::default());
    for _ in 0..2 {
        let store = Metered::with_metrics(Arc::new(MemoryStore::new()), Arc::clone(&metrics));
        store.put(&key("a"), Body::new("x"), PutMode::Create).await.unwrap();
    }
    assert_eq!(metrics.snapshot().put, 2);
}
