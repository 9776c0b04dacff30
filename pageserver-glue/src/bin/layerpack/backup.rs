//! `layerpack backup`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId};
use pageserver_glue::{BackupChoices, Skipped, TimelineBackup, WorkDir, WorkDirBranches, backup_timeline};
use serde::Serialize;
use sync_engine::{
    BackupOptions, BackupReport, Catalog, Created, Error, MetadataConflict, Mirror, Progress, Store,
    TimelineListing,
};

use crate::args::{Backup, Selection};
use crate::dry_run::DryRun;
use crate::exit::{Exit, Failure};
use crate::layers::{ConflictJson, FailedJson, KeptJson, SkippedJson, conflict_json, failed_json};
use crate::output::{Outcome, counted, explain, explain_failure, human_bytes, names_line, printable};
use crate::session::{Session, concerns_one_timeline};

#[derive(Debug, Default, Serialize)]
struct BackupJson {
    store_created: bool,
    seq: Option<u64>,
    #[serde(flatten)]
    total: Counts,
    timelines: Vec<TimelineJson>,
    skipped: Vec<SkippedJson>,
    conflicts: Vec<ConflictJson>,
    failed: Vec<FailedJson>,
    metadata_held_back: bool,
    metadata_conflict: Option<MetadataConflictJson>,
    removals_held_back: usize,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    layers: usize,
    raw_bytes: u64,
    stored_bytes: u64,
    bundles: usize,
    unchanged: usize,
    removed: usize,
}

#[derive(Debug, Serialize)]
struct TimelineJson {
    tenant: String,
    timeline: String,
    seq: Option<u64>,
    #[serde(flatten)]
    counts: Counts,
    metadata_held_back: bool,
    metadata_conflict: Option<MetadataConflictJson>,
    removals_held_back: usize,
    kept_for_branches: Vec<KeptJson>,
    manifest_error: Option<String>,
    error: Option<String>,
}

/// Up to which LSNs the metadata on both sides says that a timeline is durable.
#[derive(Clone, Debug, Serialize)]
struct MetadataConflictJson {
    local: String,
    stored: String,
}

/// What is to be backed up.
struct Work {
    timelines: Vec<(TenantId, TimelineId)>,
    skipped: Vec<Skipped>,
    /// Tenants whose timelines could not be listed.
    unlisted: Vec<(TenantId, Failure)>,
}

/// A timeline, and how its backup went.
type Done = ((TenantId, TimelineId), Result<TimelineBackup, Failure>);

pub(crate) async fn run(session: &Session, arguments: &Backup) -> Result<Outcome, Failure> {
    let workdir = WorkDir::open(session.workdir(&arguments.workdir)?)?;
    let mut work = find_work(&workdir, &arguments.selection)?;
    let named = work.timelines.first().zip(arguments.ancestor.as_ref());
    let branches = WorkDirBranches::read(&workdir, &work.timelines, named);
    work.timelines = branches.ancestors_first(&work.timelines);
    let pack = session.pack_options()?;
    let mirror = match (arguments.mirror, arguments.force) {
        (false, _) => Mirror::Off,
        (true, false) => Mirror::Guarded,
        (true, true) => Mirror::Forced,
    };
    session.require_apart(&arguments.remote, workdir.root())?;
    let how = |id: &(TenantId, TimelineId)| {
        branches.refuse_circle(id).map(|()| BackupChoices {
            mirror,
            ancestor: arguments.ancestor.clone(),
            branches: branches.of((&id.0, &id.1)),
        })
    };
    if arguments.dry_run {
        return dry_run(session, arguments, &workdir, work, &how).await;
    }
    let Work { timelines, skipped, unlisted } = work;
    let (store, created) = session.open_or_create(&arguments.remote).await?;
    let sweep_failed = session.sweep_stale(&arguments.remote).await;
    let mut listings = read_listings(&store, &arguments.selection).await?;
    let alone = timelines.len() == 1 && unlisted.is_empty();
    let mut done: Vec<Done> = Vec::new();
    for id in timelines {
        let (tenant, timeline) = (&id.0, &id.1);
        let progress = Arc::new(Progress::default());
        let meter = session.meter("backing up", timeline, &progress);
        let options = BackupOptions { writer: session.writer_options(), pack, progress };
        let listing = listings.take(&id);
        let backup = match how(&id) {
            Ok(how) => backup_timeline(&store, &workdir, (tenant, timeline), listing, &how, options).await,
            Err(error) => Err(error.into()),
        };
        drop(meter);
        // While this timeline was written the others may have been, by somebody else.
        if !backup.as_ref().is_ok_and(|backup| backup.report.stored_bytes == 0) {
            listings = Listings::default();
        }
        match backup.map_err(Failure::from) {
            Err(failure) if alone || !concerns_one_timeline(&failure) => return Err(failure),
            backup => done.push((id, backup)),
        }
    }
    let mut outcome = report(session, created, skipped, &unlisted, done);
    outcome.warnings.extend(sweep_failed);
    Ok(outcome)
}

/// Says what a backup would do.
async fn dry_run(
    session: &Session,
    arguments: &Backup,
    workdir: &WorkDir,
    work: Work,
    how: &impl Fn(&(TenantId, TimelineId)) -> Result<BackupChoices, Error>,
) -> Result<Outcome, Failure> {
    let store = match session.open(&arguments.remote).await {
        Ok(store) => Some(store),
        Err(Failure::Engine(Error::NoStore { .. })) => None,
        Err(Failure::Remote(error)) if error.is_absent() => None,
        Err(failure) => return Err(failure),
    };
    let mut listings = match &store {
        Some(store) => read_listings(store, &arguments.selection).await?,
        None => Listings::default(),
    };
    let mut run = DryRun::of_backup(session, store.as_ref(), &work.skipped);
    for (tenant, failure) in &work.unlisted {
        run.add_unlisted(tenant, failure);
    }
    for id in &work.timelines {
        let listing = listings.take(id);
        run.backup(store.as_ref(), workdir, (&id.0, &id.1), listing, &how(id)?).await?;
    }
    Ok(run.finish())
}

/// The timelines of `workdir` that `selection` selects.
fn find_work(workdir: &WorkDir, selection: &Selection) -> Result<Work, Failure> {
    let mut work = Work { timelines: Vec::new(), skipped: Vec::new(), unlisted: Vec::new() };
    let tenants = match &selection.tenant {
        Some(tenant) => vec![tenant.clone()],
        None => {
            let mut listing = workdir.tenants()?;
            work.skipped.append(&mut listing.skipped);
            listing.ids
        }
    };
    for tenant in tenants {
        let timelines = match &selection.timeline {
            Some(timeline) => {
                // Seen before a store is created for it.
                workdir.entries(&tenant, timeline)?;
                vec![timeline.clone()]
            }
            None => match workdir.timelines(&tenant) {
                Ok(mut listing) => {
                    work.skipped.append(&mut listing.skipped);
                    listing.ids
                }
                // One that is detached meanwhile, or may not be read, is no reason to leave the others without a backup.
                Err(error) => {
                    work.unlisted.push((tenant, error.into()));
                    continue;
                }
            },
        };
        work.timelines.extend(timelines.into_iter().map(|timeline| (tenant.clone(), timeline)));
    }
    if work.timelines.is_empty() && !work.unlisted.is_empty() {
        // Said before a store is created for nothing.
        return Err(work.unlisted.swap_remove(0).1);
    }
    Ok(work)
}

/// What one list of the store says of the timelines to be backed up.
#[derive(Default)]
struct Listings {
    known: BTreeMap<(TenantId, TimelineId), Option<TimelineListing>>,
    /// Whether a timeline that is not known has no objects.
    complete: bool,
}

async fn read_listings(store: &Store, selection: &Selection) -> Result<Listings, Failure> {
    if selection.timeline.is_some() {
        return Ok(Listings::default());
    }
    let catalog = Catalog::read(store, selection.tenant.as_ref(), None).await?;
    let known = catalog.timelines.into_iter().map(|entry| ((entry.tenant, entry.timeline), entry.listing));
    Ok(Listings { known: known.collect(), complete: true })
}

impl Listings {
    fn take(&mut self, id: &(TenantId, TimelineId)) -> Option<TimelineListing> {
        match self.known.remove(id) {
            Some(listing) => listing,
            None if self.complete => Some(TimelineListing { whole: true, ..TimelineListing::default() }),
            None => None,
        }
    }
}

fn report(
    session: &Session,
    created: Created,
    skipped: Vec<Skipped>,
    unlisted: &[(TenantId, Failure)],
    done: Vec<Done>,
) -> Outcome {
    let mut json = BackupJson { store_created: created == Created::Yes, ..BackupJson::default() };
    let mut skipped = skipped;
    for ((tenant, timeline), backup) in &done {
        let id = (tenant, timeline);
        json.timelines.push(TimelineJson::new(id, backup));
        let Ok(TimelineBackup { report, skipped: left_out, .. }) = backup else { continue };
        json.total.add(report);
        json.metadata_held_back |= report.metadata_held_back;
        json.conflicts.extend(report.conflicts.iter().map(|conflict| conflict_json(id, conflict)));
        json.failed.extend(report.failed.iter().map(|failed| failed_json(id, failed)));
        skipped.extend(left_out.iter().cloned());
        json.removals_held_back += report.removals_held_back;
    }
    if let [timeline] = &*json.timelines {
        json.seq = timeline.seq;
        json.metadata_conflict = timeline.metadata_conflict.clone();
    }
    json.skipped = skipped
        .iter()
        .map(|skipped| SkippedJson { path: skipped.path.clone(), reason: skipped.reason.to_string() })
        .collect();
    json.skipped.extend(unlisted.iter().map(|(tenant, failure)| SkippedJson {
        path: format!("tenants/{tenant}"),
        reason: explain_failure(failure),
    }));
    let mut outcome = Outcome::new(&json, &session.cost());
    for (tenant, failure) in unlisted {
        outcome.problems.push(format!("tenant {tenant} was not backed up: {}", explain_failure(failure)));
        outcome.exit = outcome.exit.or_worse(failure.exit());
    }
    for skipped in skipped.iter().filter(|skipped| skipped.may_be_a_layer) {
        let remedy = skipped.reason.remedy().unwrap_or("move it away");
        outcome.problems.push(format!("could not back up {skipped}: {remedy}"));
        outcome.exit = outcome.exit.or_worse(Exit::Failed);
    }
    outcome.text = text(&json, session);
    for ((tenant, timeline), backup) in &done {
        match backup {
            Ok(backup) => outcome.add_backup((tenant, timeline), backup),
            Err(failure) => {
                outcome
                    .problems
                    .push(format!("{tenant}/{timeline} was not backed up: {}", explain_failure(failure)));
                outcome.exit = outcome.exit.or_worse(failure.exit());
            }
        }
    }
    let backups = done.iter().filter_map(|(_, backup)| backup.as_ref().ok());
    outcome.add_damage(backups.flat_map(|backup| &backup.report.damage));
    if done.is_empty() {
        outcome.warnings.push("the work directory holds no timelines: nothing was backed up".into());
    }
    outcome
}

impl Counts {
    fn add(&mut self, report: &BackupReport) {
        self.layers += report.layers;
        self.raw_bytes += report.raw_bytes;
        self.stored_bytes += report.stored_bytes;
        self.bundles += report.bundles;
        self.unchanged += report.unchanged;
        self.removed += report.removed;
    }
}

impl TimelineJson {
    fn new((tenant, timeline): (&TenantId, &TimelineId), backup: &Result<TimelineBackup, Failure>) -> Self {
        let mut json = Self {
            tenant: tenant.to_string(),
            timeline: timeline.to_string(),
            seq: None,
            counts: Counts::default(),
            metadata_held_back: false,
            metadata_conflict: None,
            removals_held_back: 0,
            kept_for_branches: Vec::new(),
            manifest_error: None,
            error: None,
        };
        match backup {
            Ok(TimelineBackup { report, .. }) => {
                json.seq = Some(report.seq.0);
                json.counts.add(report);
                json.metadata_held_back = report.metadata_held_back;
                json.metadata_conflict = report.metadata_conflict.as_ref().map(MetadataConflictJson::new);
                json.removals_held_back = report.removals_held_back;
                json.kept_for_branches = report.kept.iter().map(KeptJson::from).collect();
                json.manifest_error = report.manifest_error.as_deref().map(explain);
            }
            Err(failure) => json.error = Some(explain_failure(failure)),
        }
        json
    }
}

impl MetadataConflictJson {
    fn new(conflict: &MetadataConflict) -> Self {
        let MetadataConflict { local, stored } = conflict;
        Self { local: local.to_string(), stored: stored.to_string() }
    }
}

impl Outcome {
    fn add_backup(&mut self, (tenant, timeline): (&TenantId, &TimelineId), backup: &TimelineBackup) {
        let TimelineBackup { report, skipped: _, warnings } = backup;
        if let Some(error) = &report.manifest_error {
            self.warnings
                .push(format!("no manifest was written, the next backup tries again: {}", explain(error)));
        }
        if report.metadata_held_back {
            self.problems.push(format!(
                "{tenant}/{timeline}: the metadata was held back, because layers that it may need are missing, or it \
                 cannot be read although the store's can"
            ));
            self.exit = self.exit.or_worse(Exit::Failed);
        }
        if report.removals_held_back > 0 {
            let layers = counted(report.removals_held_back, "layer");
            self.warnings.push(format!(
                "{layers} that the work directory does not have stayed in the store: what replaces them may be missing"
            ));
        }
        if let Some(first) = report.kept.first() {
            let layers = counted(report.kept.len(), "layer");
            self.warnings.push(format!(
                "{layers} of {tenant}/{timeline} that the work directory does not have stayed in the store, such as \
                 {}: branches need them ({}), and no layers that are there hold the same",
                first.name, first.branch.timeline
            ));
        }
        if let Some(MetadataConflict { local, stored }) = &report.metadata_conflict {
            self.problems.push(format!(
                "{tenant}/{timeline}: the store's metadata is at LSN {stored}, the work directory's at the older \
                 {local}: this is an older state of the timeline; nothing was turned back"
            ));
            self.exit = self.exit.or_worse(Exit::Failed);
        }
        // A whole directory of unknown names is one oddity, not thousands.
        self.warnings.extend(warnings.iter().take(5).cloned());
        if warnings.len() > 5 {
            self.warnings.push(format!("and {} more files are stored as opaque bytes", warnings.len() - 5));
        }
        self.add_layer_problems("back up", &report.conflicts, &report.failed);
    }
}

fn text(json: &BackupJson, session: &Session) -> String {
    let mut text = String::new();
    if json.store_created {
        text.push_str("created a new store\n");
    }
    for timeline in json.timelines.iter().filter(|timeline| timeline.error.is_none()) {
        let TimelineJson { tenant, timeline, seq, counts, .. } = timeline;
        let Counts { layers, raw_bytes, stored_bytes, bundles, unchanged, removed } = counts;
        let (layers, raw) = (counted(*layers, "layer"), human_bytes(*raw_bytes));
        // Writing to a String does not fail.
        let _ = write!(text, "{tenant}/{timeline}: {layers}, {raw} raw");
        if *stored_bytes > 0 {
            let (stored, bundles) = (human_bytes(*stored_bytes), counted(*bundles, "bundle"));
            let _ = write!(text, ", {stored} stored in {bundles}");
        }
        let seq = seq.unwrap_or_default();
        let _ = writeln!(text, "; {unchanged} unchanged, {removed} removed; record {seq}");
    }
    if !json.skipped.is_empty() {
        let lines: Vec<String> =
            json.skipped.iter().map(|skipped| format!("{} ({})", skipped.path, skipped.reason)).collect();
        let _ = writeln!(text, "skipped {}: {}", lines.len(), printable(&names_line(&lines)));
    }
    text.push_str(&session.cost_line());
    text
}
