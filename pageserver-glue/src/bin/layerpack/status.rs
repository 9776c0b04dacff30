//! `layerpack status`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{LayerName, TenantId, TimelineId, UnixMillis};
use pageserver_glue::{WorkDir, WorkDirError};
use serde::Serialize;
use sync_engine::gc::{GcPlan, GcPolicy, KnownRecords, Survey, plan_gc, survey_timeline};
use sync_engine::{CatalogEntry, Finding, Point, Store, TimelineListing, TimelineView};

use crate::args::{Selection, Status};
use crate::exit::{Exit, Failure};
use crate::gc::{PointsJson as SeqsJson, SpaceJson};
use crate::layers::{BranchJson, ancestor_text};
use crate::output::{Outcome, counted, explain_failure, human_bytes, printable};
use crate::session::{Session, concerns_one_timeline};

#[derive(Debug, Default, Serialize)]
struct StatusJson {
    store: String,
    store_id: String,
    store_version: u32,
    timelines: Vec<TimelineJson>,
    /// Timelines of the work directory that the store has nothing of.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_in_store: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize)]
struct TimelineJson {
    tenant: String,
    timeline: String,
    seq: u64,
    manifest_seq: Option<u64>,
    layers: usize,
    raw_bytes: u64,
    stored_bytes: u64,
    objects: usize,
    live_bytes: u64,
    live_ratio: f64,
    space: SpaceJson,
    points: Option<PointsJson>,
    disk_consistent_lsn: Option<String>,
    ancestor: Option<String>,
    branches: Vec<BranchJson>,
    epoch: u64,
    released: bool,
    deleted: bool,
    /// Whether its records are claims and releases alone: an unfinished backup or copy.
    nothing_committed: bool,
    writer: WriterJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<LocalJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// So many of the newest points in time are shown to people.
const NEWEST_POINTS_SHOWN: usize = 20;

/// The points in time that the timeline can be restored to.
#[derive(Debug, Serialize)]
struct PointsJson {
    #[serde(flatten)]
    seqs: SeqsJson,
    /// When the oldest was stored, by the store's clock.
    oldest_time: Option<String>,
    newest_time: Option<String>,
    /// Every one, oldest first; of a single timeline that was asked for, because every record is read for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<PointJson>>,
}

/// What `restore --at` and `copy --at` can be asked for.
#[derive(Debug, Serialize)]
struct PointJson {
    seq: u64,
    /// By its writer's clock.
    time: String,
    lsn: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct WriterJson {
    program: String,
    pid: u32,
    host: String,
    time: String,
}

/// How a work directory differs from the store, by name.
#[derive(Debug, Default, Serialize)]
struct LocalJson {
    layers: usize,
    /// Raw bytes of the layers that are not in the store: what would be lost with the work directory.
    lag_bytes: u64,
    not_in_store: Vec<String>,
    not_in_workdir: Vec<String>,
}

/// The layers of a work directory's timelines, with their sizes.
type Local = BTreeMap<(TenantId, TimelineId), Vec<(LayerName, u64)>>;

pub(crate) async fn run(session: &Session, arguments: &Status) -> Result<Outcome, Failure> {
    let mut local = match &arguments.workdir {
        Some(dir) => Some(read_local(dir, &arguments.selection)?),
        None => None,
    };
    let store = session.open(&arguments.remote).await?;
    let timelines = session.select(&store, &arguments.selection).await?;
    let alone = timelines.len() == 1;
    let mut json = StatusJson {
        store: store.url().to_owned(),
        store_id: store.marker().id.clone(),
        store_version: store.marker().version,
        ..StatusJson::default()
    };
    let (mut failures, mut damage) = (Vec::new(), Vec::new());
    for entry in timelines {
        let id = (entry.tenant.clone(), entry.timeline.clone());
        let layers = local.as_mut().map(|local| local.remove(&id).unwrap_or_default());
        let lists_points = arguments.selection.timeline.is_some();
        match read_timeline(session, &store, entry, layers, lists_points).await {
            Ok((timeline, found)) => {
                json.timelines.push(timeline);
                damage.extend(found);
            }
            Err(failure) if alone || !concerns_one_timeline(&failure) => return Err(failure),
            Err(failure) => {
                json.timelines.push(TimelineJson {
                    tenant: id.0.to_string(),
                    timeline: id.1.to_string(),
                    error: Some(explain_failure(&failure)),
                    ..TimelineJson::default()
                });
                failures.push((id, failure));
            }
        }
    }
    let name = |(tenant, timeline): &(TenantId, TimelineId)| format!("{tenant}/{timeline}");
    // Of one timeline nothing is known of the others.
    if arguments.selection.timeline.is_none() {
        mark_gone_branches(&mut json.timelines);
    }
    json.not_in_store = local.map(|local| local.keys().map(name).collect());
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = text(&json);
    for (id, failure) in failures {
        outcome.problems.push(format!("cannot read {}: {}", name(&id), explain_failure(&failure)));
        outcome.exit = Exit::or_worse(outcome.exit, failure.exit());
    }
    outcome.add_damage(&damage);
    Ok(outcome)
}

/// Says of the branches of all timelines of a tenant which are no timelines, so that nobody needs what is kept for them.
fn mark_gone_branches(timelines: &mut [TimelineJson]) {
    let became = |json: &TimelineJson| {
        let gone = match json {
            // It may be anything.
            TimelineJson { error: Some(_), .. } => None,
            TimelineJson { deleted: true, .. } => Some("deleted"),
            TimelineJson { seq: 0, .. } => Some("never begun"),
            _ => None,
        };
        ((json.tenant.clone(), json.timeline.clone()), gone)
    };
    let known: BTreeMap<(String, String), Option<&'static str>> = timelines.iter().map(became).collect();
    let tenants: BTreeSet<&String> = known.keys().map(|(tenant, _)| tenant).collect();
    for branch in timelines.iter_mut().flat_map(|timeline| &mut timeline.branches) {
        let id = (branch.tenant.clone(), branch.timeline.clone());
        branch.gone = match known.get(&id) {
            Some(gone) => *gone,
            None => tenants.contains(&id.0).then_some("never begun"),
        };
    }
}

fn read_local(dir: &Path, selection: &Selection) -> Result<Local, WorkDirError> {
    let workdir = WorkDir::open(dir)?;
    let mut local = Local::new();
    for tenant in workdir.tenants()?.ids {
        if selection.tenant.as_ref().is_some_and(|wanted| *wanted != tenant) {
            continue;
        }
        for timeline in workdir.timelines(&tenant)?.ids {
            if selection.timeline.as_ref().is_some_and(|wanted| *wanted != timeline) {
                continue;
            }
            let layers = workdir.scan(&tenant, &timeline)?.layers;
            let layers = layers.into_iter().map(|layer| (layer.name, layer.size));
            local.insert((tenant.clone(), timeline), layers.collect());
        }
    }
    Ok(local)
}

/// What there is to say of a timeline, and the damage that was passed by on the way to it.
async fn read_timeline(
    session: &Session,
    store: &Store,
    entry: CatalogEntry,
    local: Option<Vec<(LayerName, u64)>>,
    lists_points: bool,
) -> Result<(TimelineJson, Vec<Finding>), Failure> {
    // What gc would say, by this machine's clock: a plan that is only shown need not ask the store's.
    let policy = GcPolicy { retention: session.retention(None)?, ..GcPolicy::default() };
    let (id, now) = ((&entry.tenant, &entry.timeline), Some(session.now()));
    let survey = survey_timeline(store, id, entry.listing, &policy, now, KnownRecords::default()).await?;
    let plan = plan_gc(&survey, &policy, session.pack_options()?.bundle_bytes_target);
    let list = if lists_points { Some(survey.view.points(store).await?) } else { None };
    let points = points(&survey, &plan, list);
    let Survey { view, damage, .. } = survey;
    let listing = &view.listing;
    let state = &view.state;
    let bundles = state.bundles();
    let live_bytes: u64 = bundles.iter().map(|bundle| bundle.live_bytes).sum();
    let bundle_bytes: u64 = bundles.iter().map(|bundle| bundle.stored_bytes).sum();
    let objects = || {
        let payloads = listing.payloads.values();
        listing.records.values().chain(listing.manifests.values()).chain(payloads).chain(&listing.unknown)
    };
    let writer = state.writer();
    let json = TimelineJson {
        tenant: state.tenant().to_string(),
        timeline: state.timeline().to_string(),
        seq: state.seq().0,
        manifest_seq: view.manifest.map(|manifest| manifest.seq.0),
        layers: state.layers().len(),
        raw_bytes: state.layers().values().map(|layer| layer.raw.size).sum(),
        stored_bytes: objects().map(|object| object.size).sum(),
        objects: objects().count(),
        live_bytes,
        live_ratio: ratio(live_bytes, bundle_bytes),
        space: plan.space.into(),
        points,
        disk_consistent_lsn: state.disk_consistent_lsn().map(|lsn| lsn.to_string()),
        ancestor: state.ancestor().map(ancestor_text),
        branches: state.branch_points().map(BranchJson::from).collect(),
        epoch: state.epoch().0,
        released: state.is_released(),
        deleted: state.is_deleted(),
        nothing_committed: state.nothing_committed(),
        writer: WriterJson {
            program: writer.program.clone(),
            pid: writer.pid,
            host: writer.host.clone(),
            time: rfc3339(state.time()),
        },
        local: local.map(|local| compare(&view, &local)),
        error: None,
    };
    Ok((json, damage))
}

/// The points in time: where they were listed, those; else what the objects tell, claims among them.
fn points(survey: &Survey, plan: &GcPlan, list: Option<Vec<Point>>) -> Option<PointsJson> {
    let mut points = plan.points?;
    let TimelineListing { records, manifests, .. } = &survey.view.listing;
    let stored = |seq| records.get(&seq).or_else(|| manifests.get(&seq)).map(|object| object.last_modified);
    let time = |seq| {
        let since = stored(seq)?.duration_since(UNIX_EPOCH).ok()?;
        Some(rfc3339(UnixMillis(u64::try_from(since.as_millis()).ok()?)))
    };
    if let Some(list) = &list {
        (points.oldest, points.newest) = (list.first()?.seq, list.last()?.seq);
    }
    let json = |point: &Point| PointJson {
        seq: point.seq.0,
        time: rfc3339(point.time),
        lsn: point.disk_consistent_lsn.map(|lsn| lsn.to_string()),
    };
    Some(PointsJson {
        oldest_time: time(points.oldest),
        newest_time: time(points.newest),
        list: list.map(|list| list.iter().map(json).collect()),
        seqs: points.into(),
    })
}

fn compare(view: &TimelineView, local: &[(LayerName, u64)]) -> LocalJson {
    let stored = view.state.layers();
    let here: BTreeSet<&LayerName> = local.iter().map(|(name, _)| name).collect();
    let lag = || local.iter().filter(|(name, _)| !stored.contains_key(name));
    LocalJson {
        layers: local.len(),
        lag_bytes: lag().map(|(_, size)| size).sum(),
        not_in_store: lag().map(|(name, _)| name.to_string()).collect(),
        not_in_workdir: stored.keys().filter(|name| !here.contains(name)).map(ToString::to_string).collect(),
    }
}

/// The part of `all` that `some` is; 1 of nothing.
fn ratio(some: u64, all: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    if all == 0 { 1.0 } else { some as f64 / all as f64 }
}

/// A time for people; of a time that no calendar has, nothing.
fn rfc3339(time: UnixMillis) -> String {
    // The year 9999, beyond which the text form ends.
    const LAST: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + Duration::from_millis(time.0.min(LAST));
    humantime::format_rfc3339_millis(time).to_string()
}

fn text(json: &StatusJson) -> String {
    let mut text = format!("store {} (version {}, id {})\n", json.store, json.store_version, json.store_id);
    for timeline in json.timelines.iter().filter(|timeline| timeline.error.is_none()) {
        write_timeline(&mut text, timeline);
    }
    if json.timelines.is_empty() {
        text.push_str("no timelines\n");
    }
    for name in json.not_in_store.iter().flatten() {
        let _ = writeln!(text, "\n{name}\n  only in the work directory");
    }
    text
}

/// What is dead and why it is there still, and which points in time there are.
fn write_space(text: &mut String, timeline: &TimelineJson) {
    let SpaceJson { held_bytes, beside_live_bytes, doomed_bytes, orphans, orphan_bytes, .. } =
        &timeline.space;
    let dead = human_bytes(held_bytes + doomed_bytes + beside_live_bytes);
    let (held, doomed, orphan) =
        (human_bytes(*held_bytes), human_bytes(*doomed_bytes), human_bytes(*orphan_bytes));
    let _ = writeln!(
        text,
        "  dead      {dead}: {held} held by retention, {doomed} that gc deletes, the rest beside live layers"
    );
    if *orphans > 0 {
        let _ = writeln!(text, "  orphans   {}, {orphan}", counted(*orphans, "object"));
    }
    if let Some(PointsJson { seqs, oldest_time, newest_time, list }) = &timeline.points {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "unknown".into());
        let (oldest, newest) = (time(oldest_time), time(newest_time));
        let points = counted(usize::try_from(seqs.count).unwrap_or(usize::MAX), "point");
        let _ = writeln!(
            text,
            "  past      {points} in time, records {} ({oldest}) to {} ({newest})",
            seqs.oldest, seqs.newest
        );
        write_points(text, list.as_deref().unwrap_or_default());
    }
}

/// The points themselves: the newest, for it is those that are gone back to, and the oldest.
fn write_points(text: &mut String, list: &[PointJson]) {
    let newest = list.len().saturating_sub(NEWEST_POINTS_SHOWN);
    for (number, PointJson { seq, time, lsn }) in (0..).zip(list) {
        if number == 0 || number >= newest {
            let lsn = lsn.as_ref().map(|lsn| format!(", LSN {lsn}")).unwrap_or_default();
            let _ = writeln!(text, "            seq:{seq} of {time}{lsn}");
        } else if number == 1 {
            let more = counted(newest - 1, "more point");
            let _ = writeln!(text, "            {more}: --json lists all");
        }
    }
}

fn write_timeline(text: &mut String, timeline: &TimelineJson) {
    let TimelineJson { tenant, timeline: id, layers, raw_bytes, stored_bytes, objects, .. } = timeline;
    let held = match (timeline.deleted, timeline.released) {
        (true, _) => "deleted",
        (_, true) => "released",
        _ => "held by its writer",
    };
    let committed = if timeline.nothing_committed { ", nothing committed" } else { "" };
    let (raw, stored) = (human_bytes(*raw_bytes), human_bytes(*stored_bytes));
    let live = timeline.live_ratio * 100.0;
    let manifest = timeline.manifest_seq.map_or("none".into(), |seq| format!("of record {seq}"));
    let WriterJson { program, pid, host, time } = &timeline.writer;
    // Writing to a String does not fail.
    let _ = writeln!(text, "\n{tenant}/{id}");
    let _ = writeln!(text, "  layers    {layers}, {raw} raw");
    let _ = writeln!(text, "  stored    {stored} in {objects} objects, {live:.0} % of the bundles live");
    write_space(text, timeline);
    let _ = writeln!(text, "  log       record {}, manifest {manifest}, {held}{committed}", timeline.seq);
    if let Some(lsn) = &timeline.disk_consistent_lsn {
        let _ = writeln!(text, "  durable   up to LSN {lsn}, by its metadata");
    }
    if let Some(ancestor) = &timeline.ancestor {
        let _ = writeln!(text, "  ancestor  {ancestor}");
    }
    for BranchJson { tenant: _, timeline, lsn, gone } in &timeline.branches {
        let gone = gone.map(|gone| format!(" ({gone}: ends with layerpack delete)")).unwrap_or_default();
        let _ = writeln!(text, "  branch    {timeline} at LSN {lsn}{gone}");
    }
    let _ = writeln!(text, "  writer    {} (pid {pid} on {}) at {time}", printable(program), printable(host));
    if let Some(LocalJson { layers, lag_bytes, not_in_store, not_in_workdir }) = &timeline.local {
        let (behind, lag) = (not_in_store.len(), human_bytes(*lag_bytes));
        let _ = writeln!(text, "  workdir   {layers} layers; the store is {behind} of them behind, {lag}");
        for (label, names) in
            [("not in the store", not_in_store), ("not in the work directory", not_in_workdir)]
        {
            if let Some(first) = names.first() {
                let first = printable(first);
                let _ = writeln!(text, "            {} {label}, such as {first}", names.len());
            }
        }
    }
}
