//! What the integration tests share: a store in a directory whose requests are counted, and whole work directories
//! backed up to it and restored from it. Every call opens the store anew, as a process of its own would.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use layer_archive::{TenantId, TimelineId, WriterInfo};
use pageserver_glue::{WorkDir, backup_timeline, restore_timeline};
use storage_api::{Metered, Metrics, RequestCounts, SystemClock};
use storage_localfs::LocalStore;
use sync_engine::{
    BackupOptions, BackupReport, Catalog, Mirror, PackOptions, RestoreReport, Store, TimelineView,
    WriterOptions,
};
use tempfile::TempDir;

/// A tenant and a timeline of it.
pub type TimelinePath = (TenantId, TimelineId);

/// A store in a scratch directory.
#[derive(Debug)]
pub struct Bench {
    dir: TempDir,
}

/// An opened store and the count of its requests since it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    metrics: Arc<Metrics>,
}

impl Opened {
    /// Requests and bytes so far.
    pub fn counts(&self) -> RequestCounts {
        self.metrics.snapshot()
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
}

impl Bench {
    /// Opens the store, and creates it the first time.
    pub async fn open(&self) -> Opened {
        let objects = Metered::new(Arc::new(LocalStore::create(self.dir.path()).unwrap()));
        let metrics = Arc::clone(objects.metrics());
        let (store, _) = Store::open_or_create(Arc::new(objects), "scratch").await.unwrap();
        Opened { store, metrics }
    }

    /// Backs every timeline of `workdir` up, and requires that nothing is left out.
    pub async fn backup(&self, workdir: &Path, mirror: Mirror) -> (Vec<BackupReport>, RequestCounts) {
        let opened = self.open().await;
        let workdir = WorkDir::open(workdir).unwrap();
        let mut reports = Vec::new();
        for (tenant, timeline) in timelines(&workdir) {
            let writer = WriterInfo { host: "host".into(), pid: std::process::id(), program: "tests".into() };
            let writer = WriterOptions { writer, generation: None, clock: Arc::new(SystemClock) };
            let options = BackupOptions { writer, pack: PackOptions::default(), progress: Arc::default() };
            let ids = (&tenant, &timeline);
            let backup = backup_timeline(&opened.store, &workdir, ids, None, mirror, options).await.unwrap();
            let report = backup.report;
            assert!(report.failed.is_empty() && report.conflicts.is_empty(), "{report:?}");
            assert!(!report.metadata_held_back && report.manifest_error.is_none(), "{report:?}");
            reports.push(report);
        }
        (reports, opened.counts())
    }

    /// Restores every timeline of the store into `workdir`, and requires that it is complete.
    pub async fn restore(&self, workdir: &Path) -> (Vec<RestoreReport>, RequestCounts) {
        let opened = self.open().await;
        let workdir = WorkDir::create(workdir).unwrap();
        let mut reports = Vec::new();
        for entry in Catalog::read(&opened.store, None, None).await.unwrap().timelines {
            let view =
                TimelineView::open_existing(&opened.store, &entry.tenant, &entry.timeline, entry.listing)
                    .await
                    .unwrap();
            let restored = restore_timeline(&opened.store, &workdir, &view, &Arc::default()).await.unwrap();
            assert!(restored.report.is_complete(), "{:?}", restored.report);
            reports.push(restored.report);
        }
        (reports, opened.counts())
    }

    /// The objects of the store: their lengths by key.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        files(self.dir.path()).into_iter().map(|(key, bytes)| (key, bytes.len() as u64)).collect()
    }
}

/// The timelines of a work directory.
pub fn timelines(workdir: &WorkDir) -> Vec<TimelinePath> {
    let tenants = workdir.tenants().unwrap().ids.into_iter();
    let of = |tenant: TenantId| {
        let timelines = workdir.timelines(&tenant).unwrap().ids;
        timelines.into_iter().map(move |timeline| (tenant.clone(), timeline))
    };
    tenants.flat_map(of).collect()
}

/// What a backup must hold of a work directory: the layers and metadata of every timeline, by their paths.
pub fn layer_files(workdir: &Path) -> BTreeMap<String, Vec<u8>> {
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

/// Every regular file below `dir`, by its path from there.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// Checks that two trees hold the same, without printing contents.
#[track_caller]
pub fn assert_same(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in expected {
        match found.get(name) {
            Some(there) => assert!(there == bytes, "{name} differs"),
            None => panic!("{name} is missing"),
        }
    }
    let more: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
    assert!(more.is_empty(), "not expected: {more:?}");
}
