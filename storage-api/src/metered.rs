//! A decorator that counts requests and bytes.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;

use crate::{
    Body, Capabilities, Crc32c, DeleteOutcome, GetRange, GetResponse, Key, KeyPrefix, ListPage, ListRequest,
    ObjectInfo, ObjectStore, PartId, PendingUpload, PutMode, PutReceipt, Result, UploadId,
};

/// Counters of requests and bytes, shared by all who hold them.
#[derive(Debug, Default)]
pub struct Metrics {
    put: AtomicU64,
    get: AtomicU64,
    list: AtomicU64,
    head: AtomicU64,
    delete: AtomicU64,
    copy: AtomicU64,
    multipart: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Metrics {
    /// The counts so far.
    pub fn snapshot(&self) -> RequestCounts {
        let Self { put, get, list, head, delete, copy, multipart, bytes_sent, bytes_received } = self;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            put: count(put),
            get: count(get),
            list: count(list),
            head: count(head),
            delete: count(delete),
            copy: count(copy),
            multipart: count(multipart),
            bytes_sent: count(bytes_sent),
            bytes_received: count(bytes_received),
        }
    }
}

/// Requests by kind, the failed ones included, and the bytes of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Puts of whole objects.
    pub put: u64,
    /// Reads of objects or ranges.
    pub get: u64,
    /// List pages.
    pub list: u64,
    /// Heads.
    pub head: u64,
    /// Bulk deletes, each counted once however many keys it names.
    pub delete: u64,
    /// Copies inside the store.
    pub copy: u64,
    /// Everything to do with uploads in parts: begun, each part, completed, aborted, listed.
    pub multipart: u64,
    /// Bytes of the bodies of puts and parts.
    pub bytes_sent: u64,
    /// Bytes of the bodies of reads, as far as they were read.
    pub bytes_received: u64,
}

impl RequestCounts {
    /// What was counted after `earlier` was.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let Self { put, get, list, head, delete, copy, multipart, bytes_sent, bytes_received } = *self;
        Self {
            put: put.saturating_sub(earlier.put),
            get: get.saturating_sub(earlier.get),
            list: list.saturating_sub(earlier.list),
            head: head.saturating_sub(earlier.head),
            delete: delete.saturating_sub(earlier.delete),
            copy: copy.saturating_sub(earlier.copy),
            multipart: multipart.saturating_sub(earlier.multipart),
            bytes_sent: bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: bytes_received.saturating_sub(earlier.bytes_received),
        }
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        let Self { put, get, list, head, delete, copy, multipart, bytes_sent: _, bytes_received: _ } = *self;
        put + get + list + head + delete + copy + multipart
    }
}

/// Counts what goes through to the store `S`, and changes nothing.
#[derive(Debug)]
pub struct Metered<S: ?Sized> {
    metrics: Arc<Metrics>,
    inner: Arc<S>,
}

impl<S: ObjectStore + ?Sized> Metered<S> {
    /// Counts the requests to `inner`, from zero.
    pub fn new(inner: Arc<S>) -> Self {
        Self::with_metrics(inner, Arc::default())
    }

    /// Counts the requests to `inner` on top of what `metrics` has.
    pub fn with_metrics(inner: Arc<S>, metrics: Arc<Metrics>) -> Self {
        Self { metrics, inner }
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Metered<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        count(&self.metrics.put, 1);
        count(&self.metrics.bytes_sent, body.len());
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        count(&self.metrics.get, 1);
        let GetResponse { info, range, stream } = self.inner.get(key, range).await?;
        let metrics = Arc::clone(&self.metrics);
        let counted = stream.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                count(&metrics.bytes_received, chunk.len() as u64);
            }
        });
        Ok(GetResponse { info, range, stream: counted.boxed() })
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        count(&self.metrics.head, 1);
        self.inner.head(key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        count(&self.metrics.list, 1);
        self.inner.list(request).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        count(&self.metrics.delete, 1);
        self.inner.delete(keys).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        count(&self.metrics.copy, 1);
        self.inner.copy(from, to).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        count(&self.metrics.multipart, 1);
        self.inner.multipart_create(key).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        count(&self.metrics.multipart, 1);
        count(&self.metrics.bytes_sent, body.len());
        self.inner.multipart_put(key, upload, number, body).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        count(&self.metrics.multipart, 1);
        self.inner.multipart_complete(key, upload, parts, whole).await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        count(&self.metrics.multipart, 1);
        self.inner.multipart_abort(key, upload).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        count(&self.metrics.multipart, 1);
        self.inner.multipart_list(prefix).await
    }
}
