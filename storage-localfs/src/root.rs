//! The root directory, and the way from it to a key.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirEntry, FileType, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use storage_api::{ErrorKind, Key, crash_point};

use crate::fault::{Fault, Result};

/// How often a put makes its directories anew when somebody removes them meanwhile.
const PARENT_ATTEMPTS: usize = 100;
/// So many directories are remembered as durable; past that they are synced once more.
const DURABLE_DIRS_MAX: usize = 4096;

/// A handle on the root, confined to what is below it.
#[derive(Debug)]
pub(crate) struct Root {
    dir: Dir,
    path: PathBuf,
    /// The directories, relative to the root, that are known to be durable up to the root: another process may have
    /// made one and been killed before it synced what names it, so existing does not mean durable.
    durable_dirs: Mutex<HashSet<String>>,
}

impl Root {
    /// Opens the directory `path`, which must exist.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority());
        let dir = dir.map_err(|error| Fault::io("open the root", path.to_string_lossy(), error))?;
        Ok(Self { dir, path: path.to_owned(), durable_dirs: Mutex::default() })
    }

    /// Makes the directory `path` and those above it, durably; what exists stays.
    pub(crate) fn create(path: &Path) -> Result<()> {
        let fault = |error| Fault::io("create the root", path.to_string_lossy(), error);
        let mut missing = Vec::new();
        let mut at = path;
        while !at.as_os_str().is_empty() && !at.try_exists().map_err(fault)? {
            missing.push(at);
            at = at.parent().unwrap_or(Path::new(""));
        }
        for path in missing.into_iter().rev() {
            crash_point();
            match std::fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fault(error)),
                Ok(()) | Err(_) => {}
            }
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            crash_point();
            std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(fault)?;
        }
        Ok(())
    }

    /// Where the root is, for people.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Whether the root was removed after it was opened.
    pub(crate) fn is_gone(&self) -> bool {
        self.dir.dir_metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// The directory `path`, empty for the root or components joined by `/`. It is not found where a file is in the
    /// way, since no key can lie below it.
    pub(crate) fn descend(&self, path: &str) -> Result<Dir> {
        let mut dir = self.dir.try_clone().map_err(|error| Fault::io("open", path, error))?;
        for component in components(path) {
            dir = open_dir(&dir, component, path)?;
        }
        Ok(dir)
    }

    /// Runs `put` in the directory `path`, which is made where it is missing, and makes the way to it durable.
    ///
    /// Should somebody remove the directory before there is anything in it, both begin again.
    pub(crate) fn with_parent<T>(&self, path: &str, mut put: impl FnMut(&Dir) -> Result<T>) -> Result<T> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.descend_or_create(path).and_then(|dir| put(&dir)) {
                Err(fault) if fault.is_not_found() && attempt < PARENT_ATTEMPTS && !self.is_gone() => {}
                // Whoever finds that an object exists may rely on it: it is as durable as one's own.
                Err(fault) if fault.kind == ErrorKind::AlreadyExists => {
                    return self.sync_way(path).and(Err(fault));
                }
                Err(fault) => return Err(fault),
                Ok(done) => return self.sync_way(path).map(|()| done),
            }
        }
    }

    fn descend_or_create(&self, path: &str) -> Result<Dir> {
        match self.descend(path) {
            Err(fault) if fault.is_not_found() => self.durable().clear(),
            result => return result,
        }
        let mut dir = self.dir.try_clone().map_err(|error| Fault::io("open", path, error))?;
        for component in components(path) {
            crash_point();
            match dir.create_dir(component) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Fault::io("create the directory of", path, error));
                }
                Ok(()) | Err(_) => {}
            }
            dir = open_made(&dir, component, path)?;
        }
        Ok(dir)
    }

    /// Makes durable what names the directory `path` and those above it. Only then is what is in it safe.
    fn sync_way(&self, path: &str) -> Result<()> {
        if self.durable().contains(path) {
            return Ok(());
        }
        let mut dir = self.dir.try_clone().map_err(|error| Fault::io("open", path, error))?;
        for component in components(path) {
            sync(&dir, path)?;
            dir = match open_dir(&dir, component, path) {
                // What was put is deleted again already, and its directory with it.
                Err(fault) if fault.is_not_found() => return Ok(()),
                opened => opened?,
            };
        }
        let mut durable = self.durable();
        if durable.len() >= DURABLE_DIRS_MAX {
            durable.clear();
        }
        durable.insert(path.to_owned());
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.durable_dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the directory `name`, which was just made or was there; a file of this name is in the way of the key.
fn open_made(dir: &Dir, name: &str, path: &str) -> Result<Dir> {
    open_dir(dir, name, path).map_err(|fault| {
        if !dir.symlink_metadata(name).is_ok_and(|metadata| metadata.is_file()) {
            return fault;
        }
        let wrong = format!("{name:?} on the way is an object, and a key below it cannot exist beside it");
        Fault::new(ErrorKind::Invalid, "create the directory", path, wrong)
    })
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|component| !component.is_empty())
}

/// The directory and the name in it of `key`.
pub(crate) fn split(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

/// Opens the directory `name` in `dir`, and no symbolic link. `path` is for the error.
pub(crate) fn open_dir(dir: &Dir, name: &str, path: &str) -> Result<Dir> {
    dir.open_dir_nofollow(name).map_err(|error| {
        if dir.symlink_metadata(name).is_ok_and(|metadata| metadata.is_symlink()) {
            return symlink(path);
        }
        match error.kind() {
            io::ErrorKind::NotADirectory => {
                Fault::new(ErrorKind::NotFound, "open", path, format!("{name:?} is a file"))
            }
            _ => Fault::io("open", path, error),
        }
    })
}

/// What `entry` of `dir` is. `path` is for the error.
pub(crate) fn entry_type(dir: &Dir, entry: &DirEntry, path: &str) -> Result<FileType> {
    let fault = |error| Fault::io("look up", path, error);
    let file_type = entry.file_type().map_err(fault)?;
    if file_type.is_file() || file_type.is_dir() || file_type.is_symlink() {
        return Ok(file_type);
    }
    // Some file systems do not say in the directory what its entries are.
    dir.symlink_metadata(entry.file_name()).map(|metadata| metadata.file_type()).map_err(fault)
}

/// The metadata of the object `name` in `dir`; what is no regular file is no object. `path` is for the error.
pub(crate) fn look_up(dir: &Dir, name: &str, path: &str) -> Result<Metadata> {
    let metadata = dir.symlink_metadata(name).map_err(|error| Fault::io("look up", path, error))?;
    check_is_object(metadata, path)
}

/// Opens the object `name` in `dir`. `path` is for the error.
pub(crate) fn open_file(dir: &Dir, name: &str, path: &str) -> Result<(std::fs::File, Metadata)> {
    let mut options = OpenOptions::new();
    // Without NONBLOCK, a pipe with the object's name would block until somebody writes to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    options.read(true).follow(FollowSymlinks::No).custom_flags(flags);
    let fault = |error| Fault::io("open", path, error);
    let file = dir.open_with(name, &options).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => symlink(path),
        _ => fault(error),
    })?;
    let metadata = check_is_object(file.metadata().map_err(fault)?, path)?;
    Ok((file.into_std(), metadata))
}

fn check_is_object(metadata: Metadata, path: &str) -> Result<Metadata> {
    if metadata.is_file() {
        Ok(metadata)
    } else if metadata.is_symlink() {
        Err(symlink(path))
    } else {
        Err(Fault::new(ErrorKind::NotFound, "open", path, "it is not a regular file"))
    }
}

fn symlink(path: &str) -> Fault {
    Fault::new(
        ErrorKind::PermissionDenied,
        "open",
        path,
        "a symbolic link is on the way, and none is followed: put the file or directory itself there",
    )
}

/// Makes durable what `dir` names. `path` is for the error.
pub(crate) fn sync(dir: &Dir, path: &str) -> Result<()> {
    crash_point();
    // The handle itself may be one for walking only, which cannot be synced.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|errno| Fault::io("sync the directory of", path, errno.into()))
}
