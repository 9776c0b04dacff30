//! The demo: a new database backed up, wiped, restored and compared, beside one object per layer.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::RawDigest;
use pageserver_glue::{Absent, Access, RemoteUrl};
use storage_api::{
    Body, GetRange, Key, Metrics, ObjectStore, ObjectStoreExt, PutMode, RequestCounts, RetryPolicy,
    SystemClock,
};

use crate::bench::ways;
use crate::image::{self, ImageOptions, Source};

/// Requests that the baseline has in flight, and that are in flight at most.
const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// What the demo has measured.
#[derive(Debug)]
pub struct Demo {
    /// Where the image came from.
    pub source: String,
    /// Layers and the metadata file.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The backup and restore with Layerpack.
    pub packed: Measured,
    /// The same, with one object per file.
    pub baseline: Measured,
    /// Requests of a second backup, which found nothing new.
    pub second_backup: RequestCounts,
    /// Where what it stored has stayed, if that was a remote of the caller's.
    pub left_below: Option<String>,
}

/// One way to store the image.
#[derive(Debug)]
pub struct Measured {
    /// Objects in the store.
    pub objects: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Requests of the backup, and how long it took.
    pub backup: (RequestCounts, Duration),
    /// Requests of the restore, and how long it took.
    pub restore: (RequestCounts, Duration),
}

/// Runs the demo below `dir`, which must be empty. The stores are there too, or on `remote` below a fresh prefix, where
/// they stay. `progress` is told what goes on.
pub async fn run(dir: &Path, source: Source, remote: Option<&RemoteUrl>, progress: fn(&str)) -> Result<Demo> {
    let workdir = dir.join("workdir");
    let image = image::create(&ImageOptions { source, seed: 1, progress }, &workdir)?;
    let before = digests(&image.timeline_dir)?;
    let place = match remote {
        Some(remote) => below(remote, &format!("layerpack-demo-{:016x}", RandomState::new().hash_one(0)))?,
        None => format!("file://{}", dir.display()).parse()?,
    };
    if remote.is_some() {
        progress(&format!("storing below {place}, where it stays"));
    }
    progress("storing one object per layer, for comparison");
    let url = below(&place, "one-object-per-layer")?;
    let baseline = one_object_per_layer(&image.timeline_dir, &url, &dir.join("restored")).await?;
    progress("backing up, wiping, restoring");
    let (packed, second_backup) = packed(&workdir, &below(&place, "store")?, &image.timeline_dir).await?;
    let after = digests(&image.timeline_dir)?;
    ensure!(before == after, "the restored files are not the files that were backed up: this is a bug");
    let bytes = before.values().map(|digest| digest.size).sum();
    Ok(Demo {
        source: image.source.to_string(),
        files: before.len(),
        bytes,
        packed,
        baseline,
        second_backup,
        left_below: remote.map(|_| place.to_string()),
    })
}

/// The remote `name` below another one.
fn below(remote: &RemoteUrl, name: &str) -> Result<RemoteUrl> {
    let url = remote.as_str();
    let (place, options) = url.split_at(url.find('?').unwrap_or(url.len()));
    Ok(format!("{}/{name}{options}", place.trim_end_matches('/')).parse()?)
}

/// The store at `url` as a program of its own would open it, and the counts of its requests.
async fn connect(url: &RemoteUrl, absent: Absent) -> Result<(Arc<dyn ObjectStore>, Arc<Metrics>)> {
    let metrics = Arc::<Metrics>::default();
    let access = Access {
        requests_in_flight: IN_FLIGHT,
        retry: RetryPolicy::default(),
        clock: Arc::new(SystemClock),
        metrics: Arc::clone(&metrics),
    };
    Ok((url.open(absent, &access).await?, metrics))
}

/// Backs up, backs up again, wipes, and restores, each as a program of its own would: the store is opened anew.
async fn packed(workdir: &Path, url: &RemoteUrl, timeline_dir: &Path) -> Result<(Measured, RequestCounts)> {
    let first = backup(workdir, url).await?;
    let (second, _) = backup(workdir, url).await?;
    ensure!(second.put == 0, "a second backup wrote {} objects", second.put);
    std::fs::remove_dir_all(timeline_dir).context("cannot wipe the work directory")?;
    let restore = restore(workdir, url).await?;
    let (objects, stored_bytes) = stored(url).await?;
    Ok((Measured { objects, stored_bytes, backup: first, restore }, second))
}

async fn backup(workdir: &Path, url: &RemoteUrl) -> Result<(RequestCounts, Duration)> {
    let timer = crate::timer();
    let (objects, metrics) = connect(url, Absent::Create).await?;
    ways::backup(objects, url.as_str(), workdir).await?;
    Ok((metrics.snapshot(), timer.elapsed()))
}

async fn restore(workdir: &Path, url: &RemoteUrl) -> Result<(RequestCounts, Duration)> {
    let timer = crate::timer();
    let (objects, metrics) = connect(url, Absent::Refuse).await?;
    ways::restore(objects, url.as_str(), workdir).await?;
    Ok((metrics.snapshot(), timer.elapsed()))
}

/// What pageservers do without packing: every file an object, 100 requests in flight.
async fn one_object_per_layer(timeline_dir: &Path, url: &RemoteUrl, target: &Path) -> Result<Measured> {
    let files = files(timeline_dir)?;
    let timer = crate::timer();
    let (store, metrics) = connect(url, Absent::Create).await?;
    let puts = files.iter().map(|(name, path)| {
        let store = Arc::clone(&store);
        async move {
            let bytes = std::fs::read(path)?;
            store.put(&Key::new(name.as_str())?, Body::new(bytes), PutMode::Overwrite).await?;
            anyhow::Ok(())
        }
    });
    stream::iter(puts).buffer_unordered(IN_FLIGHT.get()).try_collect::<()>().await?;
    let backup = (metrics.snapshot(), timer.elapsed());

    let (objects, stored_bytes) = stored(url).await?;
    let timer = crate::timer();
    let (store, metrics) = connect(url, Absent::Refuse).await?;
    let target = sync_engine::DurableDir::create(target.to_owned())?;
    let gets = files.keys().map(|name| {
        let (store, target) = (Arc::clone(&store), target.clone());
        async move {
            let (_, bytes) = store.get_bytes(&Key::new(name.as_str())?, GetRange::Full, u64::MAX).await?;
            let name = name.clone();
            tokio::task::spawn_blocking(move || target.publish(&name, &bytes)).await??;
            anyhow::Ok(())
        }
    });
    stream::iter(gets).buffer_unordered(IN_FLIGHT.get()).try_collect::<()>().await?;
    let restore = (metrics.snapshot(), timer.elapsed());
    Ok(Measured { objects, stored_bytes, backup, restore })
}

/// How many objects are at `url`, and their bytes.
async fn stored(url: &RemoteUrl) -> Result<(u64, u64)> {
    let (objects, _) = connect(url, Absent::Refuse).await?;
    let all = objects.list_all(&storage_api::KeyPrefix::root()).await?;
    Ok((all.len() as u64, all.iter().map(|object| object.size).sum()))
}

fn files(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).context("a file name that is not UTF-8")?;
        Ok((name.to_owned(), path))
    };
    std::fs::read_dir(dir)?.map(entry).collect()
}

fn digests(dir: &Path) -> Result<BTreeMap<String, RawDigest>> {
    let digest =
        |(name, path): (String, PathBuf)| Ok((name, RawDigest::of_reader(std::fs::File::open(path)?)?));
    files(dir)?.into_iter().map(digest).collect()
}

impl fmt::Display for Demo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (packed, baseline) = (&self.packed, &self.baseline);
        writeln!(f, "image: {} ({} files, {} bytes)", self.source, self.files, self.bytes)?;
        writeln!(f, "every file was restored and compared byte by byte (length, CRC32C, BLAKE3)\n")?;
        writeln!(f, "{:<22}{:>16}{:>24}", "", "Layerpack", "one object per layer")?;
        row(f, "objects", packed.objects, baseline.objects)?;
        row(f, "bytes stored", packed.stored_bytes, baseline.stored_bytes)?;
        let ratio = |stored: u64| format!("{:.1}", as_f64(self.bytes) / as_f64(stored.max(1)));
        row(f, "ratio", ratio(packed.stored_bytes), ratio(baseline.stored_bytes))?;
        for (label, packed, baseline) in
            [("backup", &packed.backup, &baseline.backup), ("restore", &packed.restore, &baseline.restore)]
        {
            row(f, &format!("{label} requests"), packed.0.requests(), baseline.0.requests())?;
            let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
            row(f, &format!("{label} seconds"), seconds(packed.1), seconds(baseline.1))?;
        }
        writeln!(f, "\na second backup: {} requests, 0 of them PUT", self.second_backup.requests())?;
        match &self.left_below {
            Some(url) => writeln!(f, "what was stored is still there, below {url}"),
            None => Ok(()),
        }
    }
}

fn row(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    packed: impl fmt::Display,
    baseline: impl fmt::Display,
) -> fmt::Result {
    writeln!(f, "{label:<22}{:>16}{:>24}", packed.to_string(), baseline.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
