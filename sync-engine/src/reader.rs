//! A timeline read on demand: one layer, or a page of one, by many tasks at once.

mod files;
mod frames;
mod past;
mod pool;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use layer_archive::{BundleIndex, FormatError, IndexedLayer, LayerEntry, LayerName, limits};
use storage_api::Key;

pub use self::files::{OnDemandTimeline, Residency};
pub use self::past::{AncestorReader, AncestorReaders};
pub use self::pool::{ReadOptions, ReadPool};

use crate::durable::DurableDir;
use crate::object::twice;
use crate::restore::{WriteOutcome, cut_layer, stream_layer};
use crate::{Error, Progress, Result, Store, TimelineState, TimelineView};

/// How often a read follows a layer that gc has moved on under it.
const MOVES_FOLLOWED_MAX: usize = 4;

/// Reads the layers of one timeline from its store. Many tasks may share one.
///
/// It knows the timeline as of a view. Where an object has gone since, because a repack has moved its layers and gc
/// has deleted it, the timeline is opened anew and the layer read where it is now.
#[derive(Debug)]
pub struct TimelineReader {
    store: Store,
    pool: Arc<ReadPool>,
    view: Mutex<Arc<TimelineView>>,
    /// Held while the timeline is opened anew, so that of many readers that meet the same gap one does it.
    reopening: tokio::sync::Mutex<()>,
}

/// A layer, and the view that says where it is.
#[derive(Debug)]
struct Located {
    view: Arc<TimelineView>,
    entry: LayerEntry,
    /// How often it was looked for again.
    moves: usize,
}

impl Located {
    fn key(&self) -> Result<Key> {
        Ok(self.view.keys.bundle(self.entry.place.bundle)?)
    }
}

impl TimelineReader {
    /// Reads what `view` shows. Readers of one store share a `pool`.
    pub fn new(store: &Store, view: TimelineView, pool: Arc<ReadPool>) -> Self {
        let view = Mutex::new(Arc::new(view));
        Self { store: store.clone(), pool, view, reopening: tokio::sync::Mutex::default() }
    }

    /// The timeline as this reader knows it.
    pub fn view(&self) -> Arc<TimelineView> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What this reader shares with others.
    pub fn pool(&self) -> &Arc<ReadPool> {
        &self.pool
    }

    /// Opens the timeline anew, unless another task has done so since `seen` was current.
    pub async fn reopen(&self, seen: &Arc<TimelineView>) -> Result<Arc<TimelineView>> {
        let _one = self.reopening.lock().await;
        let current = self.view();
        if !Arc::ptr_eq(&current, seen) {
            return Ok(current);
        }
        let (tenant, timeline) = (seen.state.tenant(), seen.state.timeline());
        let view = Arc::new(TimelineView::open_existing(&self.store, tenant, timeline, None).await?);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        Ok(view)
    }

    /// Fetches a layer with one ranged GET into a directory: verified, synced, then renamed to its name.
    ///
    /// A file that has the name already is left alone; the outcome says what it is.
    pub async fn fetch(
        &self,
        name: &LayerName,
        dir: &DurableDir,
        progress: &Arc<Progress>,
    ) -> Result<WriteOutcome> {
        let mut at = self.locate(name).await?;
        let outcome = loop {
            let (key, entry) = (at.key()?, &at.entry);
            match twice(|| stream_layer(&**self.store.objects(), &key, entry, dir, progress)).await {
                Err(error) if error.is_gone() => at = self.follow(at, error).await?,
                fetched => break fetched?,
            }
        };
        dir.sync()?;
        Ok(outcome)
    }

    /// [`fetch`](Self::fetch) of a layer that must be there afterwards. Returns the path of its file.
    pub async fn fetch_file(&self, name: &LayerName, dir: &DurableDir) -> Result<PathBuf> {
        let path = dir.path().join(name.as_str());
        let outcome = self.fetch(name, dir, &Arc::new(Progress::default())).await?;
        if let Some(failed) = outcome.failed.into_iter().next() {
            return Err(Arc::try_unwrap(failed.error).unwrap_or_else(|error| Error::Task(error.to_string())));
        }
        // A file that had the name already is the layer if it has its contents.
        let view = self.view();
        let raw = view.state.layers().get(name).map(|layer| layer.raw);
        match outcome.taken.into_iter().next() {
            Some((_, there)) if Some(there) != raw => Err(Error::NameTaken { path }),
            _ => Ok(path),
        }
    }

    /// Reads `range` of a layer's raw bytes; what lies beyond its end is left out. As much memory is needed as the
    /// range has bytes, twice.
    ///
    /// A small layer costs one ranged GET of the frame it is in. Of a large one only the frames that cover the range
    /// are fetched, after the bundle's index, which says where they are. Indexes and frames that the pool's caches
    /// have cost nothing; what several tasks want at once is fetched once.
    pub async fn read_at(&self, name: &LayerName, range: Range<u64>) -> Result<Bytes> {
        let mut at = self.locate(name).await?;
        loop {
            match self.read_located(&at, range.clone()).await {
                Err(error) if error.is_gone() => at = self.follow(at, error).await?,
                read => return read,
            }
        }
    }

    async fn read_located(&self, at: &Located, range: Range<u64>) -> Result<Bytes> {
        let entry = &at.entry;
        let range = range.start.min(entry.raw.size)..range.end.min(entry.raw.size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let key = at.key()?;
        match entry.raw.size <= limits::SLICE_RAW_BYTES {
            true => self.read_small(&key, entry, range).await,
            false => self.read_large(&at.view, &key, entry, range).await,
        }
    }

    /// Finds a layer, among what was committed since the view was read too.
    async fn locate(&self, name: &LayerName) -> Result<Located> {
        let mut view = self.view();
        if !view.state.layers().contains_key(name) {
            view = self.reopen(&view).await?;
        }
        let entry = find(&view.state, name)?.clone();
        Ok(Located { view, entry, moves: 0 })
    }

    /// Finds a layer again whose object has gone, which is `lost`. Where the layer is still there, the object is lost.
    async fn follow(&self, was: Located, lost: Error) -> Result<Located> {
        let Located { view, entry, moves } = was;
        let view = self.reopen(&view).await?;
        match view.state.layers().get(&entry.name).cloned() {
            Some(now) if now.place == entry.place || moves == MOVES_FOLLOWED_MAX => Err(lost),
            Some(now) => Ok(Located { view, entry: now, moves: moves + 1 }),
            None => Err(Error::LayerRemoved {
                tenant: view.state.tenant().clone(),
                timeline: view.state.timeline().clone(),
                name: entry.name,
            }),
        }
    }

    async fn read_small(&self, key: &Key, entry: &LayerEntry, range: Range<u64>) -> Result<Bytes> {
        let location = entry.place.location;
        let plain = self.pool.shared_frames(&self.store, key, &location).await?;
        let raw = cut_layer(entry, &plain)
            .map_err(|source| Error::damaged_in(key, location.start..location.end(), source))?;
        Ok(slice(&plain.slice_ref(raw), range))
    }

    async fn read_large(
        &self,
        view: &TimelineView,
        key: &Key,
        entry: &LayerEntry,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let known = view.state.bundle(entry.place.bundle);
        let tail_len = known.map_or(limits::TAIL_READ_BYTES, |bundle| bundle.tail_len.into());
        let index = self.pool.index(&self.store, key, tail_len).await?;
        let layer = indexed(&index, key, entry)?;
        let frames = index.frames_covering(layer, range.clone());
        let first = layer.frame as usize;
        let skipped: u64 =
            index.frames()[first..frames.start].iter().map(|frame| u64::from(frame.plain_len)).sum();
        let plain = self.pool.frames(&self.store, key, &index.frames()[frames]).await?;
        // The plain text begins `skipped` bytes after that of the layer's first frame.
        let begin = (u64::from(layer.offset) + range.start).saturating_sub(skipped);
        Ok(slice(&join(plain), begin..begin + (range.end - range.start)))
    }
}

/// The layer in the index of its bundle. Where the bytes are is what finds it: a bundle that was copied or packed again
/// may know it by another name.
fn indexed<'a>(index: &'a BundleIndex, key: &Key, entry: &LayerEntry) -> Result<&'a IndexedLayer> {
    let is_it =
        |layer: &&IndexedLayer| layer.raw == entry.raw && index.location(layer) == entry.place.location;
    index.layers().iter().find(is_it).ok_or_else(|| {
        let why = format!("its index does not have {:?} where the timeline has it", entry.name);
        Error::damaged(key, FormatError::Malformed { what: "bundle", why })
    })
}

/// The layer of this name.
pub(crate) fn find<'a>(state: &'a TimelineState, name: &LayerName) -> Result<&'a LayerEntry> {
    state.layers().get(name).ok_or_else(|| Error::LayerNotFound {
        tenant: state.tenant().clone(),
        timeline: state.timeline().clone(),
        name: name.clone(),
    })
}

/// One piece is handed on as it is; only several are joined.
fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if let [piece] = &mut *pieces {
        return std::mem::take(piece);
    }
    let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
    joined.freeze()
}

/// The part of `bytes` that is there.
fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(clamp(range.start)..clamp(range.end))
}
