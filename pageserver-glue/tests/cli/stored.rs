//! What is in a store, wherever it is: read and tampered with behind the program's back.

use std::collections::BTreeMap;
use std::sync::Arc;

use layerpack_tests::KeyPair;
use storage_api::{Body, GetRange, Key, KeyPrefix, ObjectInfo, ObjectStore, ObjectStoreExt, PutMode};
use storage_localfs::LocalStore;
use storage_s3::{S3Config, S3Store, StaticCredentials};
use url::Url;

use crate::support::{Bench, TENANT, TIMELINE};

impl Bench {
    /// Every object by its key.
    pub(crate) fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        self.with_store(async |store| {
            let mut found = BTreeMap::new();
            for ObjectInfo { key, .. } in store.list_all(&KeyPrefix::root()).await.unwrap() {
                let (_, bytes) = store.get_bytes(&key, GetRange::Full, u64::MAX).await.unwrap();
                found.insert(key.to_string(), bytes.to_vec());
            }
            found
        })
    }

    /// The largest object below a directory of the timeline, `log/` for one.
    pub(crate) fn largest(&self, dir: &str) -> (String, Vec<u8>) {
        let below = self.key(dir);
        let found = self.stored().into_iter().filter(|(key, _)| key.starts_with(&below));
        found.max_by_key(|(_, bytes)| bytes.len()).unwrap()
    }

    /// How many objects are below a directory of the timeline. No store has none.
    pub(crate) fn count(&self, dir: &str) -> usize {
        if self.remote.is_none() && !self.path("store").try_exists().unwrap() {
            return 0;
        }
        let prefix = KeyPrefix::new(self.key(dir)).unwrap();
        self.with_store(async |store| store.list_all(&prefix).await.unwrap().len())
    }

    /// The key of an object of the timeline.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("tenants/{TENANT}/timelines/{TIMELINE}/{name}")
    }

    /// The URL by which an object is inspected.
    pub(crate) fn object_url(&self, key: &str) -> String {
        let url = self.url();
        let (store, options) = url.split_at(url.find('?').unwrap_or(url.len()));
        format!("{store}/{key}{options}")
    }

    /// Puts an object, or something else in its place.
    pub(crate) fn put_object(&self, key: &str, bytes: &[u8]) {
        let (key, body) = (Key::new(key).unwrap(), Body::new(bytes.to_vec()));
        self.with_store(async |store| store.put(&key, body, PutMode::Overwrite).await.unwrap());
    }

    pub(crate) fn delete_object(&self, key: &str) {
        let key = Key::new(key).unwrap();
        self.with_store(async |store| store.delete(&[key]).await.unwrap());
    }

    fn with_store<T>(&self, work: impl AsyncFnOnce(Arc<dyn ObjectStore>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(self.open().await).await })
    }

    async fn open(&self) -> Arc<dyn ObjectStore> {
        let Some(remote) = &self.remote else {
            return Arc::new(LocalStore::open(&self.path("store")).unwrap());
        };
        let mut config = S3Config::from_url(&Url::parse(&remote.url).unwrap()).unwrap();
        config.credentials = remote.credentials.map(|KeyPair { id, secret }| StaticCredentials {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: None,
        });
        Arc::new(S3Store::connect(config).await.unwrap())
    }
}
