//! What the caller holds of a timeline.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use layer_archive::{Ancestor, BranchPoint, Lsn, Seq};
use tokio::task::AbortHandle;

use super::shared::{Inner, Shared};
use super::{
    Change, HandOverError, Lag, Phase, Reconciliation, Stopped, Ticket, TimelineName, TimelineStatus,
};
use crate::{BranchChange, Error, FailedLayer};

/// A timeline that is attached. Clones are the same timeline; dropping them detaches nothing.
#[derive(Clone)]
pub struct TimelineHandle {
    name: TimelineName,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// How a timeline was left.
#[derive(Clone, Debug, Default)]
pub struct DetachReport {
    /// What was handed over and is not in the store.
    pub left: Lag,
    /// Layers that could not be uploaded.
    pub failed: Vec<FailedLayer>,
    /// The newest record that is known to exist; nothing where the timeline could not even be read.
    pub seq: Option<Seq>,
    /// Whether the store says that nobody writes. A timeline in which nothing was written is left as it was.
    pub released: bool,
    /// What kept the rest from being stored, or the manifest from being written.
    pub error: Option<Arc<Error>>,
}

impl DetachReport {
    /// Whether everything that was handed over, or was on the disk at the start, is in the store.
    pub fn is_complete(&self) -> bool {
        self.left.changes == 0 && self.seq.is_some()
    }
}

/// Counts somebody who waits.
struct Waiter<'a>(&'a Shared);

impl<'a> Waiter<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.nudge(|inner| {
            inner.waiters += 1;
            inner.hurry = inner.queue.last();
        });
        Self(shared)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.update(|inner| inner.waiters -= 1);
    }
}

impl TimelineHandle {
    pub(super) fn new(name: TimelineName, shared: Arc<Shared>, task: AbortHandle) -> Self {
        Self { name, shared, task }
    }

    /// The tenant and the timeline.
    pub fn name(&self) -> &TimelineName {
        &self.name
    }

    /// Hands a change over. This never blocks: the change waits in memory until it is stored. The files of its layers
    /// must stay until then, or until the layers were handed over as removed.
    pub fn hand_over(&self, change: Change) -> Result<Ticket, HandOverError> {
        self.shared.hand_over(change)
    }

    /// Says that a branch of the timeline is about to begin, and waits until its log says so. Who backs a branch up in the
    /// same service need not: the branch's first record waits for this.
    pub async fn begin_branch(&self, point: BranchPoint) -> Result<(), Stopped> {
        self.change_branch(point, BranchChange::Begins).await
    }

    /// Says that a branch of the timeline is no more, after that is durable, and waits until its log says so. Removals that
    /// it forbade may be handed over again. A branch that was deleted is found by the next collection too.
    pub async fn end_branch(&self, point: BranchPoint) -> Result<(), Stopped> {
        self.change_branch(point, BranchChange::Ends).await
    }

    async fn change_branch(&self, point: BranchPoint, change: BranchChange) -> Result<(), Stopped> {
        let is_done = |inner: &Inner| {
            // What waits to be said of it, or is on its way, may be the opposite.
            let is_settled = inner.opened && !inner.branches.contains_key(&point);
            is_settled && inner.stored_branches.contains(&point) == (change == BranchChange::Begins)
        };
        self.shared.nudge(|inner| {
            if !is_done(inner) {
                inner.branches.insert(point.clone(), change);
            }
        });
        self.wait_until(is_done).await
    }

    /// Where the timeline was branched off, as what waits says.
    pub(super) fn named_ancestor(&self) -> Option<Ancestor> {
        self.shared.read(|inner| inner.queue.changes().filter_map(|change| change.ancestor.clone()).last())
    }

    /// The branches of the timeline, as the store knows them: what the caller's own gc must spare. Nothing before the
    /// timeline was [opened](Self::opened).
    pub fn branch_points(&self) -> Vec<BranchPoint> {
        self.shared.read(|inner| inner.stored_branches.iter().cloned().collect())
    }

    /// Waits until the change, and all before it, are durable. What is queued does not linger meanwhile.
    pub async fn wait(&self, ticket: Ticket) -> Result<(), Stopped> {
        self.wait_until(|inner| inner.is_settled(ticket)).await
    }

    /// Whether the change, and all before it, are durable.
    pub fn is_settled(&self, ticket: Ticket) -> bool {
        self.shared.read(|inner| inner.is_settled(ticket))
    }

    /// Waits until all that was handed over before is durable.
    pub async fn flush(&self) -> Result<(), Stopped> {
        self.wait(self.shared.read(|inner| inner.queue.last())).await
    }

    /// Waits until the timeline can be restored as of `lsn`, or of a later one.
    pub async fn wait_durable(&self, lsn: Lsn) -> Result<(), Stopped> {
        self.wait_until(|inner| inner.stored_lsn.is_some_and(|stored| stored >= lsn)).await
    }

    /// Waits until the timeline was read from the store, and its files compared with it where that was asked for.
    pub async fn opened(&self) -> Result<Option<Arc<Reconciliation>>, Stopped> {
        self.wait_until(|inner| inner.opened).await?;
        Ok(self.shared.read(|inner| inner.reconciliation.clone()))
    }

    async fn wait_until(&self, done: impl Fn(&Inner) -> bool) -> Result<(), Stopped> {
        if self.shared.read(&done) {
            return Ok(());
        }
        let _waiter = Waiter::new(&self.shared);
        let outcome = |inner: &Inner| if done(inner) { Some(Ok(())) } else { inner.stopped().map(Err) };
        self.shared.wait_for(outcome).await
    }

    /// The timeline as it is now.
    pub fn status(&self) -> TimelineStatus {
        self.shared.status()
    }

    /// The timeline can be restored as of this LSN: every layer and the metadata up to it are in acknowledged records.
    pub fn remote_consistent_lsn(&self) -> Option<Lsn> {
        self.shared.read(|inner| inner.stored_lsn)
    }

    /// Takes nothing more, stores what is queued, says in the log that nobody writes, and writes a manifest where one is
    /// due. What takes longer than `deadline` is left; what was sent and not answered may or may not be stored.
    pub async fn detach(&self, deadline: Duration) -> DetachReport {
        self.shared.nudge(|inner| {
            inner.closing = true;
            inner.queue.retry_failed();
        });
        let ended = self.shared.wait_for(|inner| inner.ended.clone());
        tokio::select! {
            report = ended => report,
            () = self.shared.clock.sleep(deadline) => self.abort(),
        }
    }

    /// Stops the task where it is, as a crash would.
    fn abort(&self) -> DetachReport {
        self.task.abort();
        self.shared.update(|inner| {
            let error = match &inner.phase {
                Phase::Waiting { error, .. } | Phase::Stopped(error) => Some(Arc::clone(error)),
                _ => None,
            };
            if inner.stopped().is_none() {
                inner.phase = Phase::Detached;
            }
            let report = inner.report(false, error);
            inner.ended.get_or_insert(report).clone()
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished() || self.shared.read(|inner| inner.ended.is_some())
    }
}

impl Inner {
    /// How the timeline is left as it is now.
    pub(super) fn report(&self, released: bool, error: Option<Arc<Error>>) -> DetachReport {
        DetachReport {
            left: self.queue.lag(),
            failed: self.queue.failed(),
            seq: self.seq,
            released,
            error: error.or_else(|| self.held_back.clone()),
        }
    }
}

impl fmt::Debug for TimelineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimelineHandle")
            .field("name", &self.name)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
