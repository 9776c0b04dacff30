//! The one writer of a timeline: claims it, appends records, one at a time, and writes manifests.

mod claim;
mod payloads;
mod pending;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{
    Ancestor, BranchPoint, BundleId, BundleIndex, BundleWriter, Commit, CommitFlags, Crc32c, FrameCompressor,
    Generation, LayerEntry, Lsn, Moved, Origin, PayloadRef, Removed, Seq, Term, TimelineMetadata, UnixMillis,
    WriterInfo,
};
use rand::TryRngCore;
use storage_api::{Body, Clock, Key, PutMode};

use self::claim::Reign;
use self::pending::{Created, PendingRecord};
use crate::view::{ManifestUsed, TimelineView};
use crate::{Error, Result, Store, TimelineState};

/// A manifest is due when so many records have passed since the last one...
const MANIFEST_RECORDS_MIN: u64 = 64;
/// ...and their indexes' bytes are more than this part of it...
const MANIFEST_INDEX_DIVISOR: u64 = 4;
/// ...and at a clean detach when more records than this have passed.
const DETACH_RECORDS_MAX: u64 = 16;

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
    pub deleted: bool,
}

impl Draft {
    /// A commit that says the metadata of `state` again.
    ///
    /// The record that brought it may be about to be collected, and who extracts the records with stock tools finds it in
    /// the last one.
    pub(crate) fn repeating_metadata(state: &TimelineState) -> Self {
        let (metadata, disk_consistent_lsn) = (state.metadata().cloned(), state.disk_consistent_lsn());
        Self { metadata, disk_consistent_lsn, ..Self::default() }
    }
}

/// A timeline that this process has claimed.
///
/// There is one append in flight at a time, which `&mut self` ensures. Where an append ends without it being known
/// whether its record was stored ([`Error::UnknownOutcome`]), that record is [pending](Self::is_pending): its bytes
/// are kept, and [`resume`](Self::resume) sends them again until it is known. Nothing else is appended before.
#[derive(Debug)]
pub struct TimelineWriter {
    store: Store,
    view: TimelineView,
    options: WriterOptions,
    reign: Reign,
    /// The claim that the log ended in when this writer came.
    known_claim: Seq,
    claim: Seq,
    term: Term,
    pending: Option<PendingRecord>,
    next_payload: u32,
    /// Whether what killed writers have left was looked for.
    abandoned_aborted: bool,
    compressor: FrameCompressor,
}

impl TimelineWriter {
    /// Claims the timeline that `view` shows. Everybody who wrote before is fenced from then on.
    pub async fn claim(store: &Store, view: TimelineView, options: WriterOptions) -> Result<Self> {
        let mut writer = Self::new(store, view, options)?;
        writer.ensure_claimed().await?;
        Ok(writer)
    }

    /// A writer that has claimed nothing yet: it must not append or upload before
    /// [`ensure_claimed`](Self::ensure_claimed) has succeeded.
    pub(crate) fn new(store: &Store, view: TimelineView, options: WriterOptions) -> Result<Self> {
        let unpackable = |error| Error::Unpackable { what: "a claim".into(), source: error };
        Ok(Self {
            store: store.clone(),
            options,
            reign: Reign::default(),
            known_claim: view.state.claim(),
            claim: Seq::default(),
            term: Term(random()?),
            pending: None,
            next_payload: 0,
            abandoned_aborted: false,
            compressor: FrameCompressor::new().map_err(unpackable)?,
            view,
        })
    }

    /// Appends a record: a commit, and the bundle it commits. The commit is durable when this returns.
    ///
    /// A draft that collects a layer that a branch needs is refused before anything is written.
    ///
    /// After [`Error::UnknownOutcome`] the record is pending; after any other error it was not stored.
    pub async fn append(&mut self, draft: Draft, bundle: BundleWriter) -> Result<BundleIndex> {
        if let Some(pending) = &self.pending {
            return Err(Error::RecordPending { key: pending.key() });
        }
        self.view.state.check_removals(&draft.removed, &draft.branch_points_added)?;
        self.freeze(self.commit(draft), bundle)?;
        self.send().await
    }

    /// Sends the record again of which it is not known whether it was stored, unchanged. `None` where there is none.
    pub async fn resume(&mut self) -> Result<Option<BundleIndex>> {
        if self.pending.is_some() { self.send().await.map(Some) } else { Ok(None) }
    }

    /// Whether there is a record of which it is not known whether it was stored.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    async fn send(&mut self) -> Result<BundleIndex> {
        match self.settle_pending().await? {
            Created::Ours(record) => {
                self.view.apply(&record)?;
                Ok(*record)
            }
            Created::Another(record) => {
                let by = record.commit().map(|commit| commit.writer.clone()).unwrap_or_default();
                Err(self.fenced(self.view.state.seq().next(), &by))
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

    /// Creates an object that is the same whoever creates it: one that is there already is it.
    async fn create_known(&self, key: &Key, body: Body) -> Result<()> {
        match self.store.objects().put(key, body, PutMode::Create).await {
            Err(error) if !error.is_already_exists() => Err(error.into()),
            _ => Ok(()),
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

    pub(crate) fn store(&self) -> &Store {
        &self.store
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
            flags: CommitFlags { claim: false, released: draft.released, deleted: draft.deleted },
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

    /// The error of a writer that `by` has fenced with its claim `seq`.
    pub(crate) fn fenced(&self, seq: Seq, by: &WriterInfo) -> Error {
        let (tenant, timeline) = (self.view.state.tenant().clone(), self.view.state.timeline().clone());
        Error::Fenced { tenant, timeline, seq, by: Box::new(by.clone()) }
    }
}

fn body(bytes: Vec<u8>, crc32c: Crc32c) -> Body {
    Body::with_crc32c(bytes, storage_api::Crc32c(crc32c.0))
}

fn random() -> Result<u64> {
    rand::rngs::OsRng.try_next_u64().map_err(|error| Error::Task(format!("no randomness: {error}")))
}
