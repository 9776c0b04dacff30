//! Hashing of local files, several at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, stream};
use layer_archive::RawDigest;

use crate::{Error, Progress, Result};

/// Hashes files, as many at a time as there are processors; the answers are in the order of `paths`.
pub async fn hash_files(paths: Vec<PathBuf>, progress: Arc<Progress>) -> Vec<Result<RawDigest>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let hashes = paths.into_iter().map(|path| {
        let progress = Arc::clone(&progress);
        async move {
            let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
            let digest = hashed.unwrap_or_else(|error| Err(Error::Task(error.to_string())))?;
            progress.advance(digest.size);
            Ok(digest)
        }
    });
    stream::iter(hashes).buffered(workers).collect().await
}

/// Hashes one file.
pub(crate) fn hash_file(path: &Path) -> Result<RawDigest> {
    let file = File::open(path).map_err(|error| Error::local("open", path, error))?;
    RawDigest::of_reader(file).map_err(|error| Error::local("read", path, error))
}
