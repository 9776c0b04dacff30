//! Stored bytes to files: decoded, verified, synced, renamed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures::StreamExt;
use layer_archive::{
    FormatError, LayerDecoder, LayerEntry, LayerName, Location, RawDigest, decode_frames, limits,
};
use storage_api::{GetRange, Key, ObjectStore};
use tokio::sync::mpsc;

use super::plan::{Extent, RangeFetch};
use crate::backup::FailedLayer;
use crate::durable::{DurableDir, Published, TemporaryFile};
use crate::{Error, Progress, Result};

/// Chunks of a layer that have come and are not written yet.
const CHUNKS_WAITING_MAX: usize = 4;
/// Files that are written and synced at the same time: a sync waits for the disk, not for a processor.
const WRITERS: usize = 8;
/// A writer takes so many layers of a shared extent, so that none of them has it all.
const LAYERS_AT_ONCE: usize = 64;

/// What became of layers that were to be written.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Layers that were written.
    pub written: Vec<LayerName>,
    /// Layers whose name a file had taken, with what that file is. It was left alone.
    pub taken: Vec<(LayerName, RawDigest)>,
    /// Layers that could not be written.
    pub failed: Vec<FailedLayer>,
    /// Stored bytes that were fetched.
    pub stored_bytes: u64,
}

/// Fetches one layer and writes it as it comes, in memory for about one frame.
pub(crate) async fn stream_layer(
    objects: &dyn ObjectStore,
    key: &Key,
    entry: &LayerEntry,
    dir: &DurableDir,
    progress: &Arc<Progress>,
) -> Result<Outcome> {
    let Location { start, stored_len, .. } = entry.place.location;
    let mut response = objects.get(key, GetRange::Bounded(start..start.saturating_add(stored_len))).await?;
    let (chunks, queue) = mpsc::channel(CHUNKS_WAITING_MAX);
    let writing = tokio::task::spawn_blocking({
        let (key, entry, dir, progress) = (key.clone(), entry.clone(), dir.clone(), Arc::clone(progress));
        move || write_chunks(queue, &key, &entry, &dir, &progress)
    });
    let mut received = Ok(());
    while let Some(chunk) = response.stream.next().await {
        match chunk {
            // Where the writer has stopped, it says why.
            Ok(chunk) => {
                if chunks.send(chunk).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                received = Err(error);
                break;
            }
        }
    }
    drop(chunks);
    let written = writing.await.map_err(|error| Error::Task(error.to_string()))?;
    received?;
    let mut outcome = Outcome { stored_bytes: stored_len, ..Outcome::default() };
    outcome.record(Ok(written?), &entry.name);
    Ok(outcome)
}

/// Decodes the chunks of one layer into a file.
fn write_chunks(
    mut chunks: mpsc::Receiver<Bytes>,
    key: &Key,
    entry: &LayerEntry,
    dir: &DurableDir,
    progress: &Progress,
) -> Result<Taken> {
    let mut decoder = LayerDecoder::new(entry);
    let mut file = dir.temporary()?;
    while let Some(chunk) = chunks.blocking_recv() {
        let write = |raw: &[u8]| -> Result<(), DecodeError> {
            progress.advance(raw.len() as u64);
            Ok(file.write(raw)?)
        };
        decoder.push(&chunk, write).map_err(|error| error.at(key, &entry.place.location))?;
    }
    decoder.finish().map_err(|error| damaged(key, &entry.place.location, error))?;
    publish(file, entry, dir)
}

/// What stops a layer from being decoded into a file.
enum DecodeError {
    Format(FormatError),
    File(Error),
}

impl From<FormatError> for DecodeError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<Error> for DecodeError {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

impl DecodeError {
    fn at(self, key: &Key, location: &Location) -> Error {
        match self {
            Self::Format(error) => damaged(key, location, error),
            Self::File(error) => error,
        }
    }
}

fn damaged(key: &Key, location: &Location, source: FormatError) -> Error {
    Error::damaged_in(key, location.start..location.end(), source)
}

/// A range of an object in memory, whose layers are to be written.
pub(super) struct RangeWriter<'a> {
    pub(super) fetch: &'a RangeFetch,
    pub(super) stored: &'a Bytes,
    pub(super) key: &'a Key,
    pub(super) dir: &'a DurableDir,
    pub(super) progress: &'a Progress,
}

/// Some of the layers of an extent.
type Work<'a> = (&'a Extent, &'a [LayerEntry]);

impl RangeWriter<'_> {
    /// Writes all layers, several at a time. `entries` are the layers of each extent.
    pub(super) fn write(&self, entries: &[Vec<LayerEntry>]) -> Outcome {
        let mut hands: Vec<Vec<Work<'_>>> = (0..WRITERS).map(|_| Vec::new()).collect();
        let work = self.fetch.extents.iter().zip(entries);
        let work =
            work.flat_map(|(extent, entries)| entries.chunks(LAYERS_AT_ONCE).map(move |some| (extent, some)));
        for (number, work) in work.enumerate() {
            hands[number % WRITERS].push(work);
        }
        let mut outcome = Outcome { stored_bytes: self.stored.len() as u64, ..Outcome::default() };
        thread::scope(|scope| {
            let writers: Vec<_> = hands.iter().map(|hand| scope.spawn(|| self.write_hand(hand))).collect();
            for writer in writers {
                match writer.join() {
                    Ok(part) => outcome.join(part),
                    // A panic is a bug of this program; it is passed on as it is.
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        outcome
    }

    fn write_hand(&self, hand: &[Work<'_>]) -> Outcome {
        let mut outcome = Outcome::default();
        for (extent, entries) in hand {
            let shared = entries.iter().all(|entry| entry.raw.size <= limits::SLICE_RAW_BYTES);
            let plain = match self.stored_of(extent) {
                Ok(stored) if shared => {
                    decode_frames(stored, &extent.location, limits::READ_FRAME_PLAIN_MAX).map(Some)
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            match plain {
                Ok(plain) => {
                    for entry in *entries {
                        let written = match &plain {
                            Some(plain) => self.write_small(entry, plain),
                            None => self.write_large(entry, extent),
                        };
                        self.progress.advance(entry.raw.size);
                        outcome.record(written, &entry.name);
                    }
                }
                Err(source) => {
                    let error = Arc::new(damaged(self.key, &extent.location, source));
                    let fail = |entry: &LayerEntry| FailedLayer {
                        name: entry.name.clone(),
                        error: Arc::clone(&error),
                    };
                    outcome.failed.extend(entries.iter().map(fail));
                }
            }
        }
        outcome
    }

    /// The stored bytes of an extent.
    fn stored_of(&self, extent: &Extent) -> Result<&[u8], FormatError> {
        let Location { start, stored_len, .. } = extent.location;
        let from = start.checked_sub(self.fetch.range.start).and_then(|from| usize::try_from(from).ok());
        let len = usize::try_from(stored_len).ok();
        let range = from.zip(len).and_then(|(from, len)| Some(from..from.checked_add(len)?));
        range.and_then(|range| self.stored.get(range)).ok_or(FormatError::Truncated {
            what: "frames",
            needed: stored_len,
            available: self.stored.len() as u64,
        })
    }

    /// Writes a layer out of the plain text of its frames.
    fn write_small(&self, entry: &LayerEntry, plain: &[u8]) -> Result<Taken> {
        let raw = cut_layer(entry, plain).map_err(|error| damaged(self.key, &entry.place.location, error))?;
        let mut file = self.dir.temporary()?;
        file.write(raw)?;
        publish(file, entry, self.dir)
    }

    /// Writes a layer that has its frames for itself, frame by frame.
    fn write_large(&self, entry: &LayerEntry, extent: &Extent) -> Result<Taken> {
        let damaged = |source| damaged(self.key, &extent.location, source);
        let mut decoder = LayerDecoder::new(entry);
        let mut file = self.dir.temporary()?;
        let stored = self.stored_of(extent).map_err(damaged)?;
        let write = |raw: &[u8]| -> Result<(), DecodeError> { Ok(file.write(raw)?) };
        decoder.push(stored, write).map_err(|error| error.at(self.key, &extent.location))?;
        decoder.finish().map_err(damaged)?;
        publish(file, entry, self.dir)
    }
}

/// The raw bytes of a small layer in the plain text of its frames, verified.
pub(crate) fn cut_layer<'a>(entry: &LayerEntry, plain: &'a [u8]) -> Result<&'a [u8], FormatError> {
    let from = usize::try_from(entry.place.location.offset).ok();
    let len = usize::try_from(entry.raw.size).ok();
    let range = from.zip(len).and_then(|(from, len)| Some(from..from.checked_add(len)?));
    let raw = range.and_then(|range| plain.get(range)).ok_or(FormatError::Truncated {
        what: "layer",
        needed: u64::from(entry.place.location.offset) + entry.raw.size,
        available: plain.len() as u64,
    })?;
    entry.raw.check(&entry.name, &RawDigest::of(raw))?;
    Ok(raw)
}

/// What a file is that had taken a layer's name; `None` where there was none.
type Taken = Option<RawDigest>;

fn publish(file: TemporaryFile, entry: &LayerEntry, dir: &DurableDir) -> Result<Taken> {
    let path = dir.path().join(entry.name.as_str());
    match file.publish(&path)? {
        Published::Yes => Ok(None),
        Published::NameTaken => crate::hash::hash_file(&path).map(Some),
    }
}

impl Outcome {
    fn record(&mut self, written: Result<Taken>, name: &LayerName) {
        match written {
            Ok(None) => self.written.push(name.clone()),
            Ok(Some(digest)) => self.taken.push((name.clone(), digest)),
            Err(error) => self.failed.push(FailedLayer { name: name.clone(), error: Arc::new(error) }),
        }
    }

    /// Takes out the layers whose bytes came corrupt, and returns their names.
    pub(super) fn take_corrupt(&mut self) -> BTreeSet<LayerName> {
        let corrupt = self.failed.extract_if(.., |failed| failed.error.is_corrupt());
        corrupt.map(|failed| failed.name).collect()
    }

    pub(super) fn join(&mut self, part: Self) {
        let Self { written, taken, failed, stored_bytes } = part;
        self.written.extend(written);
        self.taken.extend(taken);
        self.failed.extend(failed);
        self.stored_bytes += stored_bytes;
    }
}
