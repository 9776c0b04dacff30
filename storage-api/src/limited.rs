//! A decorator that bounds how many requests run at once.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Body, ByteStream, Capabilities, Crc32c, DeleteOutcome, GetRange, GetResponse, Key, KeyPrefix, ListPage,
    ListRequest, ObjectInfo, ObjectStore, PartId, PendingUpload, PutMode, PutReceipt, Result, UploadId,
};

/// Lets at most so many requests to the store `S` run at once; the others wait, first come, first served.
///
/// A read runs until its stream has ended, has failed or was dropped. Whoever holds a stream and asks for more than the
/// limit besides, before reading on, waits for itself. A caller that is cancelled gives its place back.
#[derive(Debug)]
pub struct Limited<S: ?Sized> {
    places: Arc<Semaphore>,
    inner: Arc<S>,
}

/// A place among the requests that run. It is none only of a semaphore that was closed, which this one never is.
type Place = Option<OwnedSemaphorePermit>;

impl<S: ObjectStore + ?Sized> Limited<S> {
    /// Lets at most `requests_max` requests to `inner` run at once.
    pub fn new(inner: Arc<S>, requests_max: NonZeroUsize) -> Self {
        let places = Arc::new(Semaphore::new(requests_max.get().min(Semaphore::MAX_PERMITS)));
        Self { places, inner }
    }

    async fn place(&self) -> Place {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

/// The stream of a read, which gives its place back as soon as nothing more can come.
struct Placed(Option<(ByteStream, Place)>);

impl Stream for Placed {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((stream, _)) = &mut self.0 else { return Poll::Ready(None) };
        let item = ready!(stream.poll_next_unpin(context));
        if !matches!(item, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(item)
    }
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Limited<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        let _place = self.place().await;
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        let place = self.place().await;
        let GetResponse { info, range, stream } = self.inner.get(key, range).await?;
        Ok(GetResponse { info, range, stream: Placed(Some((stream, place))).boxed() })
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let _place = self.place().await;
        self.inner.head(key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let _place = self.place().await;
        self.inner.list(request).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        let _place = self.place().await;
        self.inner.delete(keys).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        let _place = self.place().await;
        self.inner.copy(from, to).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        let _place = self.place().await;
        self.inner.multipart_create(key).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let _place = self.place().await;
        self.inner.multipart_put(key, upload, number, body).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let _place = self.place().await;
        self.inner.multipart_complete(key, upload, parts, whole).await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let _place = self.place().await;
        self.inner.multipart_abort(key, upload).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        let _place = self.place().await;
        self.inner.multipart_list(prefix).await
    }
}
