//! Writing one timeline's directory: layer files, counts, progress, metadata.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::identity;

/// Layers between two lines of progress.
const PROGRESS_LAYERS: u64 = 1_000;

/// Length of the metadata file.
const METADATA_BYTES: usize = 512;

/// Writes the layer files of one timeline.
#[derive(Debug)]
pub(super) struct TimelineWriter {
    tenant: String,
    timeline: String,
    dir: PathBuf,
    layers: u64,
    bytes: u64,
    progress: fn(&str),
}

impl TimelineWriter {
    /// Makes the timeline's directory in the work directory `workdir`, with ids from `seed`.
    pub(super) fn create(workdir: &Path, seed: u64, progress: fn(&str)) -> Result<Self> {
        let (tenant, timeline) = (identity::tenant(seed), identity::timeline(seed));
        let dir = workdir.join("tenants").join(&tenant).join("timelines").join(&timeline);
        fs::create_dir_all(&dir).with_context(|| format!("making the directory {}", dir.display()))?;
        Ok(Self { tenant, timeline, dir, layers: 0, bytes: 0, progress })
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    pub(super) fn timeline(&self) -> &str {
        &self.timeline
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn layers(&self) -> u64 {
        self.layers
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reports what is being done.
    pub(super) fn report(&self, line: &str) {
        (self.progress)(line);
    }

    /// Adds a layer with the bytes of `content`.
    pub(super) fn add(&mut self, name: &str, content: &mut dyn Read) -> Result<()> {
        self.add_with(name, |file| io::copy(content, file).map(drop))
    }

    /// Adds a layer whose bytes `write` produces.
    pub(super) fn add_with(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.dir.join(name);
        self.bytes +=
            write_new(&path, write).with_context(|| format!("writing the layer {}", path.display()))?;
        self.layers += 1;
        if self.layers.is_multiple_of(PROGRESS_LAYERS) {
            self.report(&format!("{} layers, {} bytes", self.layers, self.bytes));
        }
        Ok(())
    }

    /// Writes the timeline's `metadata` file, which says that everything up to `lsn` is on disk.
    pub(super) fn write_metadata(&self, lsn: u64) -> Result<()> {
        let path = self.dir.join("metadata");
        write_new(&path, |file| file.write_all(&metadata(lsn)))
            .with_context(|| format!("writing the metadata {}", path.display()))?;
        Ok(())
    }
}

/// Writes a file that must not be there yet and gives its length. An image can be made again, so nothing is fsynced.
fn write_new(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<u64> {
    let mut file = BufWriter::new(File::create_new(path)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}

/// The oldest form of a timeline's metadata: big-endian `disk_consistent_lsn`, no previous record (tag 0), no ancestor
/// (tag 0), ancestor LSN 0, zeros to byte 508, and the little-endian crc32c of all before it.
fn metadata(disk_consistent_lsn: u64) -> [u8; METADATA_BYTES] {
    let mut bytes = [0; METADATA_BYTES];
    bytes[..8].copy_from_slice(&disk_consistent_lsn.to_be_bytes());
    let (body, checksum) = bytes.split_at_mut(METADATA_BYTES - 4);
    checksum.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes
}
