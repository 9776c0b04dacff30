//! Indexes and frames by way of the caches: what several tasks want at the same time is fetched once.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use layer_archive::{BundleIndex, FrameDecoder, IndexedFrame, Location, decode_frames, limits};
use storage_api::Key;

use super::pool::{FrameGuard, ReadPool};
use crate::object::{read_index, read_range, twice};
use crate::{Error, Result, Store};

/// The plain text of a frame, or of the few that a small layer is in.
pub(super) type Plain = Bytes;

/// Names stored bytes: keys are never used again and objects never overwritten, so what they hold never changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FrameKey {
    object: Key,
    start: u64,
    stored_len: u64,
}

/// A frame that is there, or that this task is to bring.
enum Slot<'a> {
    Ready(Plain),
    Missing(FrameGuard<'a>),
}

impl ReadPool {
    /// The index of a bundle.
    pub(super) async fn index(&self, store: &Store, key: &Key, tail_len: u64) -> Result<Arc<BundleIndex>> {
        match self.indexes.get_value_or_guard_async(key).await {
            Ok(index) => Ok(index),
            Err(guard) => {
                let _place = self.enter().await;
                let index = Arc::new(read_index(&**store.objects(), key, tail_len).await?);
                // Where it has no room it is not kept; that is all.
                let _ = guard.insert(Arc::clone(&index));
                Ok(index)
            }
        }
    }

    /// The plain text of the frames at `location`, which small layers share.
    pub(super) async fn shared_frames(&self, store: &Store, key: &Key, location: &Location) -> Result<Plain> {
        let Location { start, stored_len, .. } = *location;
        let name = FrameKey { object: key.clone(), start, stored_len };
        let guard = match self.frames.get_value_or_guard_async(&name).await {
            Ok(plain) => return Ok(plain),
            Err(guard) => guard,
        };
        let _place = self.enter().await;
        let range = start..location.end();
        let decoded = twice(|| async {
            let stored = read_range(&**store.objects(), key, range.clone()).await?;
            decode_frames(&stored, location, limits::READ_FRAME_PLAIN_MAX)
                .map_err(|source| Error::damaged_in(key, range.clone(), source))
        });
        let plain = Bytes::from(decoded.await?);
        let _ = guard.insert(plain.clone());
        Ok(plain)
    }

    /// The plain texts of frames that follow each other. Those that are not in the cache are fetched with one request
    /// for each stretch of them.
    pub(super) async fn frames(
        &self,
        store: &Store,
        key: &Key,
        frames: &[IndexedFrame],
    ) -> Result<Vec<Plain>> {
        let mut slots = Vec::with_capacity(frames.len());
        // In the order of the frames, so that tasks whose frames overlap never wait for each other in a circle.
        for frame in frames {
            let name =
                FrameKey { object: key.clone(), start: frame.start, stored_len: u64::from(frame.stored_len) };
            slots.push(match self.frames.get_value_or_guard_async(&name).await {
                Ok(plain) => Slot::Ready(plain),
                Err(guard) => Slot::Missing(guard),
            });
        }
        let mut plains = Vec::with_capacity(frames.len());
        let mut stretch: Vec<FrameGuard<'_>> = Vec::new();
        for (number, slot) in slots.into_iter().enumerate() {
            match slot {
                Slot::Missing(guard) => stretch.push(guard),
                Slot::Ready(plain) => {
                    let missing = number - stretch.len()..number;
                    plains.extend(self.bring(store, key, &frames[missing], &mut stretch).await?);
                    plains.push(plain);
                }
            }
        }
        let missing = frames.len() - stretch.len()..frames.len();
        plains.extend(self.bring(store, key, &frames[missing], &mut stretch).await?);
        Ok(plains)
    }

    /// Fetches and decodes frames that follow each other, and gives each to those who wait for it.
    async fn bring(
        &self,
        store: &Store,
        key: &Key,
        frames: &[IndexedFrame],
        guards: &mut Vec<FrameGuard<'_>>,
    ) -> Result<Vec<Plain>> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(Vec::new()) };
        let _place = self.enter().await;
        let range = first.start..last.stored_range().end;
        let plains = twice(|| decode_range(store, key, range.clone(), frames)).await?;
        for (guard, plain) in guards.drain(..).zip(&plains) {
            let _ = guard.insert(plain.clone());
        }
        Ok(plains)
    }
}

/// The plain texts of `frames`, which are the stored bytes `range`, fetched with one request.
async fn decode_range(
    store: &Store,
    key: &Key,
    range: Range<u64>,
    frames: &[IndexedFrame],
) -> Result<Vec<Plain>> {
    let stored = read_range(&**store.objects(), key, range.clone()).await?;
    let mut decoder = FrameDecoder::new();
    let decode = |frame: &IndexedFrame| {
        let at = frame.start - range.start;
        let stored = super::slice(&stored, at..at + u64::from(frame.stored_len));
        let plain = frame.decode(&stored, &mut decoder);
        plain.map(Bytes::from).map_err(|source| Error::damaged_in(key, frame.stored_range(), source))
    };
    frames.iter().map(decode).collect()
}
