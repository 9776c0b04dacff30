//! A store that cannot fence writers is refused before there is a store marker.

use std::sync::Arc;

use layerpack_tests::{Quirk, Remote, S3Server};
use storage_api::{KeyPrefix, ObjectStore, ObjectStoreExt};
use sync_engine::{Created, Error, Store, StoreLayout};

use crate::stores::decorated;

async fn keys(store: &Arc<dyn ObjectStore>) -> Vec<String> {
    let objects = store.list_all(&KeyPrefix::root()).await.unwrap();
    objects.into_iter().map(|object| object.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_the_condition_is_refused_for_good() {
    let server = S3Server::with_quirk(Quirk::IgnoresIfNoneMatch);
    let remote = Remote::of(&server);
    let store = decorated(&remote).await;
    for _ in 0..2 {
        let refused = Store::open_or_create(Arc::clone(&store), &remote.url).await.unwrap_err();
        assert!(matches!(refused, Error::StoreCannotFence { .. }), "{refused:?}");
        assert_eq!(keys(&store).await, [StoreLayout::PROBE]);
    }
    let absent = Store::open(store, &remote.url).await.unwrap_err();
    assert!(matches!(absent, Error::NoStore { .. }), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remote_under_test_fences() {
    let remote = Remote::fresh();
    let store = decorated(&remote).await;
    let (_, created) = Store::open_or_create(Arc::clone(&store), &remote.url).await.unwrap();
    assert_eq!(created, Created::Yes);
    assert_eq!(keys(&store).await, [StoreLayout::PROBE, StoreLayout::MARKER]);
    let (_, created) = Store::open_or_create(store, &remote.url).await.unwrap();
    assert_eq!(created, Created::No);
}
