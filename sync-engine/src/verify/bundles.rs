//! Bundles: there, as long as they should be, and every byte right.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use layer_archive::{BundleChecker, BundleIndex, IndexedFrame, LayerName, Location};
use storage_api::{Crc32c, Key, ObjectInfo};

use super::{Finding, NeededBundle, NeededLayer, Verify, VerifyDepth, hull, problem};
use crate::object::{read_index, read_range, twice};
use crate::view::lost;
use crate::{Error, Result};

/// Stored bytes of a bundle that are read at once.
const CHUNK_BYTES: u64 = 16 << 20;

/// What is wrong with a bundle, and where.
pub(super) struct Problem {
    pub(super) what: String,
    hits: Hits,
}

/// Which layers of a bundle something costs.
enum Hits {
    /// They read all the same.
    None,
    All,
    /// Those whose stored bytes are among these.
    In(Range<u64>),
    Named(BTreeSet<LayerName>),
}

impl Problem {
    pub(super) fn of_nothing(what: impl ToString) -> Self {
        Self { what: what.to_string(), hits: Hits::None }
    }

    fn of_all(what: impl ToString) -> Self {
        Self { what: what.to_string(), hits: Hits::All }
    }

    fn costs(&self, needed: &NeededLayer) -> bool {
        match &self.hits {
            Hits::None => false,
            Hits::All => true,
            Hits::In(range) => {
                let location = &needed.layer.place.location;
                location.start < range.end && range.start < location.end()
            }
            Hits::Named(names) => names.contains(&needed.layer.name),
        }
    }
}

impl Verify<'_> {
    /// One bundle that is needed: it is there, it is as long as it should be, and its bytes are right.
    pub(super) async fn bundle(&mut self, needed: &NeededBundle, depth: VerifyDepth) -> Result<()> {
        let is_of_the_past = needed.is_of_the_past();
        self.report.bundles += usize::from(!is_of_the_past);
        let key = self.view.keys.bundle(needed.bundle.id)?;
        let problems = match lost(self.objects, &self.view.keys, self.listing, &needed.bundle).await? {
            Some((_, problem)) => vec![Problem::of_all(problem)],
            None if depth == VerifyDepth::Listing => Vec::new(),
            None => self.contents(needed, &key, depth).await?,
        };
        for problem in problems {
            let hits = || needed.layers.iter().filter(|layer| problem.costs(layer));
            let now = hits().filter(|needed| needed.past.is_none());
            let layers: Vec<LayerName> = now.map(|needed| needed.layer.name.clone()).collect();
            let points = hull(hits().filter_map(|needed| needed.past));
            if is_of_the_past && points.is_none() {
                self.note(&key, problem.what);
            } else {
                self.find(Finding { layers, points, ..Finding::new(&key, problem.what) });
            }
        }
        Ok(())
    }

    /// Reads the index of a bundle and checks its frames: every byte of them, or what the store says of them.
    async fn contents(
        &mut self,
        needed: &NeededBundle,
        key: &Key,
        depth: VerifyDepth,
    ) -> Result<Vec<Problem>> {
        let index = match read_index(self.objects, key, u64::from(needed.bundle.tail_len)).await {
            Ok(index) => index,
            Err(error) => {
                let (what, hits) = (problem(error)?, Hits::Named(self.unreadable(needed, key).await?));
                return Ok(vec![Problem { what, hits }]);
            }
        };
        let mut problems = Vec::new();
        let indexed: BTreeSet<_> =
            index.entries(needed.bundle.id).into_iter().map(|entry| (entry.raw, entry.place)).collect();
        let layers = needed.layers.iter().map(|needed| &needed.layer);
        let strangers = layers.filter(|layer| !indexed.contains(&(layer.raw, layer.place)));
        let strangers: BTreeSet<LayerName> = strangers.map(|layer| layer.name.clone()).collect();
        if !strangers.is_empty() {
            let what = "its index contradicts the timeline's state".into();
            problems.push(Problem { what, hits: Hits::Named(strangers) });
        }
        problems.extend(match depth {
            VerifyDepth::Deep => self.frames(&index, key).await?,
            VerifyDepth::Stored | VerifyDepth::Listing => self.stored_checksum(&index, key).await?,
        });
        Ok(problems)
    }

    /// The layers whose frames do not read. The timeline's state knows where they are, whatever became of the index.
    async fn unreadable(&self, needed: &NeededBundle, key: &Key) -> Result<BTreeSet<LayerName>> {
        let mut known = BTreeMap::new();
        let mut unreadable = BTreeSet::new();
        for NeededLayer { layer, .. } in &needed.layers {
            let location = layer.place.location;
            // Small layers share their frames.
            let reads = match known.get(&location) {
                Some(reads) => *reads,
                None => self.reads(key, &location).await? || self.reads(key, &location).await?,
            };
            known.insert(location, reads);
            if !reads {
                unreadable.insert(layer.name.clone());
            }
        }
        Ok(unreadable)
    }

    /// Whether the stored bytes of some frames have their checksum. They are read a chunk at a time.
    async fn reads(&self, key: &Key, location: &Location) -> Result<bool> {
        let (mut at, mut crc32c) = (location.start, layer_archive::Crc32c::of(&[]));
        while at < location.end() {
            let end = location.end().min(at + CHUNK_BYTES);
            match read_range(self.objects, key, at..end).await {
                Ok(stored) => crc32c = crc32c.append(&stored),
                Err(error) => return problem(error).map(|_| false),
            }
            at = end;
        }
        Ok(crc32c == location.crc32c)
    }

    /// Compares the checksum that the store keeps of a bundle with what its index says.
    pub(super) async fn stored_checksum(&mut self, index: &BundleIndex, key: &Key) -> Result<Vec<Problem>> {
        let expected = Crc32c(index.object_crc32c().0);
        match self.objects.head(key).await {
            Ok(ObjectInfo { crc32c: None, .. }) => self.report.without_checksum += 1,
            Ok(ObjectInfo { crc32c: Some(stored), .. }) if stored == expected => {
                self.report.checked_bytes += index.object_len();
            }
            Ok(ObjectInfo { crc32c: Some(stored), .. }) => {
                let what = format!("the store keeps the checksum {stored} of it, {expected} is right");
                return Ok(vec![Problem::of_all(what)]);
            }
            Err(error) => return Ok(vec![Problem::of_all(problem(error.into())?)]),
        }
        Ok(Vec::new())
    }

    /// Reads all frames of a bundle and checks the tar stream in them against its index.
    pub(super) async fn frames(&mut self, index: &BundleIndex, key: &Key) -> Result<Vec<Problem>> {
        let mut checker = BundleChecker::new(index).map_err(|error| Error::damaged(key, error))?;
        let mut broken = Vec::new();
        for group in groups(index) {
            let frames = &index.frames()[group];
            let (Some(first), Some(last)) = (frames.first(), frames.last()) else { continue };
            let range = first.start..last.stored_range().end;
            let stored = match self.read_frames(key, frames, range.clone()).await {
                Ok(stored) => stored,
                Err(error) => return Ok(vec![Problem::of_all(problem(error)?)]),
            };
            self.report.checked_bytes += stored.len() as u64;
            for frame in frames {
                let at = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
                let bytes = stored.get(at(frame.start)..at(frame.stored_range().end)).unwrap_or_default();
                if let Err(error) = checker.push_frame(bytes) {
                    broken.push(Problem { what: error.to_string(), hits: Hits::In(frame.stored_range()) });
                }
            }
        }
        if !broken.is_empty() {
            return Ok(broken);
        }
        let named = |(name, error): (LayerName, _)| {
            let what: layer_archive::FormatError = error;
            Problem { what: what.to_string(), hits: Hits::Named([name].into()) }
        };
        Ok(match checker.finish() {
            Ok(wrong) => wrong.into_iter().map(named).collect(),
            Err(error) => vec![Problem::of_nothing(error)],
        })
    }

    /// The stored bytes of `frames`. What does not have their checksums is read once more before it is called damaged.
    async fn read_frames(&self, key: &Key, frames: &[IndexedFrame], range: Range<u64>) -> Result<Bytes> {
        let stored = twice(|| read_range(self.objects, key, range.clone())).await?;
        let at = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
        let is_right = |frame: &IndexedFrame| {
            let stored = stored.get(at(frame.start)..at(frame.stored_range().end)).unwrap_or_default();
            layer_archive::Crc32c::of(stored) == frame.crc32c
        };
        if frames.iter().all(is_right) { Ok(stored) } else { read_range(self.objects, key, range).await }
    }
}

/// Runs of frames that are read with one request each.
fn groups(index: &BundleIndex) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (number, frame) in index.frames().iter().enumerate() {
        let fits = |group: &&mut Range<usize>| {
            frame.stored_range().end - index.frames()[group.start].start <= CHUNK_BYTES
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.end = number + 1,
            None => groups.push(number..number + 1),
        }
    }
    groups
}
