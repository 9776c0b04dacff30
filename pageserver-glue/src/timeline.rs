//! Backup and restore of one timeline of a work directory: what is on the disk, said in the engine's words.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use layer_archive::{
    Ancestor, BranchPoint, LayerName, Level, RawDigest, TenantId, TimelineId, TimelineMetadata,
};
use sync_engine::{
    At, BackupOptions, BackupPlan, BackupReport, Finding, LocalTimeline, Mirror, Progress, RestorePlan,
    RestoreReport, Store, TimelineListing, TimelineState, TimelineView, execute_backup, execute_restore,
    hash_existing, plan_backup, plan_restore, without_deleted,
};

use crate::branches::compacted;
use crate::{DirEntries, LayerKind, ParsedLayerName, Skipped, TimelineScan, WorkDir, WorkDirError};

#[cfg(test)]
mod tests;

/// Why a timeline could not be backed up or restored at all.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The work directory.
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    /// The store, or a file.
    #[error(transparent)]
    Engine(#[from] sync_engine::Error),
}

/// What a backup of a timeline has done.
#[derive(Clone, Debug)]
pub struct TimelineBackup {
    /// What the engine did.
    pub report: BackupReport,
    /// What in the timeline's directory was left out.
    pub skipped: Vec<Skipped>,
    /// What was backed up although it is not understood, a sentence each.
    pub warnings: Vec<String>,
}

/// What a restore of a timeline has done.
#[derive(Clone, Debug)]
pub struct TimelineRestore {
    /// The record that the timeline was restored as of.
    pub seq: layer_archive::Seq,
    /// What the engine did.
    pub report: RestoreReport,
    /// Files in the directory that are not in the timeline. They were left alone.
    pub extra: Vec<String>,
    /// Damage in the store that did not keep the timeline from being read.
    pub damage: Vec<Finding>,
}

/// The layers and the metadata of a scan, as the engine takes them. What the names and the metadata say goes along.
pub fn local_timeline(scan: TimelineScan) -> LocalTimeline {
    let parsed = scan.metadata.as_ref().and_then(|file| file.parsed.clone().ok());
    let layers = scan
        .layers
        .into_iter()
        .map(|layer| layer_as_named(layer.name, layer.path, layer.size, layer.parsed.ok()));
    LocalTimeline {
        is_partial: scan.skipped.iter().any(|skipped| skipped.may_be_a_layer),
        present: scan.present,
        layers: layers.collect(),
        metadata: scan.metadata.map(|file| TimelineMetadata { file_name: file.name, bytes: file.bytes }),
        disk_consistent_lsn: parsed.as_ref().map(|metadata| metadata.disk_consistent_lsn),
        ancestor: parsed
            .and_then(|metadata| metadata.ancestor)
            .map(|(timeline, lsn)| Ancestor { timeline, lsn }),
        ..LocalTimeline::default()
    }
}

/// What a backup of a timeline is about to do.
#[derive(Clone, Debug)]
pub struct TimelinePlan {
    /// What the engine would do.
    pub plan: BackupPlan,
    /// What in the timeline's directory is left out.
    pub skipped: Vec<Skipped>,
    /// What is backed up although it is not understood, a sentence each.
    pub warnings: Vec<String>,
}

/// A layer as the engine takes it, with what its name says.
pub(crate) fn layer_as_named(
    name: LayerName,
    path: PathBuf,
    raw_size: u64,
    parsed: Option<ParsedLayerName>,
) -> sync_engine::LocalLayer {
    let level = match parsed.map(|name| name.kind()) {
        Some(LayerKind::Delta) => Level::DELTA,
        Some(LayerKind::Image) | None => Level::IMAGE,
    };
    let lsn_range = parsed.map(|name| name.lsn_range());
    sync_engine::LocalLayer { name, path, raw_size, lsn_range, level }
}

/// Backs a timeline of `workdir` up: what the store does not have of it. `listing` is what is already known of its
/// objects; `ancestor` is where it was branched off, where no metadata file says so.
pub async fn backup_timeline(
    store: &Store,
    workdir: &WorkDir,
    (tenant, timeline): (&TenantId, &TimelineId),
    listing: Option<TimelineListing>,
    how: &BackupChoices,
    options: BackupOptions,
) -> Result<TimelineBackup, TimelineError> {
    let view = TimelineView::open(store, tenant, timeline, listing).await?;
    let how = how.without_deleted_branches(store, &view.state).await?;
    let TimelinePlan { plan, skipped, warnings } =
        plan_timeline_backup(workdir, &view.state, &how, &options.progress).await?;
    let report = execute_backup(store, view, plan, options).await?;
    Ok(TimelineBackup { report, skipped, warnings })
}

/// What a caller chooses of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupChoices {
    /// What becomes of layers that are gone from the work directory.
    pub mirror: Mirror,
    /// Where the timeline was branched off, where no metadata file says so.
    pub ancestor: Option<Ancestor>,
    /// The branches of the timeline that are in the work directory too: the timeline is told of them together with its
    /// layers.
    pub branches: Vec<BranchPoint>,
}

impl BackupChoices {
    /// The same without branches that are deleted in the store, whose directories are still there. The ancestor, whose
    /// state is `state`, is not told of them again.
    pub async fn without_deleted_branches(
        &self,
        store: &Store,
        state: &TimelineState,
    ) -> Result<Self, TimelineError> {
        let branches = without_deleted(store, state, &self.branches).await?;
        Ok(Self { branches, ..self.clone() })
    }
}

/// Plans the backup of a timeline of `workdir` as [`backup_timeline`] would do it, and writes nothing.
pub async fn plan_timeline_backup(
    workdir: &WorkDir,
    state: &TimelineState,
    how: &BackupChoices,
    progress: &Arc<Progress>,
) -> Result<TimelinePlan, TimelineError> {
    workdir.require_newest(state.tenant(), state.timeline())?;
    let scan = workdir.scan(state.tenant(), state.timeline())?;
    let warnings = scan.warnings().collect();
    let skipped = scan.skipped.clone();
    let mut local = local_timeline(scan);
    local.ancestor = local.ancestor.or_else(|| how.ancestor.clone());
    local.branches.clone_from(&how.branches);
    if how.mirror != Mirror::Off {
        local.compacted = compacted(state, &local);
    }
    let plan = plan_backup(state, local, how.mirror, progress).await?;
    Ok(TimelinePlan { plan, skipped, warnings })
}

/// Whether a branch's ancestors are where it is restored to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// They are, or it has none.
    #[default]
    Whole,
    /// Something of them is missing: the branch's metadata, which needs it, is held back.
    Missing,
}

/// How often a restore follows a timeline whose objects gc deletes while it is restored.
const STATES_FOLLOWED_MAX: usize = 4;

/// Restores the timeline that `view` shows into `workdir`, whose directories are made where they are missing.
///
/// Nothing that is there is overwritten: equal files are kept, others are conflicts. Where the timeline moves on and gc
/// deletes what is to be read, the timeline is restored as it is by then.
pub async fn restore_timeline(
    store: &Store,
    workdir: &WorkDir,
    view: &TimelineView,
    progress: &Arc<Progress>,
) -> Result<TimelineRestore, TimelineError> {
    restore_branch(store, workdir, view, Past::Whole, progress).await
}

/// [`restore_timeline`] of a branch, whose ancestors were restored before it.
pub async fn restore_branch(
    store: &Store,
    workdir: &WorkDir,
    view: &TimelineView,
    past: Past,
    progress: &Arc<Progress>,
) -> Result<TimelineRestore, TimelineError> {
    workdir.enter_newest(view.state.tenant(), view.state.timeline())?;
    let mut restored = restore_view(store, workdir, view, past, progress).await?;
    for _ in 1..STATES_FOLLOWED_MAX {
        if !restored.report.found_objects_gone() {
            break;
        }
        let (tenant, timeline) = (view.state.tenant(), view.state.timeline());
        let newer = TimelineView::open_existing(store, tenant, timeline, None).await?;
        if newer.state.seq() == restored.seq {
            break;
        }
        // Of what was written just now, what the timeline has let go of since goes again.
        let dir = workdir.create_timeline_dir(tenant, timeline)?;
        let mut earlier = restored.report;
        for name in std::mem::take(&mut earlier.written) {
            match newer.state.layers().contains_key(&name) {
                true => drop(earlier.written.insert(name)),
                false => {
                    dir.remove(&name)?;
                    earlier.layers -= 1;
                }
            }
        }
        restored = restore_view(store, workdir, &newer, past, progress).await?;
        restored.report.join_earlier(&earlier);
    }
    Ok(restored)
}

/// Restores the older state that `view` shows into an empty directory of `workdir`, which is marked first: a backup
/// refuses it.
///
/// Where gc has given the point up meanwhile, that is the error.
pub async fn restore_past(
    store: &Store,
    workdir: &WorkDir,
    view: &TimelineView,
    past: Past,
    progress: &Arc<Progress>,
) -> Result<TimelineRestore, TimelineError> {
    let state = &view.state;
    let id = (state.tenant(), state.timeline());
    workdir.enter_past(store, id, state.seq())?;
    let restored = restore_view(store, workdir, view, past, progress).await?;
    if restored.report.found_objects_gone() {
        TimelineView::open_at(store, id, At::Seq(state.seq()), None).await?;
    }
    Ok(restored)
}

async fn restore_view(
    store: &Store,
    workdir: &WorkDir,
    view: &TimelineView,
    past: Past,
    progress: &Arc<Progress>,
) -> Result<TimelineRestore, TimelineError> {
    let state = &view.state;
    let dir = workdir.create_timeline_dir(state.tenant(), state.timeline())?;
    let (existing, extra) = existing_files(workdir, view, progress).await?;
    let mut plan = plan_restore(state, existing);
    plan.is_partial = past == Past::Missing;
    let report = execute_restore(store, &view.keys, state, plan, &dir, progress).await?;
    Ok(TimelineRestore { seq: state.seq(), report, extra, damage: view.damage.clone() })
}

/// What the directory of a timeline has under the names of layers, by their contents; and what is there besides.
async fn existing_files(
    workdir: &WorkDir,
    view: &TimelineView,
    progress: &Arc<Progress>,
) -> Result<(BTreeMap<LayerName, sync_engine::Result<RawDigest>>, Vec<String>), TimelineError> {
    let state = &view.state;
    let there = match workdir.entries(state.tenant(), state.timeline()) {
        Err(WorkDirError::NotADirectory(path)) if !path.try_exists().unwrap_or(true) => DirEntries::default(),
        entries => entries?,
    };
    if let Some(metadata) = state.metadata()
        && let Some(path) = there.others.get(&metadata.file_name)
    {
        return Err(in_the_way(path.clone()).into());
    }
    let mut existing = hash_existing(state, &there.files, progress).await;
    // What is no file is not opened: it may lead out of the directory, or never end.
    let others = there.others.iter().filter(|(name, _)| state.layers().contains_key(*name));
    existing.extend(others.map(|(name, path)| (name.clone(), Err(in_the_way(path.clone())))));
    Ok((existing, extra_files(view, &there)))
}

/// Plans the restore of a timeline as [`restore_timeline`] would do it, and changes nothing.
pub async fn plan_timeline_restore(
    workdir: &WorkDir,
    view: &TimelineView,
    progress: &Arc<Progress>,
) -> Result<(RestorePlan, Vec<String>), TimelineError> {
    let (existing, extra) = existing_files(workdir, view, progress).await?;
    Ok((plan_restore(&view.state, existing), extra))
}

fn extra_files(view: &TimelineView, there: &DirEntries) -> Vec<String> {
    let metadata = view.state.metadata().map(|metadata| &metadata.file_name);
    let known = |name: &LayerName| view.state.layers().contains_key(name) || Some(name) == metadata;
    let names: BTreeMap<&LayerName, &PathBuf> = there.files.iter().chain(&there.others).collect();
    names.into_keys().filter(|name| !known(name)).map(ToString::to_string).collect()
}

fn in_the_way(path: PathBuf) -> sync_engine::Error {
    let why = "something that is not a regular file has this name: move it away";
    let source = io::Error::new(io::ErrorKind::AlreadyExists, why);
    sync_engine::Error::Local { doing: "restore", path, source }
}
