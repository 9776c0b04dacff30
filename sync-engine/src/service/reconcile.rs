//! What is on the disk, compared with the store when a timeline is attached.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use layer_archive::{LayerEntry, LayerName};

use super::Change;
use crate::backup::plan_backup_with;
use crate::{
    Conflict, FailedLayer, HashCache, LocalLayer, LocalTimeline, MetadataConflict, Mirror, Progress, Result,
    TimelineState,
};

/// What the disk and the store have of a timeline.
#[derive(Clone, Debug, Default)]
pub struct Reconciliation {
    /// Layers that both have, with the same contents.
    pub unchanged: usize,
    /// Layers that the store does not have: they are uploaded.
    pub missing_remotely: Vec<LayerName>,
    /// Layers that only the store has: to be fetched, at once or when they are needed.
    pub remote_only: Vec<LayerEntry>,
    /// Layers that are not the same on both sides. Nothing is done to either; metadata and removals wait.
    pub conflicts: Vec<Conflict>,
    /// Layers that could not be read. They are tried again; metadata and removals wait.
    pub failed: Vec<FailedLayer>,
    /// Whether there is more on the disk that may be layers. The metadata of the disk is not uploaded then.
    pub is_partial: bool,
    /// The disk is older than the store. Nothing of it is uploaded.
    pub metadata_conflict: Option<MetadataConflict>,
}

/// Compares, and says what there is to upload.
pub(super) async fn reconcile(
    state: &TimelineState,
    mut local: LocalTimeline,
    hashes: Option<&Arc<HashCache>>,
) -> Result<(Reconciliation, Change)> {
    // What was evicted since the directory was listed is only in the store now, and nothing that has failed. What had
    // another length was another layer of that name: it is missing in the store.
    let is_stored = |layer: &LocalLayer| {
        state.layers().get(&layer.name).is_some_and(|stored| stored.raw.size == layer.raw_size)
    };
    local.layers.retain(|layer| !is_stored(layer) || !is_gone(&layer.path));
    let names: BTreeSet<LayerName> =
        local.layers.iter().map(|layer| &layer.name).chain(&local.present).cloned().collect();
    let layers = local.layers.clone();
    let plan = plan_backup_with(state, local, Mirror::Off, &Arc::new(Progress::default()), hashes).await?;
    let remote_only = state.layers().values().filter(|layer| !names.contains(&layer.name));
    let reconciliation = Reconciliation {
        unchanged: plan.unchanged,
        missing_remotely: plan.add.iter().map(|(layer, _)| layer.name.clone()).collect(),
        remote_only: remote_only.cloned().collect(),
        conflicts: plan.conflicts,
        failed: plan.failed,
        is_partial: plan.is_partial,
        metadata_conflict: plan.metadata_conflict,
    };
    // What is in conflict or does not read is handed over too: it is tried again, and what may need it waits.
    let open: BTreeSet<&LayerName> = reconciliation
        .missing_remotely
        .iter()
        .chain(reconciliation.conflicts.iter().map(|conflict| &conflict.name))
        .chain(reconciliation.failed.iter().map(|failed| &failed.name))
        .collect();
    let change = Change {
        layers: layers.into_iter().filter(|layer| open.contains(&layer.name)).collect(),
        removed: Vec::new(),
        metadata: plan
            .metadata
            .filter(|_| !plan.is_partial)
            .map(|metadata| (metadata, plan.disk_consistent_lsn)),
        ancestor: plan.ancestor,
    };
    Ok((reconciliation, change))
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

impl Change {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        let Self { layers, removed, metadata, ancestor } = self;
        layers.is_empty() && removed.is_empty() && metadata.is_none() && ancestor.is_none()
    }
}
