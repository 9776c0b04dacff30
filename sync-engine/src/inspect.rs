//! The archive inspector: what is in one bundle or manifest, from a file or a store, for people and for machines.

mod picture;
mod report;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use layer_archive::{BundleChecker, BundleIndex, FormatError, Manifest, TailParse, limits};
use storage_api::{GetRange, Key, ObjectStore, ObjectStoreExt};

use crate::{Error, Result};

pub use self::picture::draw_bundle;
pub use self::report::{
    BundleReport, CommitReport, FrameReport, LayerReport, ManifestBundleReport, ManifestReport, Problem,
    Report,
};

/// Stored bytes that are read at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// How a manifest begins; a bundle begins with a zstd frame.
const MANIFEST_MAGIC: &[u8] = b"LPMANIF\n";

/// Where an object is inspected.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A file.
    File(PathBuf),
    /// An object of a store.
    Object(Arc<dyn ObjectStore>, Key),
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Inspected {
    /// A bundle: a record or a payload object.
    Bundle(Box<BundleIndex>),
    /// A manifest.
    Manifest(Box<Manifest>),
}

/// Reads the index of a bundle, or a manifest, whichever `subject` is.
pub async fn inspect(subject: &Subject) -> Result<Inspected> {
    let len = subject.len().await?;
    let damaged = |source| Error::damaged(subject.name(), source);
    let begin = subject.read(0..len.min(MANIFEST_MAGIC.len() as u64)).await?;
    if &*begin == MANIFEST_MAGIC {
        if len > limits::READ_SECTION_PLAIN_MAX {
            let limit = limits::READ_SECTION_PLAIN_MAX;
            return Err(damaged(FormatError::Limit { what: "manifest", value: len, limit }));
        }
        let object = subject.read(0..len).await?;
        return Manifest::decode(&object)
            .map(|manifest| Inspected::Manifest(Box::new(manifest)))
            .map_err(damaged);
    }
    let mut wanted = limits::TAIL_READ_BYTES.min(len);
    loop {
        let tail = subject.read(len - wanted..len).await?;
        match BundleIndex::parse_tail(&tail, len).map_err(damaged)? {
            TailParse::Complete(index) => return Ok(Inspected::Bundle(index)),
            TailParse::NeedMore(needed) if needed > wanted && needed <= len => wanted = needed,
            TailParse::NeedMore(needed) => {
                return Err(damaged(FormatError::Truncated { what: "bundle", needed, available: len }));
            }
        }
    }
}

/// Reads every byte of a bundle and checks all checksums, the tar stream and the contents of every layer.
///
/// A manifest was checked whole when it was read.
pub async fn check(subject: &Subject, inspected: &Inspected) -> Result<Vec<Problem>> {
    let Inspected::Bundle(index) = inspected else { return Ok(Vec::new()) };
    let mut problems = Vec::new();
    let mut checker = BundleChecker::new(index).map_err(|error| Error::damaged(subject.name(), error))?;
    let mut buffer: (u64, Bytes) = (0, Bytes::new());
    let data_end = index.object_len() - index.tail_len();
    for frame in index.frames() {
        let range = frame.stored_range();
        if range.end > buffer.0 + buffer.1.len() as u64 {
            let end = (range.start + CHUNK_BYTES).max(range.end).min(data_end);
            buffer = (range.start, subject.read(range.start..end).await?);
        }
        let at = |offset: u64| usize::try_from(offset - buffer.0).unwrap_or(usize::MAX);
        let stored = buffer.1.get(at(range.start)..at(range.end)).unwrap_or_default();
        if let Err(error) = checker.push_frame(stored) {
            problems.push(Problem { layer: None, offset: Some(frame.start), problem: error.to_string() });
        }
    }
    if !problems.is_empty() {
        return Ok(problems);
    }
    match checker.finish() {
        Ok(wrong) => {
            let problem = |(name, error): (layer_archive::LayerName, FormatError)| Problem {
                layer: Some(name.to_string()),
                offset: None,
                problem: error.to_string(),
            };
            problems.extend(wrong.into_iter().map(problem));
        }
        Err(error) => problems.push(Problem { layer: None, offset: None, problem: error.to_string() }),
    }
    Ok(problems)
}

impl Subject {
    /// How messages name it.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Object(_, key) => key.to_string(),
        }
    }

    async fn len(&self) -> Result<u64> {
        match self {
            Self::File(path) => {
                let metadata = std::fs::metadata(path).map_err(|error| Error::local("open", path, error))?;
                if metadata.is_file() {
                    Ok(metadata.len())
                } else {
                    Err(Error::local("inspect", path, std::io::Error::other("not a regular file")))
                }
            }
            Self::Object(objects, key) => Ok(objects.head(key).await?.size),
        }
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let len = range.end - range.start;
        match self {
            Self::File(path) => {
                let read = || -> std::io::Result<Vec<u8>> {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(range.start))?;
                    let mut bytes = Vec::new();
                    file.take(len).read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                read().map(Bytes::from).map_err(|error| Error::local("read", path, error))
            }
            Self::Object(objects, key) => Ok(objects.get_bytes(key, GetRange::Bounded(range), len).await?.1),
        }
    }
}
