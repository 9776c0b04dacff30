//! Files that are whole and on the disk, or not there.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{Error, Result};

/// Distinguishes the temporary files of one process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

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
    published: bool,
}

impl DurableDir {
    /// How the names of temporary files begin and end. A pageserver takes files that end so for temporary too.
    pub const TEMPORARY: (&'static str, &'static str) = (".layerpack-", ".temp");

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
            match std::fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::local("create the directory", dir, error));
                }
                _ => {}
            }
            sync_dir(match dir.parent() {
                Some(above) if !above.as_os_str().is_empty() => above,
                _ => Path::new("."),
            })?;
        }
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a file.
    pub(crate) fn temporary(&self) -> Result<TemporaryFile> {
        let (prefix, suffix) = Self::TEMPORARY;
        let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{prefix}{}-{number}{suffix}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600);
        // A file of this name is left of a process that had this id and was killed.
        let file = match options.clone().create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path).and_then(|()| options.create_new(true).open(&path))
            }
            opened => opened,
        };
        let file = file.map_err(|error| Error::local("create", &path, error))?;
        Ok(TemporaryFile { file, path, published: false })
    }

    /// Writes and publishes a file.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> Result<Published> {
        let mut file = self.temporary()?;
        file.write(bytes)?;
        let published = file.publish(&self.path.join(name))?;
        self.sync()?;
        Ok(published)
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync(&self) -> Result<()> {
        sync_dir(&self.path)
    }

    /// Removes temporary files that processes which no longer run have left. Returns how many.
    pub(crate) fn sweep(&self) -> Result<usize> {
        let mut swept = 0;
        let entries =
            std::fs::read_dir(&self.path).map_err(|error| Error::local("list", &self.path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::local("list", &self.path, error))?;
            if temporary_owner(&entry.file_name()).is_some_and(|pid| !is_alive(pid)) {
                std::fs::remove_file(entry.path())
                    .map_err(|error| Error::local("remove", entry.path(), error))?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl TemporaryFile {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::local("write", &self.path, error))
    }

    /// Makes the contents durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::local("sync", &self.path, error))
    }

    /// Syncs the file and gives it its name, without replacing a file that has it. The caller syncs the directory.
    pub(crate) fn publish(mut self, path: &Path) -> Result<Published> {
        self.sync()?;
        match renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.published = true;
                Ok(Published::Yes)
            }
            Err(rustix::io::Errno::EXIST) => Ok(Published::NameTaken),
            // Some file systems know no such rename: a hard link refuses to replace a file too.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
                self.link(path)
            }
            Err(error) => Err(Error::local("rename a temporary file to", path, error.into())),
        }
    }

    /// Gives the file its name beside the temporary one, which goes when this is dropped.
    fn link(self, path: &Path) -> Result<Published> {
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
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::local("sync the directory", path, error))
}

/// The process that a temporary file's name says it belongs to.
fn temporary_owner(name: &OsStr) -> Option<i32> {
    let (prefix, suffix) = DurableDir::TEMPORARY;
    let (pid, number) = name.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?.split_once('-')?;
    number.parse::<u64>().ok()?;
    pid.parse().ok()
}

fn is_alive(pid: i32) -> bool {
    let alive = |pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
    rustix::process::Pid::from_raw(pid).is_some_and(alive)
}
