//! A store whose answers get lost or corrupted, as a decorator.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use storage_api::{
    Body, Capabilities, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix, ListPage,
    ListRequest, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode, PutReceipt, Result,
    StorageError, UploadId,
};

/// What happens to the next put below `log/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutFault {
    /// It is done as it should be.
    None,
    /// It takes effect, and the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// It never arrives, and every read after it fails too.
    StoreGone,
}

/// What becomes of the part with this number.
type OnPart = Box<dyn FnMut(u32) -> Result<()> + Send>;
/// Whether a byte of what is read of this key flips on the way.
type OnGet = Box<dyn FnMut(&Key) -> bool + Send>;

pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    on_part: Mutex<OnPart>,
    on_get: Mutex<OnGet>,
    completion_answers_lost: Mutex<usize>,
    put_answer_lost_after: Mutex<Option<usize>>,
    faults: Mutex<VecDeque<PutFault>>,
    gone: Mutex<bool>,
    ignores_create: Mutex<bool>,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            on_part: Mutex::new(Box::new(|_| Ok(()))),
            on_get: Mutex::new(Box::new(|_| false)),
            completion_answers_lost: Mutex::default(),
            put_answer_lost_after: Mutex::default(),
            faults: Mutex::default(),
            gone: Mutex::default(),
            ignores_create: Mutex::default(),
        }
    }

    /// Asks `on_part` what becomes of each part, before it is put.
    pub(crate) fn on_part(&self, on_part: impl FnMut(u32) -> Result<()> + Send + 'static) {
        *self.on_part.lock().unwrap() = Box::new(on_part);
    }

    /// Flips a byte of what is read, where `on_get` says so.
    pub(crate) fn on_get(&self, on_get: impl FnMut(&Key) -> bool + Send + 'static) {
        *self.on_get.lock().unwrap() = Box::new(on_get);
    }

    /// The answers to the next `count` completions are lost.
    pub(crate) fn lose_completions(&self, count: usize) {
        *self.completion_answers_lost.lock().unwrap() = count;
    }

    /// The answer to the put after `count` others, whatever its key is, is lost.
    pub(crate) fn lose_a_put_after(&self, count: usize) {
        *self.put_answer_lost_after.lock().unwrap() = Some(count);
    }

    pub(crate) fn script(&self, faults: impl IntoIterator<Item = PutFault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// From now on an object that exists is replaced even by a create-only put, as some stores do.
    pub(crate) fn ignore_create(&self) {
        *self.ignores_create.lock().unwrap() = true;
    }

    fn lost(operation: Operation, key: &Key) -> StorageError {
        StorageError::new(ErrorKind::Connection, operation, key.as_str(), "faulty")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let mode = if *self.ignores_create.lock().unwrap() { PutMode::Overwrite } else { mode };
        let scripted = key.as_str().contains("/log/").then(|| self.faults.lock().unwrap().pop_front());
        let operation = Operation::PutCreate;
        let lost_after = self.put_answer_lost_after.lock().unwrap().take();
        *self.put_answer_lost_after.lock().unwrap() = lost_after.and_then(|count| count.checked_sub(1));
        if lost_after == Some(0) {
            let _ = self.inner.put(key, body, mode).await;
            return Err(Self::lost(operation, key));
        }
        match scripted.flatten().unwrap_or(PutFault::None) {
            PutFault::None => self.inner.put(key, body, mode).await,
            PutFault::AnswerLost => {
                let _ = self.inner.put(key, body, mode).await;
                Err(Self::lost(operation, key))
            }
            PutFault::RequestLost => Err(Self::lost(operation, key)),
            PutFault::StoreGone => {
                *self.gone.lock().unwrap() = true;
                Err(Self::lost(operation, key))
            }
        }
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        if *self.gone.lock().unwrap() {
            return Err(Self::lost(Operation::Get, key));
        }
        let mut response = self.inner.get(key, range).await?;
        if (self.on_get.lock().unwrap())(key) {
            let middle = (response.range.end - response.range.start) / 2;
            let mut at = 0;
            let flip = move |chunk: Result<bytes::Bytes>| {
                let mut chunk = chunk?.to_vec();
                if let Some(byte) =
                    middle.checked_sub(at).and_then(|to| chunk.get_mut(usize::try_from(to).unwrap()))
                {
                    *byte ^= 0x20;
                }
                at += chunk.len() as u64;
                Ok(chunk.into())
            };
            response.stream = response.stream.map(flip).boxed();
        }
        Ok(response)
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.inner.head(key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        self.inner.delete(keys).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        self.inner.copy(from, to).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        self.inner.multipart_create(key).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        (self.on_part.lock().unwrap())(number)?;
        self.inner.multipart_put(key, upload, number, body).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let receipt = self.inner.multipart_complete(key, upload, parts, whole).await?;
        let mut lost = self.completion_answers_lost.lock().unwrap();
        if *lost > 0 {
            *lost -= 1;
            return Err(Self::lost(Operation::MultipartComplete, key));
        }
        Ok(receipt)
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        self.inner.multipart_abort(key, upload).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        self.inner.multipart_list(prefix).await
    }
}
