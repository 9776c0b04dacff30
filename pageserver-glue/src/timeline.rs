//! Backup and restore of one timeline of a work directory: what is on the disk, said in the engine's words.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use layer_archive::{Ancestor, LayerName, Level, TenantId, TimelineId, TimelineMetadata};
use sync_engine::{
    BackupOptions, BackupReport, Finding, LocalTimeline, Mirror, Progress, RestoreReport, Store,
    TimelineListing, TimelineView, execute_backup, execute_restore, hash_existing, plan_backup, plan_restore,
};

use crate::{DirEntries, LayerKind, Skipped, TimelineScan, WorkDir, WorkDirError};

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
    let layers = scan.layers.into_iter().map(|layer| {
        let parsed = layer.parsed.ok();
        let level = match parsed.map(|name| name.kind()) {
            Some(LayerKind::Delta) => Level::DELTA,
            Some(LayerKind::Image) | None => Level::IMAGE,
        };
        sync_engine::LocalLayer {
            name: layer.name,
            path: layer.path,
            raw_size: layer.size,
            lsn_range: parsed.map(|name| name.lsn_range()),
            level,
        }
    });
    LocalTimeline {
        is_partial: scan.skipped.iter().any(|skipped| skipped.may_be_a_layer),
        present: scan.present,
        layers: layers.collect(),
        metadata: scan.metadata.map(|file| TimelineMetadata { file_name: file.name, bytes: file.bytes }),
        disk_consistent_lsn: parsed.as_ref().map(|metadata| metadata.disk_consistent_lsn),
        ancestor: parsed
            .and_then(|metadata| metadata.ancestor)
            .map(|(timeline, lsn)| Ancestor { timeline, lsn }),
    }
}

/// Backs a timeline of `workdir` up: what the store does not have of it. `listing` is what is already known of its
/// objects.
pub async fn backup_timeline(
    store: &Store,
    workdir: &WorkDir,
    (tenant, timeline): (&TenantId, &TimelineId),
    listing: Option<TimelineListing>,
    mirror: Mirror,
    options: BackupOptions,
) -> Result<TimelineBackup, TimelineError> {
    let view = TimelineView::open(store, tenant, timeline, listing).await?;
    let scan = workdir.scan(tenant, timeline)?;
    let warnings = scan.warnings().collect();
    let skipped = scan.skipped.clone();
    let plan = plan_backup(&view.state, local_timeline(scan), mirror, &options.progress).await?;
    let report = execute_backup(store, view, plan, options).await?;
    Ok(TimelineBackup { report, skipped, warnings })
}

/// Restores the timeline that `view` shows into `workdir`, whose directories are made where they are missing.
///
/// Nothing that is there is overwritten: equal files are kept, others are conflicts.
pub async fn restore_timeline(
    store: &Store,
    workdir: &WorkDir,
    view: &TimelineView,
    progress: &Arc<Progress>,
) -> Result<TimelineRestore, TimelineError> {
    let state = &view.state;
    let dir = workdir.create_timeline_dir(state.tenant(), state.timeline())?;
    let there = workdir.entries(state.tenant(), state.timeline())?;
    if let Some(metadata) = state.metadata()
        && let Some(path) = there.others.get(&metadata.file_name)
    {
        return Err(in_the_way(path.clone()).into());
    }
    let mut existing = hash_existing(state, &there.files, progress).await;
    // What is no file is not opened: it may lead out of the directory, or never end.
    let others = there.others.iter().filter(|(name, _)| state.layers().contains_key(*name));
    existing.extend(others.map(|(name, path)| (name.clone(), Err(in_the_way(path.clone())))));
    let extra = extra_files(view, &there);
    let plan = plan_restore(state, existing);
    let report = execute_restore(store, &view.keys, state, plan, &dir, progress).await?;
    Ok(TimelineRestore { seq: state.seq(), report, extra, damage: view.damage.clone() })
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
