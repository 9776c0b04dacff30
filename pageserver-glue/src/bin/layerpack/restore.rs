//! `layerpack restore`.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::{
    Past, TimelineRestore, WorkDir, WorkDirError, is_newer_in, restore_branch, restore_past,
};
use serde::Serialize;
use sync_engine::{
    At, CatalogEntry, Error, MetadataOutcome, Progress, RestoreReport, Store, TimelineListing, TimelineView,
};

use crate::args::Restore;
use crate::dry_run::DryRun;
use crate::exit::{Exit, Failure};
use crate::layers::{ConflictJson, FailedJson, SkippedJson, conflict_json, failed_json};
use crate::output::{Outcome, counted, explain_failure, human_bytes, names_line, printable};
use crate::past::{Ancestors, Wanted};
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
    let at = arguments.at.unwrap_or_default();
    if matches!(at, At::Seq(_)) && arguments.selection.timeline.is_none() {
        return Err(Failure::Usage("records are numbered by timeline: --at seq:N needs --timeline".into()));
    }
    if arguments.dry_run {
        return dry_run(session, &store, &workdir, timelines, arguments).await;
    }
    let workdir = WorkDir::create(workdir)?;
    let asked_for = arguments.selection.timeline.is_some();
    let alone = timelines.len() == 1;
    let wanted = Wanted::new(at, &timelines);
    let mut run = Run { session, store: &store, workdir: &workdir, wanted, done: Vec::new() };
    let (mut left_alone, mut left_out) = (Vec::new(), Vec::new());
    for entry in timelines.drain(..) {
        // It may have come with its branch.
        if run.wanted.is_done(&entry.tenant, &entry.timeline) {
            continue;
        }
        let CatalogEntry { tenant, timeline, listing } = entry;
        let restored = match open(&store, (&tenant, &timeline), at, listing, asked_for).await {
            Ok(Opened::View(view)) => run.restore_with_ancestors(&view, &mut left_alone).await,
            Ok(Opened::Deleted) => continue,
            Ok(Opened::NothingYet(error)) => {
                left_out.push(((tenant, timeline), error.to_string()));
                continue;
            }
            Err(error) => Err(error.into()),
        };
        match restored {
            Err(failure) if alone || !concerns_one_timeline(&failure) => return Err(failure),
            Err(failure) => {
                // A branch that comes later would find the same.
                run.wanted.add((tenant.clone(), timeline.clone()), Past::Missing);
                run.done.push(((tenant, timeline), Err(failure)));
            }
            Ok(()) => {}
        }
    }
    let mut outcome = report(session, &run.done, &left_out, asked_for);
    if run.done.is_empty() && at != At::Newest {
        outcome.problems.push(format!("nothing was restored: there is no timeline as of {at}"));
        outcome.exit = Exit::NotFound;
    }
    outcome.warnings.extend(left_alone.into_iter().chain(left_out.into_iter().map(|(_, why)| why)));
    Ok(outcome)
}

/// What was found of a timeline that is to be restored.
enum Opened {
    View(Box<TimelineView>),
    /// Everything that there is does not include what was deleted.
    Deleted,
    /// Nor what had not come yet.
    NothingYet(Error),
}

/// Opens a timeline: the one that was asked for, of which something must be there, or one of several.
async fn open(
    store: &Store,
    (tenant, timeline): (&TenantId, &TimelineId),
    at: At,
    listing: Option<TimelineListing>,
    asked_for: bool,
) -> Result<Opened, Error> {
    let view = if asked_for {
        TimelineView::open_at(store, (tenant, timeline), at, listing).await
    } else {
        let view = TimelineView::open_undeleted(store, (tenant, timeline), at, listing).await.transpose();
        let Some(view) = view else { return Ok(Opened::Deleted) };
        view
    };
    match view.and_then(TimelineView::require_commits) {
        Err(
            error @ (Error::NothingCommitted { .. } | Error::PointNotFound { is_before_first: true, .. }),
        ) if !asked_for => Ok(Opened::NothingYet(error)),
        view => Ok(Opened::View(Box::new(view?))),
    }
}

/// A restore of some timelines.
struct Run<'a> {
    session: &'a Session,
    store: &'a Store,
    workdir: &'a WorkDir,
    wanted: Wanted,
    done: Vec<Done>,
}

impl Run<'_> {
    /// Restores a timeline after its ancestors. An ancestor that was not `selected`, and of which the work directory has a
    /// newer state, is left alone there.
    async fn restore_with_ancestors(
        &mut self,
        view: &TimelineView,
        left_alone: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let Ancestors { views, mut past, error } = self.wanted.ancestors(self.store, view).await?;
        if let Some(error) = error {
            let ancestor = match &error {
                Error::Ancestor { ancestor, .. } | Error::AncestorCycle { ancestor, .. } => ancestor,
                _ => view.state.timeline(),
            };
            let id = (view.state.tenant().clone(), ancestor.clone());
            if let Error::Ancestor { .. } = &error {
                // In its own turn it would fail again.
                self.wanted.add(id.clone(), Past::Missing);
            }
            self.done.push((id, Err(error.into())));
        }
        for ancestor in views {
            let id = (ancestor.state.tenant().clone(), ancestor.state.timeline().clone());
            if !self.wanted.selects(&id) && is_newer_in(self.workdir, &ancestor)? {
                left_alone.push(format!(
                    "{}/{}, an ancestor of {}, is newer in the work directory than in the store: it was left alone",
                    id.0,
                    id.1,
                    view.state.timeline()
                ));
                // What is newer may have collected what an ended branch needs.
                past = if ancestor.is_newest() { past } else { Past::Missing };
                self.wanted.add(id, past);
                continue;
            }
            past = match self.restore(&ancestor, past).await {
                Err(failure) if !concerns_one_timeline(&failure) => return Err(failure),
                Err(failure) => {
                    self.done.push((id.clone(), Err(failure)));
                    Past::Missing
                }
                Ok(past) => past,
            };
            self.wanted.add(id, past);
        }
        let past = self.restore(view, past).await?;
        self.wanted.add((view.state.tenant().clone(), view.state.timeline().clone()), past);
        Ok(())
    }

    /// Restores one timeline. Returns whether it is whole, its past included.
    async fn restore(&mut self, view: &TimelineView, past: Past) -> Result<Past, Failure> {
        let (tenant, timeline) = (view.state.tenant().clone(), view.state.timeline().clone());
        let progress = Arc::new(Progress::default());
        let _meter = self.session.meter("restoring", &timeline, &progress);
        let restored = match view.is_newest() {
            true => restore_branch(self.store, self.workdir, view, past, &progress).await?,
            false => restore_past(self.store, self.workdir, view, past, &progress).await?,
        };
        let is_whole = past == Past::Whole && restored.report.is_complete();
        self.done.push(((tenant, timeline), Ok(restored)));
        Ok(if is_whole { Past::Whole } else { Past::Missing })
    }
}

/// Says what a restore would do.
async fn dry_run(
    session: &Session,
    store: &Store,
    workdir: &Path,
    timelines: Vec<CatalogEntry>,
    arguments: &Restore,
) -> Result<Outcome, Failure> {
    let (at, asked_for) = (arguments.at.unwrap_or_default(), arguments.selection.timeline.is_some());
    let workdir = match WorkDir::open(workdir) {
        Ok(workdir) => Some(workdir),
        // A restore would make it.
        Err(WorkDirError::NotAWorkDir(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let mut run = DryRun::of_restore(session);
    let mut wanted = Wanted::new(at, &timelines);
    for CatalogEntry { tenant, timeline, listing } in timelines {
        if wanted.is_done(&tenant, &timeline) {
            continue;
        }
        let view = match open(store, (&tenant, &timeline), at, listing, asked_for).await? {
            Opened::View(view) => view,
            Opened::Deleted => continue,
            Opened::NothingYet(error) => {
                run.leave_out(&error);
                continue;
            }
        };
        let Ancestors { views, past, error } = wanted.ancestors(store, &view).await?;
        if let Some(error) = error {
            run.add_missing_past((&tenant, &timeline), &error.into());
        }
        for view in views.iter().chain([&*view]) {
            let id = (view.state.tenant().clone(), view.state.timeline().clone());
            let newer = workdir.as_ref().map(|workdir| is_newer_in(workdir, view)).transpose()?;
            if wanted.selects(&id) || newer != Some(true) {
                run.restore(workdir.as_ref(), view).await?;
            }
            wanted.add(id, past);
        }
    }
    Ok(run.finish())
}

fn report(
    session: &Session,
    done: &[Done],
    left_out: &[((TenantId, TimelineId), String)],
    asked_for: bool,
) -> Outcome {
    let mut json = RestoreJson::default();
    json.skipped.extend(left_out.iter().map(|((tenant, timeline), why)| SkippedJson {
        path: format!("tenants/{tenant}/timelines/{timeline}"),
        reason: why.clone(),
    }));
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
    // Of one that was asked for, which comes after its ancestors; of several there is no one number.
    if let Some(timeline) = json.timelines.last().filter(|_| asked_for || json.timelines.len() == 1) {
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
            MetadataOutcome::HeldBack => {
                "was held back until every layer is there, its ancestors' included: mend what is named and run it again"
            }
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
