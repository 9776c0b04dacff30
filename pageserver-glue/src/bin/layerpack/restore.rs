//! `layerpack restore`.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::{TimelineRestore, WorkDir, WorkDirError, restore_timeline};
use serde::Serialize;
use sync_engine::{CatalogEntry, Error, MetadataOutcome, Progress, RestoreReport, Store, TimelineView};

use crate::args::Restore;
use crate::dry_run::DryRun;
use crate::exit::{Exit, Failure};
use crate::layers::{ConflictJson, FailedJson, SkippedJson, conflict_json, failed_json};
use crate::output::{Outcome, counted, explain_failure, human_bytes, names_line, printable};
use crate::session::{Session, concerns_one_timeline};

#[derive(Debug, Default, Serialize)]
struct RestoreJson {
    store_created: bool,
    seq: Option<u64>,
    #[serde(flatten)]
    total: Counts,
    timelines: Vec<TimelineJson>,
    skipped: Vec<SkippedJson>,
    conflicts: Vec<ConflictJson>,
    failed: Vec<FailedJson>,
    metadata_held_back: bool,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    layers: usize,
    raw_bytes: u64,
    stored_bytes: u64,
    present: usize,
}

#[derive(Debug, Serialize)]
struct TimelineJson {
    tenant: String,
    timeline: String,
    seq: Option<u64>,
    #[serde(flatten)]
    counts: Counts,
    metadata: Option<&'static str>,
    error: Option<String>,
}

/// A timeline, and how its restore went.
type Done = ((TenantId, TimelineId), Result<TimelineRestore, Failure>);

pub(crate) async fn run(session: &Session, arguments: &Restore) -> Result<Outcome, Failure> {
    let workdir = session.workdir(&arguments.workdir)?;
    let store = session.open(&arguments.remote).await?;
    let mut timelines = session.select(&store, &arguments.selection).await?;
    if timelines.is_empty() {
        return Err(Failure::EmptyStore { url: store.url().to_owned() });
    }
    if arguments.dry_run {
        return dry_run(session, &store, &workdir, timelines).await;
    }
    let workdir = WorkDir::create(workdir)?;
    let asked_for = arguments.selection.timeline.is_some();
    let alone = timelines.len() == 1;
    let mut done: Vec<Done> = Vec::new();
    for entry in timelines.drain(..) {
        let id = (entry.tenant.clone(), entry.timeline.clone());
        match restore_one(session, &store, &workdir, entry).await {
            // Everything that there is does not include what was deleted.
            Err(Failure::Engine(Error::TimelineDeleted { .. })) if !asked_for => {}
            Err(failure) if alone || !concerns_one_timeline(&failure) => return Err(failure),
            restored => done.push((id, restored)),
        }
    }
    Ok(report(session, &done))
}

/// Says what a restore would do.
async fn dry_run(
    session: &Session,
    store: &Store,
    workdir: &Path,
    timelines: Vec<CatalogEntry>,
) -> Result<Outcome, Failure> {
    let workdir = match WorkDir::open(workdir) {
        Ok(workdir) => Some(workdir),
        // A restore would make it.
        Err(WorkDirError::NotAWorkDir(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let alone = timelines.len() == 1;
    let mut run = DryRun::of_restore(session);
    for entry in timelines {
        match run.restore(store, workdir.as_ref(), entry).await {
            Err(Failure::Engine(Error::TimelineDeleted { .. })) if !alone => {}
            planned => planned?,
        }
    }
    Ok(run.finish())
}

async fn restore_one(
    session: &Session,
    store: &Store,
    workdir: &WorkDir,
    entry: CatalogEntry,
) -> Result<TimelineRestore, Failure> {
    let CatalogEntry { tenant, timeline, listing } = entry;
    let view = TimelineView::open_existing(store, &tenant, &timeline, listing).await?;
    let progress = Arc::new(Progress::default());
    let _meter = session.meter("restoring", &timeline, &progress);
    Ok(restore_timeline(store, workdir, &view, &progress).await?)
}

fn report(session: &Session, done: &[Done]) -> Outcome {
    let mut json = RestoreJson::default();
    for ((tenant, timeline), restored) in done {
        let id = (tenant, timeline);
        json.timelines.push(TimelineJson::new(id, restored));
        let Ok(TimelineRestore { report, extra, .. }) = restored else { continue };
        json.total.add(report);
        json.metadata_held_back |= report.metadata == MetadataOutcome::HeldBack;
        json.conflicts.extend(report.conflicts.iter().map(|conflict| conflict_json(id, conflict)));
        json.failed.extend(report.failed.iter().map(|failed| failed_json(id, failed)));
        json.skipped.extend(extra.iter().map(|name| SkippedJson {
            path: format!("tenants/{tenant}/timelines/{timeline}/{name}"),
            reason: "not in the timeline, left alone".into(),
        }));
    }
    if let [timeline] = &*json.timelines {
        json.seq = timeline.seq;
    }
    let mut outcome = Outcome::new(&json, &session.cost());
    outcome.text = text(&json, session);
    for ((tenant, timeline), restored) in done {
        match restored {
            Ok(restored) => outcome.add_restore((tenant, timeline), restored),
            Err(failure) => {
                outcome
                    .problems
                    .push(format!("{tenant}/{timeline} was not restored: {}", explain_failure(failure)));
                outcome.exit = outcome.exit.or_worse(failure.exit());
            }
        }
    }
    let restored = done.iter().filter_map(|(_, restored)| restored.as_ref().ok());
    outcome.add_damage(restored.flat_map(|restored| &restored.damage));
    outcome
}

impl Counts {
    fn add(&mut self, report: &RestoreReport) {
        self.layers += report.layers;
        self.raw_bytes += report.raw_bytes;
        self.stored_bytes += report.stored_bytes;
        self.present += report.present;
    }
}

impl TimelineJson {
    fn new(
        (tenant, timeline): (&TenantId, &TimelineId),
        restored: &Result<TimelineRestore, Failure>,
    ) -> Self {
        let mut json = Self {
            tenant: tenant.to_string(),
            timeline: timeline.to_string(),
            seq: None,
            counts: Counts::default(),
            metadata: None,
            error: None,
        };
        match restored {
            Ok(TimelineRestore { seq, report, .. }) => {
                json.seq = Some(seq.0);
                json.counts.add(report);
                json.metadata = Some(metadata_word(report.metadata));
            }
            Err(failure) => json.error = Some(explain_failure(failure)),
        }
        json
    }
}

fn metadata_word(metadata: MetadataOutcome) -> &'static str {
    match metadata {
        MetadataOutcome::None => "none",
        MetadataOutcome::Written => "written",
        MetadataOutcome::Present => "present",
        MetadataOutcome::Conflict => "conflict",
        MetadataOutcome::HeldBack => "held back",
    }
}

impl Outcome {
    fn add_restore(&mut self, (tenant, timeline): (&TenantId, &TimelineId), restored: &TimelineRestore) {
        let TimelineRestore { seq: _, report, extra, damage: _ } = restored;
        if !extra.is_empty() {
            self.warnings.push(format!(
                "{} in the directory of {tenant}/{timeline} not in the timeline, left alone: {}",
                counted(extra.len(), "file"),
                names_line(extra)
            ));
        }
        self.add_layer_problems("restore", &report.conflicts, &report.failed);
        let metadata = match report.metadata {
            MetadataOutcome::None | MetadataOutcome::Written | MetadataOutcome::Present => return,
            MetadataOutcome::Conflict => {
                "differs from the file that is there, which was left alone: move it away"
            }
            MetadataOutcome::HeldBack => "was held back until every layer is there: run it again",
        };
        self.problems.push(format!("the metadata of {tenant}/{timeline} {metadata}"));
        self.exit = self.exit.or_worse(Exit::Failed);
    }
}

fn text(json: &RestoreJson, session: &Session) -> String {
    let mut text = String::new();
    for timeline in json.timelines.iter().filter(|timeline| timeline.error.is_none()) {
        let TimelineJson { tenant, timeline, seq, counts, metadata, error: _ } = timeline;
        let Counts { layers, raw_bytes, stored_bytes: _, present } = counts;
        let (layers, raw) = (counted(*layers, "layer"), human_bytes(*raw_bytes));
        let seq = seq.unwrap_or_default();
        let metadata = printable(metadata.unwrap_or("none"));
        let _ = writeln!(
            text,
            "{tenant}/{timeline}: {layers} written, {raw}; {present} there already; \
             metadata {metadata}; as of record {seq}"
        );
    }
    text.push_str(&session.cost_line());
    text
}
