//! Whole work directories, backed up to a store and restored from it, and compared.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId, WriterInfo};
use pageserver_glue::{BackupChoices, WorkDir, backup_timeline, restore_timeline};
use storage_api::SystemClock;
use sync_engine::{
    BackupOptions, BackupReport, Catalog, Mirror, PackOptions, RestoreReport, Store, TimelineView,
    WriterOptions,
};

/// A tenant and a timeline of it.
pub(crate) type TimelinePath = (TenantId, TimelineId);

/// Backs every timeline of `workdir` up, and requires that nothing is left out.
pub(crate) async fn backup(store: &Store, workdir: &Path, mirror: Mirror) -> Vec<BackupReport> {
    backup_packed(store, workdir, mirror, PackOptions::default()).await
}

/// The same, with bundles as `pack` says.
pub(crate) async fn backup_packed(
    store: &Store,
    workdir: &Path,
    mirror: Mirror,
    pack: PackOptions,
) -> Vec<BackupReport> {
    let workdir = WorkDir::open(workdir).unwrap();
    let mut reports = Vec::new();
    let how = BackupChoices { mirror, ..BackupChoices::default() };
    for (tenant, timeline) in timelines(&workdir) {
        let writer = WriterInfo { host: "host".into(), pid: std::process::id(), program: "tests".into() };
        let writer = WriterOptions { writer, generation: None, clock: Arc::new(SystemClock) };
        let options = BackupOptions { writer, pack, progress: Arc::default() };
        let ids = (&tenant, &timeline);
        let backup = backup_timeline(store, &workdir, ids, None, &how, options).await.unwrap();
        let report = backup.report;
        assert!(report.failed.is_empty() && report.conflicts.is_empty(), "{report:?}");
        assert!(!report.metadata_held_back && report.manifest_error.is_none(), "{report:?}");
        reports.push(report);
    }
    reports
}

/// Restores every timeline of the store into `workdir`, and requires that it is complete.
pub(crate) async fn restore(store: &Store, workdir: &Path) -> Vec<RestoreReport> {
    let workdir = WorkDir::create(workdir).unwrap();
    let mut reports = Vec::new();
    for entry in Catalog::read(store, None, None).await.unwrap().timelines {
        let view =
            TimelineView::open_existing(store, &entry.tenant, &entry.timeline, entry.listing).await.unwrap();
        let restored = restore_timeline(store, &workdir, &view, &Arc::default()).await.unwrap();
        assert!(restored.report.is_complete(), "{:?}", restored.report);
        reports.push(restored.report);
    }
    reports
}

/// The timelines of a work directory.
pub(crate) fn timelines(workdir: &WorkDir) -> Vec<TimelinePath> {
    let tenants = workdir.tenants().unwrap().ids.into_iter();
    let of = |tenant: TenantId| {
        let timelines = workdir.timelines(&tenant).unwrap().ids;
        timelines.into_iter().map(move |timeline| (tenant.clone(), timeline))
    };
    tenants.flat_map(of).collect()
}

/// What a backup must hold of a work directory: the layers and metadata of every timeline, by their paths.
pub(crate) fn layer_files(workdir: &Path) -> BTreeMap<String, Vec<u8>> {
    let workdir = WorkDir::open(workdir).unwrap();
    let mut found = BTreeMap::new();
    for (tenant, timeline) in timelines(&workdir) {
        let scan = workdir.scan(&tenant, &timeline).unwrap();
        let name = |file: &str| format!("tenants/{tenant}/timelines/{timeline}/{file}");
        found.extend(scan.metadata.map(|file| (name(file.name.as_str()), file.bytes)));
        let read =
            |layer: pageserver_glue::LocalLayer| (name(layer.name.as_str()), fs::read(layer.path).unwrap());
        found.extend(scan.layers.into_iter().map(read));
    }
    found
}

/// Checks that two trees hold the same, without printing contents.
#[track_caller]
pub(crate) fn assert_same(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in expected {
        match found.get(name) {
            Some(there) => assert!(there == bytes, "{name} differs"),
            None => panic!("{name} is missing"),
        }
    }
    let more: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
    assert!(more.is_empty(), "not expected: {more:?}");
}
