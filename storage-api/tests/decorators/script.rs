//! A store that fails as a script says, and a clock that keeps the waits.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use storage_api::{
    Body, Capabilities, Clock, Crc32c, DeleteOutcome, ErrorKind, GetRange, GetResponse, Key, KeyPrefix,
    ListPage, ListRequest, ManualClock, MemoryStore, ObjectInfo, ObjectStore, Operation, PartId,
    PendingUpload, PutMode, PutReceipt, Result, RetryPolicy, Retrying, StorageError, UploadId,
};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// It is done.
    Pass,
    /// It is refused or lost before it takes effect.
    Fail(ErrorKind),
    /// The same, and the store asks for so long a wait.
    FailFor(ErrorKind, Duration),
    /// It takes effect, and its answer is lost.
    Lose(ErrorKind),
    /// It takes so long, and then fails.
    Slow(Duration, ErrorKind),
    /// Nothing ever comes back.
    Hang,
    /// Of a read: so many bytes come, and then this.
    Break(usize, ErrorKind),
    /// Of a read: so many bytes come, and then the stream ends as if that were all.
    Short(usize),
    /// Of a read: a bit of this byte is flipped.
    Flip(usize),
    /// Of a read: the store tells no checksum, and its stream breaks off so.
    BreakUnkept(usize),
    /// Of a delete: every second key fails with this.
    Half(ErrorKind),
}

/// What was sent: the operation, its key and, of a read, its range.
pub(crate) type Sent = (Operation, String, Option<GetRange>);

/// A store in memory whose requests go as `steps` say, one after the other, and well when there are none left.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) inner: MemoryStore,
    pub(crate) clock: Arc<KeptClock>,
    steps: Mutex<VecDeque<Step>>,
    sent: Mutex<Vec<Sent>>,
}

/// A manual clock that keeps how long each wait was.
#[derive(Debug)]
pub(crate) struct KeptClock {
    clock: ManualClock,
    waits: Mutex<Vec<Duration>>,
}

impl KeptClock {
    pub(crate) fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }

    pub(crate) fn advance(&self, step: Duration) {
        self.clock.advance(step);
    }

    /// For how long the clock has run.
    pub(crate) fn ran(&self) -> Duration {
        self.clock.now().duration_since(start()).unwrap_or_default()
    }
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

#[async_trait]
impl Clock for KeptClock {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    async fn sleep(&self, duration: Duration) {
        self.waits.lock().unwrap().push(duration);
        self.clock.sleep(duration).await;
    }
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Arc::new(KeptClock { clock: ManualClock::new(start()), waits: Mutex::default() });
        let inner = MemoryStore::with_clock(clock.clone()).with_part_bytes_min(1);
        Arc::new(Self { inner, clock, steps: Mutex::default(), sent: Mutex::default() })
    }

    /// What becomes of the next requests.
    pub(crate) fn script(&self, steps: impl IntoIterator<Item = Step>) {
        let mut script = self.steps.lock().unwrap();
        script.clear();
        script.extend(steps);
    }

    /// What was sent since the last call.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }

    /// The ranges of the reads that were sent since the last call.
    pub(crate) fn ranges(&self) -> Vec<GetRange> {
        self.sent().into_iter().filter_map(|(_, _, range)| range).collect()
    }

    /// Itself below a `Retrying`.
    pub(crate) fn retried(self: &Arc<Self>, policy: RetryPolicy) -> Retrying<Self> {
        Retrying::new(Arc::clone(self), policy, self.clock.clone())
    }

    /// Itself below a `Retrying` that has had an answer.
    pub(crate) async fn known(self: &Arc<Self>) -> Retrying<Self> {
        let retrying = self.retried(policy());
        retrying.list(&ListRequest::default()).await.unwrap();
        self.sent();
        retrying
    }

    fn step(&self, operation: Operation, key: &str, range: Option<&GetRange>) -> Step {
        self.sent.lock().unwrap().push((operation, key.to_owned(), range.cloned()));
        self.steps.lock().unwrap().pop_front().unwrap_or(Step::Pass)
    }

    /// Does `work` as the next step says.
    async fn play<T>(
        &self,
        operation: Operation,
        key: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.step(operation, key, None) {
            Step::Fail(kind) => Err(error(kind, operation, key)),
            Step::FailFor(kind, wait) => Err(error(kind, operation, key).with_retry_after(wait)),
            Step::Lose(kind) => {
                work.await?;
                Err(error(kind, operation, key))
            }
            Step::Slow(time, kind) => {
                self.clock.advance(time);
                Err(error(kind, operation, key))
            }
            Step::Hang => futures::future::pending().await,
            _ => work.await,
        }
    }
}

/// The default policy, with the same jitter each time.
pub(crate) fn policy() -> RetryPolicy {
    RetryPolicy { seed: Some(7), ..RetryPolicy::default() }
}

pub(crate) fn error(kind: ErrorKind, operation: Operation, key: &str) -> StorageError {
    StorageError::new(kind, operation, key, "scripted").with_source("as the script says")
}

pub(crate) fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

/// `len` bytes of which no two stretches are alike.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len / 8 + 1).flat_map(word).collect();
    bytes.truncate(len);
    bytes
}

fn put_operation(mode: PutMode) -> Operation {
    match mode {
        PutMode::Create => Operation::PutCreate,
        PutMode::Overwrite => Operation::PutOverwrite,
    }
}

/// The bytes of a whole answer, in pieces.
async fn pieces(response: GetResponse) -> (ObjectInfo, Range<u64>, Vec<u8>) {
    let GetResponse { info, range, mut stream } = response;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    (info, range, bytes)
}

#[async_trait]
impl ObjectStore for Scripted {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<PutReceipt> {
        self.play(put_operation(mode), key.as_str(), self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &Key, range: GetRange) -> Result<GetResponse> {
        let step = self.step(Operation::Get, key.as_str(), Some(&range));
        let failed = |kind| error(kind, Operation::Get, key.as_str());
        match step {
            Step::Fail(kind) | Step::Lose(kind) => return Err(failed(kind)),
            Step::FailFor(kind, wait) => return Err(failed(kind).with_retry_after(wait)),
            Step::Slow(time, kind) => {
                self.clock.advance(time);
                return Err(failed(kind));
            }
            Step::Hang => return futures::future::pending().await,
            _ => {}
        }
        let (mut info, range, mut bytes) = pieces(self.inner.get(key, range).await?).await;
        let mut end = None;
        match step {
            Step::Break(after, kind) => {
                bytes.truncate(after);
                end = Some(Err(failed(kind)));
            }
            Step::BreakUnkept(after) => {
                bytes.truncate(after);
                info.crc32c = None;
                end = Some(Err(failed(ErrorKind::Interrupted)));
            }
            Step::Short(after) => bytes.truncate(after),
            Step::Flip(at) => bytes[at] ^= 4,
            _ => {}
        }
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Ok(GetResponse { info, range, stream: futures::stream::iter(chunks.into_iter().chain(end)).boxed() })
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.play(Operation::Head, key.as_str(), self.inner.head(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.play(Operation::List, request.prefix.as_str(), self.inner.list(request)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<Vec<DeleteOutcome>> {
        let named: Vec<_> = keys.iter().map(Key::as_str).collect();
        let named = named.join(" ");
        let half = match self.steps.lock().unwrap().front() {
            Some(Step::Half(kind)) => Some(*kind),
            _ => None,
        };
        let work = async {
            let Some(kind) = half else { return self.inner.delete(keys).await };
            let mut outcomes = Vec::new();
            for (number, key) in keys.iter().enumerate() {
                if number % 2 == 0 {
                    outcomes.extend(self.inner.delete(std::slice::from_ref(key)).await?);
                } else {
                    let result = Err(error(kind, Operation::Delete, key.as_str()));
                    outcomes.push(DeleteOutcome { key: key.clone(), result });
                }
            }
            Ok(outcomes)
        };
        self.play(Operation::Delete, &named, work).await
    }

    async fn copy(&self, from: &Key, to: &Key) -> Result<PutReceipt> {
        self.play(Operation::Copy, from.as_str(), self.inner.copy(from, to)).await
    }

    async fn multipart_create(&self, key: &Key) -> Result<UploadId> {
        self.play(Operation::MultipartCreate, key.as_str(), self.inner.multipart_create(key)).await
    }

    async fn multipart_put(&self, key: &Key, upload: &UploadId, number: u32, body: Body) -> Result<PartId> {
        let put = self.inner.multipart_put(key, upload, number, body);
        self.play(Operation::MultipartPut, key.as_str(), put).await
    }

    async fn multipart_complete(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartId],
        whole: Crc32c,
    ) -> Result<PutReceipt> {
        let complete = self.inner.multipart_complete(key, upload, parts, whole);
        self.play(Operation::MultipartComplete, key.as_str(), complete).await
    }

    async fn multipart_abort(&self, key: &Key, upload: &UploadId) -> Result<()> {
        self.play(Operation::MultipartAbort, key.as_str(), self.inner.multipart_abort(key, upload)).await
    }

    async fn multipart_list(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>> {
        self.play(Operation::MultipartList, prefix.as_str(), self.inner.multipart_list(prefix)).await
    }
}
