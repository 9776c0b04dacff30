//! A timeline of which some layers are files and the others only in the store, until they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, stream};
use layer_archive::LayerName;

use super::TimelineReader;
use super::pool::Place;
use crate::backup::FailedLayer;
use crate::durable::DurableDir;
use crate::hash::open_regular;
use crate::{Error, Result};

/// Where a layer's bytes can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// In the store only.
    Remote,
    /// In the store, and on their way.
    Fetching,
    /// In a file of the directory.
    Local,
}

/// A timeline that is filled as it is used: registered with no more than its state, its layers are read from the store
/// until they are fetched. Clones are the same timeline.
#[derive(Clone, Debug)]
pub struct OnDemandTimeline {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reader: TimelineReader,
    dir: DurableDir,
    layers: Mutex<Layers>,
}

/// What is known of layers that are not only in the store.
#[derive(Debug, Default)]
struct Layers {
    local: BTreeSet<LayerName>,
    flights: BTreeMap<LayerName, Flight>,
}

/// A download that everybody who wants the layer waits for. It goes on when those who wait go away.
type Flight = Shared<BoxFuture<'static, Result<PathBuf, Arc<Error>>>>;

impl OnDemandTimeline {
    /// A timeline whose layers `local` are files of `dir`, known to be what the timeline says they are.
    pub fn new(reader: TimelineReader, dir: DurableDir, local: BTreeSet<LayerName>) -> Self {
        let layers = Mutex::new(Layers { local, flights: BTreeMap::new() });
        Self { inner: Arc::new(Inner { reader, dir, layers }) }
    }

    /// What it reads the store with.
    pub fn reader(&self) -> &TimelineReader {
        &self.inner.reader
    }

    /// Where a layer's bytes can be had.
    pub fn residency(&self, name: &LayerName) -> Residency {
        let layers = self.inner.layers();
        if layers.local.contains(name) {
            Residency::Local
        } else if layers.flights.contains_key(name) {
            Residency::Fetching
        } else {
            Residency::Remote
        }
    }

    /// Says that the caller has removed a layer's file, or put one there.
    pub fn set_local(&self, name: &LayerName, residency: Residency) {
        let mut layers = self.inner.layers();
        match residency {
            Residency::Local => drop(layers.local.insert(name.clone())),
            Residency::Remote | Residency::Fetching => drop(layers.local.remove(name)),
        }
    }

    /// Fetches a layer into the directory, and returns its path when it is there: verified, synced, renamed.
    ///
    /// Of one that is there already only that is looked at, and not what is in it. Tasks that want the same layer share one download, which goes on
    /// when they do not wait any more; it goes before background work.
    pub async fn fetch(&self, name: &LayerName) -> Result<PathBuf, Arc<Error>> {
        match self.inner.file_of(name) {
            Some(path) => Ok(path),
            None => self.flight(name, None).await,
        }
    }

    /// Fetches layers at background priority: as many at a time as that has places for. Those that fail are returned.
    ///
    /// Dropped, it begins no more downloads.
    pub async fn prefetch(&self, names: Vec<LayerName>) -> Vec<FailedLayer> {
        let pool = self.inner.reader.pool();
        let fetches = names.into_iter().map(|name| async move {
            // Only who has a place begins a download: one that is on its way waits for nothing, whoever comes to want it.
            let place = pool.enter_in_background().await;
            let fetched = match self.inner.file_of(&name) {
                Some(_) => return None,
                None => self.flight(&name, Some(place)).await,
            };
            fetched.err().map(|error| FailedLayer { name, error })
        });
        let fetched = stream::iter(fetches).buffer_unordered(pool.background_places());
        fetched.filter_map(async |failed| failed).collect().await
    }

    /// Reads a range of a layer, from its file where it has one, else from the store.
    pub async fn read_at(&self, name: &LayerName, range: Range<u64>) -> Result<Bytes> {
        if let Some(path) = self.inner.path_of(name) {
            let wanted = range.clone();
            let read = tokio::task::spawn_blocking(move || read_file(&path, wanted)).await;
            match read.map_err(|error| Error::Task(error.to_string()))? {
                // The caller has removed it to save room, and did not say so.
                Err(Error::Local { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    self.set_local(name, Residency::Remote);
                }
                read => return read,
            }
        }
        self.inner.reader.read_at(name, range).await
    }
}

impl OnDemandTimeline {
    /// The download of a layer: the one that is on its way, or a new one, which takes `place` or waits for one.
    fn flight(&self, name: &LayerName, place: Option<Place>) -> Flight {
        let mut layers = self.inner.layers();
        if let Some(flight) = layers.flights.get(name) {
            return flight.clone();
        }
        let (inner, wanted) = (Arc::clone(&self.inner), name.clone());
        let download = tokio::spawn(async move {
            let _place = match place {
                Some(place) => place,
                None => inner.reader.pool().enter().await,
            };
            let fetched = inner.reader.fetch_file(&wanted, &inner.dir).await.map_err(Arc::new);
            let mut layers = inner.layers();
            layers.flights.remove(&wanted);
            if fetched.is_ok() {
                layers.local.insert(wanted);
            }
            fetched
        });
        let (inner, wanted) = (Arc::clone(&self.inner), name.clone());
        let flight = async move {
            download.await.unwrap_or_else(|error| {
                // It did not come to its end, and so has not taken itself out.
                inner.layers().flights.remove(&wanted);
                Err(Arc::new(Error::Task(error.to_string())))
            })
        };
        let flight = flight.boxed().shared();
        layers.flights.insert(name.clone(), flight.clone());
        flight
    }
}

impl Inner {
    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a layer's file is, if it has one.
    fn path_of(&self, name: &LayerName) -> Option<PathBuf> {
        self.layers().local.contains(name).then(|| self.dir.path().join(name.as_str()))
    }

    /// The same, where the file is there: the caller may have removed it to save room, and not have said so.
    fn file_of(&self, name: &LayerName) -> Option<PathBuf> {
        let path = self.path_of(name)?;
        if path.symlink_metadata().is_ok() {
            return Some(path);
        }
        self.layers().local.remove(name);
        None
    }
}

/// The bytes of a file in `range`; what lies beyond its end is left out.
fn read_file(path: &Path, range: Range<u64>) -> Result<Bytes> {
    let failed = |error| Error::local("read", path, error);
    let file = open_regular(path)?;
    let len = file.metadata().map_err(failed)?.len();
    let (start, end) = (range.start.min(len), range.end.min(len));
    let wanted =
        usize::try_from(end.saturating_sub(start)).map_err(|error| failed(std::io::Error::other(error)))?;
    let mut bytes = vec![0; wanted];
    file.read_exact_at(&mut bytes, start).map_err(failed)?;
    Ok(bytes.into())
}
