//! Deleting what a plan condemns.

use std::sync::Arc;

use storage_api::{Key, StorageError};

use super::{Doomed, GcPlan};
use crate::{Result, Store};

/// What was deleted.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Objects that are gone.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads in parts that were aborted.
    pub uploads: usize,
    /// What could not be deleted; the next run tries again.
    pub failed: Vec<Undeleted>,
}

impl Collected {
    /// Takes in what a second look has deleted, which has tried again what the first could not delete.
    pub(super) fn add(&mut self, more: Self) {
        let Self { objects, bytes, uploads, failed } = more;
        self.objects += objects;
        self.bytes += bytes;
        self.uploads += uploads;
        self.failed = failed;
    }
}

/// An object that could not be deleted.
#[derive(Clone, Debug)]
pub struct Undeleted {
    /// Its key.
    pub key: Key,
    /// Why.
    pub error: Arc<StorageError>,
}

/// Deletes what `plan` condemns, in bulk: the manifests, and when none of those is left the rest.
///
/// It can be broken off anywhere and done again: what is condemned stays so, whoever writes meanwhile.
pub async fn collect(store: &Store, plan: &GcPlan) -> Result<Collected> {
    let mut collected = Collected::default();
    delete(store, &plan.manifests, &mut collected).await?;
    // A manifest whose records are gone would be found damaged by whoever falls back on it.
    if collected.failed.is_empty() {
        delete(store, &plan.objects, &mut collected).await?;
    }
    for upload in &plan.uploads {
        match store.objects().multipart_abort(&upload.key, &upload.upload).await {
            Ok(()) => collected.uploads += 1,
            Err(error) => collected.failed.push(Undeleted { key: upload.key.clone(), error: error.into() }),
        }
    }
    Ok(collected)
}

async fn delete(store: &Store, doomed: &[Doomed], collected: &mut Collected) -> Result<()> {
    let objects = &**store.objects();
    for chunk in doomed.chunks(objects.capabilities().delete_keys_max.max(1)) {
        let keys: Vec<Key> = chunk.iter().map(|doomed| doomed.key.clone()).collect();
        for outcome in objects.delete(&keys).await? {
            match outcome.result {
                Ok(()) => {
                    let doomed = chunk.iter().find(|doomed| doomed.key == outcome.key);
                    collected.objects += 1;
                    collected.bytes += doomed.map_or(0, |doomed| doomed.stored_bytes);
                }
                Err(error) => collected.failed.push(Undeleted { key: outcome.key, error: error.into() }),
            }
        }
    }
    Ok(())
}
