//! A store that tells a test of every request and lets it break them.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use storage_api::{
    Body, Capabilities, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix, ListPage,
    ListRequest, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode, PutReceipt, Result,
    StorageError, UploadId,
};

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    #[default]
    Done,
    /// It never arrives.
    Lost,
    /// It takes effect, and its answer is lost; of a bulk delete, the first half takes effect.
    AnswerLost,
    /// These keys of a delete stay, with an error each.
    Kept(Vec<Key>),
}

type Decide = Box<dyn FnMut(Operation, &[Key]) -> Fate + Send>;

pub(crate) struct Spy {
    inner: Arc<dyn ObjectStore>,
    decide: Mutex<Decide>,
    delete_keys_max: usize,
}

impl fmt::Debug for Spy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spy").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Spy {
    pub(crate) fn new(
        inner: &Arc<dyn ObjectStore>,
        decide: impl FnMut(Operation, &[Key]) -> Fate + Send + 'static,
    ) -> Arc<Self> {
        Self::with_delete_keys_max(inner, inner.capabilities().delete_keys_max, decide)
    }

    pub(crate) fn with_delete_keys_max(
        inner: &Arc<dyn ObjectStore>,
        delete_keys_max: usize,
        decide: impl FnMut(Operation, &[Key]) -> Fate + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), decide: Mutex::new(Box::new(decide)), delete_keys_max })
    }

    /// Other tasks go on before every request.
    async fn ask(&self, operation: Operation, keys: &[Key]) -> Fate {
        tokio::task::yield_now().await;
        (self.decide.lock().unwrap())(operation, keys)
    }

    async fn through<T>(
        &self,
        operation: Operation,
        key: &str,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let keys: Vec<Key> = Key::new(key).into_iter().collect();
        match self.ask(operation, &keys).await {
            Fate::Done | Fate::Kept(_) => request.await,
            Fate::Lost => Err(lost(operation, key)),
            Fate::AnswerLost => {
                let _ = request.await;
                Err(lost(operation, key))
            }
        }
    }
}

fn lost(operation: Operation, key: &str) -> StorageError {
    StorageError::new(ErrorKind::Connection, operation, key, "spy")
}

#[async_trait]
impl ObjectStore for Spy {
    fn capabilities(&self) -> Capabilities {
        Capabilities { delete_keys_max: self.delete_keys_max, ..self.inner.capabilities() }
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let operation = if mode == PutMode::Create { Operation::PutCreate } else { Operation::PutOverwrite };
        self.through(operation, key.as_str(), self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        self.through(Operation::Get, key.as_str(), self.inner.get(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.through(Operation::Head, key.as_str(), self.inner.head(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.through(Operation::List, request.prefix.as_str(), self.inner.list(request)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        assert!(keys.len() <= self.delete_keys_max, "{} keys of one delete", keys.len());
        let first = keys.first().map_or("", Key::as_str);
        match self.ask(Operation::Delete, keys).await {
            Fate::Done => self.inner.delete(keys).await,
            Fate::Lost => Err(lost(Operation::Delete, first)),
            Fate::AnswerLost => {
                let _ = self.inner.delete(&keys[..keys.len().div_ceil(2)]).await;
                Err(lost(Operation::Delete, first))
            }
            Fate::Kept(kept) => {
                let gone: Vec<Key> = keys.iter().filter(|key| !kept.contains(key)).cloned().collect();
                let mut outcomes = self.inner.delete(&gone).await?;
                let refused = |key: &&Key| kept.contains(key);
                outcomes.extend(keys.iter().filter(refused).map(|key| DeleteOutcome {
                    key: key.clone(),
                    result: Err(StorageError::new(
                        ErrorKind::PermissionDenied,
                        Operation::Delete,
                        key.as_str(),
                        "spy",
                    )),
                }));
                Ok(outcomes)
            }
        }
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        self.through(Operation::Copy, to.as_str(), self.inner.copy(from, to)).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        self.through(Operation::MultipartCreate, key.as_str(), self.inner.multipart_create(key)).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let put = self.inner.multipart_put(key, upload, number, body);
        self.through(Operation::MultipartPut, key.as_str(), put).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let complete = self.inner.multipart_complete(key, upload, parts, whole);
        self.through(Operation::MultipartComplete, key.as_str(), complete).await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let abort = self.inner.multipart_abort(key, upload);
        self.through(Operation::MultipartAbort, key.as_str(), abort).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        let list = self.inner.multipart_list(prefix);
        self.through(Operation::MultipartList, prefix.as_str(), list).await
    }
}
