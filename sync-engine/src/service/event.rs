//! What the service tells whoever observes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use layer_archive::{Lsn, Seq};

use super::{Reconciliation, Ticket, TimelineName};
use crate::gc::GcReport;
use crate::{Error, FailedLayer};

/// Something that happened to a timeline.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The timeline was read from the store.
    Opened {
        /// Its newest record.
        seq: Seq,
    },
    /// What is on the disk was compared with the store.
    Reconciled(Arc<Reconciliation>),
    /// A record is known to exist.
    Committed {
        /// Which one.
        seq: Seq,
        /// Layers in it, and in the payload objects that it names.
        layers: usize,
        /// All changes up to this one are durable.
        settled: Option<Ticket>,
        /// The timeline can be restored as of this LSN.
        remote_consistent_lsn: Option<Lsn>,
    },
    /// A layer could not be uploaded. The others go on; metadata and removals wait for it.
    LayerFailed(FailedLayer),
    /// Something failed, and is tried again after `wait`.
    Retrying {
        /// What.
        error: Arc<Error>,
        /// In how long.
        wait: Duration,
    },
    /// A manifest could not be written. The records stand without it.
    ManifestFailed(Arc<Error>),
    /// A collection has ended. Where it has found damage it has done nothing.
    Collected(Arc<GcReport>),
    /// A collection was broken off, and is tried again later. Uploads go on.
    CollectFailed(Arc<Error>),
    /// The timeline is not this writer's any more: another one has claimed it, or it was deleted. Local files were
    /// kept, and nothing more is uploaded.
    Stopped(Arc<Error>),
}

type Tell = dyn Fn(&TimelineName, &Event) + Send + Sync;

/// Who is told; it must not block.
#[derive(Clone)]
pub struct Observer(Arc<Tell>);

impl Observer {
    /// Calls `tell` with every event.
    pub fn new(tell: impl Fn(&TimelineName, &Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self, timeline: &TimelineName, event: &Event) {
        (self.0)(timeline, event);
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new(|_, _| {})
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}
