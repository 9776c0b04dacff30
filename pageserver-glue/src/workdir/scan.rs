//! What there is to back up of one timeline.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use layer_archive::{LayerName, TenantId, TimelineId};
use rustix::fs::OFlags;

use super::skip::is_temporary;
use super::{SkipReason, Skipped, WorkDir, WorkDirError, read_dir};
use crate::{Layout, MetadataError, OpaqueName, ParsedLayerName, ParsedMetadata};

/// The name of a timeline's metadata file.
pub const METADATA_FILE: &str = "metadata";

/// The largest metadata file that is read, in bytes.
pub const METADATA_FILE_BYTES_MAX: u64 = 64 * 1024;

/// How often a directory that changes is listed before giving up. Layers change every few seconds at most.
const ATTEMPTS: u32 = 8;

/// A timeline's metadata file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataFile {
    /// Its name, [`METADATA_FILE`].
    pub name: LayerName,
    /// What is in it, at most [`METADATA_FILE_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
    /// What the bytes say; where they do not parse they are opaque.
    pub parsed: Result<ParsedMetadata, MetadataError>,
}

/// A layer file of a work directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLayer {
    /// Its file name, which is the stored name.
    pub name: LayerName,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// What its name says; where it does not parse the layer is opaque.
    pub parsed: Result<ParsedLayerName, OpaqueName>,
}

/// What there is to back up of one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineScan {
    /// The metadata, where there is a file of it.
    pub metadata: Option<MetadataFile>,
    /// The layers, sorted by name.
    pub layers: Vec<LocalLayer>,
    /// What else is in the directory.
    pub skipped: Vec<Skipped>,
    /// The names, as far as a layer could have them, of what is in the directory and is no file. Whether these layers
    /// are gone is not known.
    pub present: BTreeSet<LayerName>,
}

impl TimelineScan {
    /// What is backed up although it is not understood, a sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let metadata = self.metadata.iter().filter_map(|file| {
            let error = file.parsed.as_ref().err()?;
            Some(format!("{} is stored as opaque bytes: {error}", file.name))
        });
        let layers = self.layers.iter().filter_map(|layer| match &layer.parsed {
            Err(error) => Some(format!("layer {} is stored as opaque bytes: {error}", layer.name)),
            Ok(parsed) if parsed.layout() == Some(Layout::Remote) => {
                Some(format!("layer {} is named as in a remote; it is stored under this name", layer.name))
            }
            Ok(_) => None,
        });
        metadata.chain(layers)
    }
}

impl WorkDir {
    /// What there is to back up of a timeline.
    ///
    /// The metadata is read before the layers are listed, so that no layer it needs is missed, and the layers are
    /// listed until two listings agree: a single pass over a directory may miss both a layer that compaction removes
    /// meanwhile and the one that replaces it.
    pub fn scan(&self, tenant: &TenantId, timeline: &TimelineId) -> Result<TimelineScan, WorkDirError> {
        self.scan_with(&self.timeline_dir(tenant, timeline), List::read)
    }

    /// The metadata file of a timeline, where it has one.
    pub fn metadata(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
    ) -> Result<Option<MetadataFile>, WorkDirError> {
        let dir = self.timeline_dir(tenant, timeline);
        self.require_directory(&dir)?;
        let (Some(bytes), Ok(name)) =
            (read_metadata(&dir.join(METADATA_FILE))?, LayerName::new(METADATA_FILE))
        else {
            return Ok(None);
        };
        let parsed = ParsedMetadata::parse(&bytes);
        Ok(Some(MetadataFile { name, bytes, parsed }))
    }

    /// [`WorkDir::scan`] of `dir`, which `list` goes over once a call.
    pub(super) fn scan_with(
        &self,
        dir: &Path,
        mut list: impl FnMut(&Path) -> Result<List, WorkDirError>,
    ) -> Result<TimelineScan, WorkDirError> {
        self.require_directory(dir)?;
        for _ in 0..ATTEMPTS {
            let metadata = read_metadata(&dir.join(METADATA_FILE))?;
            let (first, second) = (list(dir)?, list(dir)?);
            if first.layers != second.layers || second.metadata.is_some() != metadata.is_some() {
                continue;
            }
            if let Some(scan) = self.complete(dir, metadata, second)? {
                return Ok(scan);
            }
        }
        Err(WorkDirError::Changing { path: dir.to_owned(), attempts: ATTEMPTS })
    }

    /// What a settled listing amounts to; `None` where a layer in it has vanished.
    fn complete(
        &self,
        dir: &Path,
        metadata: Option<Vec<u8>>,
        list: List,
    ) -> Result<Option<TimelineScan>, WorkDirError> {
        let metadata = list.metadata.zip(metadata).map(|(name, bytes)| {
            let parsed = ParsedMetadata::parse(&bytes);
            MetadataFile { name, bytes, parsed }
        });
        let mut layers = Vec::with_capacity(list.layers.len());
        for name in list.layers {
            match stat_layer(dir, name)? {
                Some(layer) => layers.push(layer),
                None => return Ok(None),
            }
        }
        let present = list.skipped.iter().filter_map(|(name, reason)| present_name(name, *reason)).collect();
        let skipped = list.skipped.into_iter().map(|(name, reason)| Skipped {
            may_be_a_layer: reason.may_be_a_layer(&name),
            ..self.skip(&dir.join(&name), reason)
        });
        Ok(Some(TimelineScan { metadata, layers, skipped: skipped.collect(), present }))
    }
}

/// One pass over a timeline's directory.
pub(super) struct List {
    metadata: Option<LayerName>,
    pub(super) layers: Vec<LayerName>,
    skipped: Vec<(OsString, SkipReason)>,
}

impl List {
    pub(super) fn read(dir: &Path) -> Result<Self, WorkDirError> {
        let mut list = Self { metadata: None, layers: Vec::new(), skipped: Vec::new() };
        for (name, file_type) in read_dir(dir)? {
            match classify(&name, file_type) {
                Ok(layer) if layer.as_str() == METADATA_FILE => list.metadata = Some(layer),
                Ok(layer) => list.layers.push(layer),
                Err(reason) => list.skipped.push((name, reason)),
            }
        }
        Ok(list)
    }
}

/// The name of a layer or of the metadata file, or why it is neither.
fn classify(name: &OsStr, file_type: FileType) -> Result<LayerName, SkipReason> {
    if let Some(reason) = SkipReason::of(name, file_type) {
        return Err(reason);
    }
    if file_type.is_dir() {
        return Err(SkipReason::Directory);
    }
    let name = name.to_str().ok_or(SkipReason::NotUtf8)?;
    LayerName::new(name).map_err(|_| SkipReason::NotALayerName)
}

/// The name of something that is no file, where a layer could have it.
fn present_name(name: &OsStr, reason: SkipReason) -> Option<LayerName> {
    match reason {
        SkipReason::SymbolicLink | SkipReason::Directory | SkipReason::SpecialFile => {
            name.to_str().filter(|name| !is_temporary(name)).and_then(|name| LayerName::new(name).ok())
        }
        _ => None,
    }
}

/// The layer `name`; `None` where it has vanished or become something else since it was listed.
fn stat_layer(dir: &Path, name: LayerName) -> Result<Option<LocalLayer>, WorkDirError> {
    let path = dir.join(name.as_str());
    let failed = |path: PathBuf, source| WorkDirError::Io { action: "look at the layer", path, source };
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    let modified = match metadata.modified() {
        Ok(modified) => modified,
        Err(error) => return Err(failed(path, error)),
    };
    let parsed = name.as_str().parse();
    Ok(Some(LocalLayer { name, path, size: metadata.len(), modified, parsed }))
}

/// What is in the metadata file at `path`; `None` where no regular file is there.
fn read_metadata(path: &Path) -> Result<Option<Vec<u8>>, WorkDirError> {
    let failed =
        |source| WorkDirError::Io { action: "read the timeline metadata", path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_or_else(absent, |metadata| Ok(metadata.is_file())).map_err(failed)? {
        return Ok(None);
    }
    // What is there now may be a link or a pipe that has taken the file's place: neither is followed or waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => return absent(error).map(|_| None).map_err(failed),
    };
    let mut bytes = Vec::new();
    file.take(METADATA_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > METADATA_FILE_BYTES_MAX {
        return Err(WorkDirError::MetadataTooLarge(path.to_owned()));
    }
    Ok(Some(bytes))
}

/// `false` where `error` says that nothing is there.
fn absent(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}
