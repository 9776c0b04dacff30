//! The benchmark: an image backed up to and restored from S3, packed and as one object per layer, in turn.

mod arguments;
mod place;
mod report;
#[cfg(test)]
mod tests;
pub(crate) mod ways;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layerpack_tests::{Fault, Remote, Rule, WireProxy};
use storage_api::{ObjectStore, RequestCounts};

use self::place::Place;
use self::report::{Comparison, Image};
use self::ways::Files;
use crate::image::{self, ImageOptions, Installation, Source};
use crate::repository::Repository;
use crate::servers::Server;

pub use self::arguments::{BenchArguments, run_command};
pub use self::report::Report;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// A work directory, which is only read. Without one an image is made: of a fresh PostgreSQL cluster where there is
    /// an installation, else of a seed.
    pub image: Option<PathBuf>,
    /// On which server.
    pub on: On,
    /// What every request takes longer than it does on loopback; everything is measured once for each.
    pub latencies: Vec<Duration>,
    /// How often each way is measured, in turn.
    pub runs: usize,
}

/// Which server is measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// One in this process, which keeps everything in memory.
    InProcess,
    /// One that is started.
    Server(Server),
    /// A remote that is there already, with an endpoint in its URL; what is stored below it stays there.
    Remote(String),
}

/// One way to store an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Packed,
    OneObjectPerLayer,
}

/// What a backup or a restore took.
#[derive(Clone, Copy, Debug)]
struct Measured {
    time: Duration,
    requests: RequestCounts,
}

/// What a backup and the restore of what it stored took.
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    backup: Measured,
    restore: Measured,
}

/// Measures as `options` say. `progress` is told what goes on.
///
/// # Errors
/// When the server cannot be used, or what is restored is not what was backed up.
pub async fn run(repository: &Repository, options: &BenchOptions, progress: fn(&str)) -> Result<Report> {
    ensure!(options.runs > 0, "no runs: nothing would be measured");
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (workdir, source) = match &options.image {
        Some(dir) => (dir.clone(), dir.display().to_string()),
        None => make_image(scratch.path(), progress)?,
    };
    let files = ways::files(&workdir)?;
    let image = Image::of(source, &files)?;
    let place = Place::open(repository, &options.on, progress).await?;
    let mut comparisons = Vec::new();
    for latency in &options.latencies {
        let mut comparison = Comparison::new(*latency);
        for run in 1..=options.runs {
            for way in [Way::Packed, Way::OneObjectPerLayer] {
                progress(&format!("run {run} of {}, {latency:?} a request: {}", options.runs, way.name()));
                let target = scratch.path().join("restored");
                let remote = place.fresh();
                let measured = round_trip(way, &remote, *latency, (&workdir, &files), &target).await?;
                comparison.add(way, measured);
                std::fs::remove_dir_all(&target).context("removing what was restored")?;
            }
        }
        comparisons.push(comparison);
    }
    Ok(Report { image, server: place.name(), is_optimised: !cfg!(debug_assertions), comparisons })
}

/// Makes an image below `dir`.
fn make_image(dir: &Path, progress: fn(&str)) -> Result<(PathBuf, String)> {
    let source = match Installation::find() {
        Ok(_) => Source::Postgres { pgbench_scale: None },
        Err(_) => Source::Synthetic,
    };
    let workdir = dir.join("workdir");
    let image = image::create(&ImageOptions { source, seed: 1, progress }, &workdir)?;
    Ok((workdir, image.source.to_string()))
}

/// Backs up, restores into `target`, and compares.
async fn round_trip(
    way: Way,
    remote: &Remote,
    latency: Duration,
    (workdir, files): (&Path, &Files),
    target: &Path,
) -> Result<RoundTrip> {
    let backup = measured(remote, latency, async |store, url| match way {
        Way::Packed => ways::backup(store, url, workdir).await,
        Way::OneObjectPerLayer => ways::put_each(store, files).await,
    });
    let backup = backup.await.with_context(|| format!("backing up, {}", way.name()))?;
    let restore = measured(remote, latency, async |store, url| match way {
        Way::Packed => ways::restore(store, url, target).await,
        Way::OneObjectPerLayer => ways::get_each(store, files, target).await,
    });
    let restore = restore.await.with_context(|| format!("restoring, {}", way.name()))?;
    ways::require_same(files, target).with_context(|| format!("comparing, {}", way.name()))?;
    Ok(RoundTrip { backup, restore })
}

/// Does `work` on a store that is opened for it, as a program of its own would, through a proxy of its own.
async fn measured(
    remote: &Remote,
    latency: Duration,
    work: impl AsyncFnOnce(Arc<dyn ObjectStore>, &str) -> Result<()>,
) -> Result<Measured> {
    let endpoint = remote.endpoint.as_deref();
    let endpoint = endpoint.context("the remote's URL has no endpoint to put a proxy before")?;
    let proxy = WireProxy::keeping_connections(endpoint);
    if !latency.is_zero() {
        proxy.inject(Rule::new(Fault::Delay(latency)).always());
    }
    let remote = remote.by(&proxy.endpoint());
    let timer = crate::timer();
    let store = place::connect(&remote).await?;
    work(store, &remote.url).await?;
    Ok(Measured { time: timer.elapsed(), requests: proxy.counts() })
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Packed => "Layerpack",
            Self::OneObjectPerLayer => "one object per layer",
        }
    }
}
