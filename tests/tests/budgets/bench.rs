//! A store in a directory whose requests are counted. Every call opens the store anew, as a process of its own would.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use storage_api::{Metered, Metrics, RequestCounts};
use storage_localfs::LocalStore;
use sync_engine::{BackupReport, Mirror, RestoreReport, Store};
use tempfile::TempDir;

use crate::support;

/// A store in a scratch directory.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: TempDir,
}

/// An opened store and the count of its requests since it was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The store.
    pub(crate) store: Store,
    metrics: Arc<Metrics>,
}

impl Opened {
    /// Requests and bytes so far.
    pub(crate) fn counts(&self) -> RequestCounts {
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
    pub(crate) async fn open(&self) -> Opened {
        let objects = Metered::new(Arc::new(LocalStore::create(self.dir.path()).unwrap()));
        let metrics = Arc::clone(objects.metrics());
        let (store, _) = Store::open_or_create(Arc::new(objects), "scratch").await.unwrap();
        Opened { store, metrics }
    }

    /// Backs every timeline of `workdir` up, and requires that nothing is left out.
    pub(crate) async fn backup(&self, workdir: &Path, mirror: Mirror) -> (Vec<BackupReport>, RequestCounts) {
        let opened = self.open().await;
        let reports = support::backup(&opened.store, workdir, mirror).await;
        (reports, opened.counts())
    }

    /// Restores every timeline of the store into `workdir`, and requires that it is complete.
    pub(crate) async fn restore(&self, workdir: &Path) -> (Vec<RestoreReport>, RequestCounts) {
        let opened = self.open().await;
        let reports = support::restore(&opened.store, workdir).await;
        (reports, opened.counts())
    }

    /// The objects of the store: their lengths by key.
    pub(crate) fn objects(&self) -> BTreeMap<String, u64> {
        files(self.dir.path()).into_iter().map(|(key, bytes)| (key, bytes.len() as u64)).collect()
    }
}

/// Every regular file below `dir`, by its path from there.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
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
