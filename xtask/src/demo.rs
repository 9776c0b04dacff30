//! The demo: a new database backed up into a local store, wiped, restored and compared, beside one object per layer.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{RawDigest, WriterInfo};
use pageserver_glue::{Absent, RemoteUrl, WorkDir, backup_timeline, restore_timeline};
use storage_api::{
    Body, GetRange, Key, Metered, ObjectStore, ObjectStoreExt, PutMode, RequestCounts, SystemClock,
};
use sync_engine::{
    BackupOptions, Catalog, Mirror, PackOptions, Progress, Store, TimelineView, WriterOptions,
};

use crate::image::{self, ImageOptions, Source};

/// Requests that the baseline has in flight.
const BASELINE_IN_FLIGHT: usize = 100;

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

/// Runs the demo below `dir`, which must be empty. `progress` is told what goes on.
pub async fn run(dir: &Path, source: Source, progress: fn(&str)) -> Result<Demo> {
    let workdir = dir.join("workdir");
    let image = image::create(&ImageOptions { source, seed: 1, progress }, &workdir)?;
    let before = digests(&image.timeline_dir)?;
    progress("storing one object per layer, for comparison");
    let baseline = one_object_per_layer(&image.timeline_dir, &dir.join("one-object-per-layer")).await?;
    progress("backing up, wiping, restoring");
    let (packed, second_backup) = packed(&workdir, &dir.join("store"), &image.timeline_dir).await?;
    let after = digests(&image.timeline_dir)?;
    ensure!(before == after, "the restored files are not the files that were backed up: this is a bug");
    let bytes = before.values().map(|digest| digest.size).sum();
    Ok(Demo { source: image.source.to_string(), files: before.len(), bytes, packed, baseline, second_backup })
}

/// Backs up, backs up again, wipes, and restores, each as a program of its own would: the store is opened anew.
async fn packed(workdir: &Path, store: &Path, timeline_dir: &Path) -> Result<(Measured, RequestCounts)> {
    let url: RemoteUrl = format!("file://{}", store.display()).parse()?;
    let first = backup(workdir, &url).await?;
    let (second, _) = backup(workdir, &url).await?;
    ensure!(second.put == 0, "a second backup wrote {} objects", second.put);
    std::fs::remove_dir_all(timeline_dir).context("cannot wipe the work directory")?;
    let restore = restore(workdir, &url).await?;
    let (objects, stored_bytes) = stored(&*url.connect(Absent::Refuse)?).await?;
    Ok((Measured { objects, stored_bytes, backup: first, restore }, second))
}

async fn backup(workdir: &Path, url: &RemoteUrl) -> Result<(RequestCounts, Duration)> {
    let clock = Arc::new(SystemClock);
    let timer = crate::timer();
    let metered = Arc::new(Metered::new(url.connect(Absent::Create)?));
    let (store, _) =
        Store::open_or_create(Arc::<Metered<dyn ObjectStore>>::clone(&metered), url.as_str()).await?;
    let workdir = WorkDir::open(workdir)?;
    for tenant in workdir.tenants()?.ids {
        for timeline in workdir.timelines(&tenant)?.ids {
            let writer =
                WriterInfo { host: "demo".into(), pid: std::process::id(), program: "xtask demo".into() };
            let options = BackupOptions {
                writer: WriterOptions { writer, generation: None, clock: clock.clone() },
                pack: PackOptions::default(),
                progress: Arc::new(Progress::default()),
            };
            let backup =
                backup_timeline(&store, &workdir, (&tenant, &timeline), None, Mirror::Off, options).await?;
            ensure!(
                backup.report.failed.is_empty(),
                "layers could not be packed: {:?}",
                backup.report.failed
            );
        }
    }
    Ok((metered.metrics().snapshot(), timer.elapsed()))
}

async fn restore(workdir: &Path, url: &RemoteUrl) -> Result<(RequestCounts, Duration)> {
    let timer = crate::timer();
    let metered = Arc::new(Metered::new(url.connect(Absent::Refuse)?));
    let store = Store::open(Arc::<Metered<dyn ObjectStore>>::clone(&metered), url.as_str()).await?;
    let workdir = WorkDir::open(workdir)?;
    for entry in Catalog::read(&store, None, None).await?.timelines {
        let view = TimelineView::open_existing(&store, &entry.tenant, &entry.timeline, entry.listing).await?;
        let restored = restore_timeline(&store, &workdir, &view, &Arc::new(Progress::default())).await?;
        ensure!(restored.report.is_complete(), "the restore is incomplete: {:?}", restored.report);
    }
    Ok((metered.metrics().snapshot(), timer.elapsed()))
}

/// What pageservers do without packing: every file an object, 100 requests in flight.
async fn one_object_per_layer(timeline_dir: &Path, root: &Path) -> Result<Measured> {
    let url: RemoteUrl = format!("file://{}", root.display()).parse()?;
    let metered = Arc::new(Metered::new(url.connect(Absent::Create)?));
    let files = files(timeline_dir)?;
    let timer = crate::timer();
    let puts = files.iter().map(|(name, path)| {
        let metered = Arc::clone(&metered);
        async move {
            let bytes = std::fs::read(path)?;
            metered.put(&Key::new(name.as_str())?, Body::new(bytes), PutMode::Overwrite).await?;
            anyhow::Ok(())
        }
    });
    stream::iter(puts).buffer_unordered(BASELINE_IN_FLIGHT).try_collect::<()>().await?;
    let counts = metered.metrics().snapshot();
    let backup = (counts, timer.elapsed());

    let (objects, stored_bytes) = stored(&*url.connect(Absent::Refuse)?).await?;
    let timer = crate::timer();
    let target = sync_engine::DurableDir::create(root.join("restored"))?;
    let gets = files.keys().map(|name| {
        let (metered, target) = (Arc::clone(&metered), target.clone());
        async move {
            let (_, bytes) = metered.get_bytes(&Key::new(name.as_str())?, GetRange::Full, u64::MAX).await?;
            let name = name.clone();
            tokio::task::spawn_blocking(move || target.publish(&name, &bytes)).await??;
            anyhow::Ok(())
        }
    });
    stream::iter(gets).buffer_unordered(BASELINE_IN_FLIGHT).try_collect::<()>().await?;
    let restore = (metered.metrics().snapshot().since(&counts), timer.elapsed());
    Ok(Measured { objects, stored_bytes, backup, restore })
}

/// How many objects a store has, and their bytes.
async fn stored(objects: &dyn ObjectStore) -> Result<(u64, u64)> {
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
        writeln!(f, "\na second backup: {} requests, 0 of them PUT", self.second_backup.requests())
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
