//! The one writer of a timeline: claims it, appends records, one at a time, and writes manifests.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{
    Ancestor, BranchPoint, BundleId, BundleIndex, BundleWriter, Commit, CommitFlags, Crc32c, FinishedBundle,
    FrameCompressor, Generation, LayerEntry, Lsn, Moved, Origin, PayloadId, PayloadRef, Removed, Seq, Term,
    TimelineMetadata, UnixMillis, WriterInfo,
};
use rand::TryRngCore;
use storage_api::{
    Body, Clock, ErrorKind, Key, ObjectStore, Operation, PendingUpload, PutMode, RetryClass, StorageError,
};

use crate::catalog::TimelineListing;
use crate::object::read_record;
use crate::payload::{PayloadUpload, abandoned_uploads, payload_ref};
use crate::view::{ManifestUsed, TimelineView};
use crate::{Error, PackOptions, Result, Store};

/// A manifest is due when so many records have passed since the last one...
const MANIFEST_RECORDS_MIN: u64 = 64;
/// ...and their indexes' bytes are more than this part of it...
const MANIFEST_INDEX_DIVISOR: u64 = 4;
/// ...and at a clean detach when more records than this have passed.
const DETACH_RECORDS_MAX: u64 = 16;
/// How often a create is sent whose outcome is not known...
const CREATE_ATTEMPTS_MAX: u32 = 5;
/// ...and for how long. A store below that tries again by itself has taken longer: its bound is not multiplied.
const CREATE_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a claim is tried on a timeline that others claim too.
const CLAIM_ATTEMPTS_MAX: usize = 8;

/// Who writes, and by which clock.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Who writes; for people.
    pub writer: WriterInfo,
    /// The generation that the control plane gave this pageserver.
    pub generation: Option<Generation>,
    /// The clock by which commits are dated.
    pub clock: Arc<dyn Clock>,
}

/// A commit to be: what it changes, but for the layers of the record's own bundle.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each is named like the field of `Commit`")]
pub struct Draft {
    pub metadata: Option<TimelineMetadata>,
    pub disk_consistent_lsn: Option<Lsn>,
    pub ancestor: Option<Ancestor>,
    pub branch_points_added: Vec<BranchPoint>,
    pub branch_points_removed: Vec<BranchPoint>,
    pub payloads: Vec<PayloadRef>,
    pub added: Vec<LayerEntry>,
    pub moved: Vec<Moved>,
    pub removed: Vec<Removed>,
    pub released: bool,
}

/// A timeline that this process has claimed.
///
/// There is one append in flight at a time, which `&mut self` ensures. After an error of an append the writer is
/// not used again: the timeline is opened anew.
#[derive(Debug)]
pub struct TimelineWriter {
    store: Store,
    view: TimelineView,
    options: WriterOptions,
    claim: Seq,
    term: Term,
    next_payload: u32,
    /// Whether what killed writers have left was looked for.
    abandoned_aborted: bool,
    compressor: FrameCompressor,
}

/// What became of a create-only put of a record.
enum Created {
    Ours,
    Another(Box<BundleIndex>),
}

/// What the list after a claim says of it.
enum Claimed {
    /// It stands.
    Valid,
    /// The log had moved on: the claim lies in its past.
    Void,
}

impl TimelineWriter {
    /// Claims the timeline that `view` shows. Everybody who wrote before is fenced from then on.
    pub async fn claim(store: &Store, view: TimelineView, options: WriterOptions) -> Result<Self> {
        let unpackable = |error| Error::Unpackable { what: "a claim".into(), source: error };
        let mut writer = Self {
            store: store.clone(),
            options,
            claim: Seq::default(),
            term: Term(random()?),
            next_payload: 0,
            abandoned_aborted: false,
            compressor: FrameCompressor::new().map_err(unpackable)?,
            view,
        };
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let known_claim = writer.view.state.claim();
            writer.put_claim(known_claim).await?;
            if let Claimed::Valid = writer.settle_claim().await? {
                return Ok(writer);
            }
            // The claim is history nobody will read. What is there now decides whether to try again.
            let (tenant, timeline) =
                (writer.view.state.tenant().clone(), writer.view.state.timeline().clone());
            writer.view = TimelineView::open(&writer.store, &tenant, &timeline, None).await?;
            if writer.view.state.claim() != known_claim {
                return Err(writer.fenced(writer.view.state.claim(), writer.view.state.writer()));
            }
            writer.term = Term(random()?);
        }
        let (tenant, timeline) = (writer.view.state.tenant().clone(), writer.view.state.timeline().clone());
        Err(Error::Unstable { tenant, timeline, attempts: CLAIM_ATTEMPTS_MAX })
    }

    /// Creates the claim behind the log's end, past records that appeared since the view was read.
    async fn put_claim(&mut self, known_claim: Seq) -> Result<()> {
        loop {
            let state = &self.view.state;
            if state.is_deleted() {
                let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
                return Err(Error::TimelineDeleted { tenant, timeline });
            }
            let generation = match (self.options.generation, state.generation()) {
                (Some(ours), Some(last)) if ours < last => return Err(Error::StaleGeneration { ours, last }),
                (ours, last) => ours.or(last),
            };
            let mut commit = self.commit(Draft::default());
            commit.flags.claim = true;
            commit.epoch = layer_archive::Epoch(state.epoch().0.saturating_add(1));
            commit.generation = generation;
            match self.create_record(commit, BundleWriter::new()).await? {
                (record, Created::Ours) => {
                    self.view.apply(&record)?;
                    self.claim = self.view.state.seq();
                    return Ok(());
                }
                (_, Created::Another(record)) => {
                    self.view.apply(&record)?;
                    if self.view.state.claim() != known_claim {
                        return Err(self.fenced(self.view.state.seq(), self.view.state.writer()));
                    }
                }
            }
        }
    }

    /// Rule 2 of the protocol: lists the manifests again, until none is newer than what this writer has seen.
    async fn settle_claim(&mut self) -> Result<Claimed> {
        let mut seen = self.view.listing.manifests.keys().next_back().copied().unwrap_or_default();
        loop {
            let manifests = TimelineListing::read_manifests(&**self.store.objects(), &self.view.keys).await?;
            let newest = manifests.keys().next_back().copied().unwrap_or_default();
            if newest >= self.claim {
                return Ok(Claimed::Void);
            }
            if newest <= seen {
                return Ok(Claimed::Valid);
            }
            // What was replayed may have been collected in part: the newer manifest is taken and the rest replayed.
            let (tenant, timeline) = (self.view.state.tenant().clone(), self.view.state.timeline().clone());
            self.view = TimelineView::open(&self.store, &tenant, &timeline, None).await?;
            if self.view.state.claim() != self.claim || self.view.state.term() != self.term {
                return Err(self.fenced(self.view.state.claim(), self.view.state.writer()));
            }
            seen = newest;
        }
    }

    /// Appends a record: a commit, and the bundle it commits. The commit is durable when this returns.
    pub async fn append(&mut self, draft: Draft, bundle: BundleWriter) -> Result<BundleIndex> {
        let commit = self.commit(draft);
        let seq = commit.seq;
        match self.create_record(commit, bundle).await? {
            (record, Created::Ours) => {
                self.view.apply(&record)?;
                Ok(record)
            }
            (_, Created::Another(record)) => {
                let by = record.commit().map(|commit| commit.writer.clone()).unwrap_or_default();
                Err(self.fenced(seq, &by))
            }
        }
    }

    /// Says that nobody writes any more, after `error` has ended the work, and returns that error.
    pub(crate) async fn release_after(&mut self, error: Error) -> Error {
        let released = Draft { released: true, ..Draft::default() };
        if let Err(unreleased) = self.append(released, BundleWriter::new()).await {
            tracing::warn!(error = %unreleased, "the timeline stays held: its writer could not release it");
        }
        error
    }

    /// Stores a bundle as a payload object, to be named by a later record.
    pub async fn put_payload(&mut self, bundle: BundleWriter) -> Result<(PayloadRef, Vec<LayerEntry>)> {
        let (id, key) = self.next_payload()?;
        let finished = self.finish_bundle(id, &key, bundle)?;
        let committed = payload_ref(id, &finished);
        // The key is this writer's alone: what is there already is an earlier attempt of the same bytes.
        self.create_known(&key, body(finished.bytes, finished.crc32c)).await?;
        Ok(committed)
    }

    /// Begins a payload object that is uploaded in parts. The first time, what killed writers have left is aborted.
    pub(crate) async fn begin_payload(&mut self, options: PackOptions) -> Result<PayloadUpload> {
        if !std::mem::replace(&mut self.abandoned_aborted, true) {
            self.abort_abandoned().await;
        }
        let (id, key) = self.next_payload()?;
        PayloadUpload::begin(Arc::clone(self.store.objects()), key, id, options).await
    }

    /// Uploads the rest of a payload object of which parts were uploaded, and completes it.
    pub(crate) async fn finish_payload(
        &mut self,
        upload: &mut PayloadUpload,
        bundle: BundleWriter,
    ) -> Result<(PayloadRef, Vec<LayerEntry>)> {
        let id = upload.id();
        let key = self.view.keys.bundle(BundleId::Payload(id))?;
        let mut finished = self.finish_bundle(id, &key, bundle)?;
        let rest = std::mem::take(&mut finished.bytes);
        let (len, crc32c) = (finished.index.object_len(), storage_api::Crc32c(finished.crc32c.0));
        upload.complete(rest, len, crc32c).await?;
        Ok(payload_ref(id, &finished))
    }

    fn next_payload(&mut self) -> Result<(PayloadId, Key)> {
        let id = PayloadId { claim: self.claim, term: self.term, number: self.next_payload };
        self.next_payload += 1;
        Ok((id, self.view.keys.bundle(BundleId::Payload(id))?))
    }

    fn finish_bundle(&mut self, id: PayloadId, key: &Key, bundle: BundleWriter) -> Result<FinishedBundle> {
        let unpackable = |error| Error::Unpackable { what: key.to_string(), source: error };
        let origin = self.origin(BundleId::Payload(id));
        bundle.finish(&origin, None, &mut self.compressor).map_err(unpackable)
    }

    /// Aborts the uploads of writers before this one. They are in nobody's way: a failure is not this writer's.
    async fn abort_abandoned(&self) {
        let objects = &**self.store.objects();
        let aborted = async {
            for PendingUpload { key, upload, begun: _ } in
                abandoned_uploads(objects, &self.view.keys, self.claim).await?
            {
                objects.multipart_abort(&key, &upload).await?;
                tracing::info!(%key, "aborted an upload that a killed writer had left");
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = aborted.await {
            tracing::warn!(%error, "uploads that killed writers have left could not be aborted");
        }
    }

    /// Creates an object that is the same whoever creates it: one that is there already is it.
    async fn create_known(&self, key: &Key, body: Body) -> Result<()> {
        match self.store.objects().put(key, body, PutMode::Create).await {
            Err(error) if !error.is_already_exists() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What the loss of an upload means: the writer that has taken over aborts those of the ones before it.
    pub(crate) async fn explain_lost_upload(&self, error: Error) -> Error {
        match &error {
            Error::Storage(error)
                if error.is_not_found()
                    && matches!(
                        error.operation(),
                        Operation::MultipartPut | Operation::MultipartComplete
                    ) => {}
            _ => return error,
        }
        let (tenant, timeline) = (self.view.state.tenant(), self.view.state.timeline());
        match TimelineView::open(&self.store, tenant, timeline, None).await {
            Ok(now) if now.state.claim() != self.claim => self.fenced(now.state.claim(), now.state.writer()),
            _ => error,
        }
    }

    /// Writes a manifest of the state, if one is due at a clean detach.
    pub async fn detach(&mut self) -> Result<Option<ManifestUsed>> {
        let due = match self.view.manifest {
            None => true,
            Some(_) => self.view.replayed > DETACH_RECORDS_MAX || self.is_manifest_due(),
        };
        if due { self.put_manifest().await.map(Some) } else { Ok(None) }
    }

    /// Writes a manifest of the state, if enough has been appended since the last one.
    pub async fn put_manifest_if_due(&mut self) -> Result<Option<ManifestUsed>> {
        if self.is_manifest_due() { self.put_manifest().await.map(Some) } else { Ok(None) }
    }

    fn is_manifest_due(&self) -> bool {
        let size = self.view.manifest.map_or(0, |manifest| manifest.stored_bytes);
        self.view.replayed >= MANIFEST_RECORDS_MIN
            && self.view.replayed_index_bytes > size / MANIFEST_INDEX_DIVISOR
    }

    /// Writes a manifest of the state.
    pub(crate) async fn put_manifest(&mut self) -> Result<ManifestUsed> {
        let seq = self.view.state.seq();
        let key = self.view.keys.manifest(seq)?;
        let unpackable = |error| Error::Unpackable { what: key.to_string(), source: error };
        let bytes = self.view.state.to_manifest().encode().map_err(unpackable)?;
        let stored_bytes = bytes.len() as u64;
        // The state at a record is what it is, whoever writes it down: one that is there already is the same.
        self.create_known(&key, Body::new(bytes)).await?;
        let manifest = ManifestUsed { seq, stored_bytes };
        self.view.manifest = Some(manifest);
        self.view.replayed = 0;
        self.view.replayed_index_bytes = 0;
        Ok(manifest)
    }

    /// What this writer has acknowledged.
    pub fn view(&self) -> &TimelineView {
        &self.view
    }

    fn origin(&self, bundle: BundleId) -> Origin {
        let state = &self.view.state;
        Origin { tenant: state.tenant().clone(), timeline: state.timeline().clone(), bundle }
    }

    /// The commit behind the state, of this writer.
    fn commit(&self, draft: Draft) -> Commit {
        let state = &self.view.state;
        let since = self.options.clock.now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Commit {
            seq: state.seq().next(),
            parent: state.history(),
            flags: CommitFlags { claim: false, released: draft.released, deleted: false },
            term: self.term,
            epoch: state.epoch(),
            generation: state.generation(),
            writer: self.options.writer.clone(),
            time: now.max(state.time()),
            metadata: draft.metadata,
            disk_consistent_lsn: draft.disk_consistent_lsn,
            ancestor: draft.ancestor,
            branch_points_added: draft.branch_points_added,
            branch_points_removed: draft.branch_points_removed,
            payloads: draft.payloads,
            added: draft.added,
            moved: draft.moved,
            removed: draft.removed,
        }
    }

    /// Creates the record of `commit`. Its bytes are made once and sent unchanged until it is known what became of
    /// them: lost answers are told from lost races by reading the record back.
    async fn create_record(
        &mut self,
        commit: Commit,
        bundle: BundleWriter,
    ) -> Result<(BundleIndex, Created)> {
        let bundle_id = BundleId::Record(commit.seq);
        let key = self.view.keys.record(commit.seq)?;
        let unpackable = |error| Error::Unpackable { what: key.to_string(), source: error };
        let finished = bundle
            .finish(&self.origin(bundle_id), Some(&commit), &mut self.compressor)
            .map_err(unpackable)?;
        let body = body(finished.bytes, finished.crc32c);
        let objects = &**self.store.objects();
        let mut unknown: Option<StorageError> = None;
        let begun = self.options.clock.now();
        for attempt in 0..CREATE_ATTEMPTS_MAX {
            if attempt > 0 {
                let elapsed = self.options.clock.now().duration_since(begun).unwrap_or_default();
                if elapsed >= CREATE_TIME_MAX {
                    break;
                }
                self.options.clock.sleep(Duration::from_millis(100 << attempt)).await;
            }
            let refused = match objects.put(&key, body.clone(), PutMode::Create).await {
                Ok(_) => return Ok((finished.index, Created::Ours)),
                Err(error) => error,
            };
            let ambiguous = refused.retry_class() == RetryClass::Ambiguous;
            if !refused.is_already_exists() && !ambiguous {
                return match unknown {
                    Some(source) => Err(Error::UnknownOutcome { key: key.to_string(), source }),
                    None => Err(refused.into()),
                };
            }
            match look_up(objects, &key, bundle_id).await {
                Ok(Some(record)) if record.record_id() == finished.index.record_id() => {
                    return Ok((finished.index, Created::Ours));
                }
                Ok(Some(record)) => return Ok((finished.index, Created::Another(Box::new(record)))),
                // It may yet take effect: the same bytes go to the same key again.
                Ok(None) => unknown = Some(refused),
                // How long a request is tried is for the store below to say, not to be multiplied here.
                Err(Error::Storage(source)) => {
                    return Err(Error::UnknownOutcome { key: key.to_string(), source });
                }
                Err(error) => return Err(error),
            }
        }
        let never = || StorageError::new(ErrorKind::Unexpected, Operation::PutCreate, key.as_str(), "remote");
        Err(Error::UnknownOutcome { key: key.to_string(), source: unknown.unwrap_or_else(never) })
    }

    fn fenced(&self, seq: Seq, by: &WriterInfo) -> Error {
        let (tenant, timeline) = (self.view.state.tenant().clone(), self.view.state.timeline().clone());
        Error::Fenced { tenant, timeline, seq, by: Box::new(by.clone()) }
    }
}

/// The record at `key`, if there is one.
async fn look_up(objects: &dyn ObjectStore, key: &Key, bundle: BundleId) -> Result<Option<BundleIndex>> {
    match read_record(objects, key, bundle).await {
        Ok(record) => Ok(Some(record)),
        Err(Error::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn body(bytes: Vec<u8>, crc32c: Crc32c) -> Body {
    Body::with_crc32c(bytes, storage_api::Crc32c(crc32c.0))
}

fn random() -> Result<u64> {
    rand::rngs::OsRng.try_next_u64().map_err(|error| Error::Task(format!("no randomness: {error}")))
}
