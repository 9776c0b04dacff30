//! One layer, or a part of one, on demand.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use layer_archive::{FrameDecoder, IndexedFrame, LayerEntry, LayerName, decode_frames, limits};
use storage_api::{Key, ObjectStore};

use crate::durable::DurableDir;
use crate::layout::TimelineKeys;
use crate::object::{read_index, read_range, twice};
use crate::restore::{WriteOutcome, cut_layer, stream_layer};
use crate::{Error, Progress, Result, Store, TimelineState};

/// Fetches one layer with one ranged GET into a directory: verified, synced, then renamed to its name.
///
/// A file that has the name already is left alone; the outcome says what it is.
pub async fn fetch_layer(
    store: &Store,
    keys: &TimelineKeys,
    entry: &LayerEntry,
    dir: &DurableDir,
    progress: &Arc<Progress>,
) -> Result<WriteOutcome> {
    let key = keys.bundle(entry.place.bundle)?;
    let outcome = twice(|| stream_layer(&**store.objects(), &key, entry, dir, progress)).await?;
    dir.sync()?;
    Ok(outcome)
}

/// Reads `range` of a layer's raw bytes; what lies beyond its end is left out.
///
/// A small layer costs one ranged GET of the frame it is in. Of a large one only the frames that cover the range are
/// fetched, after the bundle's index, which says where they are.
pub async fn read_layer(
    store: &Store,
    keys: &TimelineKeys,
    state: &TimelineState,
    name: &LayerName,
    range: Range<u64>,
) -> Result<Vec<u8>> {
    let entry = find(state, name)?;
    let range = range.start.min(entry.raw.size)..range.end.min(entry.raw.size);
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let key = keys.bundle(entry.place.bundle)?;
    if entry.raw.size <= limits::SLICE_RAW_BYTES {
        let raw = twice(|| read_small(store, &key, entry)).await?;
        return Ok(slice(&raw, range).to_vec());
    }
    read_frames(store, &key, state, entry, range).await
}

/// The layer of this name.
pub(crate) fn find<'a>(state: &'a TimelineState, name: &LayerName) -> Result<&'a LayerEntry> {
    state.layers().get(name).ok_or_else(|| Error::LayerNotFound {
        tenant: state.tenant().clone(),
        timeline: state.timeline().clone(),
        name: name.clone(),
    })
}

async fn read_small(store: &Store, key: &Key, entry: &LayerEntry) -> Result<Vec<u8>> {
    let location = entry.place.location;
    let stored = read_range(&**store.objects(), key, location.start..location.end()).await?;
    let damaged = |source| Error::damaged(key, source);
    let plain = decode_frames(&stored, &location, limits::READ_FRAME_PLAIN_MAX).map_err(damaged)?;
    cut_layer(entry, &plain).map(<[u8]>::to_vec).map_err(damaged)
}

async fn read_frames(
    store: &Store,
    key: &Key,
    state: &TimelineState,
    entry: &LayerEntry,
    range: Range<u64>,
) -> Result<Vec<u8>> {
    let objects = &**store.objects();
    let damaged = |source| Error::damaged(key, source);
    let tail_len =
        state.bundle(entry.place.bundle).map_or(limits::TAIL_READ_BYTES, |bundle| bundle.tail_len.into());
    let index = read_index(objects, key, tail_len).await?;
    // Where the bytes are is what finds the layer: a bundle that was copied or packed again may know another name.
    let place = |layer: &&layer_archive::IndexedLayer| {
        index.location(layer) == entry.place.location && layer.raw == entry.raw
    };
    let layer = index.layers().iter().find(place).ok_or_else(|| {
        let why = format!("its index does not have {:?} where the timeline has it", entry.name);
        damaged(layer_archive::FormatError::Malformed { what: "bundle", why })
    })?;
    let frames = index.frames_covering(layer, range.clone());
    let first = layer.frame as usize;
    let skipped: u64 =
        index.frames()[first..frames.start].iter().map(|frame| u64::from(frame.plain_len)).sum();
    let frames = &index.frames()[frames];
    let plain = twice(|| decode_range(objects, key, frames)).await?;
    // The plain text begins `skipped` bytes after that of the layer's first frame.
    let begin = (u64::from(layer.offset) + range.start).saturating_sub(skipped);
    Ok(slice(&plain, begin..begin + (range.end - range.start)).to_vec())
}

/// The plain text of frames that follow each other, fetched with one request.
async fn decode_range(objects: &dyn ObjectStore, key: &Key, frames: &[IndexedFrame]) -> Result<Vec<u8>> {
    let (Some(from), Some(to)) = (frames.first(), frames.last()) else { return Ok(Vec::new()) };
    let stored: Bytes = read_range(objects, key, from.start..to.stored_range().end).await?;
    let mut decoder = FrameDecoder::new();
    let mut plain = Vec::new();
    for frame in frames {
        let at = frame.start - from.start;
        let stored = slice(&stored, at..at + u64::from(frame.stored_len));
        plain.extend(frame.decode(stored, &mut decoder).map_err(|source| Error::damaged(key, source))?);
    }
    Ok(plain)
}

/// The part of `bytes` that is there.
fn slice(bytes: &[u8], range: Range<u64>) -> &[u8] {
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[clamp(range.start)..clamp(range.end)]
}
