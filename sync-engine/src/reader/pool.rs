//! What the readers of a store share: the caches of indexes and frames, and the places of downloads.

use std::fmt;
use std::sync::Arc;

use layer_archive::BundleIndex;
use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use storage_api::Key;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frames::{FrameKey, Plain};

/// What reads on demand may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Plain bytes of the frames that are kept, at most. A frame of a large layer has 256 KiB, a shared one up to 1 MiB.
    pub frame_bytes_max: u64,
    /// Bytes of the indexes that are kept, at most, as far as they are known.
    pub index_bytes_max: u64,
    /// Requests that run at the same time, at most; background work (prefetch) has half of them.
    pub downloads_max: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { frame_bytes_max: 32 << 20, index_bytes_max: 8 << 20, downloads_max: 16 }
    }
}

/// The caches and the places of downloads that the readers of one store share.
pub struct ReadPool {
    pub(super) frames: FrameCache,
    pub(super) indexes: IndexCache,
    downloads: Arc<Semaphore>,
    background: Arc<Semaphore>,
    background_places: usize,
}

pub(super) type FrameCache = Cache<FrameKey, Plain, FrameWeight>;
/// Held by the task that is to bring a frame; the others that want it wait for it.
pub(super) type FrameGuard<'a> =
    PlaceholderGuard<'a, FrameKey, Plain, FrameWeight, DefaultHashBuilder, DefaultLifecycle<FrameKey, Plain>>;
pub(super) type IndexCache = Cache<Key, Arc<BundleIndex>, IndexWeight>;

/// A place among the downloads, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _background: Option<OwnedSemaphorePermit>,
    _download: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for ReadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadPool")
            .field("frame_bytes", &self.frames.weight())
            .field("index_bytes", &self.indexes.weight())
            .finish_non_exhaustive()
    }
}

impl ReadPool {
    /// Empty caches.
    pub fn new(options: ReadOptions) -> Self {
        let downloads = options.downloads_max.clamp(2, Semaphore::MAX_PERMITS);
        Self {
            frames: cache(options.frame_bytes_max, 256 << 10, FrameWeight),
            indexes: cache(options.index_bytes_max, 16 << 10, IndexWeight),
            downloads: Arc::new(Semaphore::new(downloads)),
            background: Arc::new(Semaphore::new(downloads / 2)),
            background_places: downloads / 2,
        }
    }

    /// Waits for a place for what somebody waits for.
    ///
    /// Background work never has more than half of the places, so that it is never what such a request waits for.
    pub(super) async fn enter(&self) -> Place {
        // These semaphores are never closed, which is the only way for this to fail.
        Place { _background: None, _download: Arc::clone(&self.downloads).acquire_owned().await.ok() }
    }

    /// Waits for a place for background work.
    pub(super) async fn enter_in_background(&self) -> Place {
        let background = Arc::clone(&self.background).acquire_owned().await.ok();
        Place { _background: background, ..self.enter().await }
    }

    /// How many requests background work may have at the same time.
    pub(super) fn background_places(&self) -> usize {
        self.background_places
    }

    /// Plain bytes of the frames that are kept now.
    pub fn frame_bytes(&self) -> u64 {
        self.frames.weight()
    }
}

impl Default for ReadPool {
    fn default() -> Self {
        Self::new(ReadOptions::default())
    }
}

fn cache<K, V, W>(bytes_max: u64, item_bytes: u64, weighter: W) -> Cache<K, V, W>
where
    K: Eq + std::hash::Hash + Clone,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let items = usize::try_from(bytes_max / item_bytes).unwrap_or(usize::MAX).max(1);
    // One shard: each has its part of the room, and a frame may be a large part of all there is.
    let options =
        OptionsBuilder::new().estimated_items_capacity(items).weight_capacity(bytes_max).shards(1).build();
    match options {
        Ok(options) => {
            Cache::with_options(options, weighter, DefaultHashBuilder::default(), DefaultLifecycle::default())
        }
        Err(_) => Cache::with_weighter(items, bytes_max, weighter),
    }
}

#[derive(Clone, Debug)]
pub(super) struct FrameWeight;

impl Weighter<FrameKey, Plain> for FrameWeight {
    fn weight(&self, _: &FrameKey, plain: &Plain) -> u64 {
        plain.len() as u64
    }
}

#[derive(Clone, Debug)]
pub(super) struct IndexWeight;

impl Weighter<Key, Arc<BundleIndex>> for IndexWeight {
    fn weight(&self, _: &Key, index: &Arc<BundleIndex>) -> u64 {
        let layers = index.layers().len() + index.links().len();
        // The size of the tables' rows; a name has 130 bytes at most where pageservers choose it.
        (index.frames().len() * 24 + layers * (96 + 130)) as u64
    }
}
