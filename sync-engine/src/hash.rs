//! Hashing of local files, several at a time, and what is remembered of it.

mod cache;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, stream};
use layer_archive::RawDigest;
use rustix::fs::{Mode, OFlags};

pub use self::cache::HashCache;
use crate::{Error, Progress, Result};

/// Hashes files, as many at a time as there are processors; the answers are in the order of `paths`.
pub async fn hash_files(paths: Vec<PathBuf>, progress: Arc<Progress>) -> Vec<Result<RawDigest>> {
    hash_files_with(paths, progress, None).await
}

/// [`hash_files`], but for those that `known` has the digests of.
pub(crate) async fn hash_files_with(
    paths: Vec<PathBuf>,
    progress: Arc<Progress>,
    known: Option<Arc<HashCache>>,
) -> Vec<Result<RawDigest>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let hashes = paths.into_iter().map(|path| {
        let (progress, known) = (Arc::clone(&progress), known.clone());
        async move {
            let hashed = tokio::task::spawn_blocking(move || match known {
                Some(known) => known.hash_file(&path),
                None => hash_file(&path),
            })
            .await;
            let digest = hashed.unwrap_or_else(|error| Err(Error::Task(error.to_string())))?;
            progress.advance(digest.size);
            Ok(digest)
        }
    });
    stream::iter(hashes).buffered(workers).collect().await
}

/// Opens a file that must be a regular one: what a symbolic link points at is not the caller's, and a pipe never ends.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(not_regular(path)),
        Err(error) => return Err(Error::local("open", path, error.into())),
    };
    let metadata = file.metadata().map_err(|error| Error::local("look up", path, error))?;
    if metadata.is_file() { Ok(file) } else { Err(not_regular(path)) }
}

fn not_regular(path: &Path) -> Error {
    Error::local("open", path, io::Error::other("it is not a regular file"))
}

/// Hashes one file.
pub(crate) fn hash_file(path: &Path) -> Result<RawDigest> {
    let file = open_regular(path)?;
    RawDigest::of_reader(file).map_err(|error| Error::local("read", path, error))
}

/// What changes when a file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) len: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
    pub(crate) inode: u64,
}

impl Stamp {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        })
    }
}
