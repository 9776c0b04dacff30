//! Carrying a plan out by hand.

use layer_archive::{BundleWriter, Seq, WriterInfo};
use storage_api::{Body, PutMode};

use super::repack::prepare;
use super::{
    Checkpoint, Collected, GcPlan, GcPolicy, RepackPlan, Repacked, Survey, collect, plan_gc, plan_repack,
    survey_timeline,
};
use crate::{Draft, Error, Finding, Result, Store, TakeOver, TimelineView, TimelineWriter, WriterOptions};

/// How a collection is made by hand.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// What it may do.
    pub policy: GcPolicy,
    /// What repacked bundles are filled to.
    pub bundle_bytes_target: u64,
    /// Who writes, where something is written.
    pub writer: WriterOptions,
    /// Whether a timeline that is not released is repacked too.
    pub take_over: TakeOver,
}

/// What a collection has done.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// The newest record.
    pub seq: Seq,
    /// What was deleted.
    pub collected: Collected,
    /// What was repacked.
    pub repacked: Repacked,
    /// Branch points that were given up, because their branches are deleted.
    pub ended_branches: usize,
    /// Whether manifests were written that later collections judge by.
    pub checkpoint: bool,
    /// The manifest that was judged by.
    pub floor: Option<Seq>,
    /// Who holds the timeline, where repacking was left to that writer.
    pub left_to: Option<WriterInfo>,
    /// Damage; where there is any, nothing was deleted.
    pub damage: Vec<Finding>,
    /// What does not read and was left alone: see [`Survey::doubtful`].
    pub doubtful: Vec<Finding>,
}

/// Does what `plan` says of the timeline that `survey` has found.
///
/// Repacks under a claim of its own where the timeline is released, and says that it is released again. Where it is held,
/// and is not to be taken over, it only deletes, and may write a manifest, as anybody may. With a retention of zero what was
/// repacked is deleted at once.
pub async fn execute_gc(
    store: &Store,
    survey: Survey,
    plan: GcPlan,
    options: &GcOptions,
) -> Result<GcReport> {
    let mut report = GcReport::of(&survey, &plan);
    if !plan.damage.is_empty() {
        return Ok(report);
    }
    // First, because it may be what makes room to write.
    report.collected = collect(store, &plan).await?;
    if !plan.writes() {
        return Ok(report);
    }
    let (view, mut known) = (survey.view, survey.known);
    let id = (view.state.tenant().clone(), view.state.timeline().clone());
    if view.state.is_deleted() {
        report.checkpoint = snapshot(store, &view, &plan).await?;
    } else if options.take_over.require(&view).is_err() {
        report.left_to = (!plan.repack.is_empty()).then(|| view.state.writer().clone());
        report.checkpoint = snapshot(store, &view, &plan).await?;
    } else {
        match write(store, view, &plan, options, &mut report).await {
            // Who has come in between, another collection or the next writer, has the timeline now.
            Err(Error::Fenced { by, .. }) => report.left_to = Some(*by),
            written => written?,
        }
        report.repacked.seq.into_iter().for_each(|seq| known.learn_ordinary(seq));
    }
    if options.policy.retention.is_zero() {
        let again = survey_timeline(store, (&id.0, &id.1), None, &options.policy, None, known).await?;
        let plan = plan_gc(&again, &options.policy, options.bundle_bytes_target);
        report.take(&plan);
        if plan.damage.is_empty() {
            report.collected.add(collect(store, &plan).await?);
        }
    }
    Ok(report)
}

impl GcReport {
    pub(super) fn of(survey: &Survey, plan: &GcPlan) -> Self {
        let mut report = Self { seq: survey.view.state.seq(), ..Self::default() };
        report.take(plan);
        report
    }

    fn take(&mut self, plan: &GcPlan) {
        self.floor = plan.floor;
        self.damage = plan.damage.clone();
        self.doubtful = plan.doubtful.clone();
    }
}

/// Writes a manifest of a timeline that somebody else writes to, or nobody ever will, where that moves the floor on.
/// Returns whether it did.
///
/// The last record must not be a claim: its writer may still be looking whether it stands, and would take a manifest of
/// it for the proof that it does not (rule 2 of the protocol).
pub(super) async fn snapshot(store: &Store, view: &TimelineView, plan: &GcPlan) -> Result<bool> {
    let seq = view.state.seq();
    let is_there = view.listing.manifests.contains_key(&seq);
    if plan.checkpoint == Checkpoint::No || is_there || view.state.claim() == seq {
        return Ok(false);
    }
    let key = view.keys.manifest(seq)?;
    let unpackable = |source| Error::Unpackable { what: key.to_string(), source };
    let bytes = view.state.to_manifest().encode().map_err(unpackable)?;
    match store.objects().put(&key, Body::new(bytes), PutMode::Create).await {
        // The state at a record is what it is, whoever writes it down.
        Err(error) if !error.is_already_exists() => Err(error.into()),
        _ => Ok(true),
    }
}

/// Repacks under a claim, and writes the manifests by which the garbage is judged: one of the moved state, and one after
/// the record that releases, because the newest of all is no floor.
async fn write(
    store: &Store,
    view: TimelineView,
    plan: &GcPlan,
    options: &GcOptions,
    report: &mut GcReport,
) -> Result<()> {
    let planned_at = view.state.seq();
    let target = options.bundle_bytes_target;
    let mut writer = TimelineWriter::claim(store, view, options.writer.clone()).await?;
    // Under the claim the state stands still; what was planned on another one is planned again.
    let again = (writer.view().state.seq() != planned_at.next())
        .then(|| plan_repack(&writer.view().state, &options.policy, target));
    let sources: &RepackPlan = again.as_ref().unwrap_or(&plan.repack);
    let (draft, repacked) = match prepare(store, &mut writer, sources, target).await {
        Ok(prepared) => prepared,
        Err(error) => return Err(writer.release_after(error).await),
    };
    report.repacked = repacked;
    if !draft.moved.is_empty() {
        writer.append(draft, BundleWriter::new()).await?;
        report.repacked.seq = Some(writer.view().state.seq());
    }
    let checkpoint = plan.checkpoint != Checkpoint::No;
    if checkpoint && let Err(error) = writer.put_manifest().await {
        return Err(writer.release_after(error).await);
    }
    let branch_points_removed = plan.ended_branches.clone();
    let draft =
        Draft { released: true, branch_points_removed, ..Draft::repeating_metadata(&writer.view().state) };
    writer.append(draft, BundleWriter::new()).await?;
    report.ended_branches = plan.ended_branches.len();
    report.seq = writer.view().state.seq();
    if checkpoint {
        writer.put_manifest().await?;
        report.checkpoint = true;
    } else {
        writer.detach().await?;
    }
    Ok(())
}
