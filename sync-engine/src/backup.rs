//! Backup: what of a work directory is not in the store yet, and putting it there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use layer_archive::{
    Ancestor, BundleIndex, BundleWriter, LayerName, Lsn, RawDigest, RemovalReason, Removed, Seq,
    TimelineMetadata, limits,
};
use tokio::sync::mpsc;

use crate::hash::hash_files;
use crate::pack::{Keep, PackInput, Packed, pack};
use crate::{
    Draft, Error, LocalLayer, LocalTimeline, PackOptions, Progress, Result, Store, TimelineState,
    TimelineView, TimelineWriter, WriterOptions,
};

/// What becomes of layers that are in the store and not in the work directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mirror {
    /// They stay: the work directory may have let go of them to save room.
    #[default]
    Off,
    /// They are removed, unless that is more than half of the timeline.
    Guarded,
    /// They are removed.
    Forced,
}

/// How a backup is made.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// Who writes.
    pub writer: WriterOptions,
    /// How layers are packed.
    pub pack: PackOptions,
    /// How far it has come.
    pub progress: Arc<Progress>,
}

/// What a backup is about to do.
#[derive(Clone, Debug, Default)]
pub struct BackupPlan {
    /// Layers to be packed, with their digests where they were needed to plan.
    pub add: Vec<(LocalLayer, Option<RawDigest>)>,
    /// Layers to be removed from the timeline.
    pub remove: Vec<LayerName>,
    /// Layers that are in the store with the same contents.
    pub unchanged: usize,
    /// Layers that are in the store with other contents. Nothing is done to either side.
    pub conflicts: Vec<Conflict>,
    /// Layers that cannot be read or packed.
    pub failed: Vec<FailedLayer>,
    /// Whether there is more on the disk that may be layers, and cannot be packed.
    pub is_partial: bool,
    /// Metadata that the store does not have.
    pub metadata: Option<TimelineMetadata>,
    /// Up to which LSN the timeline is durable with that metadata.
    pub disk_consistent_lsn: Option<Lsn>,
    /// Where the timeline was branched off, if the store does not know yet.
    pub ancestor: Option<Ancestor>,
}

/// A layer that is not the same here and in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its name.
    pub name: LayerName,
    /// What is on the disk.
    pub local: RawDigest,
    /// What is in the store.
    pub stored: RawDigest,
}

/// A layer that could not be dealt with, while the others were.
#[derive(Clone, Debug)]
pub struct FailedLayer {
    /// Its name.
    pub name: LayerName,
    /// Why.
    pub error: Arc<Error>,
}

/// What a backup has done.
#[derive(Clone, Debug, Default)]
pub struct BackupReport {
    /// The newest record; what was there before where nothing was to be done.
    pub seq: Seq,
    /// Layers added.
    pub layers: usize,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// Bytes of the records, payload objects and manifest that were written.
    pub stored_bytes: u64,
    /// Bundles that were written, records with layers included.
    pub bundles: usize,
    /// Layers that were in the store already.
    pub unchanged: usize,
    /// Layers removed.
    pub removed: usize,
    /// Layers that differ between the disk and the store.
    pub conflicts: Vec<Conflict>,
    /// Layers that could not be packed.
    pub failed: Vec<FailedLayer>,
    /// Whether new metadata was held back, because it may need layers that could not be packed.
    pub metadata_held_back: bool,
    /// Why no manifest was written, where one was due. The commit stands without it.
    pub manifest_error: Option<Arc<Error>>,
}

impl BackupPlan {
    /// Whether there is nothing to write. New metadata is not written as long as layers are missing that it may need.
    pub fn is_empty(&self) -> bool {
        let metadata = self.metadata.is_some() && !self.is_incomplete();
        self.add.is_empty() && self.remove.is_empty() && !metadata && self.ancestor.is_none()
    }

    /// Whether something on the disk will not be in the store.
    fn is_incomplete(&self) -> bool {
        self.is_partial || !self.conflicts.is_empty() || !self.failed.is_empty()
    }
}

/// Compares a work directory with the store. Layers that are in both are compared by their contents.
pub async fn plan_backup(
    state: &TimelineState,
    local: LocalTimeline,
    mirror: Mirror,
    progress: &Arc<Progress>,
) -> Result<BackupPlan> {
    let recurring = sizes_that_recur(state, &local.layers);
    let needs_hash = |layer: &LocalLayer| match state.layers().get(&layer.name) {
        Some(stored) => stored.raw.size == layer.raw_size,
        None => recurring.contains_key(&layer.raw_size),
    };
    let (hashed, unhashed): (Vec<_>, Vec<_>) = local.layers.into_iter().partition(needs_hash);
    progress.expect(hashed.iter().map(|layer| layer.raw_size).sum());
    let digests =
        hash_files(hashed.iter().map(|layer| layer.path.clone()).collect(), Arc::clone(progress)).await;
    let mut plan = BackupPlan { is_partial: local.is_partial, ..BackupPlan::default() };
    let mut names = BTreeSet::new();
    let digests = digests.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    for (layer, digest) in hashed.into_iter().chain(unhashed).zip(digests) {
        names.insert(layer.name.clone());
        plan.place(state, layer, digest);
    }
    plan.add.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    if mirror != Mirror::Off {
        plan.remove = state.layers().keys().filter(|name| !names.contains(*name)).cloned().collect();
        let (removed, total) = (plan.remove.len(), state.layers().len());
        if mirror == Mirror::Guarded && removed * 2 > total {
            let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
            return Err(Error::MirrorTooMuch { tenant, timeline, removed, total });
        }
    }
    if local.metadata.as_ref() != state.metadata() {
        plan.metadata = local.metadata;
        plan.disk_consistent_lsn = local.disk_consistent_lsn;
    }
    if local.ancestor.as_ref() != state.ancestor() {
        plan.ancestor = local.ancestor;
    }
    Ok(plan)
}

impl BackupPlan {
    /// Decides what becomes of one layer, whose digest is there if it was needed.
    fn place(&mut self, state: &TimelineState, layer: LocalLayer, digest: Option<Result<RawDigest>>) {
        let digest = match digest.transpose() {
            Ok(digest) => digest,
            Err(error) => return self.failed.push(FailedLayer { name: layer.name, error: Arc::new(error) }),
        };
        if layer.raw_size > limits::LAYER_RAW_BYTES_MAX {
            let (value, limit) = (layer.raw_size, limits::LAYER_RAW_BYTES_MAX);
            let source = layer_archive::FormatError::Limit { what: "layer", value, limit };
            let error = Arc::new(Error::Unpackable { what: layer.name.to_string(), source });
            return self.failed.push(FailedLayer { name: layer.name, error });
        }
        match state.layers().get(&layer.name) {
            None => self.add.push((layer, digest)),
            Some(stored) if digest == Some(stored.raw) => self.unchanged += 1,
            Some(stored) => {
                // Of another size it is another layer, whatever its hash is.
                let local = digest.unwrap_or(RawDigest { size: layer.raw_size, ..RawDigest::default() });
                self.conflicts.push(Conflict { name: layer.name, local, stored: stored.raw });
            }
        }
    }
}

/// Sizes that several of the new layers have: only those can be equal.
fn sizes_that_recur(state: &TimelineState, layers: &[LocalLayer]) -> HashMap<u64, usize> {
    let mut counts = HashMap::new();
    for layer in layers.iter().filter(|layer| layer.raw_size > 0 && !state.layers().contains_key(&layer.name))
    {
        *counts.entry(layer.raw_size).or_insert(0) += 1;
    }
    counts.retain(|_, count| *count > 1);
    counts
}

/// Does what a plan says: claims the timeline, uploads bundles, and commits them with one record.
///
/// An empty plan writes nothing, not even a claim.
pub async fn execute_backup(
    store: &Store,
    view: TimelineView,
    plan: BackupPlan,
    options: BackupOptions,
) -> Result<BackupReport> {
    let mut report = BackupReport {
        seq: view.state.seq(),
        unchanged: plan.unchanged,
        conflicts: plan.conflicts.clone(),
        failed: plan.failed.clone(),
        ..BackupReport::default()
    };
    let incomplete = plan.is_incomplete();
    report.metadata_held_back = incomplete && plan.metadata.is_some();
    if plan.is_empty() {
        return Ok(report);
    }
    let BackupPlan { add, remove, metadata, disk_consistent_lsn, ancestor, .. } = plan;
    let removed = remove.into_iter().map(|name| Removed { name, reason: RemovalReason::Compacted }).collect();
    let mut draft = Draft { ancestor, removed, released: true, ..Draft::default() };
    let mut writer = TimelineWriter::claim(store, view, options.writer.clone()).await?;
    let (bundle, failed) = upload(&mut writer, add, &options, &mut draft, &mut report).await?;
    report.failed.extend(failed);
    // The record that carries metadata comes after every layer that it needs.
    if incomplete || !report.failed.is_empty() {
        report.metadata_held_back = metadata.is_some();
    } else {
        draft.metadata = metadata;
        draft.disk_consistent_lsn = disk_consistent_lsn;
    }
    report.removed = draft.removed.len();
    let record = writer.append(draft, bundle).await?;
    report.count_bundle(&record);
    report.seq = writer.view().state.seq();
    match writer.detach().await {
        Ok(manifest) => report.stored_bytes += manifest.map_or(0, |manifest| manifest.stored_bytes),
        Err(error) => report.manifest_error = Some(Arc::new(error)),
    }
    Ok(report)
}

impl BackupReport {
    fn count_bundle(&mut self, index: &BundleIndex) {
        let layers = index.entries(index.origin().bundle);
        self.bundles += usize::from(!layers.is_empty());
        self.layers += layers.len();
        self.raw_bytes += layers.iter().map(|layer| layer.raw.size).sum::<u64>();
        self.stored_bytes += index.object_len();
    }
}

/// Packs layers and uploads every bundle but the last, which goes into the record.
async fn upload(
    writer: &mut TimelineWriter,
    add: Vec<(LocalLayer, Option<RawDigest>)>,
    options: &BackupOptions,
    draft: &mut Draft,
    report: &mut BackupReport,
) -> Result<(BundleWriter, Vec<FailedLayer>)> {
    options.progress.expect(add.iter().map(|(layer, _)| layer.raw_size).sum());
    let inputs: Vec<PackInput> = add.into_iter().map(|(layer, digest)| PackInput { layer, digest }).collect();
    let (pack_options, progress) = (options.pack, Arc::clone(&options.progress));
    // One bundle may wait while another is uploaded and a third is filled.
    let (bundles, mut ready) = mpsc::channel(1);
    let packing = tokio::task::spawn_blocking(move || {
        pack(&inputs, pack_options, &progress, |packed| match bundles.blocking_send(packed) {
            Ok(()) => Keep::Going,
            Err(_) => Keep::Stopped,
        })
    });
    let mut failed = Vec::new();
    let mut last: Option<Box<BundleWriter>> = None;
    while let Some(packed) = ready.recv().await {
        match packed {
            Packed::Failed { input, error } => {
                failed.push(FailedLayer { name: input.layer.name, error: Arc::new(error) });
            }
            Packed::Bundle(bundle) => {
                if let Some(full) = last.replace(bundle) {
                    let (payload, layers) = writer.put_payload(*full).await?;
                    report.bundles += 1;
                    report.stored_bytes += payload.stored_bytes;
                    report.layers += layers.len();
                    report.raw_bytes += layers.iter().map(|layer| layer.raw.size).sum::<u64>();
                    draft.payloads.push(payload);
                    draft.added.extend(layers);
                }
            }
        }
    }
    packing.await.map_err(|error| Error::Task(error.to_string()))??;
    Ok((last.map(|last| *last).unwrap_or_default(), failed))
}
