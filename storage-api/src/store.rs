//! The object-store trait and the values that go through it.

use std::fmt::Debug;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Body, Crc32c, Key, KeyPrefix, Result, StorageError};

/// A stream of the bytes of an object.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// An object store: a flat map from keys to immutable byte strings.
///
/// One call is one request (or, for a store without requests, counts as one). Nothing is defaulted and nothing is
/// retried here. All methods may be called at the same time from many tasks.
#[async_trait]
pub trait ObjectStore: Debug + Send + Sync {
    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// Stores `body` under `key`, atomically.
    ///
    /// The put is durable when it is acknowledged. A body whose bytes do not match its checksum is refused with
    /// [`Integrity`](crate::ErrorKind::Integrity) and stores nothing.
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt>;

    /// Reads an object or a range of it.
    ///
    /// A range that begins at or past the end, a suffix of a missing or empty object included, is
    /// [`Range`](crate::ErrorKind::Range); one that begins inside and ends past the end is cut at the end.
    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse>;

    /// Size and times of an object, without its bytes.
    async fn head(&self, key: &Key) -> Result<ObjectInfo>;

    /// One page of keys in byte order.
    ///
    /// Every put and delete that was acknowledged before the call is seen. A list is no snapshot of what happens
    /// meanwhile: it may show an object and lack one that was acknowledged before the put of the first began, in one
    /// page (no page of S3 is said to be better) and all the more across pages. Who needs both lists once more.
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// Deletes up to [`Capabilities::delete_keys_max`] keys, and says of each what became of it.
    ///
    /// A key that does not exist is deleted already. The outer error is a request that failed as a whole; more keys
    /// than the bound are [`Invalid`](crate::ErrorKind::Invalid) and delete nothing.
    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>>;

    /// Copies an object inside the store, without moving its bytes through the caller. An existing object is replaced:
    /// a copy is never create-only, because few stores have the condition there.
    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt>;

    /// Begins an upload in parts. Nothing is visible under `key` until it is completed.
    async fn multipart_create(&self, key: &Key) -> Result<UploadId>;

    /// Uploads part `number` (from 1). Every part but the last has at least [`Capabilities::part_bytes_min`] bytes;
    /// a part that is put twice counts once, with its last bytes.
    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId>;

    /// Joins `parts`, in this order, into the object and ends the upload. `whole` is the checksum of all bytes; an
    /// object that does not match it is not published. An existing object is replaced: a completion is never
    /// create-only, because some stores ignore the condition there.
    ///
    /// No parts at all, parts out of order, unknown or too small are [`Invalid`](crate::ErrorKind::Invalid), a wrong
    /// `whole` is [`Integrity`](crate::ErrorKind::Integrity), an upload that does not exist is
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt>;

    /// Ends an upload and drops its parts. An upload that does not exist is aborted already.
    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()>;

    /// The uploads that were begun under `prefix` and neither completed nor aborted, in byte order of their keys.
    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>>;
}

/// What a store can do, beyond what every store must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most keys of one [`delete`](ObjectStore::delete).
    pub delete_keys_max: usize,
    /// The most keys of one page of a [`list`](ObjectStore::list).
    pub list_keys_max: usize,
    /// The least bytes of a part that is not the last.
    pub part_bytes_min: u64,
    /// The most bytes of a single put.
    pub put_bytes_max: u64,
    /// Whether multipart uploads work.
    pub multipart: bool,
    /// Whether copies inside the store work.
    pub copy: bool,
}

/// Whether a put may replace an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Replaces what is there.
    Overwrite,
    /// Fails with [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if the key exists.
    Create,
}

/// What a store says of a put that it accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutReceipt {
    /// The store's own tag for this version of the object, where it has one.
    pub etag: Option<String>,
}

/// Which bytes of an object to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetRange {
    /// All of them.
    Full,
    /// The bytes from `start` up to, not including, `end`.
    Bounded(Range<u64>),
    /// The last so many bytes, or all where there are fewer.
    Suffix(u64),
}

impl GetRange {
    /// The bytes of an object of `size` bytes that this selects, or `None` where that is nothing.
    pub fn resolve(&self, size: u64) -> Option<Range<u64>> {
        match self {
            Self::Full => Some(0..size),
            Self::Bounded(range) if range.start < range.end && range.start < size => {
                Some(range.start..range.end.min(size))
            }
            Self::Suffix(len) if *len > 0 && size > 0 => Some(size.saturating_sub(*len)..size),
            Self::Bounded(_) | Self::Suffix(_) => None,
        }
    }
}

/// The answer to a [`get`](ObjectStore::get).
pub struct GetResponse {
    /// The whole object's size and times.
    pub info: ObjectInfo,
    /// Which bytes of the object follow.
    pub range: Range<u64>,
    /// The bytes.
    pub stream: ByteStream,
}

impl Debug for GetResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GetResponse")
            .field("info", &self.info)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// What a list or a head says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The object's key.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub last_modified: SystemTime,
    /// The store's own tag for this version of the object, where it has one.
    pub etag: Option<String>,
    /// The checksum of all of its bytes as the store keeps it. Lists do not have it, nor do stores that keep none, nor
    /// reads of ranges from most stores.
    pub crc32c: Option<Crc32c>,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: KeyPrefix,
    /// Only keys after this, in byte order; of what is rolled up, only common prefixes after this. It need not be a
    /// key that exists. A common prefix that `start_after` lies inside is not after it and is not listed.
    pub start_after: Option<String>,
    /// Whether keys with a `/` after the prefix are rolled up into
    /// [`common_prefixes`](ListPage::common_prefixes).
    pub rolled_up: bool,
    /// The most keys and common prefixes of the page together; the store's own bound applies too. Zero is
    /// [`Invalid`](crate::ErrorKind::Invalid).
    pub max_keys: Option<usize>,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects, in byte order of their keys.
    pub objects: Vec<ObjectInfo>,
    /// The distinct beginnings, up to and with the first `/` after the prefix, of the keys that were rolled up.
    pub common_prefixes: Vec<KeyPrefix>,
    /// Where there is more: the `start_after` of the next page.
    pub next: Option<String>,
}

/// What became of one key of a bulk delete.
#[derive(Debug)]
pub struct DeleteOutcome {
    /// The key.
    pub key: Key,
    /// `Ok` where it no longer exists.
    pub result: Result<(), StorageError>,
}

/// Names an upload in parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(pub String);

/// Names an uploaded part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartId {
    /// The part's number, from 1.
    pub number: u32,
    /// The store's tag for its bytes.
    pub etag: String,
    /// The checksum of its bytes.
    pub crc32c: Crc32c,
}

/// An upload that was begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUpload {
    /// The key it would publish.
    pub key: Key,
    /// Its name.
    pub upload: UploadId,
    /// When it was begun, by the store's clock.
    pub begun: SystemTime,
}
