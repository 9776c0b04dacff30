//! A store in memory, with the semantics of a real one.

mod list;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Body, Capabilities, Clock, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix,
    ListPage, ListRequest, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode, PutReceipt,
    Result, StorageError, SystemClock, UploadId,
};
use uploads::Upload;

const BACKEND: &str = "memory";
const MIB: u64 = 1 << 20;
/// Bodies are streamed in chunks, as from a network, so that readers meet more than one.
const CHUNK_BYTES: usize = 1 << 20;

/// An object store in memory: what it holds is gone with it.
///
/// It has the bounds of a real store, which tests can lower.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    capabilities: Capabilities,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    uploads: BTreeMap<(Key, UploadId), Upload>,
    /// Tags issued so far.
    tags: u64,
}

struct Object {
    body: Body,
    last_modified: SystemTime,
    etag: String,
}

impl MemoryStore {
    /// An empty store that runs on the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store that takes its times from `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let capabilities = Capabilities {
            delete_keys_max: 1000,
            list_keys_max: 1000,
            part_bytes_min: 5 * MIB,
            put_bytes_max: 5 * 1024 * MIB,
            multipart: true,
            copy: true,
        };
        Self { clock, capabilities, state: Mutex::default() }
    }

    /// The same store with list pages of at most `keys` keys (at least one).
    #[must_use]
    pub fn with_list_keys_max(mut self, keys: usize) -> Self {
        self.capabilities.list_keys_max = keys.max(1);
        self
    }

    /// The same store with parts of at least `bytes` bytes, the last excepted.
    #[must_use]
    pub fn with_part_bytes_min(mut self, bytes: u64) -> Self {
        self.capabilities.part_bytes_min = bytes;
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses bytes that a real store would refuse before it stores any.
    fn check_body(&self, operation: Operation, key: &Key, body: &Body) -> Result<()> {
        if body.len() > self.capabilities.put_bytes_max {
            let text =
                format!("{} bytes are more than {} of one put", body.len(), self.capabilities.put_bytes_max);
            return Err(error(ErrorKind::Invalid, operation, key).with_source(text));
        }
        if !body.is_intact() {
            let text = format!("the bytes do not have the checksum {}", body.crc32c());
            return Err(error(ErrorKind::Integrity, operation, key).with_source(text));
        }
        Ok(())
    }
}

impl State {
    fn next_tag(&mut self) -> String {
        self.tags += 1;
        format!("{:016x}", self.tags)
    }

    /// Replaces what is there by a body whose checksum was compared.
    fn publish(&mut self, key: &Key, body: Body, now: SystemTime) -> PutReceipt {
        let etag = self.next_tag();
        self.objects.insert(key.clone(), Object { body, last_modified: now, etag: etag.clone() });
        PutReceipt { etag: Some(etag) }
    }
}

impl Object {
    fn info(&self, key: &Key) -> ObjectInfo {
        ObjectInfo {
            key: key.clone(),
            size: self.body.len(),
            last_modified: self.last_modified,
            etag: Some(self.etag.clone()),
            crc32c: Some(self.body.crc32c()),
        }
    }
}

fn error(kind: ErrorKind, operation: Operation, key: &Key) -> StorageError {
    StorageError::new(kind, operation, key.as_str(), BACKEND)
}

fn put_operation(mode: PutMode) -> Operation {
    match mode {
        PutMode::Overwrite => Operation::PutOverwrite,
        PutMode::Create => Operation::PutCreate,
    }
}

/// The bytes of `range`, which lies inside `bytes`.
fn slice(bytes: &Bytes, range: &std::ops::Range<u64>) -> Bytes {
    let index = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes.slice(index(range.start)..index(range.end))
}

fn chunks(mut bytes: Bytes) -> impl Iterator<Item = Result<Bytes>> + Send {
    std::iter::from_fn(move || (!bytes.is_empty()).then(|| Ok(bytes.split_to(bytes.len().min(CHUNK_BYTES)))))
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.lock().objects.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let operation = put_operation(mode);
        self.check_body(operation, key, &body)?;
        let now = self.clock.now();
        let mut state = self.lock();
        if mode == PutMode::Create && state.objects.contains_key(key) {
            return Err(error(ErrorKind::AlreadyExists, operation, key));
        }
        Ok(state.publish(key, body, now))
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        let state = self.lock();
        let object = state.objects.get(key).ok_or_else(|| error(ErrorKind::NotFound, Operation::Get, key))?;
        let info = object.info(key);
        let range = range.resolve(info.size).ok_or_else(|| {
            let text = format!("{range:?} of {} bytes", info.size);
            error(ErrorKind::Range, Operation::Get, key).with_source(text)
        })?;
        let bytes = slice(object.body.bytes(), &range);
        Ok(GetResponse { info, range, stream: futures::stream::iter(chunks(bytes)).boxed() })
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let state = self.lock();
        let object = state.objects.get(key);
        object.map(|object| object.info(key)).ok_or_else(|| error(ErrorKind::NotFound, Operation::Head, key))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        list::page(&self.lock().objects, request, self.capabilities.list_keys_max)
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        let most = self.capabilities.delete_keys_max;
        if keys.len() > most {
            let first = keys.first().map_or("", Key::as_str);
            return Err(StorageError::new(ErrorKind::Invalid, Operation::Delete, first, BACKEND)
                .with_source(format!("{} keys, at most {most} are deleted at once", keys.len())));
        }
        let mut state = self.lock();
        Ok(keys
            .iter()
            .map(|key| {
                state.objects.remove(key);
                DeleteOutcome { key: key.clone(), result: Ok(()) }
            })
            .collect())
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        let now = self.clock.now();
        let mut state = self.lock();
        let source =
            state.objects.get(from).ok_or_else(|| error(ErrorKind::NotFound, Operation::Copy, from))?;
        let body = source.body.clone();
        Ok(state.publish(to, body, now))
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        let begun = self.clock.now();
        Ok(self.lock().begin_upload(key, begun))
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        self.check_body(Operation::MultipartPut, key, &body)?;
        self.lock().put_part(key, upload, number, &body)
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let now = self.clock.now();
        let mut state = self.lock();
        let bytes = state.join_parts(key, upload, parts, self.capabilities.part_bytes_min)?;
        if Crc32c::of(&bytes) != whole {
            let text = format!("the parts do not have the checksum {whole} together");
            return Err(error(ErrorKind::Integrity, Operation::MultipartComplete, key).with_source(text));
        }
        state.end_upload(key, upload);
        Ok(state.publish(key, Body::with_crc32c(bytes, whole), now))
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        self.lock().end_upload(key, upload);
        Ok(())
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        Ok(self.lock().pending_uploads(prefix))
    }
}
