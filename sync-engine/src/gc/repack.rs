//! Repacking: the live layers of old bundles go into new payload objects, and one record moves them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{
    BundleEntry, BundleId, BundleIndex, BundleWriter, Crc32c, FormatError, IndexedFrame, LayerEntry,
    Location, Moved, Seq,
};
use storage_api::{GetRange, Key, ObjectStore, ObjectStoreExt};

use super::reframe::{LiveLayers, Rebundler, Unit, units};
use super::{RepackPlan, RepackSource};
use crate::object::{read_index, read_range, twice};
use crate::{Draft, Error, Finding, Result, Store, TimelineWriter};

/// Stored bytes that are read at once: bundles of that size with one request.
const READ_BYTES_MAX: u64 = 40 << 20;
/// Sources that are read at the same time at most.
const SOURCES_IN_FLIGHT_MAX: usize = 16;
/// Bytes between two wanted units that are rather read than made into two requests.
const GAP_BYTES_MAX: u64 = 1 << 20;

/// What a repacking has done.
#[derive(Clone, Debug, Default)]
pub struct Repacked {
    /// The record that moves the layers, if any were.
    pub seq: Option<Seq>,
    /// Layers that were moved.
    pub layers: usize,
    /// Bundles that were read.
    pub sources: usize,
    /// Their stored bytes, which are garbage once the floor is past the move.
    pub freed_bytes: u64,
    /// Bundles that were written.
    pub bundles: usize,
    /// Their stored bytes.
    pub stored_bytes: u64,
    /// What could not be read. Those layers stay where they are.
    pub findings: Vec<Finding>,
}

impl Repacked {
    /// Takes in what a further step has done.
    pub(super) fn add(&mut self, step: Self) {
        let Self { seq, layers, sources, freed_bytes, bundles, stored_bytes, findings } = step;
        self.seq = seq.or(self.seq);
        self.layers += layers;
        self.sources += sources;
        self.freed_bytes += freed_bytes;
        self.bundles += bundles;
        self.stored_bytes += stored_bytes;
        self.findings.extend(
            findings.into_iter().filter(|finding| !self.findings.contains(finding)).collect::<Vec<_>>(),
        );
    }
}

/// Writes the new bundles of what `plan` says. What it returns is to be appended: one record moves the layers; until it is
/// there nothing has changed, and a layer that was removed meanwhile stays so.
pub(super) async fn prepare(
    store: &Store,
    writer: &mut TimelineWriter,
    plan: &RepackPlan,
    bundle_bytes_target: u64,
) -> Result<(Draft, Repacked)> {
    let objects = &**store.objects();
    let (mut draft, mut repacked) = (Draft::default(), Repacked::default());
    let mut live = live_layers(writer, plan);
    let mut rebundler = Rebundler::new(bundle_bytes_target).map_err(unpackable)?;
    // Those that were removed altogether since the plan was made have no live layers.
    let sources = plan.sources.iter().filter_map(|source| Some((source, live.remove(&source.bundle.id)?)));
    let keys = writer.view().keys.clone();
    let opening = sources.map(|(RepackSource { bundle, .. }, live)| {
        let key = keys.bundle(bundle.id);
        async move { Ok::<_, Error>((bundle, Source::open(objects, key?, bundle, live).await)) }
    });
    let mut opening = stream::iter(opening.collect::<Vec<_>>()).buffered(reads_in_flight(plan));
    while let Some((bundle, opened)) = opening.try_next().await? {
        let opened = match opened {
            Ok(opened) => Arc::new(opened),
            Err(error) => {
                repacked.findings.push(finding(error)?);
                continue;
            }
        };
        repacked.sources += 1;
        repacked.freed_bytes += bundle.stored_bytes;
        for chunk in opened.chunks() {
            let stored = match opened.read(objects, &chunk).await {
                Ok(stored) => stored,
                Err(error) => {
                    repacked.findings.push(finding(error)?);
                    continue;
                }
            };
            let opened = Arc::clone(&opened);
            let pushed = tokio::task::spawn_blocking(move || {
                let findings = opened.push(&mut rebundler, &chunk, &stored);
                (rebundler, findings)
            });
            let (back, findings) = pushed.await.map_err(|error| Error::Task(error.to_string()))?;
            rebundler = back;
            repacked.findings.extend(findings);
            for full in rebundler.take_full() {
                put(writer, full, &mut draft, &mut repacked).await?;
            }
        }
    }
    for last in rebundler.finish().map_err(unpackable)? {
        put(writer, last, &mut draft, &mut repacked).await?;
    }
    Ok((draft, repacked))
}

/// How many sources are read at the same time: as many as one large one has bytes.
fn reads_in_flight(plan: &RepackPlan) -> usize {
    let largest = plan.sources.iter().map(|source| source.bundle.stored_bytes).max().unwrap_or_default();
    usize::try_from(READ_BYTES_MAX / largest.max(1)).unwrap_or(usize::MAX).clamp(1, SOURCES_IN_FLIGHT_MAX)
}

/// The live layers of each source.
fn live_layers(writer: &TimelineWriter, plan: &RepackPlan) -> HashMap<BundleId, LiveLayers> {
    let mut live: HashMap<_, LiveLayers> =
        plan.sources.iter().map(|source| (source.bundle.id, LiveLayers::new())).collect();
    for layer in writer.view().state.layers().values() {
        if let Some(layers) = live.get_mut(&layer.place.bundle) {
            layers.entry(layer.place.location).or_default().push(layer.clone());
        }
    }
    live.retain(|_, layers| !layers.is_empty());
    live
}

async fn put(
    writer: &mut TimelineWriter,
    bundle: BundleWriter,
    draft: &mut Draft,
    repacked: &mut Repacked,
) -> Result<()> {
    let (payload, layers) = writer.put_payload(bundle).await?;
    repacked.bundles += 1;
    repacked.stored_bytes += payload.stored_bytes;
    draft.payloads.push(payload);
    let state = &writer.view().state;
    for LayerEntry { name, place: to, stored_bytes, .. } in layers {
        let Some(from) = state.layers().get(&name).map(|layer| layer.place) else { continue };
        draft.moved.push(Moved { name, from, to, stored_bytes });
        repacked.layers += 1;
    }
    Ok(())
}

/// A bundle that is repacked.
struct Source {
    key: Key,
    index: BundleIndex,
    units: Vec<Unit>,
    live: LiveLayers,
    /// The whole object, where it is small enough to be read at once.
    whole: Option<Bytes>,
}

/// Units that are read with one request.
#[derive(Clone, Debug)]
struct Chunk {
    range: Range<u64>,
    units: Vec<Unit>,
}

impl Source {
    async fn open(
        objects: &dyn ObjectStore,
        key: Key,
        bundle: &BundleEntry,
        live: LiveLayers,
    ) -> Result<Self> {
        let (index, whole) = if bundle.stored_bytes <= READ_BYTES_MAX {
            let mut whole = twice(|| read_whole(objects, &key)).await?;
            // What flipped on the way is right the second time; what is wrong in the store shows when it is cut.
            if !is_right(&whole.0, &whole.1) {
                whole = twice(|| read_whole(objects, &key)).await?;
            }
            let (index, bytes) = whole;
            (index, Some(bytes))
        } else {
            (read_index(objects, &key, bundle.tail_len.into()).await?, None)
        };
        let places: HashSet<Location> = index.layers().iter().map(|layer| index.location(layer)).collect();
        if let Some(lost) = live.iter().find(|(place, _)| !places.contains(place)) {
            let names: Vec<&str> = lost.1.iter().map(|layer| layer.name.as_str()).collect();
            let why = format!("its index does not have {names:?} where the timeline has it");
            return Err(Error::damaged(&key, FormatError::Malformed { what: "bundle", why }));
        }
        let units = units(&index).map_err(|error| Error::damaged(&key, error))?;
        Ok(Self { key, index, units, live, whole })
    }

    /// The units that hold live layers, joined into ranges.
    fn chunks(&self) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        for unit in self.units.iter().filter(|unit| unit.is_live(&self.index, &self.live)) {
            let (unit, range) = (unit.clone(), unit.range(&self.index));
            let joined = chunks.last_mut().filter(|chunk| {
                range.start.saturating_sub(chunk.range.end) <= GAP_BYTES_MAX
                    && range.end.saturating_sub(chunk.range.start) <= READ_BYTES_MAX
            });
            match joined {
                Some(chunk) => {
                    chunk.range.end = range.end;
                    chunk.units.push(unit);
                }
                None => chunks.push(Chunk { range, units: vec![unit] }),
            }
        }
        chunks
    }

    async fn read(&self, objects: &dyn ObjectStore, chunk: &Chunk) -> Result<Bytes> {
        if let Some(whole) = &self.whole {
            return Ok(slice(whole, &chunk.range, 0));
        }
        let stored = read_range(objects, &self.key, chunk.range.clone()).await?;
        let frames = chunk.units.iter().flat_map(|unit| &self.index.frames()[unit.frames.clone()]);
        let is_right = |frame: &IndexedFrame| {
            Crc32c::of(&slice(&stored, &frame.stored_range(), chunk.range.start)) == frame.crc32c
        };
        if frames.into_iter().all(is_right) {
            return Ok(stored);
        }
        read_range(objects, &self.key, chunk.range.clone()).await
    }

    /// Pushes the units of a chunk. One that is damaged does not keep the others from being moved.
    fn push(&self, rebundler: &mut Rebundler, chunk: &Chunk, stored: &Bytes) -> Vec<Finding> {
        let mut findings = Vec::new();
        for unit in &chunk.units {
            let stored = slice(stored, &unit.range(&self.index), chunk.range.start);
            if let Err(error) = rebundler.push(&self.index, unit, &stored, &self.live) {
                let lost = self.index.layers()[unit.layers.clone()].iter();
                let lost = lost.filter_map(|layer| self.live.get(&self.index.location(layer))).flatten();
                let layers = lost.map(|layer| layer.name.clone()).collect();
                findings.push(Finding { layers, ..Finding::new(&self.key, error) });
            }
        }
        findings
    }
}

async fn read_whole(objects: &dyn ObjectStore, key: &Key) -> Result<(BundleIndex, Bytes)> {
    let (_, bytes) = objects.get_bytes(key, GetRange::Full, READ_BYTES_MAX).await?;
    let index = BundleIndex::parse_object(&bytes).map_err(|error| Error::damaged(key, error))?;
    Ok((index, bytes))
}

/// Whether the frames of a whole object have their checksum.
fn is_right(index: &BundleIndex, bytes: &Bytes) -> bool {
    let frames = slice(bytes, &(0..index.object_len() - index.tail_len()), 0);
    Crc32c::of(&frames) == index.data_crc32c()
}

/// The part `range` of an object, of which `bytes` begin at `start`.
fn slice(bytes: &Bytes, range: &Range<u64>, start: u64) -> Bytes {
    let at =
        |offset: u64| usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(range.start)..at(range.end))
}

fn unpackable(source: FormatError) -> Error {
    Error::Unpackable { what: "a repacked bundle".into(), source }
}

/// What is wrong with a source, where that is what the error says.
fn finding(error: Error) -> Result<Finding> {
    let (object, problem) = match &error {
        Error::Damaged { object, range: _, source } => (object.clone(), source.to_string()),
        Error::Storage(inner) if inner.is_not_found() || error.is_corrupt() => {
            (inner.key().to_owned(), inner.to_string())
        }
        _ => return Err(error),
    };
    Ok(Finding::new(object, problem))
}
