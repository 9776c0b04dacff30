//! Collecting the garbage of a timeline, and repacking it, in the background of its uploads.
//!
//! The survey and the deletions run beside the task, as they could in any process. Repacking takes the writer: the task
//! does it in steps of one bundle, and what waits to be uploaded has its turn between two of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use storage_api::Clock;
use tokio::task::{JoinError, JoinHandle};

use super::retry::{Remedy, remedy};
use super::task::TimelineTask;
use super::timer::Timer;
use super::{Core, Event, TimelineName};
use crate::gc::{GcPolicy, GcReport, KnownRecords, Repacker, Upkeep, store_time};
use crate::{Error, Finding, Result, TimelineWriter};

/// How the service collects the garbage of the timelines that it looks after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackgroundGc {
    /// How long the past is kept, and how much one run of one timeline does.
    pub policy: GcPolicy,
    /// How much time lies between two runs. The first is soon after a timeline was attached, within a 24th of it.
    pub every: Duration,
}

impl Default for BackgroundGc {
    /// Once a day, with a week of the past kept. Of the records that may be claims a run reads a thousand.
    fn default() -> Self {
        let policy = GcPolicy { requests_max: 1000, ..GcPolicy::default() };
        Self { policy, every: Duration::from_secs(24 * 3600) }
    }
}

/// What came of the last run that has ended.
#[derive(Clone, Debug)]
pub struct LastGc {
    /// When it ended.
    pub at: SystemTime,
    /// What it has done; or why it was broken off. Where there was damage it has done nothing.
    pub outcome: Result<Arc<GcReport>, Arc<Error>>,
}

impl LastGc {
    /// Whether somebody should look: it was broken off, has found damage, or could not delete something.
    pub fn is_troubled(&self) -> bool {
        self.outcome.as_ref().map_or(true, |report| {
            let is_whole = report.damage.is_empty() && report.repacked.findings.is_empty();
            !is_whole || !report.collected.failed.is_empty()
        })
    }
}

/// After a run that was broken off the next one is tried after this part of the time between two.
const RETRY_DIVISOR: u32 = 24;
/// Runs do not follow each other without a break, whatever was asked for.
const EVERY_MIN: Duration = Duration::from_millis(100);

type Surveyed = Box<(Result<Upkeep>, KnownRecords)>;

/// Where the collections of one timeline stand.
#[derive(Default)]
pub(super) struct Housekeeping {
    /// How long to wait for the next run, until that wait has begun.
    next_in: Option<Duration>,
    /// The survey that runs beside the task.
    survey: Option<Survey>,
    /// What the survey has left for the writer to do.
    under_way: Option<Upkeep>,
    /// Whether the last thing that the task did was a step of it.
    was_last: bool,
    known: KnownRecords,
}

/// A survey; it ends where it is when this is dropped, which it may at any request.
struct Survey(JoinHandle<Surveyed>);

impl Drop for Survey {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the housekeeping waits for.
pub(super) enum News {
    /// It is time for a run.
    Due,
    /// The survey has ended.
    Surveyed(Result<Surveyed, JoinError>),
}

impl Housekeeping {
    /// Begins to wait for the first run. Timelines that are attached together are not all collected together.
    pub(super) fn start(&mut self, core: &Core, who: &TimelineName) {
        let Some(gc) = &core.options.gc else { return };
        let mut hasher = DefaultHasher::new();
        who.hash(&mut hasher);
        let within = u64::try_from((gc.every / RETRY_DIVISOR).as_millis()).unwrap_or(u64::MAX).max(1);
        self.next_in = Some(Duration::from_millis(hasher.finish() % within));
    }

    /// Begins to wait for the next run, where that is to be done.
    pub(super) fn arm(&mut self, timer: &mut Timer, clock: &Arc<dyn Clock>) {
        if let Some(wait) = self.next_in.take() {
            timer.arm(clock, wait);
        }
    }

    /// Whether the writer has a step to do. Not twice in a row where something waits to be uploaded.
    pub(super) fn has_turn(&self, something_waits: bool) -> bool {
        self.under_way.is_some() && !(something_waits && self.was_last)
    }

    /// Something was uploaded.
    pub(super) fn give_turn(&mut self) {
        self.was_last = false;
    }

    /// Waits for news; for ever where there are none to come.
    pub(super) async fn news(&mut self, timer: &mut Timer) -> News {
        match &mut self.survey {
            Some(survey) => News::Surveyed((&mut survey.0).await),
            None => {
                timer.fired().await;
                News::Due
            }
        }
    }
}

impl TimelineTask {
    /// Takes in what the housekeeping has waited for.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Due => self.begin_survey(),
            News::Surveyed(surveyed) => {
                self.housekeeping.survey = None;
                match surveyed {
                    Ok(surveyed) => {
                        let (upkeep, known) = *surveyed;
                        self.housekeeping.known = known;
                        self.take_upkeep(upkeep);
                    }
                    Err(error) => self.end_upkeep(Err(Error::Task(error.to_string()))),
                }
            }
        }
    }

    fn begin_survey(&mut self) {
        let Some(gc) = self.core.options.gc else { return };
        // What nobody here writes to is not claimed for its garbage alone: another pageserver may have it by now.
        let repacker = if self.is_claimed { Repacker::ThisWriter } else { Repacker::Nobody };
        let (core, (tenant, timeline)) = (Arc::clone(&self.core), self.name.clone());
        let mut known = std::mem::take(&mut self.housekeeping.known);
        let survey = async move {
            let _alone = core.surveys.lock().await;
            let target = core.options.pack.bundle_bytes_target;
            let surveyed = async {
                let store = core.store().await?;
                let now = store_time(store).await?;
                let id = (&tenant, &timeline);
                Upkeep::begin(store, id, &gc.policy, target, repacker, now, &mut known).await
            };
            Box::new((surveyed.await, known))
        };
        self.housekeeping.survey = Some(Survey(tokio::spawn(survey)));
    }

    fn take_upkeep(&mut self, upkeep: Result<Upkeep>) {
        match upkeep {
            Ok(upkeep) if upkeep.is_done() => self.end_upkeep(Ok(upkeep)),
            Ok(upkeep) => self.housekeeping.under_way = Some(upkeep),
            Err(error) => self.end_upkeep(Err(error)),
        }
    }

    /// Does one step. Only what ends the writer is an error.
    pub(super) async fn step_upkeep(&mut self, writer: &mut TimelineWriter) -> Result<()> {
        self.housekeeping.was_last = true;
        let Some(mut upkeep) = self.housekeeping.under_way.take() else { return Ok(()) };
        let core = Arc::clone(&self.core);
        // A source and what is made of it.
        let room = core.budget.take(core.options.pack.bundle_bytes_target.saturating_mul(2)).await;
        let stepped = async {
            let _room = room?;
            upkeep.step(core.store().await?, writer).await
        };
        match stepped.await {
            Ok(()) => self.take_upkeep(Ok(upkeep)),
            Err(error) if remedy(&error) == Remedy::Stop => return Err(error),
            Err(error) => self.end_upkeep(Err(error)),
        }
        if writer.is_pending() {
            self.expect_answer();
        }
        self.shared.update(|inner| inner.take_in(writer));
        Ok(())
    }

    /// Notes what came of a run, and waits for the next one.
    fn end_upkeep(&mut self, ended: Result<Upkeep>) {
        let Some(gc) = &self.core.options.gc else { return };
        let (tenant, timeline) = &self.name;
        let outcome = match ended {
            Ok(upkeep) => {
                let report = upkeep.report().clone();
                for Finding { object, problem, .. } in report.damage.iter().chain(&report.repacked.findings) {
                    tracing::error!(%tenant, %timeline, %object, %problem, "gc has found damage");
                }
                for Finding { object, problem, .. } in &report.doubtful {
                    tracing::warn!(%tenant, %timeline, %object, %problem, "gc leaves alone what does not read");
                }
                self.housekeeping.next_in = Some(gc.every.max(EVERY_MIN));
                Ok(Arc::new(report))
            }
            Err(error) => {
                tracing::warn!(%tenant, %timeline, %error, "a collection was broken off and is tried again");
                self.housekeeping.next_in = Some((gc.every / RETRY_DIVISOR).max(EVERY_MIN));
                Err(Arc::new(error))
            }
        };
        let last = LastGc { at: self.core.options.clock.now(), outcome: outcome.clone() };
        self.shared.update(|inner| {
            if let Ok(report) = &outcome {
                inner.written.add_gc(report);
            }
            inner.last_gc = Some(last);
        });
        self.tell(&match outcome {
            Ok(report) => Event::Collected(report),
            Err(error) => Event::CollectFailed(error),
        });
    }
}
