//! What the conformance suite cannot know: the clock and the bounds that tests set.

use std::time::Duration;

use super::*;
use crate::ManualClock;

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

#[tokio::test]
async fn times_come_from_the_clock() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let clock = Arc::new(ManualClock::new(start));
    let store = MemoryStore::with_clock(clock.clone());
    store.put(&key("old"), Body::new("x"), PutMode::Create).await.unwrap();
    let minute = Duration::from_secs(60);
    clock.advance(minute);
    store.copy(&key("old"), &key("new")).await.unwrap();
    store.multipart_create(&key("pending")).await.unwrap();
    assert_eq!(store.head(&key("old")).await.unwrap().last_modified, start);
    assert_eq!(store.head(&key("new")).await.unwrap().last_modified, start + minute);
    assert_eq!(store.multipart_list(&KeyPrefix::root()).await.unwrap()[0].begun, start + minute);
}

#[tokio::test]
async fn list_pages_keep_to_the_lowered_bound() {
    let store = MemoryStore::new().with_list_keys_max(2);
    for name in ["a", "b", "c"] {
        store.put(&key(name), Body::new(name), PutMode::Create).await.unwrap();
    }
    let page = store.list(&ListRequest { max_keys: Some(100), ..ListRequest::default() }).await.unwrap();
    assert_eq!(page.objects.len(), 2);
    assert_eq!(page.next.as_deref(), Some("b"));
}

#[tokio::test]
async fn an_etag_names_one_version() {
    let store = MemoryStore::new();
    let first = store.put(&key("a"), Body::new("same"), PutMode::Create).await.unwrap();
    let second = store.put(&key("a"), Body::new("same"), PutMode::Overwrite).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.head(&key("a")).await.unwrap().etag, second.etag);
}
