//! The store under test, and what cases do to it.

use std::any::Any;
use std::sync::Arc;

use crate::{
    Body, ErrorKind, GetRange, Key, KeyPrefix, ListPage, ListRequest, ObjectStore, ObjectStoreExt, PutMode,
    PutReceipt, Result,
};

/// Cases read objects into memory up to this size.
const READ_BYTES_MAX: u64 = 64 << 20;

/// A store to be tested, and what must live as long as it does.
pub struct Subject {
    store: Arc<dyn ObjectStore>,
    key_bytes_max: usize,
    _guard: Box<dyn Any>,
}

impl Subject {
    /// Tests `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self::with_guard(store, ())
    }

    /// Tests `store` and drops `guard` (a temporary directory, a server) after it.
    pub fn with_guard(store: Arc<dyn ObjectStore>, guard: impl Any) -> Self {
        Self { store, key_bytes_max: Key::LEN_MAX, _guard: Box::new(guard) }
    }

    /// The same store, which has a prefix of its own and takes keys of so many bytes at most.
    #[must_use]
    pub fn with_key_bytes_max(self, key_bytes_max: usize) -> Self {
        Self { key_bytes_max, ..self }
    }
}

/// One running case: a store, and the keys under the case's name.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) key_bytes_max: usize,
    name: &'static str,
}

impl Case {
    pub(super) fn new(subject: &Subject, name: &'static str) -> Self {
        Self { store: Arc::clone(&subject.store), key_bytes_max: subject.key_bytes_max, name }
    }

    pub(super) fn key(&self, rest: &str) -> Key {
        self.prefix("").key(rest).unwrap()
    }

    /// The prefix `rest`, empty or ending with `/`, below the case's own.
    pub(super) fn prefix(&self, rest: &str) -> KeyPrefix {
        KeyPrefix::new(format!("{}/{rest}", self.name)).unwrap()
    }

    /// `key` without the case's prefix.
    pub(super) fn rest(&self, key: &str) -> String {
        key.strip_prefix(self.prefix("").as_str())
            .unwrap_or_else(|| panic!("{key:?} is not of this case"))
            .to_owned()
    }

    pub(super) async fn create(&self, rest: &str, bytes: &[u8]) -> Result<PutReceipt> {
        self.store.put(&self.key(rest), Body::new(bytes.to_vec()), PutMode::Create).await
    }

    pub(super) async fn overwrite(&self, rest: &str, bytes: &[u8]) -> Result<PutReceipt> {
        self.store.put(&self.key(rest), Body::new(bytes.to_vec()), PutMode::Overwrite).await
    }

    /// Stores an object of a few bytes under each name.
    pub(super) async fn fill(&self, names: &[&str]) {
        for name in names {
            self.overwrite(name, name.as_bytes()).await.unwrap();
        }
    }

    pub(super) async fn delete(&self, rest: &str) {
        let outcomes = self.store.delete(&[self.key(rest)]).await.unwrap();
        assert_eq!(outcomes.len(), 1);
        assert!(outcomes[0].result.is_ok(), "{:?}", outcomes[0]);
    }

    /// The bytes of an object, all of them.
    pub(super) async fn read(&self, rest: &str) -> Vec<u8> {
        self.read_range(rest, GetRange::Full).await.unwrap()
    }

    pub(super) async fn read_range(&self, rest: &str, range: GetRange) -> Result<Vec<u8>> {
        let (_, bytes) = self.store.get_bytes(&self.key(rest), range, READ_BYTES_MAX).await?;
        Ok(bytes.to_vec())
    }

    /// Asserts that neither a get, nor a head, nor a list finds the object.
    pub(super) async fn assert_absent(&self, rest: &str) {
        assert_eq!(
            kind(self.store.get(&self.key(rest), GetRange::Full).await),
            ErrorKind::NotFound,
            "get of {rest}"
        );
        assert_eq!(kind(self.store.head(&self.key(rest)).await), ErrorKind::NotFound, "head of {rest}");
        assert!(!self.names().await.iter().any(|name| name == rest), "{rest} is listed");
    }

    /// The names of all the case's objects, as listed.
    pub(super) async fn names(&self) -> Vec<String> {
        let objects = self.store.list_all(&self.prefix("")).await.unwrap();
        objects.iter().map(|object| self.rest(object.key.as_str())).collect()
    }

    /// One page of the case's objects, from `request` with names instead of keys.
    pub(super) async fn page(&self, request: ListRequest) -> ListPage {
        let start_after = request.start_after.map(|name| format!("{}{name}", self.prefix("").as_str()));
        let request = ListRequest { prefix: self.prefix(""), start_after, ..request };
        self.store.list(&request).await.unwrap()
    }

    /// The names of a page's objects and of its common prefixes.
    pub(super) fn names_of(&self, page: &ListPage) -> (Vec<String>, Vec<String>) {
        (
            page.objects.iter().map(|object| self.rest(object.key.as_str())).collect(),
            page.common_prefixes.iter().map(|prefix| self.rest(prefix.as_str())).collect(),
        )
    }
}

/// The kind of error with which a call failed, as it must have.
#[track_caller]
pub(super) fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("the call succeeded and must not have"),
        Err(error) => error.kind(),
    }
}

/// `len` bytes without a short period, different for each `seed`.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // The multiplier is Knuth's for MMIX; the high bytes are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    bytes.truncate(len);
    bytes
}
