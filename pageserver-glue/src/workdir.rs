//! A pageserver's work directory: which tenants, timelines and layers it holds, and which files are none of these.
//!
//! ```text
//! <work directory>/tenants/<tenant>/                        config-v1, heatmaps: not layer data
//! <work directory>/tenants/<tenant>/timelines/<timeline>/   metadata, and the layers
//! ```
//!
//! Nothing is followed out of the directory: a symbolic link below it is reported, not opened. Everything that is left
//! out is listed with its reason, so that no file is missing from a backup in silence.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use layer_archive::{LayerName, TenantId, TimelineId};
use sync_engine::DurableDir;

use crate::TimelineError;

mod past;
mod scan;
mod skip;
#[cfg(test)]
mod tests;

pub use scan::{LocalLayer, METADATA_FILE, METADATA_FILE_BYTES_MAX, MetadataFile, TimelineScan};
pub use skip::{SkipReason, Skipped};

const TENANTS: &str = "tenants";
const TIMELINES: &str = "timelines";

/// Why a work directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WorkDirError {
    /// There is no real directory `tenants` in it.
    #[error("{} is no pageserver work directory: it holds no directory `tenants` (name the directory above `tenants`)", .0.display())]
    NotAWorkDir(PathBuf),
    /// A directory that is not there, or is something else, a symbolic link included.
    #[error("{} is not a directory in this work directory; list what there is, or check the id", .0.display())]
    NotADirectory(PathBuf),
    /// A timeline's metadata file is too large to be one.
    #[error("{} is larger than {METADATA_FILE_BYTES_MAX} bytes and cannot be timeline metadata; move it away if it is something else", .0.display())]
    MetadataTooLarge(PathBuf),
    /// Layers came and went during every attempt to list them.
    #[error("the layers in {} changed during each of {attempts} attempts to list them; try again when the pageserver is less busy", path.display())]
    Changing {
        /// The timeline's directory.
        path: PathBuf,
        /// How many attempts there were.
        attempts: u32,
    },
    /// The directory was restored to an older point, and is not what the store would be told that it is.
    #[error("{} was restored as of an older point in time ({what}): it is continued as a new timeline, with `layerpack copy --at`, and restored from that; if something else is there by now, remove {}", dir.display(), mark.display())]
    RestoredPast {
        /// The timeline's directory.
        dir: PathBuf,
        /// What the mark says.
        what: String,
        /// The mark.
        mark: PathBuf,
    },
    /// An older point was to be restored over other files.
    #[error("{} holds files already: an older point in time is restored into an empty directory", .0.display())]
    PastNotEmpty(PathBuf),
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a directory holds: the ids it was listed for, sorted, and everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<Id> {
    /// The tenants or timelines.
    pub ids: Vec<Id>,
    /// What is no such thing.
    pub skipped: Vec<Skipped>,
}

/// What is in a timeline's directory, temporary files left out, by names that a layer could have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirEntries {
    /// Regular files, the metadata file among them.
    pub files: BTreeMap<LayerName, PathBuf>,
    /// Symbolic links, directories, pipes and the like.
    pub others: BTreeMap<LayerName, PathBuf>,
}

/// A pageserver's work directory.
#[derive(Clone, Debug)]
pub struct WorkDir {
    root: PathBuf,
}

impl WorkDir {
    /// The work directory at `root`, which must hold a directory `tenants`.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, WorkDirError> {
        let root = root.into();
        if is_directory(&root.join(TENANTS))? {
            Ok(Self { root })
        } else {
            Err(WorkDirError::NotAWorkDir(root))
        }
    }

    /// The work directory at `root`; it and `tenants` in it are made, durably, where they are missing.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, TimelineError> {
        let root = root.into();
        DurableDir::create(root.join(TENANTS))?;
        Ok(Self::open(root)?)
    }

    /// The directory it was opened at.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a tenant, there or not.
    pub fn tenant_dir(&self, tenant: &TenantId) -> PathBuf {
        self.root.join(TENANTS).join(tenant.as_str())
    }

    /// The directory of a timeline, there or not.
    pub fn timeline_dir(&self, tenant: &TenantId, timeline: &TimelineId) -> PathBuf {
        self.tenant_dir(tenant).join(TIMELINES).join(timeline.as_str())
    }

    /// The tenants.
    pub fn tenants(&self) -> Result<Listing<TenantId>, WorkDirError> {
        self.list_ids(&self.root.join(TENANTS), SkipReason::NotATenant)
    }

    /// The timelines of `tenant`: none where it has no directory `timelines`. What else is in the tenant's directory
    /// is among the skipped.
    pub fn timelines(&self, tenant: &TenantId) -> Result<Listing<TimelineId>, WorkDirError> {
        let tenant_dir = self.tenant_dir(tenant);
        self.require_directory(&tenant_dir)?;
        let mut skipped = Vec::new();
        let mut listing = Listing { ids: Vec::new(), skipped: Vec::new() };
        for (name, file_type) in read_dir(&tenant_dir)? {
            let path = tenant_dir.join(&name);
            if name == TIMELINES && file_type.is_dir() {
                listing = self.list_ids(&path, SkipReason::NotATimeline)?;
            } else {
                let reason = SkipReason::of(&name, file_type).unwrap_or(SkipReason::NotLayerData);
                // A link to the directory of all timelines hides them all.
                let may_be_a_layer = name == TIMELINES;
                skipped.push(Skipped { may_be_a_layer, ..self.skip(&path, reason) });
            }
        }
        skipped.append(&mut listing.skipped);
        Ok(Listing { skipped, ..listing })
    }

    /// The directory of a timeline, made durably where it is missing. One that a symbolic link leads to is refused.
    pub fn create_timeline_dir(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
    ) -> Result<DurableDir, TimelineError> {
        let path = self.timeline_dir(tenant, timeline);
        let below_root = |ancestor: &&Path| ancestor.starts_with(&self.root) && *ancestor != self.root;
        for ancestor in path.ancestors().take_while(below_root) {
            if !is_directory(ancestor)? && !is_absent(ancestor)? {
                return Err(WorkDirError::NotADirectory(ancestor.to_owned()).into());
            }
        }
        Ok(DurableDir::create(path)?)
    }

    /// What is in the directory of a timeline.
    pub fn entries(&self, tenant: &TenantId, timeline: &TimelineId) -> Result<DirEntries, WorkDirError> {
        let dir = self.timeline_dir(tenant, timeline);
        self.require_directory(&dir)?;
        let mut entries = DirEntries::default();
        for (name, file_type) in read_dir(&dir)? {
            let Some(layer) = name.to_str().and_then(|name| LayerName::new(name).ok()) else { continue };
            match SkipReason::of(&name, file_type) {
                Some(SkipReason::Temporary) => None,
                None if file_type.is_file() => entries.files.insert(layer, dir.join(&name)),
                _ => entries.others.insert(layer, dir.join(&name)),
            };
        }
        Ok(entries)
    }

    /// The subdirectories of `dir` whose names are ids; `otherwise` is why the others are skipped.
    fn list_ids<Id: FromStr>(&self, dir: &Path, otherwise: SkipReason) -> Result<Listing<Id>, WorkDirError> {
        let mut listing = Listing { ids: Vec::new(), skipped: Vec::new() };
        for (name, file_type) in read_dir(dir)? {
            match name.to_str().and_then(|name| name.parse().ok()) {
                Some(id) if file_type.is_dir() => listing.ids.push(id),
                // What has the name of a tenant or timeline and is no directory, a link for one, hides its layers.
                id => {
                    let reason = SkipReason::of(&name, file_type).unwrap_or(otherwise);
                    let may_be_a_layer = id.is_some();
                    listing.skipped.push(Skipped { may_be_a_layer, ..self.skip(&dir.join(&name), reason) });
                }
            }
        }
        Ok(listing)
    }

    /// Checks that `dir` and everything between it and the root are directories.
    fn require_directory(&self, dir: &Path) -> Result<(), WorkDirError> {
        let below_root = |ancestor: &&Path| ancestor.starts_with(&self.root) && *ancestor != self.root;
        for ancestor in dir.ancestors().take_while(below_root) {
            if !is_directory(ancestor)? {
                return Err(WorkDirError::NotADirectory(ancestor.to_owned()));
            }
        }
        Ok(())
    }

    fn skip(&self, path: &Path, reason: SkipReason) -> Skipped {
        let below_root = path.strip_prefix(&self.root).unwrap_or(path);
        Skipped { path: below_root.to_string_lossy().into_owned(), reason, may_be_a_layer: false }
    }
}

/// Whether `path` is a directory itself, not a symbolic link to one; `false` where nothing is there.
fn is_directory(path: &Path) -> Result<bool, WorkDirError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(source) => Err(WorkDirError::Io { action: "look at", path: path.to_owned(), source }),
    }
}

/// Whether nothing has the name `path`, not even a symbolic link that leads nowhere.
fn is_absent(path: &Path) -> Result<bool, WorkDirError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        // Something above is in the way, and is found there.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(true),
        Err(source) => Err(WorkDirError::Io { action: "look at", path: path.to_owned(), source }),
    }
}

/// What is in `dir`, by name. What a symbolic link points to is not looked at.
fn read_dir(dir: &Path) -> Result<BTreeMap<OsString, FileType>, WorkDirError> {
    let failed = |source| WorkDirError::Io { action: "list the directory", path: dir.to_owned(), source };
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match entry.file_type() {
            Ok(file_type) => entries.insert(entry.file_name(), file_type),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
    }
    Ok(entries)
}
