//! What a timeline's task and its handles share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use layer_archive::{BranchPoint, Lsn, Seq, TimelineMetadata};
use storage_api::Clock;
use tokio::sync::{Notify, watch};

use super::queue::{Change, Queue};
use super::{DetachReport, LastGc, Phase, Reconciliation, Ticket, TimelineStatus, Written};
use crate::{BranchChange, Error};

/// Why a change was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HandOverError {
    /// The timeline is being detached, or was.
    #[error("the timeline is detached: nothing more is taken")]
    Detached,
    /// The timeline is not this writer's any more.
    #[error("the timeline has stopped: nothing more is taken")]
    Stopped(#[source] Arc<Error>),
    /// The metadata is older than what was handed over before.
    #[error(
        "the metadata is older than what was handed over before ({}): hand over checkpoints in order",
        .0
    )]
    MetadataOlder(Lsn),
}

/// Why nobody need wait any longer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stopped {
    /// The timeline was detached before it came to that.
    #[error("the timeline was detached before what is waited for was stored")]
    Detached,
    /// The timeline is not this writer's any more.
    #[error("the timeline has stopped before what is waited for was stored")]
    Stopped(#[source] Arc<Error>),
}

pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    /// Wakes the task.
    wake: Notify,
    /// Wakes those who wait for the task.
    changed: watch::Sender<()>,
}

/// What is under the lock.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) queue: Queue,
    pub(super) phase: Phase,
    /// Whether the store was read, and the disk compared with it.
    pub(super) opened: bool,
    pub(super) closing: bool,
    pub(super) ended: Option<DetachReport>,
    /// Changes up to here do not linger.
    pub(super) hurry: Ticket,
    pub(super) waiters: usize,
    /// The LSN of the last metadata that was handed over.
    pub(super) handed_over_lsn: Option<Lsn>,
    /// What the timeline is to be told of its branches.
    pub(super) branches: BTreeMap<BranchPoint, BranchChange>,
    /// Branches that the timeline in the store knows.
    pub(super) stored_branches: BTreeSet<BranchPoint>,
    /// The metadata in the store and its LSN.
    pub(super) stored_metadata: Option<TimelineMetadata>,
    pub(super) stored_lsn: Option<Lsn>,
    pub(super) seq: Option<Seq>,
    pub(super) held_back: Option<Arc<Error>>,
    pub(super) reconciliation: Option<Arc<Reconciliation>>,
    pub(super) last_gc: Option<LastGc>,
    pub(super) written: Written,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, inner: Mutex::default(), wake: Notify::new(), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.lock())
    }

    /// Changes something, and tells those who wait for the task.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.send_replace(());
        changed
    }

    /// Changes something, and wakes the task.
    pub(super) fn nudge<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = change(&mut self.lock());
        self.wake.notify_one();
        changed
    }

    /// Waits for a nudge.
    pub(super) async fn nudged(&self) {
        self.wake.notified().await;
    }

    /// Waits until `done` says something.
    pub(super) async fn wait_for<T>(&self, mut done: impl FnMut(&Inner) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(done) = self.read(&mut done) {
                return done;
            }
            // The sender is in `self`.
            let _ = changed.changed().await;
        }
    }

    pub(super) fn hand_over(&self, change: Change) -> Result<Ticket, HandOverError> {
        let now = self.clock.now();
        self.nudge(|inner| inner.hand_over(change, now))
    }

    pub(super) fn status(&self) -> TimelineStatus {
        self.read(|inner| TimelineStatus {
            phase: inner.phase.clone(),
            lag: inner.queue.lag(),
            failed: inner.queue.failed(),
            held_back: inner.held_back.clone(),
            handed_over: inner.queue.last(),
            seq: inner.seq,
            remote_consistent_lsn: inner.stored_lsn,
            last_gc: inner.last_gc.clone(),
            written: inner.written,
        })
    }
}

impl Inner {
    fn hand_over(&mut self, change: Change, now: SystemTime) -> Result<Ticket, HandOverError> {
        match &self.phase {
            Phase::Stopped(error) => return Err(HandOverError::Stopped(Arc::clone(error))),
            Phase::Detached => return Err(HandOverError::Detached),
            _ if self.closing => return Err(HandOverError::Detached),
            _ => {}
        }
        if let Some((_, lsn)) = &change.metadata {
            if let Some(before) = self.handed_over_lsn
                && lsn.is_none_or(|lsn| lsn < before)
            {
                return Err(HandOverError::MetadataOlder(before));
            }
            self.handed_over_lsn = *lsn;
        }
        let ticket = self.queue.push(change, now);
        if self.waiters > 0 {
            self.hurry = ticket;
        }
        Ok(ticket)
    }

    /// Whether metadata may take the place of what the store has: it is turned back by nothing.
    pub(super) fn accepts(&self, (metadata, lsn): &(TimelineMetadata, Option<Lsn>)) -> bool {
        let is_newer = match (lsn, self.stored_lsn) {
            (_, None) => true,
            (Some(lsn), Some(stored)) => *lsn >= stored,
            (None, Some(_)) => false,
        };
        is_newer || self.stored_metadata.as_ref() == Some(metadata)
    }

    /// The branches of which the timeline is to be told that they begin, or have ended.
    pub(super) fn branches(&self, change: BranchChange) -> Vec<BranchPoint> {
        let of = |(point, wanted): (&BranchPoint, &BranchChange)| (*wanted == change).then(|| point.clone());
        self.branches.iter().filter_map(of).collect()
    }

    /// Whether everything up to `ticket` is durable.
    pub(super) fn is_settled(&self, ticket: Ticket) -> bool {
        self.opened && self.queue.changes().next().is_none_or(|first| first.ticket > ticket)
    }

    /// Why nothing more will happen.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        match &self.phase {
            Phase::Stopped(error) => Some(Stopped::Stopped(Arc::clone(error))),
            Phase::Detached => Some(Stopped::Detached),
            Phase::Opening | Phase::Idle | Phase::Working | Phase::Waiting { .. } => None,
        }
    }
}
