//! Which bundles are worth repacking: a pure judgement of a state.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{BundleEntry, BundleId};

use super::GcPolicy;
use crate::TimelineState;

/// Dead bytes for which a bundle is not repacked: what headers, links and metadata cost anyway...
const OVERHEAD_BYTES: u64 = 8 << 10;
/// ...and so many more for each layer, most of it for names.
const OVERHEAD_LAYER_BYTES: u64 = 128;
/// A bundle is joined with smaller ones that have together at least this part of its bytes, so that what was joined
/// waits for its like and bytes are copied a few times only.
const SMALL_GROWTH_DIVISOR: u64 = 4;

/// Reading a bundle and writing what lives takes about so many requests at most.
const SOURCE_REQUESTS: usize = 3;

/// What is to be repacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepackPlan {
    /// The bundles whose live layers move, in order of their ids.
    pub sources: Vec<RepackSource>,
}

/// A bundle that is to be repacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepackSource {
    /// The bundle.
    pub bundle: BundleEntry,
    /// Layers in it.
    pub layers: usize,
}

impl RepackPlan {
    /// Whether there is nothing to repack.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Bytes of live layers that are written anew.
    pub fn live_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bundle.live_bytes).sum()
    }

    /// Requests that it takes at most, about.
    pub fn requests(&self) -> usize {
        self.sources.len() * SOURCE_REQUESTS
    }

    /// Stored bytes of the bundles that die.
    pub fn stored_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bundle.stored_bytes).sum()
    }
}

/// Bytes of live layers that one run repacks at most of a timeline that has `live` of them.
pub(super) fn repack_bytes_max(live: u64, policy: &GcPolicy, bundle_bytes_target: u64) -> u64 {
    (live / GcPolicy::REPACK_DIVISOR).max(bundle_bytes_target).min(policy.repack_bytes_max)
}

/// Chooses what to repack of a timeline: the emptiest bundles first, then many small ones, within the policy's bounds.
///
/// `bundle_bytes_target` is what bundles are filled to. Bundles that hold a live layer larger than that are left alone:
/// it has them for itself.
pub fn plan_repack(state: &TimelineState, policy: &GcPolicy, bundle_bytes_target: u64) -> RepackPlan {
    let mut candidates: BTreeMap<BundleId, Candidate> = BTreeMap::new();
    for layer in state.layers().values() {
        let Some(bundle) = state.bundle(layer.place.bundle) else { continue };
        let new = Candidate { bundle, layers: 0, largest: 0 };
        let candidate = candidates.entry(bundle.id).or_insert(new);
        candidate.layers += 1;
        // A small one shares its frame with others.
        let own = layer.place.location.stored_len.min(layer.raw.size);
        candidate.largest = candidate.largest.max(own);
    }
    let live: u64 = candidates.values().map(|candidate| candidate.bundle.live_bytes).sum();
    let bytes_max = repack_bytes_max(live, policy, bundle_bytes_target);
    let movable: Vec<&Candidate> =
        candidates.values().filter(|candidate| candidate.largest <= bundle_bytes_target).collect();
    let mut sparse: Vec<&Candidate> =
        movable.iter().copied().filter(|candidate| candidate.is_sparse(policy.live_percent_min)).collect();
    // Of two bundles the one that gives more room for a byte that is written.
    sparse.sort_by_key(|candidate| {
        let BundleEntry { live_bytes, stored_bytes, id, .. } = candidate.bundle;
        (live_bytes.saturating_mul(1 << 20) / stored_bytes.max(1), id)
    });
    let mut chosen =
        Chosen { bytes_left: bytes_max, requests_left: policy.requests_max, ids: BTreeSet::new() };
    for candidate in &sparse {
        chosen.add(candidate);
    }
    let small = movable.iter().copied().filter(|candidate| {
        candidate.bundle.stored_bytes <= policy.small_bundle_bytes
            && !chosen.ids.contains(&candidate.bundle.id)
    });
    let before = chosen.clone();
    let mut joined = Vec::new();
    for candidate in neighbours(small.collect(), policy.small_bundles_min) {
        if chosen.add(candidate) {
            joined.push(candidate.bundle.live_bytes);
        }
    }
    // Of as many bundles as before nothing is gained, and the next run would find them again.
    let bundles = joined.iter().sum::<u64>().div_ceil(bundle_bytes_target.max(1));
    if bundles >= joined.len() as u64 {
        chosen = before;
    }
    let sources = candidates.into_values().filter(|candidate| chosen.ids.contains(&candidate.bundle.id));
    RepackPlan {
        sources: sources.map(|Candidate { bundle, layers, .. }| RepackSource { bundle, layers }).collect(),
    }
}

/// A bundle that holds live layers.
struct Candidate {
    bundle: BundleEntry,
    layers: usize,
    /// Bytes of its largest layer.
    largest: u64,
}

impl Candidate {
    /// Whether repacking gives room: its frames are mostly dead, and not only because its layers are tiny.
    fn is_sparse(&self, live_percent_min: u64) -> bool {
        let BundleEntry { stored_bytes, live_bytes, tail_len, .. } = self.bundle;
        let frames = stored_bytes.saturating_sub(u64::from(tail_len));
        let dead = frames.saturating_sub(live_bytes);
        let overhead = OVERHEAD_BYTES + OVERHEAD_LAYER_BYTES * self.layers as u64;
        live_bytes.saturating_mul(100) < frames.saturating_mul(live_percent_min) && dead > overhead
    }
}

#[derive(Clone)]
struct Chosen {
    bytes_left: u64,
    requests_left: usize,
    ids: BTreeSet<BundleId>,
}

impl Chosen {
    /// Takes a bundle, if it fits what is left. Whether it does.
    fn add(&mut self, candidate: &Candidate) -> bool {
        let live = candidate.bundle.live_bytes;
        let fits = live <= self.bytes_left && self.requests_left >= SOURCE_REQUESTS;
        if fits {
            self.bytes_left -= live;
            self.requests_left -= SOURCE_REQUESTS;
            self.ids.insert(candidate.bundle.id);
        }
        fits
    }
}

/// The smallest bundles that are alike in size, of which there are enough.
fn neighbours(mut small: Vec<&Candidate>, least: usize) -> Vec<&Candidate> {
    let least = least.max(2);
    small.sort_by_key(|candidate| (candidate.bundle.stored_bytes, candidate.bundle.id));
    // A run that is long enough ends the search, so none of those before it is longer than `least`.
    let mut runs = (0..small.len()).map(|first| &small[first..first + alike(&small[first..])]);
    runs.find(|run| run.len() >= least).map(<[_]>::to_vec).unwrap_or_default()
}

/// How many of `small`, which are sorted by size, are alike: from the first on.
fn alike(small: &[&Candidate]) -> usize {
    let mut total = 0;
    for (number, candidate) in small.iter().enumerate() {
        let stored = candidate.bundle.stored_bytes;
        if number > 0 && stored > total / SMALL_GROWTH_DIVISOR && stored > small[0].bundle.stored_bytes * 2 {
            return number;
        }
        total += stored;
    }
    small.len()
}
