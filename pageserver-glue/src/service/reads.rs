//! Layers that only the store has, as a pageserver needs them: fetched once for all who wait, or read a page at a time.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use layer_archive::{LayerName, TenantId, TimelineId};
use sync_engine::service::{Reconciliation, Stopped, TimelineHandle, UploadService};
use sync_engine::{DurableDir, OnDemandTimeline, ReadPool, Residency, TimelineReader, TimelineView};
use tokio::sync::OnceCell;

use super::AttachedTimeline;

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
    Engine(Arc<sync_engine::Error>),
}

impl From<sync_engine::Error> for ReadError {
    fn from(error: sync_engine::Error) -> Self {
        Self::Engine(Arc::new(error))
    }
}

/// What an attached timeline is read with, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Reads {
    uploads: UploadService,
    pool: Arc<ReadPool>,
    dir: PathBuf,
    timeline: OnceCell<OnDemandTimeline>,
}

impl Reads {
    pub(super) fn new(uploads: UploadService, pool: Arc<ReadPool>, dir: PathBuf) -> Self {
        Self { uploads, pool, dir, timeline: OnceCell::new() }
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
            Ok(OnDemandTimeline::new(reader, DurableDir::create(&self.dir)?, local))
        };
        self.timeline.get_or_try_init(open).await
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

impl AttachedTimeline {
    /// Fetches a layer that only the store has into the timeline's directory, and returns its path. Blocks.
    ///
    /// The file is whole, verified and durable when it gets its name. Threads that want the same layer share one
    /// download, which goes before prefetching and goes on when the time is up.
    pub fn fetch(&self, layer: &LayerName, timeout: Duration) -> Result<PathBuf, ReadError> {
        self.read_within(timeout, async {
            self.reads.open(&self.handle).await?.fetch(layer).await.map_err(ReadError::Engine)
        })
    }

    /// Reads bytes of a layer, from its file where it has one, else from the store: of a large layer only the frames that
    /// hold them, by way of a cache. What lies beyond the layer's end is left out. Blocks.
    pub fn read_at(
        &self,
        layer: &LayerName,
        range: Range<u64>,
        timeout: Duration,
    ) -> Result<Bytes, ReadError> {
        self.read_within(timeout, async {
            Ok(self.reads.open(&self.handle).await?.read_at(layer, range).await?)
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
