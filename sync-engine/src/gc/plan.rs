//! The judgement: what may be deleted, what is worth repacking, what is given up. Pure.

use std::collections::BTreeSet;

use layer_archive::{BranchPoint, BundleId, PayloadId, Seq};
use storage_api::{Key, ObjectInfo, PendingUpload};

use super::floor::{Points, points_in_time};
use super::sources::{RepackPlan, plan_repack};
use super::{GcPolicy, Survey};
use crate::{Finding, TimelineState};

/// A claim has at most so many bytes: a larger record holds layers, or held some.
const CLAIM_BYTES_MAX: u64 = 4 << 10;

/// So many times the bytes of the metadata are written, about, to move the floor on.
const METADATA_COST: u64 = 4;

/// What a collection is about to do.
#[derive(Clone, Debug, Default)]
pub struct GcPlan {
    /// The manifest that deleting is judged by; nothing is deleted without one.
    pub floor: Option<Seq>,
    /// Manifests to be deleted, before anything else is.
    pub manifests: Vec<Doomed>,
    /// Records and payload objects to be deleted.
    pub objects: Vec<Doomed>,
    /// Uploads in parts that nobody will complete.
    pub uploads: Vec<PendingUpload>,
    /// Bundles to be repacked.
    pub repack: RepackPlan,
    /// Whether manifests are to be written, so that there is a later floor.
    pub checkpoint: Checkpoint,
    /// Branch points of branches that are deleted: they are given up.
    pub ended_branches: Vec<BranchPoint>,
    /// Which points in time there are...
    pub points: Option<Points>,
    /// ...and which are left after the deletions.
    pub points_left: Option<Points>,
    /// Where the bytes are.
    pub space: Space,
    /// Damage. Where there is any, nothing is done.
    pub damage: Vec<Finding>,
    /// What does not read and may be left alone: see [`Survey::doubtful`].
    pub doubtful: Vec<Finding>,
}

/// Whether a collection moves on the floor of the ones that follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// There is too little that it would free.
    #[default]
    No,
    /// With a manifest of the newest state, so many bytes more are free once it is old enough.
    Frees(u64),
}

/// An object that is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its key.
    pub key: Key,
    /// Its length.
    pub stored_bytes: u64,
    /// Why.
    pub why: Why,
}

/// Why an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A manifest below the floor.
    Manifest,
    /// A record below the floor of which nothing is live.
    Record,
    /// A payload object that was named below the floor, and of which nothing is live.
    Payload,
    /// A payload object that no record ever named, of a writer that can name it no more.
    Orphan,
}

/// Where the stored bytes of a timeline are. The parts make up the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All objects.
    pub stored_bytes: u64,
    /// Live layers.
    pub live_bytes: u64,
    /// What else is in bundles that hold live layers: dead layers, indexes, headers.
    pub beside_live_bytes: u64,
    /// Dead objects that retention holds, and those that the running writer may yet name.
    pub held_bytes: u64,
    /// Objects that the plan deletes.
    pub doomed_bytes: u64,
    /// Of the dead objects, the payload objects that no record ever named, and their bytes.
    pub orphans: usize,
    /// See [`orphans`](Self::orphans).
    pub orphan_bytes: u64,
    /// Claims, which stay for ever.
    pub claim_bytes: u64,
    /// Manifests that stay.
    pub manifest_bytes: u64,
    /// Objects whose keys mean nothing here; they are left alone.
    pub unknown_bytes: u64,
}

impl GcPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.deletes() && !self.writes()
    }

    /// Whether something is deleted or aborted.
    pub fn deletes(&self) -> bool {
        !(self.manifests.is_empty() && self.objects.is_empty() && self.uploads.is_empty())
    }

    /// Whether records or manifests are written.
    pub fn writes(&self) -> bool {
        !self.repack.is_empty() || self.checkpoint != Checkpoint::No || !self.ended_branches.is_empty()
    }

    /// Bytes that are deleted.
    pub fn doomed_bytes(&self) -> u64 {
        self.manifests.iter().chain(&self.objects).map(|doomed| doomed.stored_bytes).sum()
    }

    /// Requests that carrying it out takes after the survey, about: claim and manifests, a read of each source and what is
    /// written of it, and deletes of `delete_keys_max` keys each.
    pub fn requests(&self, delete_keys_max: usize) -> usize {
        let bulk = |doomed: &[Doomed]| doomed.len().div_ceil(delete_keys_max.max(1));
        let deletes = bulk(&self.manifests) + bulk(&self.objects) + self.uploads.len();
        // Claim and list, the record that moves, two manifests, the record that releases.
        let writes = if self.writes() { 6 } else { 0 };
        // Where nothing is kept, a second look: two lists, two manifests, a record; and two deletes.
        let is_second_look =
            self.checkpoint != Checkpoint::No && self.points_left.is_some_and(|left| left.count() == 1);
        let again = if is_second_look { 7 } else { 0 };
        deletes + writes + again + self.repack.sources.len() * 2
    }
}

/// Judges what `survey` has found. `bundle_bytes_target` is what repacked bundles are filled to.
pub fn plan_gc(survey: &Survey, policy: &GcPolicy, bundle_bytes_target: u64) -> GcPlan {
    let view = &survey.view;
    let points = points_in_time(&view.listing, view.state.seq());
    let mut plan = GcPlan {
        points,
        points_left: points,
        damage: survey.damage.clone(),
        doubtful: survey.doubtful.clone(),
        ..GcPlan::default()
    };
    let judge = Judge { survey, live: live_bundles(&view.state) };
    // Who has lost something looks for it in what seems to be garbage.
    if plan.damage.is_empty() {
        if let Some(floor) = &survey.floor {
            judge.doom(floor, &mut plan);
        }
        plan.uploads = judge.dead_uploads(policy);
        if view.state.is_deleted() {
            // A deletion that was killed has no manifest yet, and without one nothing is ever old enough.
            if !view.listing.manifests.contains_key(&view.state.seq()) {
                plan.checkpoint = Checkpoint::Frees(judge.freed(&plan.repack));
            }
        } else {
            plan.repack = plan_repack(&view.state, policy, bundle_bytes_target);
            plan.checkpoint = judge.checkpoint(&plan.repack, policy);
            plan.ended_branches = survey.ended_branches.clone();
        }
        // The manifests that are about to be written are old enough at once.
        if policy.retention.is_zero() && plan.checkpoint != Checkpoint::No {
            plan.points_left = points.map(|Points { newest, .. }| Points { oldest: newest, newest });
        }
    }
    plan.space = judge.space(&plan);
    plan
}

/// The bundles that hold a live layer. A bundle's live bytes do not tell: an empty layer has none. Of a deleted timeline
/// nothing is live.
pub(super) fn live_bundles(state: &TimelineState) -> BTreeSet<BundleId> {
    if state.is_deleted() {
        return BTreeSet::new();
    }
    state.layers().values().map(|layer| layer.place.bundle).collect()
}

struct Judge<'a> {
    survey: &'a Survey,
    /// The bundles that are live now.
    live: BTreeSet<BundleId>,
}

impl Judge<'_> {
    /// What the floor condemns (rules 1, 3, 6 and 7 of the protocol).
    fn doom(&self, floor: &TimelineState, plan: &mut GcPlan) {
        let Survey { view, known, .. } = self.survey;
        let (listing, seq) = (&view.listing, floor.seq());
        let live_at_floor = live_bundles(floor);
        let is_dead = |id: BundleId| !live_at_floor.contains(&id) && !self.live.contains(&id);
        plan.floor = Some(seq);
        let below = listing.manifests.range(..seq);
        plan.manifests = below.map(|(_, info)| doomed(info, Why::Manifest)).collect();
        for (number, info) in listing.records.range(..=seq) {
            // What is not known to be no claim is taken for one; a tombstone stays too.
            let is_tombstone = floor.is_deleted() && *number == seq;
            if is_dead(BundleId::Record(*number)) && known.is_ordinary(*number) && !is_tombstone {
                plan.objects.push(doomed(info, Why::Record));
            }
        }
        for (id, info) in &listing.payloads {
            if let Some(why) = self.why_payload(floor, *id).filter(|_| is_dead(BundleId::Payload(*id))) {
                plan.objects.push(doomed(info, why));
            }
        }
        let kept = |newest: Seq| Points { oldest: seq, newest };
        plan.points_left = plan.points.map(|points| kept(points.newest));
    }

    /// Why a payload object of which nothing is live can go, if it can.
    fn why_payload(&self, floor: &TimelineState, id: PayloadId) -> Option<Why> {
        let named = floor.bundle(BundleId::Payload(id)).is_some();
        if self.survey.named.contains_key(&id) {
            // Named after the floor: what it held may be wanted for a state in between.
            return None;
        }
        if floor.is_deleted() || named {
            return Some(Why::Payload);
        }
        // Only its own writer could have named it, and the floor is past that: it did, and what it held died, or never.
        if id.claim < floor.claim() {
            return Some(Why::Payload);
        }
        (id.claim < self.survey.view.state.claim() && self.survey.is_old(id)).then_some(Why::Orphan)
    }

    fn dead_uploads(&self, policy: &GcPolicy) -> Vec<PendingUpload> {
        let is_old = |upload: &&PendingUpload| {
            self.survey.now.duration_since(upload.begun).unwrap_or_default() >= policy.retention
        };
        self.survey.uploads.iter().filter(is_old).cloned().collect()
    }

    /// Whether a floor at the newest state would free much more than one at the newest manifest that can become it.
    fn checkpoint(&self, repack: &RepackPlan, policy: &GcPolicy) -> Checkpoint {
        let view = &self.survey.view;
        let freed = self.freed(repack);
        let manifest = view.manifest.map_or(0, |manifest| manifest.stored_bytes);
        // Who moves the floor on repeats the metadata in a record, which is garbage the next time: twice, in its commit and
        // as a member of its tar.
        let metadata = view.state.metadata().map_or(0, |metadata| metadata.bytes.len() as u64);
        if freed >= manifest.max(policy.checkpoint_bytes_min).max(metadata.saturating_mul(METADATA_COST)) {
            Checkpoint::Frees(freed)
        } else {
            Checkpoint::No
        }
    }

    /// What a floor at the newest state would free more than one at the newest manifest that can become it.
    fn freed(&self, repack: &RepackPlan) -> u64 {
        let Survey { view, known, next_floor, named, .. } = self.survey;
        let moved: BTreeSet<BundleId> = repack.sources.iter().map(|source| source.bundle.id).collect();
        let lives = |id: BundleId| self.live.contains(&id) && !moved.contains(&id);
        let dead_then = |id: BundleId, seq: Seq| {
            next_floor.as_ref().is_some_and(|next| seq <= next.seq && !next.live.contains(&id))
        };
        let mut freed = 0;
        for (seq, info) in &view.listing.records {
            let id = BundleId::Record(*seq);
            // A record of which nothing is known is small, like a claim, or its layers would be known.
            let counts = known.is_ordinary(*seq) || info.size > CLAIM_BYTES_MAX;
            if counts && !lives(id) && !dead_then(id, *seq) {
                freed += info.size;
            }
        }
        for (payload, info) in &view.listing.payloads {
            let id = BundleId::Payload(*payload);
            let is_over = payload.claim < view.state.claim() || view.state.bundle(id).is_some();
            let seq = named.get(payload).copied().unwrap_or(payload.claim);
            if is_over && !lives(id) && !dead_then(id, seq) {
                freed += info.size;
            }
        }
        freed
    }

    fn space(&self, plan: &GcPlan) -> Space {
        let Survey { view, known, named, .. } = self.survey;
        let listing = &view.listing;
        let doomed: BTreeSet<&Key> = plan.objects.iter().map(|doomed| &doomed.key).collect();
        let mut space = Space {
            stored_bytes: listing.stored_bytes() + sum(&listing.unknown),
            doomed_bytes: plan.doomed_bytes(),
            unknown_bytes: sum(&listing.unknown),
            ..Space::default()
        };
        let below_floor: u64 = plan.manifests.iter().map(|doomed| doomed.stored_bytes).sum();
        space.manifest_bytes = sum(listing.manifests.values()).saturating_sub(below_floor);
        let records = listing.records.iter().map(|(seq, info)| (BundleId::Record(*seq), info));
        let payloads = listing.payloads.iter().map(|(id, info)| (BundleId::Payload(*id), info));
        for (id, info) in records.chain(payloads) {
            if self.live.contains(&id) {
                let live = view.state.bundle(id).map_or(0, |bundle| bundle.live_bytes).min(info.size);
                space.live_bytes += live;
                space.beside_live_bytes += info.size - live;
                continue;
            }
            if matches!(id, BundleId::Record(seq) if known.is_claim(seq)) {
                space.claim_bytes += info.size;
                continue;
            }
            if let BundleId::Payload(payload) = id
                && payload.claim < view.state.claim()
                && !named.contains_key(&payload)
                && self.survey.was_never_named(payload)
            {
                space.orphans += 1;
                space.orphan_bytes += info.size;
            }
            if !doomed.contains(&info.key) {
                space.held_bytes += info.size;
            }
        }
        space
    }
}

fn doomed(info: &ObjectInfo, why: Why) -> Doomed {
    Doomed { key: info.key.clone(), stored_bytes: info.size, why }
}

fn sum<'a>(objects: impl IntoIterator<Item = &'a ObjectInfo>) -> u64 {
    objects.into_iter().map(|object| object.size).sum()
}
