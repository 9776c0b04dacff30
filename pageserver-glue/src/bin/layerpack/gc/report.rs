//! What `gc` has to say, for scripts and for people.

use std::fmt::Write;
use std::time::Duration;

use layer_archive::{TenantId, TimelineId};
use serde::Serialize;
use sync_engine::gc::{Checkpoint, GcPlan, GcReport, Points, Space, Why};

use super::Done;
use crate::damage::DamageJson;
use crate::exit::Exit;
use crate::layers::BranchJson;
use crate::output::{Outcome, counted, explain_failure, human_bytes, printable};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct GcJson {
    executed: bool,
    retention_seconds: u64,
    timelines: Vec<TimelineJson>,
}

#[derive(Debug, Serialize)]
struct TimelineJson {
    tenant: String,
    timeline: String,
    plan: Option<PlanJson>,
    result: Option<ResultJson>,
    error: Option<String>,
}

/// What is to be done, or was.
#[derive(Debug, Serialize)]
struct PlanJson {
    floor: Option<u64>,
    manifests: usize,
    records: usize,
    payloads: usize,
    orphans: usize,
    uploads: usize,
    bytes: u64,
    repack: RepackJson,
    /// Branches that are deleted, of which the timeline does not know that yet.
    ended_branches: Vec<BranchJson>,
    /// Bytes that are free once the manifests that are to be written are old enough.
    checkpoint_frees: Option<u64>,
    requests: usize,
    points: Option<PointsJson>,
    points_left: Option<PointsJson>,
    space: SpaceJson,
}

#[derive(Debug, Serialize)]
struct RepackJson {
    bundles: usize,
    layers: usize,
    live_bytes: u64,
    stored_bytes: u64,
}

/// The states that can be restored.
#[derive(Debug, Serialize)]
pub(crate) struct PointsJson {
    pub(crate) count: u64,
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
}

/// Where the bytes are: parts that make up the whole, but for the orphans, which are among the held and doomed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct SpaceJson {
    pub(crate) stored_bytes: u64,
    pub(crate) live_bytes: u64,
    pub(crate) beside_live_bytes: u64,
    pub(crate) held_bytes: u64,
    pub(crate) doomed_bytes: u64,
    pub(crate) claim_bytes: u64,
    pub(crate) manifest_bytes: u64,
    pub(crate) unknown_bytes: u64,
    pub(crate) orphans: usize,
    pub(crate) orphan_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ResultJson {
    seq: u64,
    floor: Option<u64>,
    deleted: usize,
    deleted_bytes: u64,
    uploads_aborted: usize,
    failed: Vec<UndeletedJson>,
    repacked_layers: usize,
    repacked_bundles: usize,
    repacked_bytes: u64,
    ended_branches: usize,
    checkpoint: bool,
    repack_left_to: Option<String>,
}

#[derive(Debug, Serialize)]
struct UndeletedJson {
    object: String,
    error: String,
}

pub(super) fn report(
    session: &Session,
    retention: Duration,
    executed: bool,
    delete_keys_max: usize,
    done: &[Done],
) -> Outcome {
    let timelines = done.iter().map(|done| TimelineJson::new(done, delete_keys_max)).collect();
    let json = GcJson { executed, retention_seconds: retention.as_secs(), timelines };
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = text(&json, session);
    let mut damage = Vec::new();
    for ((tenant, timeline), result) in done {
        match result {
            Ok((plan, report)) => {
                damage.extend(&plan.damage);
                outcome.warnings.extend(plan.doubtful.iter().map(|finding| {
                    let line = DamageJson::from(finding).line();
                    format!("left alone, which does no harm: {line}")
                }));
                if let Some(report) = report {
                    damage.extend(report.damage.iter().filter(|finding| !plan.damage.contains(finding)));
                    damage.extend(&report.repacked.findings);
                    outcome.add_report((tenant, timeline), report);
                }
                if !plan.damage.is_empty() {
                    outcome
                        .problems
                        .push(format!("{tenant}/{timeline}: nothing is collected while there is damage"));
                }
            }
            Err(failure) => {
                outcome
                    .problems
                    .push(format!("{tenant}/{timeline} was not collected: {}", explain_failure(failure)));
                outcome.exit = outcome.exit.or_worse(failure.exit());
            }
        }
    }
    outcome.add_damage(damage);
    outcome
}

impl Outcome {
    fn add_report(&mut self, (tenant, timeline): (&TenantId, &TimelineId), report: &GcReport) {
        if let Some(by) = &report.left_to {
            self.warnings.push(format!(
                "{tenant}/{timeline} is held by {} (pid {} on {}), to which repacking is left: --take-over repacks if \
                 that writer is gone",
                by.program, by.pid, by.host
            ));
        }
        if let Some(first) = report.collected.failed.first() {
            self.problems.push(format!(
                "{} could not be deleted, such as {} ({}): the next gc tries again",
                counted(report.collected.failed.len(), "object"),
                first.key,
                first.error
            ));
            self.exit = self.exit.or_worse(Exit::Failed);
        }
    }
}

impl TimelineJson {
    fn new(((tenant, timeline), done): &Done, delete_keys_max: usize) -> Self {
        let (plan, result, error) = match done {
            Ok((plan, report)) => {
                (Some(PlanJson::new(plan, delete_keys_max)), report.as_ref().map(ResultJson::new), None)
            }
            Err(failure) => (None, None, Some(explain_failure(failure))),
        };
        Self { tenant: tenant.to_string(), timeline: timeline.to_string(), plan, result, error }
    }
}

impl PlanJson {
    fn new(plan: &GcPlan, delete_keys_max: usize) -> Self {
        let count = |why: Why| plan.objects.iter().filter(|doomed| doomed.why == why).count();
        Self {
            floor: plan.floor.map(|seq| seq.0),
            manifests: plan.manifests.len(),
            records: count(Why::Record),
            payloads: count(Why::Payload),
            orphans: count(Why::Orphan),
            uploads: plan.uploads.len(),
            bytes: plan.doomed_bytes(),
            repack: RepackJson {
                bundles: plan.repack.sources.len(),
                layers: plan.repack.sources.iter().map(|source| source.layers).sum(),
                live_bytes: plan.repack.live_bytes(),
                stored_bytes: plan.repack.stored_bytes(),
            },
            ended_branches: plan.ended_branches.iter().map(BranchJson::from).collect(),
            checkpoint_frees: match plan.checkpoint {
                Checkpoint::No => None,
                Checkpoint::Frees(bytes) => Some(bytes),
            },
            requests: plan.requests(delete_keys_max),
            points: plan.points.map(PointsJson::from),
            points_left: plan.points_left.map(PointsJson::from),
            space: plan.space.into(),
        }
    }
}

impl From<Points> for PointsJson {
    fn from(points: Points) -> Self {
        Self { count: points.count(), oldest: points.oldest.0, newest: points.newest.0 }
    }
}

impl From<Space> for SpaceJson {
    fn from(space: Space) -> Self {
        let Space {
            stored_bytes,
            live_bytes,
            beside_live_bytes,
            held_bytes,
            doomed_bytes,
            orphans,
            orphan_bytes,
            claim_bytes,
            manifest_bytes,
            unknown_bytes,
        } = space;
        Self {
            stored_bytes,
            live_bytes,
            beside_live_bytes,
            held_bytes,
            doomed_bytes,
            claim_bytes,
            manifest_bytes,
            unknown_bytes,
            orphans,
            orphan_bytes,
        }
    }
}

impl ResultJson {
    fn new(report: &GcReport) -> Self {
        let GcReport {
            seq,
            collected,
            repacked,
            ended_branches,
            checkpoint,
            floor,
            left_to,
            damage: _,
            doubtful: _,
        } = report;
        let failed = collected
            .failed
            .iter()
            .map(|failed| UndeletedJson { object: failed.key.to_string(), error: failed.error.to_string() });
        Self {
            seq: seq.0,
            floor: floor.map(|seq| seq.0),
            deleted: collected.objects,
            deleted_bytes: collected.bytes,
            uploads_aborted: collected.uploads,
            failed: failed.collect(),
            repacked_layers: repacked.layers,
            repacked_bundles: repacked.sources,
            repacked_bytes: repacked.stored_bytes,
            ended_branches: *ended_branches,
            checkpoint: *checkpoint,
            repack_left_to: left_to
                .as_ref()
                .map(|by| format!("{} (pid {} on {})", by.program, by.pid, by.host)),
        }
    }
}

fn text(json: &GcJson, session: &Session) -> String {
    let mut text = String::new();
    for timeline in json.timelines.iter().filter(|timeline| timeline.error.is_none()) {
        let TimelineJson { tenant, timeline, plan, result, .. } = timeline;
        // Writing to a String does not fail.
        let _ = writeln!(text, "{tenant}/{timeline}");
        match (plan, result) {
            (_, Some(result)) => write_result(&mut text, result),
            (Some(plan), None) => write_plan(&mut text, plan),
            (None, None) => {}
        }
    }
    if !json.executed {
        text.push_str("nothing was done: --execute does it\n");
    }
    text.push_str(&session.cost_line());
    text
}

fn write_plan(text: &mut String, plan: &PlanJson) {
    let PlanJson { manifests, records, payloads, orphans, uploads, repack, space, .. } = plan;
    let objects = [
        counted(*records, "record"),
        counted(*payloads, "payload object"),
        counted(*orphans, "orphan"),
        counted(*manifests, "manifest"),
        counted(*uploads, "unfinished upload"),
    ];
    let floor =
        plan.floor.map_or("nothing is old enough".into(), |seq| format!("by the manifest of record {seq}"));
    let _ = writeln!(text, "  delete    {}: {}, {floor}", objects.join(", "), human_bytes(plan.bytes));
    let (live, stored) = (human_bytes(repack.live_bytes), human_bytes(repack.stored_bytes));
    let bundles = counted(repack.bundles, "bundle");
    let _ = writeln!(text, "  repack    {bundles}: {live} of {stored} live");
    for BranchJson { timeline, lsn, .. } in &plan.ended_branches {
        let _ = writeln!(text, "  forget    the branch {timeline} at {lsn}, which is deleted");
    }
    if let Some(bytes) = plan.checkpoint_frees {
        let _ =
            writeln!(text, "  snapshot  {} more go when it is older than the retention", human_bytes(bytes));
    }
    write_points(text, plan.points.as_ref(), plan.points_left.as_ref());
    let (held, live) = (human_bytes(space.held_bytes), human_bytes(space.live_bytes));
    let _ = writeln!(text, "  space     {live} live, {held} dead and held by retention");
    let _ = writeln!(text, "  cost      about {}", counted(plan.requests, "request"));
}

fn write_points(text: &mut String, points: Option<&PointsJson>, left: Option<&PointsJson>) {
    let (Some(points), Some(left)) = (points, left) else { return };
    let given_up = match left.oldest.saturating_sub(points.oldest) {
        0 => "none are given up".into(),
        1 => format!("record {} is given up", points.oldest),
        _ => format!("records {} to {} are given up", points.oldest, left.oldest - 1),
    };
    let kept = match left.count {
        1 => "only the newest point is left".into(),
        _ => format!("{} to {} are left", left.oldest, left.newest),
    };
    let _ = writeln!(text, "  points    {given_up}; {kept}");
}

fn write_result(text: &mut String, result: &ResultJson) {
    let (deleted, bytes) = (counted(result.deleted, "object"), human_bytes(result.deleted_bytes));
    let _ = writeln!(text, "  deleted   {deleted}, {bytes}");
    if result.uploads_aborted > 0 {
        let _ = writeln!(text, "  aborted   {}", counted(result.uploads_aborted, "unfinished upload"));
    }
    if result.repacked_layers > 0 {
        let (layers, bundles) =
            (counted(result.repacked_layers, "layer"), counted(result.repacked_bundles, "bundle"));
        let bytes = human_bytes(result.repacked_bytes);
        let _ = writeln!(text, "  repacked  {layers} of {bundles} into {bytes}; record {}", result.seq);
    }
    if let Some(by) = &result.repack_left_to {
        let _ = writeln!(text, "  repacking is left to {}", printable(by));
    }
}
