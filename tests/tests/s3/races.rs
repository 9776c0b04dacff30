//! Many writers of one key.

use std::sync::Arc;

use futures::future::join_all;
use layerpack_tests::Remote;
use storage_api::{Body, ErrorKind, GetRange, Key, ObjectStoreExt, PutMode};
use tokio::sync::Barrier;

use crate::stores::decorated;

const CREATORS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_racing_creates_one_wins() {
    let remote = Remote::fresh();
    let key = Key::new("tenants/t/timelines/l/log/0000000000000001.tar.zst").unwrap();
    let start = Arc::new(Barrier::new(CREATORS));
    let mut creators = Vec::new();
    for creator in 0..CREATORS {
        // Each in a store of its own, as each writer is.
        let (store, start, key) = (decorated(&remote).await, Arc::clone(&start), key.clone());
        creators.push(tokio::spawn(async move {
            start.wait().await;
            store.put(&key, Body::new(bytes_of(creator)), PutMode::Create).await
        }));
    }
    let results: Vec<_> = join_all(creators).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = (0..CREATORS).filter(|creator| results[*creator].is_ok()).collect();
    assert_eq!(winners.len(), 1, "the creators {winners:?} won");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    }
    let (_, there) = decorated(&remote).await.get_bytes(&key, GetRange::Full, 1 << 20).await.unwrap();
    assert!(there == bytes_of(winners[0]), "the object is not the winner's");
}

/// Bytes of a length of their own, so that a mixture of two is seen.
fn bytes_of(creator: usize) -> Vec<u8> {
    vec![creator.to_le_bytes()[0]; 20_000 + creator]
}
