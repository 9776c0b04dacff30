//! Restore: what of a timeline is not in a directory yet, and putting it there.

mod plan;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use futures::{StreamExt, stream};
use layer_archive::{LayerName, RawDigest, TimelineMetadata};
use storage_api::Key;

use self::plan::RangeFetch;
use crate::backup::{Conflict, FailedLayer};
use crate::durable::{DurableDir, Published};
use crate::hash::hash_files;
use crate::layout::TimelineKeys;
use crate::object::{read_range, twice};
use crate::{Error, Progress, Result, Store, TimelineState};

pub use self::plan::{RestorePlan, plan_restore};
pub use self::write::Outcome as WriteOutcome;
pub(crate) use self::write::{cut_layer, stream_layer};

/// Ranges that are fetched and written at the same time; each is in memory once.
const RANGES_IN_FLIGHT: usize = 3;

/// What a restore has done.
#[derive(Clone, Debug, Default)]
pub struct RestoreReport {
    /// Layers written.
    pub layers: usize,
    /// Which they are.
    pub written: BTreeSet<LayerName>,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// Stored bytes fetched for them.
    pub stored_bytes: u64,
    /// Layers that were there already, with the right contents.
    pub present: usize,
    /// Files that were there with other contents. They were left alone.
    pub conflicts: Vec<Conflict>,
    /// Layers that could not be restored.
    pub failed: Vec<FailedLayer>,
    /// Whether the directory has the timeline's metadata now (or it has none).
    pub metadata: MetadataOutcome,
}

/// What became of the metadata file, which is written last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataOutcome {
    /// The timeline has none.
    #[default]
    None,
    /// It was written.
    Written,
    /// It was there already.
    Present,
    /// Another file was there, and was left alone.
    Conflict,
    /// It was held back, because layers are missing that it may need.
    HeldBack,
}

impl RestoreReport {
    /// Whether the directory is the timeline.
    pub fn is_complete(&self) -> bool {
        let metadata = matches!(
            self.metadata,
            MetadataOutcome::None | MetadataOutcome::Written | MetadataOutcome::Present
        );
        self.conflicts.is_empty() && self.failed.is_empty() && metadata
    }

    /// Whether objects were not there any more. They are lost, or gc has deleted them because the timeline has moved on:
    /// opening it again tells.
    pub fn found_objects_gone(&self) -> bool {
        self.failed.iter().any(|failed| failed.error.is_gone())
    }

    /// Takes in what an earlier restore into the same directory did, which was as of an older state: what it wrote and
    /// is still wanted was found there by this one.
    pub fn join_earlier(&mut self, earlier: &Self) {
        self.layers += earlier.layers;
        self.present = self.present.saturating_sub(earlier.layers);
        self.raw_bytes += earlier.raw_bytes;
        self.stored_bytes += earlier.stored_bytes;
        self.written.extend(earlier.written.iter().cloned());
    }
}

/// Compares the layers of `state` with files, by name; `existing` are the files of the directory.
///
/// What is there is verified by its contents, not trusted: it may be what a killed restore has left.
pub async fn hash_existing(
    state: &TimelineState,
    existing: &BTreeMap<LayerName, PathBuf>,
    progress: &Arc<Progress>,
) -> BTreeMap<LayerName, Result<RawDigest>> {
    let shared: Vec<(&LayerName, &PathBuf)> =
        existing.iter().filter(|(name, _)| state.layers().contains_key(*name)).collect();
    let digests =
        hash_files(shared.iter().map(|(_, path)| (*path).clone()).collect(), Arc::clone(progress)).await;
    shared.into_iter().map(|(name, _)| name.clone()).zip(digests).collect()
}

/// Does what a plan says: fetches ranges in parallel, verifies and writes their layers, and the metadata last.
///
/// A layer that fails does not keep the others from being restored. A full disk does: what would be fetched for it would
/// be paid for and thrown away.
pub async fn execute_restore(
    store: &Store,
    keys: &TimelineKeys,
    state: &TimelineState,
    plan: RestorePlan,
    dir: &DurableDir,
    progress: &Arc<Progress>,
) -> Result<RestoreReport> {
    dir.sweep()?;
    let mut report = RestoreReport {
        present: plan.present,
        conflicts: plan.conflicts,
        failed: plan.failed,
        ..RestoreReport::default()
    };
    progress.expect(plan.raw_bytes);
    let is_partial = plan.is_partial;
    let disk_full: OnceLock<Arc<Error>> = OnceLock::new();
    let fetches = plan.fetches.into_iter().map(|fetch| async {
        let layers = fetch.layers();
        if let Some(error) = disk_full.get() {
            return (layers, Err(Arc::clone(error)));
        }
        let fetched = fetch_range(store, keys, state, fetch, dir, progress).await.map_err(Arc::new);
        if let Some(error) = find_disk_full(&fetched) {
            disk_full.get_or_init(|| Arc::clone(error));
        }
        (layers, fetched)
    });
    let mut fetches = stream::iter(fetches).buffer_unordered(RANGES_IN_FLIGHT);
    while let Some((layers, fetched)) = fetches.next().await {
        match fetched {
            Ok(outcome) => report.add(state, outcome),
            Err(error) => {
                let failed = layers.into_iter().map(|name| FailedLayer { name, error: Arc::clone(&error) });
                report.failed.extend(failed);
            }
        }
    }
    drop(fetches);
    dir.sync()?;
    let is_whole = !is_partial && report.failed.is_empty() && report.conflicts.is_empty();
    report.metadata = match state.metadata() {
        None => MetadataOutcome::None,
        Some(_) if !is_whole => MetadataOutcome::HeldBack,
        Some(metadata) => restore_metadata(metadata, dir)?,
    };
    Ok(report)
}

/// The error of a disk that is full, if that is what a range met.
fn find_disk_full(fetched: &Result<write::Outcome, Arc<Error>>) -> Option<&Arc<Error>> {
    let is_full = |error: &&Arc<Error>| error.is_disk_full();
    match fetched {
        Ok(outcome) => outcome.failed.iter().map(|failed| &failed.error).find(is_full),
        Err(error) => Some(error).filter(is_full),
    }
}

async fn fetch_range(
    store: &Store,
    keys: &TimelineKeys,
    state: &TimelineState,
    fetch: RangeFetch,
    dir: &DurableDir,
    progress: &Arc<Progress>,
) -> Result<write::Outcome> {
    let key = keys.bundle(fetch.bundle)?;
    if let Some(entry) = fetch.only_layer().and_then(|name| state.layers().get(name)) {
        return twice(|| stream_layer(&**store.objects(), &key, entry, dir, progress)).await;
    }
    let again = fetch.clone();
    let mut outcome = write_range(store, &key, state, fetch, dir, progress).await?;
    if let Some(again) = again.of_layers(&outcome.take_corrupt()) {
        tracing::warn!(%key, range = ?again.range, "what came is corrupt: it is read once more");
        outcome.join(write_range(store, &key, state, again, dir, progress).await?);
    }
    Ok(outcome)
}

/// Fetches a range into memory and writes its layers.
async fn write_range(
    store: &Store,
    key: &Key,
    state: &TimelineState,
    fetch: RangeFetch,
    dir: &DurableDir,
    progress: &Arc<Progress>,
) -> Result<write::Outcome> {
    let stored = twice(|| read_range(&**store.objects(), key, fetch.range.clone())).await?;
    let key = key.clone();
    let (dir, progress) = (dir.clone(), Arc::clone(progress));
    let entries = fetch.entries(state);
    let written = tokio::task::spawn_blocking(move || {
        let range =
            write::RangeWriter { fetch: &fetch, stored: &stored, key: &key, dir: &dir, progress: &progress };
        range.write(&entries)
    });
    written.await.map_err(|error| Error::Task(error.to_string()))
}

impl RestoreReport {
    fn add(&mut self, state: &TimelineState, outcome: write::Outcome) {
        let write::Outcome { written, taken, failed, stored_bytes } = outcome;
        self.stored_bytes += stored_bytes;
        self.layers += written.len();
        self.failed.extend(failed);
        for name in written {
            self.raw_bytes += state.layers().get(&name).map_or(0, |layer| layer.raw.size);
            self.written.insert(name);
        }
        for (name, local) in taken {
            let Some(layer) = state.layers().get(&name) else { continue };
            if local == layer.raw {
                self.present += 1;
            } else {
                self.conflicts.push(Conflict { name, local, stored: layer.raw });
            }
        }
    }
}

fn restore_metadata(metadata: &TimelineMetadata, dir: &DurableDir) -> Result<MetadataOutcome> {
    let path = dir.path().join(metadata.file_name.as_str());
    let compare = || {
        let same = crate::hash::hash_file(&path)? == RawDigest::of(&metadata.bytes);
        Ok(if same { MetadataOutcome::Present } else { MetadataOutcome::Conflict })
    };
    // Looked at first: a directory that is complete need not be writable.
    match std::fs::symlink_metadata(&path) {
        Ok(_) => return compare(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::local("look up", &path, error)),
    }
    match dir.publish(metadata.file_name.as_str(), &metadata.bytes)? {
        Published::Yes => Ok(MetadataOutcome::Written),
        Published::NameTaken => compare(),
    }
}
