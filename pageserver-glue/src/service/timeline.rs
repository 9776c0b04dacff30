//! One timeline, as a pageserver speaks of it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layer_archive::{Ancestor, BranchPoint, LayerName, Lsn, RemovalReason, Removed, TimelineMetadata};
use sync_engine::service::{
    Change, HandOverError, Reconciliation, Stopped, Ticket, TimelineHandle, TimelineStatus,
};
use sync_engine::{LocalLayer, Residency};
use tokio::runtime::Handle;

use super::reads::Reads;
use crate::timeline::layer_as_named;
use crate::{METADATA_FILE, ParsedMetadata, Skipped};

/// Why a checkpoint was not taken.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A layer's file is not there.
    #[error("the layer {} cannot be handed over", path.display())]
    Layer {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The timeline takes nothing more, or not this.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
}

/// Why a wait ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The time is up. Nothing is given up by that: it goes on.
    #[error("not stored within {0:?}; it goes on")]
    Timeout(Duration),
    /// The timeline was detached, or taken over by another writer.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A timeline that is attached. Clones are the same timeline; dropping them detaches nothing.
#[derive(Clone, Debug)]
pub struct AttachedTimeline {
    pub(super) handle: TimelineHandle,
    pub(super) runtime: Handle,
    dir: PathBuf,
    skipped: Vec<Skipped>,
    pub(super) reads: Arc<Reads>,
}

impl AttachedTimeline {
    pub(super) fn new(
        handle: TimelineHandle,
        runtime: Handle,
        dir: PathBuf,
        skipped: Vec<Skipped>,
        reads: Reads,
    ) -> Self {
        Self { handle, runtime, dir, skipped, reads: Arc::new(reads) }
    }

    /// Hands over layers that were frozen, by their file names, and the metadata that needs them, if there is new one.
    /// What the metadata says of its LSN and of where the timeline was branched off is read from it; for bytes that do not
    /// say it, `lsn` and [`branched_from`](Self::branched_from) do.
    ///
    /// Never waits for the store: it looks up the files' lengths and queues.
    pub fn checkpoint(
        &self,
        layers: &[LayerName],
        metadata: Option<Vec<u8>>,
        lsn: Option<Lsn>,
    ) -> Result<Ticket, CheckpointError> {
        self.compaction(layers, &[], metadata, lsn)
    }

    /// Hands over layers together with those that they replace, which are compacted away: all that those held is in these. What
    /// held history that the compaction dropped goes as collected, by [`remove`](Self::remove).
    pub fn compaction(
        &self,
        layers: &[LayerName],
        replaced: &[LayerName],
        metadata: Option<Vec<u8>>,
        lsn: Option<Lsn>,
    ) -> Result<Ticket, CheckpointError> {
        let frozen = layers;
        let layers = layers.iter().map(|name| self.look_up(name)).collect::<Result<_, _>>()?;
        let removed = removed(replaced, RemovalReason::Compacted);
        let said = metadata.map(|bytes| describe(bytes, lsn)).transpose()?.unwrap_or_default();
        let ticket = self.handle.hand_over(Change { layers, removed, ..said })?;
        frozen.iter().for_each(|layer| self.reads.set_local(layer, Residency::Local));
        Ok(ticket)
    }

    /// Hands over layers that are no more. To be called before their files are deleted: an upload that has not begun is
    /// then left out, and one that is under way is followed by the removal.
    pub fn remove(&self, layers: &[LayerName], reason: RemovalReason) -> Result<Ticket, HandOverError> {
        self.handle.hand_over(Change { removed: removed(layers, reason), ..Change::default() })
    }

    /// Says where the timeline was branched off, where its metadata does not. Its ancestor's log is told before the
    /// timeline has a record of its own.
    pub fn branched_from(&self, ancestor: Ancestor) -> Result<Ticket, HandOverError> {
        self.handle.hand_over(Change { ancestor: Some(ancestor), ..Change::default() })
    }

    fn look_up(&self, name: &LayerName) -> Result<LocalLayer, CheckpointError> {
        let path = self.dir.join(name.as_str());
        let found = path.symlink_metadata().and_then(|metadata| match metadata.is_file() {
            true => Ok(metadata.len()),
            false => Err(io::Error::other("it is not a regular file")),
        });
        match found {
            Ok(size) => Ok(layer_as_named(name.clone(), path, size, name.as_str().parse().ok())),
            Err(source) => Err(CheckpointError::Layer { path, source }),
        }
    }

    /// Blocks until the timeline was read from the store and its files compared with it. Says what came of that: among
    /// other things which layers only the store has.
    pub fn wait_opened(&self, timeout: Duration) -> Result<Arc<Reconciliation>, WaitError> {
        let opened = self.block_on(self.handle.opened(), timeout)?;
        Ok(opened.unwrap_or_default())
    }

    /// Blocks until the change, and all before it, are durable.
    pub fn wait(&self, ticket: Ticket, timeout: Duration) -> Result<(), WaitError> {
        self.block_on(self.handle.wait(ticket), timeout)
    }

    /// Blocks until the timeline can be restored as of `lsn`, or of a later one.
    pub fn wait_durable(&self, lsn: Lsn, timeout: Duration) -> Result<(), WaitError> {
        self.block_on(self.handle.wait_durable(lsn), timeout)
    }

    /// The branches of the timeline: what the pageserver's own gc must spare. A layer that begins at or below the LSN of one
    /// of them is needed by it, and handing it over as *collected* leaves it in the store. Nothing before the timeline was
    /// [opened](Self::wait_opened).
    pub fn branch_points(&self) -> Vec<BranchPoint> {
        self.handle.branch_points()
    }

    /// Blocks until the log says that a branch of the timeline leaves it at `lsn`. To be called before anything of the
    /// timeline is collected that the branch needs; the branch's own first checkpoint, with the ancestor in its metadata or
    /// handed over, says it too.
    pub fn begin_branch(&self, branch: BranchPoint, timeout: Duration) -> Result<(), WaitError> {
        self.block_on(self.handle.begin_branch(branch), timeout)
    }

    /// Blocks until the log says that a branch is no more. To be called after the branch was deleted.
    pub fn end_branch(&self, branch: BranchPoint, timeout: Duration) -> Result<(), WaitError> {
        self.block_on(self.handle.end_branch(branch), timeout)
    }

    fn block_on<T>(
        &self,
        done: impl Future<Output = Result<T, Stopped>>,
        timeout: Duration,
    ) -> Result<T, WaitError> {
        // The timer is the runtime's, which is entered here.
        let waited = self.runtime.block_on(async { tokio::time::timeout(timeout, done).await });
        Ok(waited.map_err(|_| WaitError::Timeout(timeout))??)
    }

    /// The timeline can be restored as of this LSN.
    pub fn remote_consistent_lsn(&self) -> Option<Lsn> {
        self.handle.remote_consistent_lsn()
    }

    /// The timeline as it is now: what waits, what fails, what was written.
    pub fn status(&self) -> TimelineStatus {
        self.handle.status()
    }

    /// What in the directory was left out when the timeline was attached.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The engine's handle, for callers that are async themselves.
    pub fn handle(&self) -> &TimelineHandle {
        &self.handle
    }
}

fn removed(layers: &[LayerName], reason: RemovalReason) -> Vec<Removed> {
    layers.iter().map(|name| Removed { name: name.clone(), reason }).collect()
}

/// What metadata says: the file that belongs in the directory, its LSN, and the ancestor that it names. Metadata of a form that
/// is not known here is carried as it is, and says nothing.
fn describe(bytes: Vec<u8>, lsn: Option<Lsn>) -> Result<Change, CheckpointError> {
    let parsed = ParsedMetadata::parse(&bytes).ok();
    let file_name = LayerName::new(METADATA_FILE).map_err(|error| CheckpointError::Layer {
        path: METADATA_FILE.into(),
        source: io::Error::other(error),
    })?;
    let lsn = parsed.as_ref().map(|metadata| metadata.disk_consistent_lsn).or(lsn);
    let ancestor = parsed.and_then(|metadata| metadata.ancestor);
    Ok(Change {
        metadata: Some((TimelineMetadata { file_name, bytes }, lsn)),
        ancestor: ancestor.map(|(timeline, lsn)| Ancestor { timeline, lsn }),
        ..Change::default()
    })
}
