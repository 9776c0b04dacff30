//! Collecting and repacking beside a writer that goes on.

use std::time::SystemTime;

use layer_archive::{BranchPoint, BundleWriter, Seq, TenantId, TimelineId, WriterInfo};

use super::execute::snapshot;
use super::repack::prepare;
use super::{
    Checkpoint, GcPolicy, GcReport, KnownRecords, collect, plan_gc, plan_repack, repack_bytes_max,
    survey_timeline,
};
use crate::{Draft, Result, Store, TimelineWriter};

/// Requests of one step, about: what waits to be uploaded waits for them.
const STEP_REQUESTS_MAX: usize = 192;

/// Who repacks what is half dead, and moves the floor on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repacker {
    /// The writer beside which is collected, in [steps](Upkeep::step).
    ThisWriter,
    /// Whoever claims the timeline one day: nothing is appended.
    Nobody,
}

/// A collection beside a running writer.
///
/// What is dead is deleted when it [begins](Self::begin), for that asks nobody; what is half dead the writer repacks in
/// [steps](Self::step) of a bundle's target, between which it goes on with its appends.
#[derive(Debug)]
pub struct Upkeep {
    policy: GcPolicy,
    bundle_bytes_target: u64,
    /// The newest claim that the survey has seen, and of whom.
    claim: (Seq, WriterInfo),
    bytes_left: u64,
    requests_left: usize,
    ended_branches: Vec<BranchPoint>,
    writes_manifest: bool,
    is_done: bool,
    report: GcReport,
}

impl Upkeep {
    /// Surveys a timeline and deletes what is dead. `now` and `known` are as for [`survey_timeline`].
    ///
    /// It can be broken off anywhere. Where there is damage nothing is deleted, and there is nothing left to do.
    pub async fn begin(
        store: &Store,
        (tenant, timeline): (&TenantId, &TimelineId),
        policy: &GcPolicy,
        bundle_bytes_target: u64,
        repacker: Repacker,
        now: Option<SystemTime>,
        known: &mut KnownRecords,
    ) -> Result<Self> {
        let survey = survey_timeline(store, (tenant, timeline), None, policy, now, known.clone()).await?;
        let plan = plan_gc(&survey, policy, bundle_bytes_target);
        let mut report = GcReport::of(&survey, &plan);
        let state = &survey.view.state;
        let claim = (state.claim(), state.writer().clone());
        let live_bytes = state.bundles().iter().map(|bundle| bundle.live_bytes).sum();
        let is_sound = plan.damage.is_empty();
        if is_sound {
            report.collected = collect(store, &plan).await?;
            // What is damaged may lie about which records are claims.
            *known = survey.known;
            if repacker == Repacker::Nobody {
                report.checkpoint = snapshot(store, &survey.view, &plan).await?;
            }
        }
        Ok(Self {
            policy: *policy,
            bundle_bytes_target,
            claim,
            bytes_left: repack_bytes_max(live_bytes, policy, bundle_bytes_target),
            requests_left: policy.requests_max,
            ended_branches: plan.ended_branches,
            writes_manifest: plan.checkpoint != Checkpoint::No,
            is_done: !is_sound || repacker == Repacker::Nobody,
            report,
        })
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// What was done so far.
    pub fn report(&self) -> &GcReport {
        &self.report
    }

    /// Repacks so much as makes one bundle, or as some dozens of small ones hold; where nothing is left to be repacked, writes the manifest that later
    /// collections judge by. One record says all of it.
    ///
    /// An error of the appending or of the claim is one of the writer, as [`TimelineWriter::append`] says; after any
    /// other the writer goes on.
    pub async fn step(&mut self, store: &Store, writer: &mut TimelineWriter) -> Result<()> {
        self.require_unfenced(writer)?;
        let slice = GcPolicy {
            repack_bytes_max: self.bytes_left.min(self.bundle_bytes_target),
            requests_max: self.requests_left.min(STEP_REQUESTS_MAX),
            ..self.policy
        };
        let plan = plan_repack(&writer.view().state, &slice, self.bundle_bytes_target);
        self.bytes_left = self.bytes_left.saturating_sub(plan.live_bytes());
        self.requests_left = self.requests_left.saturating_sub(plan.requests());
        let (mut draft, mut repacked) = prepare(store, writer, &plan, self.bundle_bytes_target).await?;
        let state = &writer.view().state;
        let ended = std::mem::take(&mut self.ended_branches).into_iter();
        draft.branch_points_removed =
            ended.filter(|ended| state.branch_points().any(|point| point == ended)).collect();
        let is_last = draft.moved.is_empty();
        // The newest of all manifests is no floor. Where it is of the newest record already there must be a newer one.
        let is_snapshot = writer.view().manifest.is_some_and(|manifest| manifest.seq == state.seq());
        let pushes_floor = is_last && self.writes_manifest && is_snapshot;
        if !is_last || !draft.branch_points_removed.is_empty() || pushes_floor {
            let Draft { moved, payloads, branch_points_removed, .. } = draft;
            let draft = Draft { moved, payloads, branch_points_removed, ..Draft::repeating_metadata(state) };
            let ended_branches = draft.branch_points_removed.len();
            writer.append(draft, BundleWriter::new()).await?;
            self.report.ended_branches += ended_branches;
            repacked.seq = (!is_last).then_some(writer.view().state.seq());
        }
        self.report.repacked.add(repacked);
        if is_last {
            if self.writes_manifest {
                writer.put_manifest().await?;
                self.report.checkpoint = true;
            }
            self.is_done = true;
        }
        self.report.seq = writer.view().state.seq();
        Ok(())
    }

    /// A claim that is newer than the writer's has fenced it, though it does not know yet.
    fn require_unfenced(&self, writer: &TimelineWriter) -> Result<()> {
        let (seq, by) = &self.claim;
        if *seq <= writer.view().state.claim() {
            return Ok(());
        }
        Err(writer.fenced(*seq, by))
    }
}
