//! Benchmark images: pageserver work directories, taken from a real PostgreSQL cluster or made from a seed.

mod cluster;
mod content;
mod files;
mod identity;
mod installation;
mod names;
mod pages;
mod postgres;
mod random;
mod relish;
mod synthetic;
#[cfg(test)]
mod tests;
mod timeline;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

pub use installation::Installation;
pub use names::{NameList, generated_names};
use timeline::TimelineWriter;

/// What an image is made of.
#[derive(Clone, Debug)]
pub enum Source {
    /// The relation files of a fresh cluster, made with the `initdb` of this machine.
    Postgres {
        /// Also fill the cluster with `pgbench -i` at this scale factor.
        pgbench_scale: Option<u32>,
    },
    /// Files like those of a fresh cluster, made from the seed alone.
    Synthetic,
    /// A timeline with the given layer names and sizes as a fleet of pageservers has them.
    Names {
        /// Where the names come from.
        list: NameList,
        /// Factor on the fleet's layer sizes; see [`DEFAULT_SIZE_SCALE`].
        scale: f64,
    },
}

/// The factor on fleet sizes used when none is asked for: a timeline of gigabytes becomes one of megabytes.
pub const DEFAULT_SIZE_SCALE: f64 = 0.001;

/// How to make an image.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// What the image is made of.
    pub source: Source,
    /// Gives the tenant and timeline ids and, except with [`Source::Postgres`], every byte of the image.
    pub seed: u64,
    /// Called with a line of progress now and then.
    pub progress: fn(&str),
}

/// What [`create`] made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageSummary {
    /// `postgres`, `synthetic` or `names`.
    pub source: &'static str,
    /// The version of the PostgreSQL that made the files, where one did.
    pub postgres_version: Option<String>,
    /// Tenant id, 32 hex digits.
    pub tenant: String,
    /// Timeline id, 32 hex digits.
    pub timeline: String,
    /// The directory that holds the layer files.
    pub timeline_dir: PathBuf,
    /// `disk_consistent_lsn` of the timeline's metadata, 16 hex digits.
    pub lsn: String,
    /// Number of layer files, the metadata file not counted.
    pub layers: u64,
    /// Bytes in the layer files.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Makes a work directory `dir/tenants/<tenant>/timelines/<timeline>/` with layer files and a `metadata` file.
///
/// Equal options give equal bytes, except with [`Source::Postgres`], whose files carry the time of `initdb`.
///
/// # Errors
/// When `dir` is neither absent nor an empty directory, when PostgreSQL is asked for and not found or fails, when a
/// layer name is not a single path component, and on any I/O error; each error names the file or program.
pub fn create(options: &ImageOptions, dir: &Path) -> Result<ImageSummary> {
    let started = crate::timer();
    require_absent_or_empty(dir)?;
    let mut writer = TimelineWriter::create(dir, options.seed, options.progress)?;
    let made = match &options.source {
        Source::Postgres { pgbench_scale } => postgres::fill(&mut writer, *pgbench_scale)?,
        Source::Synthetic => synthetic::fill(&mut writer, options.seed)?,
        Source::Names { list, scale } => names::fill(&mut writer, list, *scale, options.seed)?,
    };
    writer.write_metadata(made.lsn)?;
    Ok(ImageSummary {
        source: made.source,
        postgres_version: made.postgres_version,
        tenant: writer.tenant().to_owned(),
        timeline: writer.timeline().to_owned(),
        timeline_dir: writer.dir().to_owned(),
        lsn: format!("{:016X}", made.lsn),
        layers: writer.layers(),
        bytes: writer.bytes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// What a source reports once its layers are written.
struct Made {
    source: &'static str,
    postgres_version: Option<String>,
    lsn: u64,
}

fn require_absent_or_empty(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => bail!(
                "{} is not empty: an image needs a directory of its own, name one that is absent or empty",
                dir.display()
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("looking into {}", dir.display())),
    }
}
