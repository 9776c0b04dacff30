//! The state of a timeline: a pure function of its records.

mod committed;

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{
    Ancestor, BranchPoint, BundleEntry, BundleId, BundleIndex, Commit, CommitFlags, Digest, Epoch,
    FormatError, Generation, LayerEntry, LayerName, Location, Lsn, Manifest, Moved, PayloadId, Place, Seq,
    TenantId, Term, TimelineId, TimelineMetadata, UnixMillis, WriterInfo,
};

use self::committed::Committed;

/// What a timeline is after records 1 to [`seq`](Self::seq).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineState {
    tenant: TenantId,
    timeline: TimelineId,
    seq: Seq,
    history: Digest,
    claim: Seq,
    term: Term,
    epoch: Epoch,
    generation: Option<Generation>,
    writer: WriterInfo,
    time: UnixMillis,
    released: bool,
    deleted: bool,
    metadata: Option<TimelineMetadata>,
    disk_consistent_lsn: Option<Lsn>,
    ancestor: Option<Ancestor>,
    branch_points: BTreeSet<BranchPoint>,
    bundles: BTreeMap<BundleId, Bundle>,
    layers: BTreeMap<LayerName, LayerEntry>,
    committed: Committed,
}

/// Why records are missing before one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GapIs {
    /// They are lost: nothing above a manifest that reads is ever collected.
    Lost,
    /// They may have been collected.
    PerhapsCollected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bundle {
    named_by: Seq,
    stored_bytes: u64,
    tail_len: u32,
    live_bytes: u64,
    /// How many layers are at each place: links share one.
    places: BTreeMap<Location, u32>,
}

impl TimelineState {
    /// A timeline without records.
    pub fn empty(tenant: TenantId, timeline: TimelineId) -> Self {
        Self {
            tenant,
            timeline,
            seq: Seq::default(),
            history: Digest::default(),
            claim: Seq::default(),
            term: Term::default(),
            epoch: Epoch::default(),
            generation: None,
            writer: WriterInfo::default(),
            time: UnixMillis::default(),
            released: true,
            deleted: false,
            metadata: None,
            disk_consistent_lsn: None,
            ancestor: None,
            branch_points: BTreeSet::new(),
            bundles: BTreeMap::new(),
            layers: BTreeMap::new(),
            committed: Committed::default(),
        }
    }

    /// The state that a manifest is a snapshot of.
    pub fn from_manifest(manifest: Manifest) -> Result<Self, FormatError> {
        let mut state = Self {
            seq: manifest.seq,
            history: manifest.history,
            claim: manifest.claim,
            term: manifest.term,
            epoch: manifest.epoch,
            generation: manifest.generation,
            writer: manifest.writer,
            time: manifest.time,
            released: manifest.released,
            deleted: manifest.deleted,
            metadata: manifest.metadata,
            disk_consistent_lsn: manifest.disk_consistent_lsn,
            ancestor: manifest.ancestor,
            branch_points: manifest.branch_points.into_iter().collect(),
            ..Self::empty(manifest.tenant, manifest.timeline)
        };
        for BundleEntry { id, named_by, stored_bytes, live_bytes: _, tail_len } in &manifest.bundles {
            state.add_bundle(*id, *named_by, *stored_bytes, *tail_len);
        }
        for layer in manifest.layers {
            state.add_layer(layer)?;
        }
        for BundleEntry { id, live_bytes, .. } in &manifest.bundles {
            if state.bundles.get(id).is_none_or(|bundle| bundle.live_bytes != *live_bytes) {
                return Err(malformed(format!("the live bytes of {id} are not those of its layers")));
            }
        }
        state.committed = state.committed_by_numbers();
        Ok(state)
    }

    /// A snapshot of the state.
    pub fn to_manifest(&self) -> Manifest {
        Manifest {
            tenant: self.tenant.clone(),
            timeline: self.timeline.clone(),
            seq: self.seq,
            history: self.history,
            claim: self.claim,
            term: self.term,
            epoch: self.epoch,
            generation: self.generation,
            writer: self.writer.clone(),
            time: self.time,
            released: self.released,
            deleted: self.deleted,
            metadata: self.metadata.clone(),
            disk_consistent_lsn: self.disk_consistent_lsn,
            ancestor: self.ancestor.clone(),
            branch_points: self.branch_points.iter().cloned().collect(),
            bundles: self.bundles(),
            layers: self.layers.values().cloned().collect(),
        }
    }

    /// Applies the next record. On an error the state is not to be used any more.
    ///
    /// The order is fixed: claim, payload objects, removals, moves, layers added (in payload objects, then in the
    /// record itself), metadata, branch points.
    pub fn apply(&mut self, record: &BundleIndex) -> Result<(), FormatError> {
        let commit = record.commit().ok_or_else(|| malformed("a record without a commit"))?;
        self.check_succession(record, commit)?;
        self.take(record, commit)
    }

    /// Applies a record although others are missing before it, to a state that is rebuilt. On an error the state is not
    /// to be used any more.
    ///
    /// After lost records removals and metadata are held back: what replaces those layers, or what the metadata needs, may
    /// be what is lost. So the state is the one before the gap, and more layers.
    pub(crate) fn apply_after_gap(&mut self, record: &BundleIndex, gap: GapIs) -> Result<(), FormatError> {
        let commit = record.commit().ok_or_else(|| malformed("a record without a commit"))?;
        let origin = record.origin();
        if origin.tenant != self.tenant || origin.timeline != self.timeline || commit.seq <= self.seq {
            return Err(malformed(format!("record {} does not follow record {}", commit.seq, self.seq)));
        }
        (self.term, self.epoch, self.generation) = (commit.term, commit.epoch, commit.generation);
        // For all that is known.
        self.committed.or_perhaps();
        let mut commit = commit.clone();
        if gap == GapIs::Lost {
            commit.removed.clear();
            (commit.metadata, commit.disk_consistent_lsn) = (None, None);
        }
        self.take(record, &commit)
    }

    /// Takes in a payload object of which no record tells, to a state that is rebuilt.
    pub(crate) fn take_payload(&mut self, index: &BundleIndex, id: PayloadId) -> Result<(), FormatError> {
        let tail_len = u32::try_from(index.tail_len()).map_err(|_| malformed("an index over 4 GiB"))?;
        let bundle = BundleId::Payload(id);
        self.add_bundle(bundle, id.claim, index.object_len(), tail_len);
        index.entries(bundle).into_iter().try_for_each(|layer| self.add_layer(layer))
    }

    /// Takes in a layer that was moved to a payload object, whose index this is, to a state that is rebuilt and in which
    /// nothing says any more what the layer was.
    pub(crate) fn take_moved(&mut self, index: &BundleIndex, moved: &Moved) -> Result<(), FormatError> {
        let mut entries = index.entries(moved.to.bundle).into_iter();
        let Some(layer) = entries.find(|layer| layer.name == moved.name && layer.place == moved.to) else {
            return Err(malformed(format!("{:?} was moved to where it is not", moved.name)));
        };
        let tail_len = u32::try_from(index.tail_len()).map_err(|_| malformed("an index over 4 GiB"))?;
        self.add_bundle(moved.to.bundle, self.seq, index.object_len(), tail_len);
        self.add_layer(LayerEntry { stored_bytes: moved.stored_bytes, ..layer })
    }

    /// Takes in a branch point that the branch itself tells of, to a state that is rebuilt.
    pub(crate) fn take_branch_point(&mut self, point: BranchPoint) {
        self.branch_points.insert(point);
    }

    /// Ends a rebuilt state at record `seq`, which may be lost, and lets go of the layers `lost`.
    pub(crate) fn end_rebuild(&mut self, seq: Seq, lost: &[LayerName]) {
        lost.iter().for_each(|name| self.remove_layer(name));
        if seq > self.seq {
            // Which history that was is lost with its records: this begins another.
            self.history = Digest::of(&self.history.0);
            self.seq = seq;
        }
    }

    /// What a record does, whatever was before it.
    fn take(&mut self, record: &BundleIndex, commit: &Commit) -> Result<(), FormatError> {
        let mut history = commit.parent.0.to_vec();
        history.extend_from_slice(&record.record_id().0.0);
        self.history = Digest::of(&history);
        self.seq = commit.seq;
        self.writer = commit.writer.clone();
        self.time = commit.time;
        self.released = commit.flags.released;
        self.deleted = commit.flags.deleted;
        self.committed.take(record, commit);
        if commit.flags.claim {
            self.take_over(commit);
        }
        for payload in &commit.payloads {
            self.add_bundle(
                BundleId::Payload(payload.id),
                commit.seq,
                payload.stored_bytes,
                payload.tail_len,
            );
        }
        for removed in &commit.removed {
            self.remove_layer(&removed.name);
        }
        for moved in &commit.moved {
            let current = self.layers.get(&moved.name).filter(|layer| layer.place == moved.from).cloned();
            if let Some(layer) = current {
                self.add_layer(LayerEntry { place: moved.to, stored_bytes: moved.stored_bytes, ..layer })?;
            }
        }
        for layer in &commit.added {
            self.add_layer(layer.clone())?;
        }
        if !record.layers().is_empty() {
            let bundle = BundleId::Record(commit.seq);
            let tail_len = u32::try_from(record.tail_len()).map_err(|_| malformed("an index over 4 GiB"))?;
            self.add_bundle(bundle, commit.seq, record.object_len(), tail_len);
            for layer in record.entries(bundle) {
                self.add_layer(layer)?;
            }
        }
        // A dead bundle is of no interest, but for the payload objects of this reign: as long as it lasts, only the
        // log tells a dead one from one that is about to be named.
        let claim = self.claim;
        self.bundles.retain(|id, bundle| match id {
            _ if !bundle.places.is_empty() => true,
            BundleId::Record(_) => false,
            BundleId::Payload(payload) => payload.claim >= claim,
        });
        self.apply_facts(commit);
        Ok(())
    }

    fn check_succession(&self, record: &BundleIndex, commit: &Commit) -> Result<(), FormatError> {
        let origin = record.origin();
        if origin.tenant != self.tenant || origin.timeline != self.timeline {
            return Err(malformed(format!("a record of {}/{}", origin.tenant, origin.timeline)));
        }
        if commit.seq != self.seq.next() {
            return Err(malformed(format!("record {} after record {}", commit.seq, self.seq)));
        }
        if commit.parent != self.history {
            return Err(malformed(format!("record {} continues another history", commit.seq)));
        }
        if self.deleted {
            return Err(malformed("a record after the timeline was deleted"));
        }
        let CommitFlags { claim, released: _, deleted: _ } = commit.flags;
        let (same, next) = ((self.term, self.epoch), Epoch(self.epoch.0.saturating_add(1)));
        if if claim { commit.epoch != next } else { (commit.term, commit.epoch) != same } {
            return Err(malformed(format!("record {} is of another reign", commit.seq)));
        }
        Ok(())
    }

    fn take_over(&mut self, commit: &Commit) {
        self.claim = commit.seq;
        self.term = commit.term;
        self.epoch = commit.epoch;
        self.generation = commit.generation;
    }

    fn apply_facts(&mut self, commit: &Commit) {
        // What an older metadata file said of the LSN does not hold for a newer one that does not say.
        if let Some(metadata) = &commit.metadata {
            self.metadata = Some(metadata.clone());
            self.disk_consistent_lsn = commit.disk_consistent_lsn;
        } else if let Some(lsn) = commit.disk_consistent_lsn {
            self.disk_consistent_lsn = Some(lsn);
        }
        if let Some(ancestor) = &commit.ancestor {
            self.ancestor = Some(ancestor.clone());
        }
        self.branch_points.extend(commit.branch_points_added.iter().cloned());
        for gone in &commit.branch_points_removed {
            self.branch_points.remove(gone);
        }
    }

    fn add_bundle(&mut self, id: BundleId, named_by: Seq, stored_bytes: u64, tail_len: u32) {
        let fresh = Bundle { named_by, stored_bytes, tail_len, live_bytes: 0, places: BTreeMap::new() };
        self.bundles.entry(id).or_insert(fresh).named_by = named_by;
    }

    fn add_layer(&mut self, layer: LayerEntry) -> Result<(), FormatError> {
        self.remove_layer(&layer.name);
        let Place { bundle: id, location } = layer.place;
        let bundle = self
            .bundles
            .get_mut(&id)
            .ok_or_else(|| malformed(format!("{:?} is in {id}, which no record names", layer.name)))?;
        let end = location.start.checked_add(location.stored_len);
        if end.is_none_or(|end| end > bundle.stored_bytes) || layer.stored_bytes > location.stored_len {
            return Err(malformed(format!("{:?} is outside {id}", layer.name)));
        }
        let layers_there = bundle.places.entry(location).or_insert(0);
        *layers_there += 1;
        if *layers_there == 1 {
            bundle.live_bytes = bundle.live_bytes.saturating_add(layer.stored_bytes);
        }
        self.layers.insert(layer.name.clone(), layer);
        Ok(())
    }

    fn remove_layer(&mut self, name: &LayerName) {
        let Some(layer) = self.layers.remove(name) else { return };
        let Some(bundle) = self.bundles.get_mut(&layer.place.bundle) else { return };
        let std::collections::btree_map::Entry::Occupied(mut place) =
            bundle.places.entry(layer.place.location)
        else {
            return;
        };
        *place.get_mut() -= 1;
        if *place.get() == 0 {
            place.remove();
            bundle.live_bytes = bundle.live_bytes.saturating_sub(layer.stored_bytes);
        }
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The timeline.
    pub fn timeline(&self) -> &TimelineId {
        &self.timeline
    }

    /// The last record; `Seq(0)` where there is none.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The digest over the ids of all records.
    pub fn history(&self) -> Digest {
        self.history
    }

    /// The newest claim.
    pub fn claim(&self) -> Seq {
        self.claim
    }

    /// The newest claim's term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The newest claim's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest claim's generation.
    pub fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Who wrote the last record.
    pub fn writer(&self) -> &WriterInfo {
        &self.writer
    }

    /// When the last record was written.
    pub fn time(&self) -> UnixMillis {
        self.time
    }

    /// Whether nobody writes.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// Whether the timeline is deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// The timeline metadata.
    pub fn metadata(&self) -> Option<&TimelineMetadata> {
        self.metadata.as_ref()
    }

    /// Up to which LSN the timeline is durable.
    pub fn disk_consistent_lsn(&self) -> Option<Lsn> {
        self.disk_consistent_lsn
    }

    /// The timeline this one was branched from.
    pub fn ancestor(&self) -> Option<&Ancestor> {
        self.ancestor.as_ref()
    }

    /// The branches of this timeline.
    pub fn branch_points(&self) -> impl Iterator<Item = &BranchPoint> {
        self.branch_points.iter()
    }

    /// The layers, by name.
    pub fn layers(&self) -> &BTreeMap<LayerName, LayerEntry> {
        &self.layers
    }

    /// The bundles that hold layers, and the payload objects of this reign that hold none any more.
    pub fn bundles(&self) -> Vec<BundleEntry> {
        self.bundles.iter().map(|(id, bundle)| bundle_entry(*id, bundle)).collect()
    }

    /// One bundle.
    pub fn bundle(&self, id: BundleId) -> Option<BundleEntry> {
        Some(bundle_entry(id, self.bundles.get(&id)?))
    }
}

fn bundle_entry(id: BundleId, bundle: &Bundle) -> BundleEntry {
    let Bundle { named_by, stored_bytes, tail_len, live_bytes, places: _ } = bundle;
    BundleEntry {
        id,
        named_by: *named_by,
        stored_bytes: *stored_bytes,
        live_bytes: *live_bytes,
        tail_len: *tail_len,
    }
}

fn malformed(why: impl Into<String>) -> FormatError {
    FormatError::Malformed { what: "timeline state", why: why.into() }
}
