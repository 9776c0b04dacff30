//! Which files of a work directory are left out, and why.

use std::ffi::OsStr;
use std::fmt;
use std::fs::FileType;

use super::METADATA_FILE;
use crate::ParsedLayerName;

/// Something in a work directory that is not backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is below the work directory. Bytes that are not UTF-8 are shown as U+FFFD.
    pub path: String,
    /// Why it is left out.
    pub reason: SkipReason,
    /// Whether it may be a layer or the metadata, so that what is left is not the whole timeline.
    pub may_be_a_layer: bool,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// Why something is not backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// A file that a pageserver or Layerpack has not finished, or will not keep.
    Temporary,
    /// A symbolic link, whatever it points to.
    SymbolicLink,
    /// A directory where layers are expected.
    Directory,
    /// A socket, a pipe or a device.
    SpecialFile,
    /// A name that is not UTF-8.
    NotUtf8,
    /// A file name that cannot be stored.
    NotALayerName,
    /// Something in a tenant's directory besides its timelines.
    NotLayerData,
    /// Something in `tenants` that is no tenant's directory.
    NotATenant,
    /// Something in `timelines` that is no timeline's directory.
    NotATimeline,
}

impl SkipReason {
    /// What to do so that it is backed up; `None` for what need not be.
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::NotUtf8 | Self::NotALayerName => Some("rename it"),
            Self::SymbolicLink | Self::Directory | Self::SpecialFile => {
                Some("put the file itself there, or move it away")
            }
            Self::Temporary | Self::NotLayerData | Self::NotATenant | Self::NotATimeline => None,
        }
    }

    /// Whether something left out of a timeline's directory for this reason may be a layer or the metadata. What is no
    /// file may be one by its name: its contents are not looked at.
    pub(super) fn may_be_a_layer(self, name: &OsStr) -> bool {
        match self {
            Self::NotUtf8 | Self::NotALayerName => true,
            Self::SymbolicLink | Self::Directory | Self::SpecialFile => name
                .to_str()
                .is_some_and(|name| name == METADATA_FILE || name.parse::<ParsedLayerName>().is_ok()),
            Self::Temporary | Self::NotLayerData | Self::NotATenant | Self::NotATimeline => false,
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Temporary => "temporary",
            Self::SymbolicLink => "a symbolic link, which is not followed",
            Self::Directory => "a directory, not a layer",
            Self::SpecialFile => "neither a file nor a directory",
            Self::NotUtf8 => "its name is not UTF-8",
            Self::NotALayerName => "its name cannot be stored: it holds a path separator or is too long",
            Self::NotLayerData => "not layer data",
            Self::NotATenant => {
                "not the directory of a tenant (32 lower-case hex digits, of a shard with -XXXX)"
            }
            Self::NotATimeline => "not the directory of a timeline (32 lower-case hex digits)",
        })
    }
}

impl SkipReason {
    /// Why something of this name and type is left out wherever it is; `None` for files and directories of fitting names.
    pub(super) fn of(name: &OsStr, file_type: FileType) -> Option<Self> {
        if file_type.is_symlink() {
            return Some(Self::SymbolicLink);
        }
        if !file_type.is_file() && !file_type.is_dir() {
            return Some(Self::SpecialFile);
        }
        match name.to_str() {
            None => Some(Self::NotUtf8),
            Some(name) if is_temporary(name) => Some(Self::Temporary),
            Some(_) => None,
        }
    }
}

/// Whether a pageserver or Layerpack gives this name to files that are unfinished or not durable. No layer is named like
/// one of them.
pub(super) fn is_temporary(name: &str) -> bool {
    const PREFIXES: [&str; 2] = ["ephemeral-", ".layerpack-"];
    const SUFFIXES: [&str; 4] = [".___temp", ".temp", ".tmp", ".temp_download"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        || is_set_aside(name)
}

/// Whether this is `<layer>.<n>.old`, as a pageserver renames a layer that it replaces.
fn is_set_aside(name: &str) -> bool {
    let number = name.strip_suffix(".old").and_then(|name| name.rsplit_once('.')).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}
