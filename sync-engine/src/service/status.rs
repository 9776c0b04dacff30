//! What can be seen of a timeline from outside.

use std::sync::Arc;
use std::time::SystemTime;

use layer_archive::{Lsn, Seq};

use super::{Lag, LastGc, Ticket};
use crate::gc::GcReport;
use crate::{Error, FailedLayer};

/// What a timeline's task is doing.
#[derive(Clone, Debug, Default)]
pub enum Phase {
    /// It reads the timeline from the store.
    #[default]
    Opening,
    /// It has nothing to do, or gathers.
    Idle,
    /// It packs, uploads or commits.
    Working,
    /// Something failed, and is tried again.
    Waiting {
        /// Since when nothing has worked.
        since: SystemTime,
        /// When it is tried again.
        until: SystemTime,
        /// The last failure.
        error: Arc<Error>,
    },
    /// It has stopped for good: fenced by another writer, or the timeline was deleted. Local files were kept.
    Stopped(Arc<Error>),
    /// It was detached.
    Detached,
}

/// What was written since the timeline was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records, claims left out.
    pub records: u64,
    /// Payload objects.
    pub payloads: u64,
    /// Manifests.
    pub manifests: u64,
    /// Layers.
    pub layers: u64,
    /// Raw bytes of layers.
    pub raw_bytes: u64,
    /// Bytes of records and payload objects.
    pub stored_bytes: u64,
    /// Failures after which something was tried again.
    pub retries: u64,
    /// Objects that gc has deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Layers that were repacked.
    pub repacked: u64,
    /// Bytes of the payload objects that they were repacked into.
    pub repacked_bytes: u64,
}

impl Written {
    pub(super) fn add_gc(&mut self, report: &GcReport) {
        self.deleted += report.collected.objects as u64;
        self.deleted_bytes += report.collected.bytes;
        self.repacked += report.repacked.layers as u64;
        self.repacked_bytes += report.repacked.stored_bytes;
        self.manifests += u64::from(report.checkpoint);
    }
}

/// A timeline as it is now.
#[derive(Clone, Debug)]
pub struct TimelineStatus {
    /// What its task is doing.
    pub phase: Phase,
    /// What waits.
    pub lag: Lag,
    /// Layers that could not be uploaded. They are tried again; metadata and removals after them wait.
    pub failed: Vec<FailedLayer>,
    /// Why metadata that was handed over is not committed, where it is older than the store's.
    pub held_back: Option<Arc<Error>>,
    /// The last change that was handed over.
    pub handed_over: Ticket,
    /// The newest record that is known to exist, once the timeline was opened.
    pub seq: Option<Seq>,
    /// The timeline can be restored as of this LSN.
    pub remote_consistent_lsn: Option<Lsn>,
    /// What came of the last collection.
    pub last_gc: Option<LastGc>,
    /// What was written.
    pub written: Written,
}
