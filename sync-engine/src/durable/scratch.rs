//! Directories for what is made on the way to something else.

use std::fs::File;
use std::io;
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::FlockOperation;

use super::{DurableDir, has_no_locks, lock};
use crate::{Error, Result};

/// A directory of its own that goes when it is dropped. It is locked until then, which tells it from what a killed process
/// has left.
pub(crate) struct Scratch {
    pub(crate) dir: DurableDir,
    _lock: File,
}

impl Scratch {
    /// Makes one in `above`, under a name that begins with `prefix`.
    pub(crate) fn create(above: &Path, prefix: &str) -> Result<Self> {
        loop {
            let random = OsRng.try_next_u64();
            let number = random.map_err(|error| Error::Task(format!("no randomness: {error}")))?;
            let dir = DurableDir::create(above.join(format!("{prefix}{number:016x}")))?;
            let failed = |error| Error::local("lock", dir.path(), error);
            let file = match File::open(dir.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(failed)?,
            };
            match lock(&file, FlockOperation::LockExclusive) {
                Err(error) if !has_no_locks(error) => return Err(failed(error.into())),
                _ => {}
            }
            // A sweep may have come between the creation and the lock.
            if dir.path().try_exists().map_err(failed)? {
                return Ok(Self { dir, _lock: file });
            }
        }
    }

    /// Removes those that killed processes have left in `above`.
    pub(crate) fn sweep(above: &Path, prefix: &str) {
        for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_name().to_string_lossy().starts_with(prefix)
                || !entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                continue;
            }
            let Ok(dir) = File::open(&path) else { continue };
            if lock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove(&path);
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(self.dir.path());
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a directory that was made on the way");
    }
}
