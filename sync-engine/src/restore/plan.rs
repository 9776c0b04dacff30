//! Which ranges of which objects a restore fetches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use layer_archive::{BundleId, LayerEntry, LayerName, Location, RawDigest};

use crate::backup::{Conflict, FailedLayer};
use crate::{Result, TimelineState};

/// Bytes between two wanted frames that are rather fetched than made into two requests.
const GAP_BYTES_MAX: u64 = 1 << 20;
/// A range is ended before it has more bytes than this, unless one layer alone has more.
const RANGE_BYTES_MAX: u64 = 40 << 20;

/// What a restore is about to do.
#[derive(Clone, Debug, Default)]
pub struct RestorePlan {
    pub(super) fetches: Vec<RangeFetch>,
    /// Layers that are there with the right contents.
    pub present: usize,
    /// Files that are there with other contents.
    pub conflicts: Vec<Conflict>,
    /// Files that are there and cannot be read.
    pub failed: Vec<FailedLayer>,
    /// Whether something that the timeline's metadata needs will be missing all the same. Then it is held back.
    pub is_partial: bool,
    /// Layers to be written.
    pub layers: usize,
    /// Their raw bytes.
    pub raw_bytes: u64,
}

/// One request: a range of an object, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RangeFetch {
    pub(super) bundle: BundleId,
    pub(super) range: Range<u64>,
    pub(super) extents: Vec<Extent>,
}

/// Frames that some layers share, or one layer has for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its offset means nothing: every layer has its own.
    pub(super) location: Location,
    pub(super) layers: Vec<LayerName>,
}

impl RestorePlan {
    /// Requests that fetch layers.
    pub fn requests(&self) -> usize {
        self.fetches.len()
    }

    /// Bytes that those requests bring.
    pub fn stored_bytes(&self) -> u64 {
        self.fetches.iter().map(|fetch| fetch.range.end - fetch.range.start).sum()
    }
}

/// Plans the restore of every layer of `state` that is not among `existing`, the digests of the files that are there.
pub fn plan_restore(state: &TimelineState, existing: BTreeMap<LayerName, Result<RawDigest>>) -> RestorePlan {
    let mut plan = RestorePlan::default();
    let mut wanted: BTreeMap<(BundleId, Location), Extent> = BTreeMap::new();
    let mut existing = existing;
    for layer in state.layers().values() {
        match existing.remove(&layer.name) {
            Some(Ok(local)) if local == layer.raw => plan.present += 1,
            Some(Ok(local)) => {
                plan.conflicts.push(Conflict { name: layer.name.clone(), local, stored: layer.raw });
            }
            Some(Err(error)) => {
                plan.failed.push(FailedLayer { name: layer.name.clone(), error: error.into() })
            }
            None => {
                plan.layers += 1;
                plan.raw_bytes += layer.raw.size;
                let location = Location { offset: 0, ..layer.place.location };
                wanted
                    .entry((layer.place.bundle, location))
                    .or_insert_with(|| Extent { location, layers: Vec::new() })
                    .layers
                    .push(layer.name.clone());
            }
        }
    }
    for ((bundle, _), extent) in wanted {
        let Location { start, stored_len, .. } = extent.location;
        let end = extent.location.end();
        // What is too large to be in memory is streamed, once for each of the layers that are equal.
        if stored_len > RANGE_BYTES_MAX {
            plan.fetches.extend(extent.layers.into_iter().map(|layer| {
                let extents = vec![Extent { location: extent.location, layers: vec![layer] }];
                RangeFetch { bundle, range: start..end, extents }
            }));
            continue;
        }
        let joined = plan.fetches.last_mut().filter(|fetch| {
            fetch.bundle == bundle
                && start.saturating_sub(fetch.range.end) <= GAP_BYTES_MAX
                && end.saturating_sub(fetch.range.start) <= RANGE_BYTES_MAX
        });
        match joined {
            Some(fetch) => {
                fetch.range.end = fetch.range.end.max(end);
                fetch.extents.push(extent);
            }
            None => plan.fetches.push(RangeFetch { bundle, range: start..end, extents: vec![extent] }),
        }
    }
    plan
}

impl RangeFetch {
    pub(super) fn layers(&self) -> Vec<LayerName> {
        self.extents.iter().flat_map(|extent| extent.layers.iter().cloned()).collect()
    }

    /// The part of it that brings `layers`, if any of them is in it.
    pub(super) fn of_layers(mut self, layers: &BTreeSet<LayerName>) -> Option<Self> {
        for extent in &mut self.extents {
            extent.layers.retain(|layer| layers.contains(layer));
        }
        self.extents.retain(|extent| !extent.layers.is_empty());
        let start = self.extents.iter().map(|extent| extent.location.start).min()?;
        let end = self.extents.iter().map(|extent| extent.location.end()).max()?;
        Some(Self { range: start..end, ..self })
    }

    /// The layer, where the range holds one alone.
    pub(super) fn only_layer(&self) -> Option<&LayerName> {
        match &*self.extents {
            [Extent { layers, .. }] if layers.len() == 1 => layers.first(),
            _ => None,
        }
    }

    /// The entries of each extent's layers.
    pub(super) fn entries(&self, state: &TimelineState) -> Vec<Vec<LayerEntry>> {
        let entries = |extent: &Extent| {
            extent.layers.iter().filter_map(|name| state.layers().get(name).cloned()).collect()
        };
        self.extents.iter().map(entries).collect()
    }
}
