//! Files that are whole and on the disk, or not there.

mod scratch;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use layer_archive::LayerName;
use rand::TryRngCore;
use rand::rngs::OsRng;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use storage_api::crash_point;

pub(crate) use self::scratch::Scratch;
use crate::{Error, Result};

/// A directory that files are published in: each is written under a temporary name, synced, renamed to its own name
/// without replacing anything, and the directory is synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableDir {
    path: PathBuf,
}

/// Whether a file could take its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It has it.
    Yes,
    /// Another file had it already, and was left alone.
    NameTaken,
}

/// A file that is being written. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    file: File,
    path: PathBuf,
    /// The directory, by which errors name the file: its own name means nothing to anybody.
    dir: PathBuf,
    published: bool,
}

impl DurableDir {
    /// How the names of temporary files begin and end. A pageserver takes files that end so for temporary too.
    pub const TEMPORARY: (&'static str, &'static str) = (".layerpack-", ".temp");

    /// How many directories above are synced: those of a pageserver's work directory.
    const SYNCED_ABOVE: usize = 4;

    /// Creates the directory and those above it, durably, where they do not exist.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let mut missing = Vec::new();
        let mut parent = path.as_path();
        while !parent.as_os_str().is_empty() && !is_dir(parent)? {
            missing.push(parent);
            match parent.parent() {
                Some(above) => parent = above,
                None => break,
            }
        }
        for dir in missing.iter().rev() {
            crash_point();
            match std::fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::local("create the directory", dir, error));
                }
                _ => {}
            }
        }
        // One that exists may not be durable: whoever made it may have been killed before it was synced.
        for above in path.ancestors().skip(1).take(Self::SYNCED_ABOVE.max(missing.len())) {
            match sync_dir(if above.as_os_str().is_empty() { Path::new(".") } else { above }) {
                // Where the caller may not look, it has made nothing.
                Err(Error::Local { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => break,
                synced => synced?,
            }
        }
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a file. It is locked until it is dropped, which tells it from what a killed process has left.
    pub(crate) fn temporary(&self) -> Result<TemporaryFile> {
        let failed = |error| Error::local("create a file in", &self.path, error);
        loop {
            let (prefix, suffix) = Self::TEMPORARY;
            let number = OsRng.try_next_u64().map_err(|error| failed(io::Error::other(error)))?;
            let path = self.path.join(format!("{prefix}{number:016x}{suffix}"));
            crash_point();
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
            match lock(&file, FlockOperation::LockExclusive) {
                Err(error) if !has_no_locks(error) => return Err(failed(error.into())),
                _ => {}
            }
            let file = TemporaryFile { file, path, dir: self.path.clone(), published: false };
            // A sweep may have come between the creation and the lock.
            if file.file.metadata().map_err(failed)?.nlink() > 0 {
                return Ok(file);
            }
        }
    }

    /// Writes and publishes a file.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<Published> {
        let mut file = self.temporary()?;
        file.write(bytes)?;
        let published = file.publish(&self.path.join(name))?;
        self.sync()?;
        Ok(published)
    }

    /// Removes a file that was published here.
    pub fn remove(&self, name: &LayerName) -> Result<()> {
        let path = self.path.join(name.as_str());
        crash_point();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::local("remove", &path, error))
            }
            _ => self.sync(),
        }
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync(&self) -> Result<()> {
        sync_dir(&self.path)
    }

    /// Removes the temporary files that killed processes have left: those that nobody has locked. Returns how many.
    pub fn sweep(&self) -> Result<usize> {
        let mut swept = 0;
        let entries =
            std::fs::read_dir(&self.path).map_err(|error| Error::local("list", &self.path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::local("list", &self.path, error))?;
            let path = entry.path();
            if !is_temporary(&entry.file_name()) {
                continue;
            }
            // What is no file, or has gone meanwhile, is not ours to remove.
            let Ok(file) = crate::hash::open_regular(&path) else { continue };
            if lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            crash_point();
            match std::fs::remove_file(&path) {
                Ok(()) => swept += 1,
                // It was published between the two: its name is another one now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::local("remove", &path, error)),
            }
        }
        Ok(swept)
    }
}

impl TemporaryFile {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (front, back) = bytes.split_at(bytes.len() / 2);
        for half in [front, back] {
            crash_point();
            self.file.write_all(half).map_err(|error| Error::local("write a file in", &self.dir, error))?;
        }
        Ok(())
    }

    /// Makes the contents durable.
    pub(crate) fn sync(&self) -> Result<()> {
        crash_point();
        self.file.sync_all().map_err(|error| Error::local("sync a file in", &self.dir, error))
    }

    /// Syncs the file and gives it its name, without replacing a file that has it. The caller syncs the directory.
    pub(crate) fn publish(mut self, path: &Path) -> Result<Published> {
        self.sync()?;
        crash_point();
        match renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.published = true;
                Ok(Published::Yes)
            }
            Err(Errno::EXIST) => Ok(Published::NameTaken),
            // Some file systems know no such rename: a hard link refuses to replace a file too.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.link(path),
            Err(error) => Err(Error::local("rename a temporary file to", path, error.into())),
        }
    }

    /// Gives the file its name beside the temporary one, which goes when this is dropped.
    fn link(self, path: &Path) -> Result<Published> {
        crash_point();
        match std::fs::hard_link(&self.path, path) {
            Ok(()) => Ok(Published::Yes),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Published::NameTaken),
            Err(error) => Err(Error::local("link a temporary file to", path, error)),
        }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary file");
        }
    }
}

fn is_dir(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(true),
        Ok(_) => Err(Error::local("create the directory", path, io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::local("look up", path, error)),
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    crash_point();
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::local("sync the directory", path, error))
}

fn lock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    loop {
        match flock(file, operation) {
            Err(Errno::INTR) => {}
            locked => return locked,
        }
    }
}

/// Some file systems have no locks. Then nobody can sweep what is there either.
fn has_no_locks(error: Errno) -> bool {
    matches!(error, Errno::NOLCK | Errno::NOSYS | Errno::NOTSUP | Errno::INVAL)
}

fn is_temporary(name: &OsStr) -> bool {
    let (prefix, suffix) = DurableDir::TEMPORARY;
    let middle = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
    middle.is_some_and(|number| number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
