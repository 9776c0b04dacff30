//! The two ways to store a work directory, and what it holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use layer_archive::{RawDigest, WriterInfo};
use pageserver_glue::{BackupChoices, WorkDir, backup_timeline, restore_timeline};
use storage_api::{Body, GetRange, Key, ObjectStore, ObjectStoreExt, PutMode, SystemClock};
use sync_engine::{BackupOptions, Catalog, DurableDir, PackOptions, Store, TimelineView, WriterOptions};

use super::place::IN_FLIGHT;

/// The layers and metadata files of a work directory, by their paths below it.
pub(super) type Files = BTreeMap<String, PathBuf>;

/// Every layer and metadata file of every timeline.
pub(super) fn files(root: &Path) -> Result<Files> {
    let workdir = WorkDir::open(root)?;
    let mut files = Files::new();
    for tenant in workdir.tenants()?.ids {
        for timeline in workdir.timelines(&tenant)?.ids {
            let scan = workdir.scan(&tenant, &timeline)?;
            let layers = scan.layers.iter().map(|layer| layer.name.as_str());
            let metadata = scan.metadata.iter().map(|file| file.name.as_str());
            files.extend(layers.chain(metadata).map(|name| {
                let path = format!("tenants/{tenant}/timelines/{timeline}/{name}");
                let file = root.join(&path);
                (path, file)
            }));
        }
    }
    Ok(files)
}

/// Backs up with Layerpack, into a store that is new.
pub(crate) async fn backup(objects: Arc<dyn ObjectStore>, url: &str, workdir: &Path) -> Result<()> {
    let (store, _) = Store::open_or_create(objects, url).await?;
    let workdir = WorkDir::open(workdir)?;
    for tenant in workdir.tenants()?.ids {
        for timeline in workdir.timelines(&tenant)?.ids {
            let writer =
                WriterInfo { host: "xtask".into(), pid: std::process::id(), program: "xtask".into() };
            let options = BackupOptions {
                writer: WriterOptions { writer, generation: None, clock: Arc::new(SystemClock) },
                pack: PackOptions::default(),
                progress: Arc::default(),
            };
            let backup = backup_timeline(
                &store,
                &workdir,
                (&tenant, &timeline),
                None,
                &BackupChoices::default(),
                options,
            )
            .await?;
            ensure!(
                backup.report.failed.is_empty(),
                "layers could not be packed: {:?}",
                backup.report.failed
            );
        }
    }
    Ok(())
}

/// Restores with Layerpack.
pub(crate) async fn restore(objects: Arc<dyn ObjectStore>, url: &str, target: &Path) -> Result<()> {
    let store = Store::open(objects, url).await?;
    let workdir = WorkDir::create(target)?;
    for entry in Catalog::read(&store, None, None).await?.timelines {
        let view = TimelineView::open_existing(&store, &entry.tenant, &entry.timeline, entry.listing).await?;
        let restored = restore_timeline(&store, &workdir, &view, &Arc::default()).await?;
        ensure!(restored.report.is_complete(), "the restore is incomplete: {:?}", restored.report);
    }
    Ok(())
}

/// Puts every file as an object, each in a task of its own.
pub(super) async fn put_each(objects: Arc<dyn ObjectStore>, files: &Files) -> Result<()> {
    let puts = files.iter().map(|(name, path)| {
        let (objects, name, path) = (Arc::clone(&objects), name.clone(), path.clone());
        tokio::spawn(async move {
            let bytes =
                tokio::fs::read(&path).await.with_context(|| format!("reading {}", path.display()))?;
            objects.put(&Key::new(name)?, Body::new(bytes), PutMode::Overwrite).await?;
            anyhow::Ok(())
        })
    });
    finish(puts).await
}

/// Gets every file, and makes it durable as a restore does, each in a task of its own.
pub(super) async fn get_each(objects: Arc<dyn ObjectStore>, files: &Files, target: &Path) -> Result<()> {
    let mut dirs = BTreeMap::new();
    for name in files.keys() {
        let (dir, _) = name.rsplit_once('/').context("a file outside of timelines")?;
        if !dirs.contains_key(dir) {
            dirs.insert(dir.to_owned(), DurableDir::create(target.join(dir))?);
        }
    }
    let gets = files.keys().map(|name| {
        let (objects, name) = (Arc::clone(&objects), name.clone());
        let (dir, file) = name.rsplit_once('/').unwrap_or(("", &name));
        let (dir, file) = (dirs.get(dir).cloned(), file.to_owned());
        tokio::spawn(async move {
            let dir = dir.context("a file outside of timelines")?;
            let (_, bytes) = objects.get_bytes(&Key::new(name)?, GetRange::Full, u64::MAX).await?;
            tokio::task::spawn_blocking(move || dir.publish(&file, &bytes)).await??;
            anyhow::Ok(())
        })
    });
    finish(gets).await
}

/// Runs tasks, so many at once as may be in flight.
async fn finish(tasks: impl Iterator<Item = tokio::task::JoinHandle<Result<()>>>) -> Result<()> {
    // A task is spawned when the iterator is asked for it, which is when there is room.
    let tasks = stream::iter(tasks).map(async |task| task.await?);
    tasks.buffer_unordered(IN_FLIGHT.get()).try_collect::<()>().await
}

/// Refuses files below `target` that are not `files`.
pub(super) fn require_same(files: &Files, target: &Path) -> Result<()> {
    let restored = self::files(target)?;
    let (expected, found): (Vec<_>, Vec<_>) = (files.keys().collect(), restored.keys().collect());
    ensure!(expected == found, "{} files were backed up and {} restored", expected.len(), found.len());
    for (name, path) in files {
        let restored = restored.get(name).context("a file is missing")?;
        ensure!(digest(path)? == digest(restored)?, "{name} is not what was backed up: this is a bug");
    }
    Ok(())
}

/// Length and checksums of a file.
pub(super) fn digest(path: &Path) -> Result<RawDigest> {
    let reading = || format!("reading {}", path.display());
    let file = std::fs::File::open(path).with_context(reading)?;
    RawDigest::of_reader(file).with_context(reading)
}
