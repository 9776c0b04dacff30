//! Layers that only the store has, as a pageserver needs them: fetched once for all who wait, or read a page at a time.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use layer_archive::{LayerEntry, LayerName, Lsn, TenantId, TimelineId, TimelineMetadata};
use sync_engine::service::{Reconciliation, Stopped, TimelineHandle, UploadService};
use sync_engine::{
    AncestorReader, AncestorReaders, DurableDir, Error, OnDemandTimeline, ReadPool, Residency,
    TimelineReader, TimelineView,
};
use tokio::sync::{Mutex, OnceCell};

use super::AttachedTimeline;
use crate::WorkDir;

/// Why a layer was not fetched or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The time is up. A download that was begun goes on.
    #[error("not there within {0:?}; a download that was begun goes on")]
    Timeout(Duration),
    /// The timeline was detached, or taken over by another writer, before it was read from the store.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The store, or a file.
    #[error(transparent)]
    Engine(Arc<Error>),
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::Engine(Arc::new(error))
    }
}

/// What an attached timeline is read with, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Reads {
    uploads: UploadService,
    pool: Arc<ReadPool>,
    workdir: WorkDir,
    timeline: OnceCell<OnDemandTimeline>,
    /// Of a branch, opened when it is first asked for a layer that is not its own, and again where not all could be.
    ancestors: Mutex<Option<Arc<AncestorReaders>>>,
}

/// A timeline that a branch was branched from, directly or not.
#[derive(Clone, Debug)]
pub struct AncestorTimeline {
    /// Its id.
    pub timeline: TimelineId,
    /// Up to which of its LSNs it is the branch's past too. Of its layers those count that begin at or below it.
    pub lsn: Lsn,
    /// Its metadata.
    pub metadata: Option<TimelineMetadata>,
    /// Its layers.
    pub layers: Vec<LayerEntry>,
}

impl Reads {
    pub(super) fn new(uploads: UploadService, pool: Arc<ReadPool>, workdir: WorkDir) -> Self {
        Self { uploads, pool, workdir, timeline: OnceCell::new(), ancestors: Mutex::default() }
    }

    /// Opens the timeline for reading, after its files were compared with the store.
    async fn open(&self, handle: &TimelineHandle) -> Result<&OnDemandTimeline, ReadError> {
        let open = || async {
            let reconciled = handle.opened().await?.unwrap_or_default();
            let (tenant, timeline): &(TenantId, TimelineId) = handle.name();
            let store = self.uploads.store().await?;
            let view = TimelineView::open_existing(store, tenant, timeline, None).await?;
            let local = local_layers(&view, &reconciled);
            let reader = TimelineReader::new(store, view, Arc::clone(&self.pool));
            let dir = DurableDir::create(self.workdir.timeline_dir(tenant, timeline))?;
            Ok(OnDemandTimeline::new(reader, dir, local))
        };
        self.timeline.get_or_try_init(open).await
    }

    /// The ancestors of the timeline, as they were opened for reading.
    async fn ancestors(&self, timeline: &OnDemandTimeline) -> Result<Arc<AncestorReaders>, ReadError> {
        let mut known = self.ancestors.lock().await;
        match &*known {
            Some(ancestors) if ancestors.ancestors().1.is_none() => Ok(Arc::clone(ancestors)),
            _ => {
                let ancestors = self.open_ancestors(timeline).await?;
                *known = Some(Arc::clone(&ancestors));
                Ok(ancestors)
            }
        }
    }

    /// The ancestors of the timeline, as they are now.
    async fn open_ancestors(&self, timeline: &OnDemandTimeline) -> Result<Arc<AncestorReaders>, ReadError> {
        let store = self.uploads.store().await?;
        let state = &timeline.reader().view().state;
        Ok(Arc::new(AncestorReaders::open(store, state, &self.pool).await))
    }

    /// The ancestor that has a layer which the timeline itself does not have, as `error` says.
    async fn ancestor_with(
        &self,
        timeline: &OnDemandTimeline,
        layer: &LayerName,
        error: Arc<Error>,
    ) -> Result<Arc<AncestorReader>, ReadError> {
        if !matches!(*error, Error::LayerNotFound { .. } | Error::LayerRemoved { .. }) {
            return Err(ReadError::Engine(error));
        }
        match self.ancestors(timeline).await?.find(layer).await {
            Ok(Some(ancestor)) => Ok(ancestor),
            Ok(None) => Err(ReadError::Engine(error)),
            Err(broken) => Err(ReadError::Engine(broken)),
        }
    }

    async fn fetch(&self, handle: &TimelineHandle, layer: &LayerName) -> Result<PathBuf, ReadError> {
        let timeline = self.open(handle).await?;
        let error = match timeline.fetch(layer).await {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        let ancestor = self.ancestor_with(timeline, layer, error).await?;
        let view = ancestor.reader.view();
        let dir = self.workdir.timeline_dir(view.state.tenant(), view.state.timeline());
        let dir = DurableDir::create(dir)?;
        Ok(ancestor.reader.fetch_file(layer, &dir).await?)
    }

    async fn read_at(
        &self,
        handle: &TimelineHandle,
        layer: &LayerName,
        range: Range<u64>,
    ) -> Result<Bytes, ReadError> {
        let timeline = self.open(handle).await?;
        match timeline.read_at(layer, range.clone()).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                let ancestor = self.ancestor_with(timeline, layer, Arc::new(error)).await?;
                Ok(ancestor.reader.read_at(layer, range).await?)
            }
        }
    }

    /// Says that a layer's file is there, or is no more. What is not open yet finds it out for itself.
    pub(super) fn set_local(&self, layer: &LayerName, residency: Residency) {
        if let Some(timeline) = self.timeline.get() {
            timeline.set_local(layer, residency);
        }
    }
}

/// The layers whose files were found to be what the store has.
fn local_layers(view: &TimelineView, reconciled: &Reconciliation) -> BTreeSet<LayerName> {
    let remote = reconciled.remote_only.iter().map(|layer| &layer.name);
    let conflicts = reconciled.conflicts.iter().map(|conflict| &conflict.name);
    let failed = reconciled.failed.iter().map(|failed| &failed.name);
    let others: BTreeSet<&LayerName> = remote.chain(conflicts).chain(failed).collect();
    view.state.layers().keys().filter(|name| !others.contains(name)).cloned().collect()
}

impl AncestorTimeline {
    fn new(ancestor: &AncestorReader) -> Self {
        let state = &ancestor.reader.view().state;
        Self {
            timeline: state.timeline().clone(),
            lsn: ancestor.lsn,
            metadata: state.metadata().cloned(),
            layers: state.layers().values().cloned().collect(),
        }
    }
}

impl AttachedTimeline {
    /// Fetches a layer that only the store has into the timeline's directory, and returns its path. Blocks.
    ///
    /// One that the timeline does not have, and an ancestor has at or below the LSN where it was left, comes into the
    /// ancestor's directory: in the timeline's own it would be taken for a layer of it.
    ///
    /// The file is whole, verified and durable when it gets its name. Threads that want the same layer share one
    /// download, which goes before prefetching and goes on when the time is up.
    pub fn fetch(&self, layer: &LayerName, timeout: Duration) -> Result<PathBuf, ReadError> {
        self.read_within(timeout, self.reads.fetch(&self.handle, layer))
    }

    /// Reads bytes of a layer, from its file where it has one, else from the store: of a large layer only the frames that
    /// hold them, by way of a cache. What lies beyond the layer's end is left out. A layer that the timeline does not have is
    /// read from the nearest ancestor that has it. Blocks.
    pub fn read_at(
        &self,
        layer: &LayerName,
        range: Range<u64>,
        timeout: Duration,
    ) -> Result<Bytes, ReadError> {
        self.read_within(timeout, self.reads.read_at(&self.handle, layer, range))
    }

    /// The timelines that this one was branched from, the nearest first, as the store has them: whatever of them is attached
    /// or on the disk. Where one is missing or damaged the error names it. Blocks.
    pub fn ancestors(&self, timeout: Duration) -> Result<Vec<AncestorTimeline>, ReadError> {
        self.read_within(timeout, async {
            let timeline = self.reads.open(&self.handle).await?;
            let opened = self.reads.open_ancestors(timeline).await?;
            let (ancestors, broken) = opened.ancestors();
            if let Some(error) = broken {
                return Err(ReadError::Engine(Arc::clone(error)));
            }
            Ok(ancestors.iter().map(|ancestor| AncestorTimeline::new(ancestor)).collect())
        })
    }

    /// Fetches layers in the background, behind everything that somebody waits for. Returns at once; what fails is logged,
    /// and found out by whoever needs it.
    pub fn prefetch(&self, layers: Vec<LayerName>) {
        let (reads, handle) = (Arc::clone(&self.reads), self.handle.clone());
        self.runtime.spawn(async move {
            match reads.open(&handle).await {
                Ok(timeline) => {
                    for failed in timeline.prefetch(layers).await {
                        tracing::warn!(layer = %failed.name, error = %failed.error, "a layer was not prefetched");
                    }
                }
                Err(error) => tracing::warn!(%error, "nothing was prefetched"),
            }
        });
    }

    /// Says that the file of a layer was deleted to save room: from now on it is read from the store.
    pub fn evicted(&self, layer: &LayerName) {
        self.reads.set_local(layer, Residency::Remote);
    }

    fn read_within<T>(
        &self,
        timeout: Duration,
        read: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, ReadError> {
        let waited = self.runtime.block_on(async { tokio::time::timeout(timeout, read).await });
        waited.map_err(|_| ReadError::Timeout(timeout))?
    }
}
