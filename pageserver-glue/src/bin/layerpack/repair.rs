//! What `verify` does with a work directory: compares it with the store, and repairs the store from it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use layer_archive::{LayerName, TenantId, TimelineId};
use pageserver_glue::{WorkDir, WorkDirError};
use serde::Serialize;
use sync_engine::{
    BackupOptions, Progress, RepairOptions, RepairReport, Store, TimelineView, VerifyDepth, hash_existing,
    repair_timeline,
};

use crate::args::Verify;
use crate::exit::{Exit, Failure};
use crate::layers::{FailedJson, failed_json};
use crate::output::{Outcome, counted, failed_lines, names_line};
use crate::session::Session;

/// How the work directory's layers compare with the store's, by their contents.
#[derive(Debug, Default, Serialize)]
pub(crate) struct WorkdirJson {
    equal: usize,
    /// Other contents than the store says; one of the two is damaged.
    different: Vec<String>,
    unreadable: Vec<String>,
    not_in_store: Vec<String>,
    not_in_workdir: Vec<String>,
}

/// What a repair has done.
#[derive(Debug, Serialize)]
pub(crate) struct RepairJson {
    wrote: bool,
    /// Older manifests that were made again, by the number of their record.
    manifests: Vec<u64>,
    seq: u64,
    mended: Vec<String>,
    lost: Vec<FailedJson>,
    missing_records: Vec<u64>,
    dropped: Vec<String>,
    /// Ancestors that were told of their branch again.
    told: Vec<String>,
}

/// The regular files of a timeline's directory, where there is one.
pub(crate) fn local_files(
    workdir: Option<&WorkDir>,
    tenant: &TenantId,
    timeline: &TimelineId,
) -> Result<BTreeMap<LayerName, PathBuf>, Failure> {
    let Some(workdir) = workdir else { return Ok(BTreeMap::new()) };
    match workdir.entries(tenant, timeline) {
        Ok(entries) => Ok(entries.files),
        // What is not there has nothing in it.
        Err(WorkDirError::NotADirectory(_)) => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

/// Compares the files of a timeline's directory with the layers of the store.
pub(crate) async fn compare(view: &TimelineView, files: &BTreeMap<LayerName, PathBuf>) -> WorkdirJson {
    let state = &view.state;
    let mut json = WorkdirJson::default();
    let digests = hash_existing(state, files, &Arc::new(Progress::default())).await;
    for (name, layer) in state.layers() {
        match digests.get(name) {
            None => json.not_in_workdir.push(name.to_string()),
            Some(Ok(local)) if *local == layer.raw => json.equal += 1,
            Some(Ok(_)) => json.different.push(name.to_string()),
            Some(Err(_)) => json.unreadable.push(name.to_string()),
        }
    }
    let metadata = state.metadata().map(|metadata| &metadata.file_name);
    let unknown = files.keys().filter(|name| !state.layers().contains_key(name) && Some(*name) != metadata);
    json.not_in_store = unknown.map(LayerName::to_string).collect();
    json
}

impl WorkdirJson {
    pub(crate) fn report(&self, id: (&TenantId, &TimelineId), outcome: &mut Outcome) {
        let (tenant, timeline) = id;
        let lists = [
            (&self.different, "have other contents than the store: one of the two is damaged"),
            (&self.unreadable, "of the work directory cannot be read"),
        ];
        for (names, what) in lists.into_iter().filter(|(names, _)| !names.is_empty()) {
            let layers = counted(names.len(), "layer");
            outcome.problems.push(format!("{tenant}/{timeline}: {layers} {what} ({})", names_line(names)));
            outcome.exit = outcome.exit.or_worse(Exit::Damaged);
        }
    }

    pub(crate) fn line(&self) -> String {
        let Self { equal, different, unreadable: _, not_in_store, not_in_workdir } = self;
        let (here, there) = (not_in_store.len(), not_in_workdir.len());
        format!(
            "  work directory: {equal} equal, {} different, {here} only here, {there} only in the store\n",
            different.len()
        )
    }
}

/// Repairs a timeline, from what still reads and the files of its directory.
pub(crate) async fn repair(
    session: &Session,
    arguments: &Verify,
    store: &Store,
    id: (&TenantId, &TimelineId),
    depth: VerifyDepth,
    workdir: Option<&WorkDir>,
) -> Result<RepairReport, Failure> {
    let files = local_files(workdir, id.0, id.1)?;
    let progress = Arc::new(Progress::default());
    let options = RepairOptions {
        backup: BackupOptions { writer: session.writer_options(), pack: session.pack_options()?, progress },
        take_over: arguments.take_over.into(),
        depth,
        scratch: workdir.map_or_else(|| std::env::temp_dir().join("layerpack"), WorkDir::own_dir),
    };
    Ok(repair_timeline(store, id, &files, &options).await?)
}

/// Says what a repair has done.
pub(crate) fn report(
    id: (&TenantId, &TimelineId),
    report: &RepairReport,
    outcome: &mut Outcome,
) -> RepairJson {
    let (tenant, timeline) = id;
    outcome.problems.extend(failed_lines("repair", &report.lost));
    if !report.missing.is_empty() {
        let numbers: Vec<String> = report.missing.iter().map(ToString::to_string).collect();
        outcome.problems.push(format!(
            "the log of {tenant}/{timeline} has lost {} ({}): what they added is missing, what they removed may be \
             there again; run `layerpack backup` from the work directory, or restore an older point",
            counted(numbers.len(), "record"),
            names_line(&numbers)
        ));
    }
    if !report.is_whole() {
        outcome.exit = outcome.exit.or_worse(Exit::Damaged);
    }
    RepairJson {
        wrote: report.wrote,
        manifests: report.manifests.iter().map(|seq| seq.0).collect(),
        seq: report.seq.0,
        mended: report.mended.iter().map(LayerName::to_string).collect(),
        lost: report.lost.iter().map(|lost| failed_json(id, lost)).collect(),
        missing_records: report.missing.iter().map(|seq| seq.0).collect(),
        dropped: report.dropped.iter().map(LayerName::to_string).collect(),
        told: report.told.iter().map(TimelineId::to_string).collect(),
    }
}

impl RepairJson {
    pub(crate) fn line(&self) -> String {
        let told = self.told.iter().map(|ancestor| format!("  repair: {ancestor} knows its branch again\n"));
        let made =
            self.manifests.iter().map(|seq| format!("  repair: the manifest of record {seq} made again\n"));
        let mut lines: String = told.chain(made).collect();
        if self.wrote {
            let (mended, lost) = (counted(self.mended.len(), "layer"), self.lost.len());
            lines += &format!("  repair: {mended} stored anew, {lost} lost; as of record {}\n", self.seq);
        } else if lines.is_empty() {
            lines.push_str("  repair: nothing to write\n");
        }
        lines
    }
}
