//! A decorator that sends requests again: the one retry layer there is.

mod attempts;
mod policy;
mod puts;
mod reading;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use self::attempts::{Attempts, Retrier};
pub use self::policy::RetryPolicy;
use self::puts::{is_hopeless, remember};
use self::reading::Reading;
use crate::{
    Body, Capabilities, Clock, Crc32c, DeleteOutcome, GetRange, GetResponse, Key, KeyPrefix, ListPage,
    ListRequest, ObjectInfo, ObjectStore, Operation, PartId, PendingUpload, PutMode, PutReceipt, Result,
    RetryClass, UploadId,
};

/// Sends the requests to the store `S` again that failed and may succeed, within the bounds of a [`RetryPolicy`].
///
/// What may be sent again [the error says](crate::StorageError::retry_class). Besides:
///
/// - **A create whose answer was lost** and that is then refused, because the key exists, may have been refused because
///   of its own first attempt. The object is read back and compared: the same bytes are a success, others are
///   [`AlreadyExists`](crate::ErrorKind::AlreadyExists). Bytes are all that is compared, so a caller whose objects another
///   caller may create too puts something random into them, as records and store markers have it. Where nothing can be
///   found out the caller gets the error that left it open, and never a success or a refusal.
/// - **A completion of an upload whose answer was lost**, and after which there is no such upload, has most probably
///   taken effect. Only the caller knows the length by which to tell: it gets the error that left it open, and looks.
/// - **A read that breaks off** goes on from where it stopped, with the attempts and the time of a new request after
///   every byte that came. What is read on must be of the same object. Where the store has told the checksum of
///   an object that is read as a whole, the bytes are compared with it.
/// - **A bulk delete that fails for some keys** is sent again for those.
/// - **Corrupt bytes** are sent or asked for three times, and not at all where they were corrupt from the start. A
///   stream that turns out to be corrupt at its end fails: what was handed out cannot be taken back.
///
/// While the store has never answered, a request is given up after [`RetryPolicy::first_answer_max`], so that a command
/// with a wrong address fails soon; a store that has answered once is waited for as long as
/// [`RetryPolicy::elapsed_max`] says. Of a store that has fallen silent this time counts from then, for all requests
/// together: after it each is sent once. So a command that tries a few things more before it ends does not take a
/// multiple of the time, and a service, which calls again for ever, waits between its calls and not inside of them.
///
/// It belongs on the outside of the decorators: waiting, it holds no place of [`Limited`](crate::Limited), and
/// [`Metered`](crate::Metered) counts each attempt.
#[derive(Debug)]
pub struct Retrying<S: ?Sized> {
    retrier: Arc<Retrier>,
    inner: Arc<S>,
}

impl<S: ObjectStore + ?Sized> Retrying<S> {
    /// Sends requests to `inner` again as `policy` says, and waits by `clock`.
    pub fn new(inner: Arc<S>, policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        Self { retrier: Arc::new(Retrier::new(policy, clock)), inner }
    }

    fn attempts<'a>(&'a self, operation: Operation, key: &'a str) -> Attempts<'a> {
        self.retrier.attempts(operation, key)
    }

    /// Sends what may simply be sent again.
    async fn repeat<'a, T>(
        &'a self,
        operation: Operation,
        key: &'a str,
        request: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        let mut attempts = self.attempts(operation, key);
        loop {
            match attempts.send(request()).await {
                Err(error) if attempts.go_on(&error).await => {}
                settled => return settled,
            }
        }
    }
}

#[async_trait]
impl<S: ObjectStore + ?Sized + 'static> ObjectStore for Retrying<S> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        match mode {
            PutMode::Create => self.create(key, &body).await,
            PutMode::Overwrite => self.overwrite(key, &body).await,
        }
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        let get = || self.inner.get(key, range.clone());
        let response = self.repeat(Operation::Get, key.as_str(), get).await?;
        Ok(Reading::resumed(Arc::clone(&self.retrier), Arc::clone(&self.inner), response))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.repeat(Operation::Head, key.as_str(), || self.inner.head(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.repeat(Operation::List, request.prefix.as_str(), || self.inner.list(request)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        let mut attempts = self.attempts(Operation::Delete, keys.first().map_or("", Key::as_str));
        let mut keys = Cow::Borrowed(keys);
        let mut settled = Vec::new();
        // Those of the last answer that may be deleted yet.
        let mut open: Vec<DeleteOutcome> = Vec::new();
        loop {
            match attempts.send(self.inner.delete(&keys)).await {
                Ok(outcomes) => {
                    let is_open = |outcome: &DeleteOutcome| {
                        outcome.result.as_ref().is_err_and(|error| error.retry_class() != RetryClass::Never)
                    };
                    let (failed, done): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(is_open);
                    settled.extend(done);
                    open = failed;
                    let errors = open.iter().filter_map(|outcome| outcome.result.as_ref().err());
                    let go_on = match errors.max_by_key(|error| error.retry_after()) {
                        Some(worst) => attempts.go_on(worst).await,
                        None => false,
                    };
                    if !go_on {
                        settled.extend(open);
                        return Ok(settled);
                    }
                    keys = open.iter().map(|outcome| outcome.key.clone()).collect();
                }
                Err(error) if attempts.go_on(&error).await => {}
                // What was settled before is not to be lost: the others keep the errors that they had.
                Err(_) if !open.is_empty() => {
                    settled.extend(open);
                    return Ok(settled);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        self.repeat(Operation::Copy, from.as_str(), || self.inner.copy(from, to)).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        self.repeat(Operation::MultipartCreate, key.as_str(), || self.inner.multipart_create(key)).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let mut attempts = self.attempts(Operation::MultipartPut, key.as_str());
        loop {
            match attempts.send(self.inner.multipart_put(key, upload, number, body.clone())).await {
                Err(error) if !is_hopeless(&error, &body) && attempts.go_on(&error).await => {}
                settled => return settled,
            }
        }
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let mut attempts = self.attempts(Operation::MultipartComplete, key.as_str());
        let mut unknown = None;
        loop {
            match attempts.send(self.inner.multipart_complete(key, upload, parts, whole)).await {
                Err(error) if attempts.go_on(&error).await => remember(&mut unknown, error),
                Err(error) => return Err(unknown.unwrap_or(error)),
                completed => return completed,
            }
        }
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        let abort = || self.inner.multipart_abort(key, upload);
        self.repeat(Operation::MultipartAbort, key.as_str(), abort).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        let list = || self.inner.multipart_list(prefix);
        self.repeat(Operation::MultipartList, prefix.as_str(), list).await
    }
}
