//! Backup: what of a work directory is not in the store yet, and putting it there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use layer_archive::{
    Ancestor, BranchPoint, BundleIndex, BundleWriter, LayerEntry, LayerName, Lsn, RawDigest, RemovalReason,
    Removed, Seq, TimelineMetadata, limits,
};

use crate::branches::{BranchChange, needing, tell_ancestor};
use crate::budget::Budget;
use crate::hash::hash_files_with;
use crate::pack::PackInput;
use crate::upload::{LastBundle, Upload, UploadOptions, Uploaded};
use crate::{
    Draft, Error, Finding, HashCache, LocalLayer, LocalTimeline, PackOptions, Progress, Result, Store,
    TimelineState, TimelineView, TimelineWriter, WriterOptions,
};

/// Bytes that a backup may have built and in flight.
pub(crate) const UPLOAD_BYTES_MAX: u64 = 96 << 20;

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
    pub remove: Vec<Removed>,
    /// Layers that a mirror would remove and a branch needs.
    pub kept: Vec<KeptLayer>,
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
    /// The work directory is older than the store: nothing is written.
    pub metadata_conflict: Option<MetadataConflict>,
    /// Where the timeline was branched off, if the store does not know yet.
    pub ancestor: Option<Ancestor>,
    /// Branches of the timeline that it does not know of yet.
    pub branches: Vec<BranchPoint>,
    /// What the plan was made of, to make it again where the timeline has moved on before it was claimed.
    local: LocalTimeline,
    mirror: Mirror,
}

/// The metadata here is older than that in the store: the work directory is an older state of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataConflict {
    /// Up to which LSN the work directory is durable.
    pub local: Lsn,
    /// Up to which LSN the store is.
    pub stored: Lsn,
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

/// A layer that is gone from the work directory, and stays in the store because a branch needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLayer {
    /// Its name.
    pub name: LayerName,
    /// The branch.
    pub branch: BranchPoint,
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
    /// Removals that were held back, because what replaces those layers may be what could not be packed.
    pub removals_held_back: usize,
    /// Layers that were not removed because a branch needs them.
    pub kept: Vec<KeptLayer>,
    /// The work directory is older than the store: nothing was written.
    pub metadata_conflict: Option<MetadataConflict>,
    /// What was found damaged on the way.
    pub damage: Vec<Finding>,
    /// Why no manifest was written, where one was due. The commit stands without it.
    pub manifest_error: Option<Arc<Error>>,
}

impl BackupPlan {
    /// Whether there is nothing to write.
    ///
    /// As long as layers are missing, what may need them is not written: new metadata, and removals, whose
    /// replacements they may be.
    pub fn is_empty(&self) -> bool {
        let whole = !self.is_incomplete();
        let finishes = whole && (self.metadata.is_some() || !self.remove.is_empty());
        self.add.is_empty() && !finishes && self.ancestor.is_none() && self.branches.is_empty()
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
    plan_backup_with(state, local, mirror, progress, None).await
}

/// [`plan_backup`] with the digests that are known of files already.
pub(crate) async fn plan_backup_with(
    state: &TimelineState,
    local: LocalTimeline,
    mirror: Mirror,
    progress: &Arc<Progress>,
    known: Option<&Arc<HashCache>>,
) -> Result<BackupPlan> {
    let mut plan = BackupPlan { is_partial: local.is_partial, mirror, ..BackupPlan::default() };
    if let (Some(here), Some(stored)) = (local.disk_consistent_lsn, state.disk_consistent_lsn())
        && here < stored
    {
        plan.metadata_conflict = Some(MetadataConflict { local: here, stored });
        return Ok(plan);
    }
    plan.local = local.clone();
    let recurring = sizes_that_recur(state, &local.layers);
    let needs_hash = |layer: &LocalLayer| match state.layers().get(&layer.name) {
        Some(stored) => stored.raw.size == layer.raw_size,
        None => recurring.contains_key(&layer.raw_size),
    };
    let (hashed, unhashed): (Vec<_>, Vec<_>) = local.layers.into_iter().partition(needs_hash);
    progress.expect(hashed.iter().map(|layer| layer.raw_size).sum());
    let paths = hashed.iter().map(|layer| layer.path.clone()).collect();
    let digests = hash_files_with(paths, Arc::clone(progress), known.cloned()).await;
    let mut names = local.present.clone();
    let digests = digests.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    for (layer, digest) in hashed.into_iter().chain(unhashed).zip(digests) {
        names.insert(layer.name.clone());
        plan.place(state, layer, digest);
    }
    plan.add.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let gone = removals(state, &names, mirror, local.metadata.as_ref())?;
    plan.remove(state, gone, &local.compacted, &local.branches);
    // Torn, or of a form that nobody here knows: the store's, whose LSN is known, is not given up for it.
    let says_less = local.disk_consistent_lsn.is_none() && state.disk_consistent_lsn().is_some();
    // A layer that is there as something else is missing from this backup.
    let stands_in = local.present.iter().any(|name| state.layers().contains_key(name));
    if local.metadata.is_some() && local.metadata.as_ref() != state.metadata() {
        plan.is_partial |= says_less;
        plan.metadata = local.metadata;
        plan.disk_consistent_lsn = local.disk_consistent_lsn;
    }
    plan.is_partial |= stands_in;
    if local.ancestor.is_some() && local.ancestor.as_ref() != state.ancestor() {
        plan.ancestor = local.ancestor;
    }
    let known: BTreeSet<&BranchPoint> = state.branch_points().collect();
    plan.branches = local.branches.into_iter().filter(|branch| !known.contains(branch)).collect();
    Ok(plan)
}

/// The layers of `state` that a mirror removes, because the work directory does not have them under any form.
fn removals(
    state: &TimelineState,
    names: &BTreeSet<LayerName>,
    mirror: Mirror,
    metadata: Option<&TimelineMetadata>,
) -> Result<Vec<LayerName>> {
    if mirror == Mirror::Off {
        return Ok(Vec::new());
    }
    let (tenant, timeline) = (state.tenant().clone(), state.timeline().clone());
    let remove: Vec<LayerName> =
        state.layers().keys().filter(|name| !names.contains(*name)).cloned().collect();
    let (removed, total) = (remove.len(), state.layers().len());
    if mirror == Mirror::Guarded && removed > 0 {
        if state.metadata().is_some() && metadata.is_none() {
            return Err(Error::UnfinishedRestore { tenant, timeline });
        }
        if removed * 2 > total {
            return Err(Error::MirrorTooMuch { tenant, timeline, removed, total });
        }
    }
    Ok(remove)
}

impl BackupPlan {
    /// Decides what becomes of layers that are gone. What was compacted the branches find in other layers; what else a
    /// branch needs stays.
    fn remove(
        &mut self,
        state: &TimelineState,
        gone: Vec<LayerName>,
        compacted: &BTreeSet<LayerName>,
        beginning: &[BranchPoint],
    ) {
        for name in gone {
            let branches = state.branch_points().chain(beginning);
            let needed = || state.layers().get(&name).and_then(|layer| needing(branches, layer));
            if compacted.contains(&name) {
                self.remove.push(Removed { name, reason: RemovalReason::Compacted });
            } else if let Some(branch) = needed().cloned() {
                self.kept.push(KeptLayer { name, branch });
            } else {
                self.remove.push(Removed { name, reason: RemovalReason::Collected });
            }
        }
    }

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

/// Does what a plan says: packs, claims the timeline, uploads bundles, and commits them with one record.
///
/// Where there turns out to be nothing to write, nothing is written, not even a claim. Where the timeline has moved on
/// between the plan and the claim, the plan is made again: under the claim the state stands still.
///
/// A branch's ancestor, which must be in the store, is told of it before the branch's first record; one that it does not
/// have any more, after the record that says so.
pub async fn execute_backup(
    store: &Store,
    view: TimelineView,
    plan: BackupPlan,
    options: BackupOptions,
) -> Result<BackupReport> {
    // What a deleted timeline held is about to go: that nothing is new says nothing.
    if view.state.is_deleted() {
        let (tenant, timeline) = (view.state.tenant().clone(), view.state.timeline().clone());
        return Err(Error::TimelineDeleted { tenant, timeline });
    }
    let mut report = BackupReport::of(&view, &plan);
    if plan.is_empty() {
        return Ok(report);
    }
    let planned_at = view.state.seq();
    let upload_options = UploadOptions {
        pack: options.pack,
        budget: Budget::new(UPLOAD_BYTES_MAX),
        progress: Arc::clone(&options.progress),
    };
    let mut upload = Upload::start(store, plan.inputs(), upload_options.clone()).await?;
    if upload.is_empty() && plan.without_layers(upload.failed()).is_empty() {
        report.end(&plan, upload.failed().to_vec());
        return Ok(report);
    }
    if let Some(ancestor) = &plan.ancestor {
        tell_ancestor(store, &view.state, ancestor, BranchChange::Begins, &options.writer).await?;
    }
    let told = plan.ancestor.clone();
    let mut writer = TimelineWriter::claim(store, view, options.writer.clone()).await?;
    let mut plan = plan;
    if writer.view().state.seq() != planned_at.next() {
        drop(upload);
        let again = plan_backup(&writer.view().state, plan.local, plan.mirror, &options.progress).await;
        plan = match again {
            Ok(plan) => plan,
            Err(error) => return Err(writer.release_after(error).await),
        };
        // Somebody else has said another ancestor meanwhile.
        if let Some(ancestor) = plan.ancestor.as_ref().filter(|now| told.as_ref() != Some(*now)) {
            let state = &writer.view().state;
            let told = tell_ancestor(store, state, ancestor, BranchChange::Begins, &options.writer).await;
            if let Err(error) = told {
                return Err(writer.release_after(error).await);
            }
        }
        report = BackupReport::of(writer.view(), &plan);
        upload = Upload::start(store, plan.inputs(), upload_options).await?;
    }
    let before = writer.view().state.ancestor().cloned();
    // Under the claim nothing is planned again. Of a hundred thousand layers this is a third of the memory.
    (plan.local, plan.add) = (LocalTimeline::default(), Vec::new());
    let (ancestor, branch_points_added) = (plan.ancestor.clone(), std::mem::take(&mut plan.branches));
    let mut draft = Draft { ancestor, branch_points_added, released: true, ..Draft::default() };
    let Uploaded { bundle, room: _room, failed } =
        upload.upload(&mut writer, &mut draft, LastBundle::InRecord).await?;
    report.count_payloads(&draft);
    report.end(&plan, failed);
    if !report.metadata_held_back {
        draft.metadata = plan.metadata;
        draft.disk_consistent_lsn = plan.disk_consistent_lsn;
    }
    if report.removals_held_back == 0 {
        draft.removed = plan.remove;
    }
    report.removed = draft.removed.len();
    let record = writer.append(draft, bundle).await?;
    report.count_bundle(&record);
    report.seq = writer.view().state.seq();
    if let Some(before) = before.filter(|before| writer.view().state.ancestor() != Some(before)) {
        tell_ancestor(store, &writer.view().state, &before, BranchChange::Ends, &options.writer).await?;
    }
    match writer.detach().await {
        Ok(manifest) => report.stored_bytes += manifest.map_or(0, |manifest| manifest.stored_bytes),
        Err(error) => report.manifest_error = Some(Arc::new(error)),
    }
    Ok(report)
}

/// Packs and uploads `layers` under the writer's claim. Returns what is to be appended, and the layers that failed.
pub(crate) async fn upload_layers(
    store: &Store,
    writer: &mut TimelineWriter,
    layers: Vec<(LocalLayer, Option<RawDigest>)>,
    options: &BackupOptions,
) -> Result<(Draft, BundleWriter, Vec<FailedLayer>)> {
    let plan = BackupPlan { add: layers, ..BackupPlan::default() };
    let options = UploadOptions {
        pack: options.pack,
        budget: Budget::new(UPLOAD_BYTES_MAX),
        progress: Arc::clone(&options.progress),
    };
    let upload = Upload::start(store, plan.inputs(), options).await?;
    let mut draft = Draft { released: true, ..Draft::default() };
    let Uploaded { bundle, room: _room, failed } =
        upload.upload(writer, &mut draft, LastBundle::InRecord).await?;
    Ok((draft, bundle, failed))
}

impl BackupPlan {
    fn inputs(&self) -> Vec<PackInput> {
        let input = |(layer, digest): &(LocalLayer, Option<RawDigest>)| PackInput {
            layer: layer.clone(),
            digest: *digest,
        };
        self.add.iter().map(input).collect()
    }

    /// What is left of the plan where none of its layers could be packed.
    fn without_layers(&self, failed: &[FailedLayer]) -> Self {
        let failed = self.failed.iter().chain(failed).cloned().collect();
        Self { add: Vec::new(), failed, ..self.clone() }
    }
}

impl BackupReport {
    fn of(view: &TimelineView, plan: &BackupPlan) -> Self {
        let mut report = Self {
            seq: view.state.seq(),
            unchanged: plan.unchanged,
            kept: plan.kept.clone(),
            conflicts: plan.conflicts.clone(),
            metadata_conflict: plan.metadata_conflict,
            damage: view.damage.clone(),
            ..Self::default()
        };
        report.end(plan, Vec::new());
        report
    }

    /// Takes in which layers failed, and what is held back because of them.
    ///
    /// The record that carries metadata comes after every layer that it needs; a removal comes with, or after, the
    /// layers that replace what it removes.
    fn end(&mut self, plan: &BackupPlan, failed: Vec<FailedLayer>) {
        self.failed = plan.failed.iter().cloned().chain(failed).collect();
        let whole = !plan.is_partial && plan.conflicts.is_empty() && self.failed.is_empty();
        self.metadata_held_back = !whole && plan.metadata.is_some();
        self.removals_held_back = if whole { 0 } else { plan.remove.len() };
    }

    fn count_payloads(&mut self, draft: &Draft) {
        self.bundles += draft.payloads.len();
        let stored_bytes = draft.payloads.iter().map(|payload| payload.stored_bytes).sum();
        self.count(stored_bytes, &draft.added);
    }

    fn count_bundle(&mut self, index: &BundleIndex) {
        self.bundles += usize::from(!index.layers().is_empty());
        self.count(index.object_len(), &index.entries(index.origin().bundle));
    }

    fn count(&mut self, stored_bytes: u64, layers: &[LayerEntry]) {
        self.layers += layers.len();
        self.raw_bytes += layers.iter().map(|layer| layer.raw.size).sum::<u64>();
        self.stored_bytes += stored_bytes;
    }
}
