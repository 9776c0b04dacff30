//! The layer map: which layers hold what, by key range and LSN range, as their names say.
//!
//! A page as of an LSN is made of the newest image at or below it and of the changes after that image. An image at `L`
//! has every change at or below `L` in it; a delta holds the changes at the LSNs of its range. Per-relation names of
//! older pageservers have a relation's segment for a key. A layer whose name is not understood may hold anything.

mod cover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{LayerName, Lsn};

use self::cover::Cover;
use crate::{KeyRange, KeyedName, LayerKey, LayerKind, ParsedLayerName, RelishName};

/// The layers of a timeline, by what they hold.
#[derive(Clone, Debug, Default)]
pub struct LayerMap {
    keyed: Vec<(KeyedName, LayerName)>,
    /// By the names of their segments.
    relishes: BTreeMap<String, Vec<(RelishName, LayerName)>>,
    opaque: BTreeSet<LayerName>,
}

/// What a read of some keys at an LSN needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPart<'a> {
    /// The keys.
    pub keys: KeyRange,
    /// The layers that hold them.
    pub layers: ReadLayers<'a>,
}

/// The layers that a read at an LSN needs, apart from the opaque ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadLayers<'a> {
    /// The newest image at or below the LSN.
    pub image: Option<&'a LayerName>,
    /// The deltas with changes after the image, up to the LSN; the newest changes first.
    pub deltas: Vec<&'a LayerName>,
}

/// A layer, its kind and its LSNs: the first, and the one after the last.
type Candidate<'a> = (LayerKind, Lsn, Lsn, &'a LayerName);

impl LayerMap {
    /// A map of layers by their stored names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a LayerName>) -> Self {
        let mut map = Self::default();
        for name in names {
            match name.as_str().parse() {
                Ok(ParsedLayerName::Keyed(parsed)) => map.keyed.push((parsed, name.clone())),
                Ok(ParsedLayerName::Relish(parsed)) => {
                    map.relishes.entry(segment_of(&parsed)).or_default().push((parsed, name.clone()));
                }
                Err(_) => drop(map.opaque.insert(name.clone())),
            }
        }
        map
    }

    /// The layers whose names are not understood: every read may need them.
    pub fn opaque(&self) -> impl Iterator<Item = &LayerName> {
        self.opaque.iter()
    }

    /// The layers that a read of one key at `lsn` needs.
    pub fn read_key(&self, key: LayerKey, lsn: Lsn) -> ReadLayers<'_> {
        let there = self.keyed.iter().filter(|(parsed, _)| parsed.key_range().contains(key));
        ReadLayers::choose(there.map(candidate), lsn)
    }

    /// The layers that a read of all `keys` at `lsn` needs: parts in the order of their keys, which join without gaps.
    /// Neighbours need different layers.
    pub fn read_range(&self, keys: KeyRange, lsn: Lsn) -> Vec<ReadPart<'_>> {
        let there: Vec<&(KeyedName, LayerName)> = self
            .keyed
            .iter()
            .filter(|(parsed, _)| parsed.lsn_range().start() <= lsn && overlap(parsed.key_range(), keys))
            .collect();
        let ends =
            there.iter().flat_map(|(parsed, _)| [parsed.key_range().start(), parsed.key_range().end()]);
        let inner = ends.filter(|key| keys.start() < *key && *key < keys.end());
        let mut edges: BTreeSet<LayerKey> = inner.collect();
        edges.extend([keys.start(), keys.end()]);
        let edges: Vec<LayerKey> = edges.into_iter().collect();
        let mut parts: Vec<ReadPart<'_>> = Vec::new();
        for edge in edges.windows(2) {
            let here = there.iter().filter(|(parsed, _)| parsed.key_range().contains(edge[0]));
            let layers = ReadLayers::choose(here.copied().map(candidate), lsn);
            let start = match parts.last() {
                Some(before) if before.layers == layers => parts.pop().map(|before| before.keys.start()),
                _ => None,
            };
            if let Some(keys) = KeyRange::new(start.unwrap_or(edge[0])..edge[1]) {
                parts.push(ReadPart { keys, layers });
            }
        }
        parts
    }

    /// The layers that a read at `lsn` of the segment needs that `of`, a per-relation name, is of.
    pub fn read_segment(&self, of: &RelishName, lsn: Lsn) -> ReadLayers<'_> {
        let there = self.relishes.get(&segment_of(of)).into_iter().flatten();
        let candidates = there.map(|(parsed, name)| {
            let range = parsed.lsn_range();
            (parsed.kind(), range.start(), range.end(), name)
        });
        ReadLayers::choose(candidates, lsn)
    }

    /// Whether what a layer holds is in layers of the map: of a delta every change in deltas, of an image every page in
    /// images at the same LSN. A layer of that name itself does not count, nor do opaque layers.
    ///
    /// That is what compaction leaves. That a newer image makes an old layer useless for reads that are new enough is
    /// another matter: a branch may read in between.
    pub fn holds(&self, name: &LayerName) -> bool {
        match name.as_str().parse() {
            Ok(ParsedLayerName::Keyed(layer)) => {
                let others =
                    self.keyed.iter().filter(|(other, of)| other.kind() == layer.kind() && of != name);
                let mut cover = Cover::of(layer.key_range(), layer.lsn_range());
                cover.add(others.map(|(other, _)| (other.key_range(), other.lsn_range())));
                cover.is_whole()
            }
            Ok(ParsedLayerName::Relish(layer)) => {
                let others = self.relishes.get(&segment_of(&layer)).into_iter().flatten();
                let others = others.filter(|(other, of)| other.kind() == layer.kind() && of != name);
                // A segment is one key.
                let mut cover = Cover::of(KeyRange::ALL, layer.lsn_range());
                cover.add(others.map(|(other, _)| (KeyRange::ALL, other.lsn_range())));
                cover.is_whole()
            }
            Err(_) => false,
        }
    }
}

impl<'a> ReadLayers<'a> {
    /// Chooses among the layers that hold a key.
    fn choose(candidates: impl Iterator<Item = Candidate<'a>>, lsn: Lsn) -> Self {
        let mut image: Option<(Lsn, &LayerName)> = None;
        let mut deltas = Vec::new();
        for (kind, start, end, name) in candidates.filter(|(_, start, ..)| *start <= lsn) {
            match kind {
                // Of two at one LSN, as two generations write them, the one with the later name.
                LayerKind::Image => image = image.max(Some((start, name))),
                LayerKind::Delta => deltas.push((end, name)),
            }
        }
        // The last change of a delta is below its end, and the image has the changes up to its own LSN.
        let is_after = |end: Lsn, at: Lsn| at < lsn && end.0 > at.0.saturating_add(1);
        deltas.retain(|(end, _)| image.is_none_or(|(at, _)| is_after(*end, at)));
        deltas.sort_by(|a, b| b.cmp(a));
        Self {
            image: image.map(|(_, name)| name),
            deltas: deltas.into_iter().map(|(_, name)| name).collect(),
        }
    }
}

fn candidate((parsed, name): &(KeyedName, LayerName)) -> Candidate<'_> {
    let range = parsed.lsn_range();
    (parsed.kind(), range.start(), range.end(), name)
}

fn overlap(a: KeyRange, b: KeyRange) -> bool {
    a.start() < b.end() && b.start() < a.end()
}

/// What of a per-relation name is the same for all layers of one segment.
fn segment_of(name: &RelishName) -> String {
    format!("{}_{}", name.relish(), name.segment())
}
