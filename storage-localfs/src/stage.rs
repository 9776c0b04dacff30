//! Stage files: written and synced beside their target, then published under its name.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use cap_std::fs::{Dir, OpenOptions};
use storage_api::{ErrorKind, PutMode};

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
        self.file.write_all(bytes).map_err(|error| Fault::io("write", self.path, error))
    }

    /// Appends all of `source`, inside the file system where that can be, and returns how many bytes those were.
    pub(crate) fn write_from(&mut self, source: &mut File) -> Result<u64> {
        io::copy(source, &mut self.file).map_err(|error| Fault::io("copy the bytes of", self.path, error))
    }

    /// Gives the file the name `target` in its directory, durably. Of the two modes only create can find that the
    /// object exists, and then that is durable.
    pub(crate) fn publish(mut self, target: &str, mode: PutMode) -> Result<()> {
        self.file.sync_all().map_err(|error| Fault::io("sync", self.path, error))?;
        let published = match mode {
            PutMode::Overwrite => self.dir.rename(&self.name, self.dir, target),
            PutMode::Create => self.dir.hard_link(&self.name, self.dir, target),
        };
        self.is_named = mode == PutMode::Create || published.is_err();
        let published = published.map_err(|error| self.refusal(target, error));
        let (dir, path) = (self.dir, self.path);
        // Unlinks the stage file, before the directory is synced rather than after.
        drop(self);
        match published {
            Err(fault) if fault.kind != ErrorKind::AlreadyExists => Err(fault),
            published => sync(dir, path).and(published),
        }
    }

    fn refusal(&self, target: &str, error: io::Error) -> Fault {
        if self.dir.symlink_metadata(target).is_ok_and(|metadata| metadata.is_dir()) {
            let wrong = "a directory has this name, and a key cannot exist beside others below it";
            return Fault::new(ErrorKind::Invalid, "publish", self.path, wrong);
        }
        Fault::io("publish", self.path, error)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if self.is_named {
            // What keeps it here is no reason to fail: the sweep tries again.
            let _ = self.dir.remove_file(&self.name);
        }
    }
}
