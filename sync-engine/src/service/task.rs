//! The task that looks after one timeline: when it does what, and what it does after failures.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use layer_archive::{BundleWriter, Generation, Seq};
use tokio::select;

use super::pass::Sent;
use super::reconcile::reconcile;
use super::retry::{Remedy, remedy};
use super::shared::{Inner, Shared};
use super::timer::Timer;
use super::upkeep::Housekeeping;
use super::{Attach, Core, Event, Phase, Ticket, TimelineName};
use crate::{BranchChange, Draft, Error, LocalTimeline, Result, TimelineView, TimelineWriter, WriterOptions};

pub(super) struct TimelineTask {
    pub(super) core: Arc<Core>,
    pub(super) name: TimelineName,
    pub(super) shared: Arc<Shared>,
    generation: Option<Generation>,
    /// What was on the disk when the timeline was attached, until the claim: what was compared before that may have to
    /// be compared again.
    pub(super) local: Option<LocalTimeline>,
    /// The record as of which it was compared.
    pub(super) compared_at: Seq,
    /// Whether the timeline is claimed, and all was compared with the state under the claim.
    pub(super) is_claimed: bool,
    /// The record that was sent and not answered.
    pub(super) sent: Option<Sent>,
    /// Failures in a row, and since when.
    failures: u32,
    failing_since: Option<SystemTime>,
    /// How often somebody else came and went before the claim.
    visits: u32,
    pub(super) housekeeping: Housekeeping,
}

/// A timeline that is claimed by others this often before its own task can is theirs.
const VISITS_MAX: u32 = 100;

/// What is waited for besides news.
#[derive(Default)]
struct Timers {
    linger: Timer,
    retry_failed: Timer,
    collect: Timer,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// At once.
    Now,
    /// Soon: more may come.
    Linger,
    /// A step of a collection.
    Upkeep,
    /// Nothing that can be done now.
    Nothing,
    /// Nothing that can be done before the timeline is left.
    Leave,
}

impl TimelineTask {
    pub(super) fn new(core: Arc<Core>, name: TimelineName, shared: Arc<Shared>, attach: Attach) -> Self {
        let Attach { generation, local } = attach;
        Self {
            core,
            name,
            shared,
            generation,
            local,
            compared_at: Seq::default(),
            is_claimed: false,
            sent: None,
            failures: 0,
            failing_since: None,
            visits: 0,
            housekeeping: Housekeeping::default(),
        }
    }

    /// Works until the timeline is detached or lost.
    pub(super) async fn run(mut self) {
        let ended = self.work().await;
        let (released, error) = match ended {
            Ok((released, error)) => (released, error),
            Err(error) => (false, Some(Arc::new(error))),
        };
        let stopped = error.as_ref().filter(|error| remedy(error) == Remedy::Stop).cloned();
        if let Some(error) = &stopped {
            let (tenant, timeline) = &self.name;
            tracing::error!(%tenant, %timeline, %error, "uploads have stopped for good; local files were kept");
            self.tell(&Event::Stopped(Arc::clone(error)));
        }
        self.shared.update(|inner| {
            inner.phase = stopped.map_or(Phase::Detached, Phase::Stopped);
            let report = inner.report(released, error);
            inner.ended.get_or_insert(report);
        });
    }

    /// Returns whether the timeline was released, and what did not work out at the end.
    async fn work(&mut self) -> Result<(bool, Option<Arc<Error>>)> {
        let mut writer = self.open_again().await?;
        let mut timers = Timers::default();
        self.housekeeping.start(&self.core, &self.name);
        loop {
            self.failures = 0;
            self.failing_since = None;
            let work = self.wait_for_work(&mut timers).await;
            if work == Work::Leave {
                break;
            }
            self.shared.update(|inner| inner.phase = Phase::Working);
            if work == Work::Upkeep {
                self.step_upkeep(&mut writer).await?;
                continue;
            }
            self.housekeeping.give_turn();
            while let Err(error) = self.pass(&mut writer).await {
                if !writer.is_claimed() && self.was_visited(&error).await? {
                    writer = self.open_again().await?;
                } else {
                    self.back_off(error).await?;
                }
            }
        }
        loop {
            match self.leave(&mut writer).await {
                Ok(left) => return Ok(left),
                Err(error) => self.back_off(error).await?,
            }
        }
    }

    /// [`open`](Self::open), as often as it takes.
    async fn open_again(&mut self) -> Result<TimelineWriter> {
        loop {
            match self.open().await {
                Ok(writer) => return Ok(writer),
                Err(error) => self.back_off(error).await?,
            }
        }
    }

    /// Whether `error` means that somebody claimed the timeline before this task ever did, and has left it again: a tool,
    /// for whom an attached timeline that nothing was written to yet is released like any other. Then this task begins
    /// anew, as it would after a restart. Whoever stays has taken the timeline over.
    async fn was_visited(&mut self, error: &Error) -> Result<bool> {
        if !matches!(error, Error::Fenced { .. }) || self.visits >= VISITS_MAX {
            return Ok(false);
        }
        self.visits += 1;
        let (tenant, timeline) = self.name.clone();
        let core = Arc::clone(&self.core);
        loop {
            let opened = async { TimelineView::open(core.store().await?, &tenant, &timeline, None).await };
            match opened.await {
                Ok(view) => return Ok(view.state.is_released() && !view.state.is_deleted()),
                Err(error) => self.back_off(error).await?,
            }
        }
    }

    /// Reads the timeline and compares the disk with it.
    async fn open(&mut self) -> Result<TimelineWriter> {
        let (tenant, timeline) = &self.name;
        let store = self.core.store().await?;
        let view = TimelineView::open(store, tenant, timeline, None).await?;
        if view.state.is_deleted() {
            return Err(Error::TimelineDeleted { tenant: tenant.clone(), timeline: timeline.clone() });
        }
        for finding in &view.damage {
            tracing::error!(object = %finding.object, problem = %finding.problem, "damage was found");
        }
        let options = self.writer_options();
        let seq = view.state.seq();
        let writer = TimelineWriter::new(store, view, options)?;
        self.reconcile(&writer).await?;
        self.shared.update(|inner| {
            inner.take_in(&writer);
            inner.opened = true;
        });
        self.tell(&Event::Opened { seq });
        Ok(writer)
    }

    pub(super) fn writer_options(&self) -> WriterOptions {
        WriterOptions {
            writer: self.core.options.writer.clone(),
            generation: self.generation,
            clock: Arc::clone(&self.core.options.clock),
        }
    }

    /// Compares the disk with what the writer knows, and puts what is missing in front of what was handed over.
    pub(super) async fn reconcile(&mut self, writer: &TimelineWriter) -> Result<()> {
        let state = &writer.view().state;
        let Some(local) = self.local.clone() else {
            self.compared_at = state.seq();
            return Ok(());
        };
        let core = Arc::clone(&self.core);
        let hashes = core.options.hashes.as_ref();
        let (reconciliation, change) = reconcile(state, local, hashes).await?;
        self.compared_at = state.seq();
        if let Some(hashes) = hashes
            && let Err(error) = hashes.save().await
        {
            tracing::warn!(%error, "the digests of local files could not be kept for the next start");
        }
        for conflict in &reconciliation.conflicts {
            tracing::error!(name = %conflict.name, "a layer differs between the disk and the store");
        }
        let reconciliation = Arc::new(reconciliation);
        let now = self.core.options.clock.now();
        self.shared.update(|inner| {
            inner.queue.settle(Ticket::default());
            if !change.is_empty() {
                inner.queue.push_front(change, now);
            }
            inner.reconciliation = Some(Arc::clone(&reconciliation));
        });
        self.tell(&Event::Reconciled(reconciliation));
        Ok(())
    }

    /// Waits until there is something to do at once, or nothing more.
    async fn wait_for_work(&mut self, timers: &mut Timers) -> Work {
        let (shared, core) = (Arc::clone(&self.shared), Arc::clone(&self.core));
        let options = &core.options;
        loop {
            let work = shared.read(|inner| inner.work(self.sent.is_some(), options.pack.bundle_bytes_target));
            if work != Work::Leave && self.sent.is_none() && self.housekeeping.has_turn(work != Work::Nothing)
            {
                return Work::Upkeep;
            }
            match work {
                Work::Now | Work::Leave => {
                    timers.linger.disarm();
                    return work;
                }
                Work::Linger => timers.linger.arm(&options.clock, options.linger),
                Work::Upkeep | Work::Nothing => timers.linger.disarm(),
            }
            self.housekeeping.arm(&mut timers.collect, &options.clock);
            if shared.read(|inner| inner.queue.failed().is_empty()) {
                timers.retry_failed.disarm();
            } else {
                timers.retry_failed.arm(&options.clock, options.retry.person);
            }
            if !shared.read(|inner| matches!(inner.phase, Phase::Idle)) {
                shared.update(|inner| inner.phase = Phase::Idle);
            }
            let news = select! {
                () = shared.nudged() => None,
                () = timers.linger.fired() => {
                    shared.update(|inner| inner.hurry = inner.queue.last());
                    None
                }
                () = timers.retry_failed.fired() => {
                    shared.update(|inner| inner.queue.retry_failed());
                    None
                }
                news = self.housekeeping.news(&mut timers.collect) => Some(news),
            };
            if let Some(news) = news {
                self.hear(news);
            }
        }
    }

    /// Waits after a failure. What is not this writer's any more is an error.
    async fn back_off(&mut self, error: Error) -> Result<()> {
        if remedy(&error) == Remedy::Stop {
            return Err(error);
        }
        let core = Arc::clone(&self.core);
        let options = &core.options;
        self.failures = self.failures.saturating_add(1);
        let wait = options.retry.wait(&error, self.failures, &(&self.name.0, &self.name.1));
        let now = options.clock.now();
        let since = *self.failing_since.get_or_insert(now);
        let (tenant, timeline) = &self.name;
        tracing::warn!(%tenant, %timeline, %error, ?wait, "an upload failed and is tried again");
        let error = Arc::new(error);
        let was_closing = self.shared.update(|inner| {
            inner.written.retries += 1;
            inner.phase = Phase::Waiting { since, until: now + wait, error: Arc::clone(&error) };
            inner.closing
        });
        self.tell(&Event::Retrying { error, wait });
        let mut timer = Timer::default();
        timer.arm(&options.clock, wait);
        loop {
            select! {
                () = timer.fired() => return Ok(()),
                // Whoever is about to leave tries once more at once.
                () = self.shared.nudged() => {
                    if !was_closing && self.shared.read(|inner| inner.closing) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Says that nobody writes any more, and writes a manifest where one is due.
    async fn leave(&mut self, writer: &mut TimelineWriter) -> Result<(bool, Option<Arc<Error>>)> {
        if writer.is_claimed() {
            writer.resume().await?;
        } else if writer.is_pending() {
            // A claim that was sent for what is not wanted any more.
            writer.ensure_claimed().await?;
        } else {
            return Ok((writer.view().state.is_released(), None));
        }
        if !writer.view().state.is_released() {
            let released = Draft { released: true, ..Draft::default() };
            writer.append(released, BundleWriter::new()).await?;
        }
        self.shared.update(|inner| inner.take_in(writer));
        let manifest_error = match writer.detach().await {
            Ok(manifest) => {
                self.shared.update(|inner| inner.written.manifests += u64::from(manifest.is_some()));
                None
            }
            Err(error) => Some(Arc::new(error)),
        };
        Ok((true, manifest_error))
    }

    pub(super) fn tell(&self, event: &Event) {
        self.core.options.observer.tell(&self.name, event);
    }
}

impl Drop for TimelineTask {
    /// Nobody waits for a task that was aborted, or has panicked.
    fn drop(&mut self) {
        self.shared.update(|inner| {
            if inner.stopped().is_none() {
                inner.phase = Phase::Detached;
            }
            let report = inner.report(false, None);
            inner.ended.get_or_insert(report);
        });
    }
}

impl Inner {
    /// Notes what the writer knows of the store.
    pub(super) fn take_in(&mut self, writer: &TimelineWriter) {
        let state = &writer.view().state;
        self.seq = Some(state.seq());
        self.stored_metadata = state.metadata().cloned();
        self.stored_lsn = state.disk_consistent_lsn();
        self.stored_branches = state.branch_points().cloned().collect();
        let (stored, begins) = (&self.stored_branches, BranchChange::Begins);
        self.branches.retain(|point, change| stored.contains(point) != (*change == begins));
    }

    fn work(&self, was_sent: bool, bundle_bytes_target: u64) -> Work {
        let queue = &self.queue;
        if was_sent || !self.branches.is_empty() {
            return Work::Now;
        }
        let first = queue.choose(0, 1).layers.first().map(|((ticket, _), _)| *ticket);
        let cut = queue.cut(queue.last(), &BTreeSet::new(), |metadata| self.accepts(metadata));
        let is_uploaded = !queue.uploaded(None).is_empty();
        match (first.is_some() || cut.is_some() || is_uploaded, self.closing) {
            (false, false) => return Work::Nothing,
            (false, true) => return Work::Leave,
            (true, true) => return Work::Now,
            (true, false) => {}
        }
        let front = queue.changes().next().map(|change| change.ticket);
        let hurried = first.is_some_and(|first| first <= self.hurry)
            || cut.is_some() && front.is_some_and(|front| front <= self.hurry);
        if hurried || is_uploaded || queue.waiting_bytes() >= bundle_bytes_target {
            Work::Now
        } else {
            Work::Linger
        }
    }
}
