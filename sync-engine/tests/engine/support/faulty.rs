//! A store whose answers get lost, as a decorator.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
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

#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<VecDeque<PutFault>>,
    gone: Mutex<bool>,
    ignores_create: Mutex<bool>,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, faults: Mutex::default(), gone: Mutex::default(), ignores_create: Mutex::default() }
    }

    pub(crate) fn script(&self, faults: impl IntoIterator<Item = PutFault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(crate) fn come_back(&self) {
        *self.gone.lock().unwrap() = false;
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
        self.inner.get(key, range).await
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
        self.inner.multipart_put(key, upload, number, body).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        self.inner.multipart_complete(key, upload, parts, whole).await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        self.inner.multipart_abort(key, upload).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        self.inner.multipart_list(prefix).await
    }
}
