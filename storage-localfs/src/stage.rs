//! Stage files: written and synced beside their target, then published under its name.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use cap_std::fs::{Dir, OpenOptions};
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat, renameat_with};
use rustix::io::Errno;
use storage_api::{ErrorKind, PutMode, crash_point};

use crate::fault::{Fault, Result};
use crate::root::sync;

/// How the names of stage files begin. No component of a key does.
pub(crate) const STAGE_PREFIX: &str = ".layerpack-stage-";
/// Names tried before giving up; each one taken is the leftover of a killed process with our id.
const NAME_ATTEMPTS: usize = 10_000;

static STAGES: AtomicU64 = AtomicU64::new(0);

/// A file that is removed unless it is published.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    dir: &'a Dir,
    name: String,
    /// What will be published, for errors.
    path: &'a str,
    file: File,
    /// Whether the file still has the name. Once it has not, another process (with our id, in another container) may
    /// have given it to its own.
    is_named: bool,
}

impl<'a> Stage<'a> {
    /// A new, empty stage file in `dir`.
    pub(crate) fn create(dir: &'a Dir, path: &'a str) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        for _ in 0..NAME_ATTEMPTS {
            let count = STAGES.fetch_add(1, Ordering::Relaxed);
            let name = format!("{STAGE_PREFIX}{:x}-{count:x}", std::process::id());
            crash_point();
            match dir.open_with(&name, &options) {
                Ok(file) => return Ok(Self { dir, name, path, file: file.into_std(), is_named: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Fault::io("create a stage file for", path, error)),
            }
        }
        let wrong = "every name is taken by leftovers: sweep the store";
        Err(Fault::new(ErrorKind::Unexpected, "create a stage file for", path, wrong))
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (front, back) = bytes.split_at(bytes.len() / 2);
        for half in [front, back] {
            crash_point();
            self.file.write_all(half).map_err(|error| Fault::io("write", self.path, error))?;
        }
        Ok(())
    }

    /// Appends all of `source`, inside the file system where that can be, and returns how many bytes those were.
    pub(crate) fn write_from(&mut self, source: &mut File) -> Result<u64> {
        io::copy(source, &mut self.file).map_err(|error| Fault::io("copy the bytes of", self.path, error))
    }

    /// Gives the file the name `target` in its directory, durably. Of the two modes only create can find that the
    /// object exists, and then that is durable.
    pub(crate) fn publish(mut self, target: &str, mode: PutMode) -> Result<()> {
        crash_point();
        self.file.sync_all().map_err(|error| Fault::io("sync", self.path, error))?;
        crash_point();
        let published = match mode {
            PutMode::Overwrite => renameat(self.dir, &self.name, self.dir, target).map(|()| By::Rename),
            PutMode::Create => rename_or_link(|| self.rename_anew(target), || self.link(target)),
        };
        self.is_named = !matches!(published, Ok(By::Rename));
        let published = published.map(drop).map_err(|errno| self.refusal(target, errno));
        let (dir, path) = (self.dir, self.path);
        // Unlinks the stage file, before the directory is synced rather than after.
        drop(self);
        match published {
            Err(fault) if fault.kind != ErrorKind::AlreadyExists => Err(fault),
            published => sync(dir, path).and(published),
        }
    }

    fn rename_anew(&self, target: &str) -> Result<(), Errno> {
        renameat_with(self.dir, &self.name, self.dir, target, RenameFlags::NOREPLACE)
    }

    fn link(&self, target: &str) -> Result<(), Errno> {
        linkat(self.dir, &self.name, self.dir, target, AtFlags::empty())
    }

    fn refusal(&self, target: &str, errno: Errno) -> Fault {
        if self.dir.symlink_metadata(target).is_ok_and(|metadata| metadata.is_dir()) {
            let wrong = "a directory has this name, and a key cannot exist beside others below it";
            return Fault::new(ErrorKind::Invalid, "publish", self.path, wrong);
        }
        if errno == Errno::NOTSUP {
            let wrong =
                "its file system has neither a rename that replaces nothing nor hard links: use another one";
            return Fault::new(ErrorKind::Unsupported, "publish", self.path, wrong);
        }
        Fault::io("publish", self.path, errno.into())
    }
}

/// How a file got its name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Rename,
    /// It has the name it had before as well.
    Link,
}

/// Gives a file a name that nobody has: by `rename`, or by `link` where the file system knows no rename that replaces
/// nothing (NFS). Many have one of the two only.
fn rename_or_link(
    rename: impl FnOnce() -> Result<(), Errno>,
    link: impl FnOnce() -> Result<(), Errno>,
) -> Result<By, Errno> {
    match rename() {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        renamed => return renamed.map(|()| By::Rename),
    }
    match link() {
        // This would read as if somebody had no right to, and nobody has.
        Err(Errno::PERM | Errno::NOSYS | Errno::MLINK) => Err(Errno::NOTSUP),
        linked => linked.map(|()| By::Link),
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if self.is_named {
            // What keeps it here is no reason to fail: the sweep tries again.
            crash_point();
            let _ = self.dir.remove_file(&self.name);
        }
    }
}

#[cfg(test)]
mod tests;
