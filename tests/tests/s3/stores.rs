//! Stores on a remote: as it is, and as programs use it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use layerpack_tests::Remote;
use storage_api::conformance::Subject;
use storage_api::{Key, Limited, Metered, ObjectStore, RetryPolicy, Retrying, SystemClock};
use storage_s3::{S3Config, S3Store, StaticCredentials};
use sync_engine::Store;
use url::Url;

const REQUESTS_IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// The backend by itself: one request a call.
pub(crate) async fn plain(remote: &Remote) -> Arc<S3Store> {
    let mut config = S3Config::from_url(&Url::parse(&remote.url).unwrap()).unwrap();
    config.credentials = remote.credentials.map(|pair| StaticCredentials {
        access_key_id: pair.id.to_owned(),
        secret_access_key: pair.secret.to_owned(),
        session_token: None,
    });
    Arc::new(S3Store::connect(config).await.unwrap())
}

/// `store`, which is on `remote`, as a subject of the conformance suite.
pub(crate) fn subject(remote: &Remote, store: Arc<dyn ObjectStore>) -> Subject {
    let prefix = S3Config::from_url(&Url::parse(&remote.url).unwrap()).unwrap().prefix;
    Subject::new(store).with_key_bytes_max(Key::LEN_MAX - prefix.as_str().len())
}

/// The backend below every decorator.
pub(crate) async fn decorated(remote: &Remote) -> Arc<dyn ObjectStore> {
    decorate(plain(remote).await)
}

/// `store` below every decorator, in the order of programs: what is counted is what goes over the wire.
pub(crate) fn decorate(store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    let limited = Arc::new(Limited::new(Arc::new(Metered::new(store)), REQUESTS_IN_FLIGHT));
    Arc::new(Retrying::new(limited, RetryPolicy::default(), Arc::new(SystemClock)))
}

/// Opens the Layerpack store on the remote, as a process of its own would, and creates it the first time.
pub(crate) async fn open(remote: &Remote) -> Store {
    let (store, _) = Store::open_or_create(decorated(remote).await, &remote.url).await.unwrap();
    store
}
