//! What a pageserver links: the background service on threads of its own, used from code that is not async.
//!
//! ```text
//! Service::start ---> attach(timeline) ---> checkpoint, remove, metadata: never block ---> wait, where that is wanted
//! ```
//!
//! Layers are named as their files in the timeline's directory are. A file stays until its layer is stored, or until the
//! layer was handed over as removed; then the pageserver may delete it.

mod metrics;
mod reads;
#[cfg(test)]
mod tests;
mod timeline;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layer_archive::{Generation, TenantId, TimelineId};
use storage_api::{Metered, ObjectStore};
use sync_engine::service::{
    Attach, AttachError, CreateStore, DetachReport, ServiceOptions, TimelineName, UploadService,
};
use sync_engine::{Deletion, Error as EngineError, HashCache, LocalTimeline, ReadOptions, ReadPool};
use tokio::runtime::Runtime;

pub use self::metrics::{ServiceCollector, ServiceMetrics, TimelineMetrics};
use self::reads::Reads;
pub use self::reads::{AncestorTimeline, ReadError};
pub use self::timeline::{AttachedTimeline, CheckpointError, WaitError};
use crate::{Skipped, WorkDir, WorkDirError, local_timeline};

/// How the service is started.
#[derive(Debug)]
pub struct ServiceConfig {
    /// The remote, with the decorators that its requests are to go through: retries, limits.
    pub objects: Arc<dyn ObjectStore>,
    /// How messages name the remote.
    pub url: String,
    /// Whether a store is created where there is none.
    pub create: CreateStore,
    /// The pageserver's work directory.
    pub workdir: PathBuf,
    /// Where the digests of local files are kept from one start to the next, outside of `tenants/`. Without, files are
    /// hashed at every start.
    pub hash_cache: Option<PathBuf>,
    /// Threads that drive requests; packing has threads besides.
    pub threads: usize,
    /// How layers are gathered, packed and tried again, who writes and who is told.
    pub options: ServiceOptions,
    /// What reads of layers that are not on the disk may take.
    pub reads: ReadOptions,
}

/// Why the service was not started, or a timeline not attached.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The work directory.
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    /// The cache of digests would be taken for part of a tenant.
    #[error("the cache of digests {} lies below `tenants`: keep it beside the work directory", .0.display())]
    HashCacheInside(PathBuf),
    /// There are no threads to be had.
    #[error("cannot start the threads of the service")]
    Threads(#[source] io::Error),
    /// It is attached already, or the service is being shut down.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// The background service of one pageserver. Dropped, it stops where it is, as in a crash: see
/// [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Service {
    runtime: Runtime,
    uploads: UploadService,
    workdir: WorkDir,
    metered: Arc<Metered<dyn ObjectStore>>,
    pool: Arc<ReadPool>,
}

impl Service {
    /// Starts the service. The remote need not be reachable: what is handed over waits.
    pub fn start(config: ServiceConfig) -> Result<Self, ServiceError> {
        let ServiceConfig { objects, url, create, workdir, hash_cache, threads, mut options, reads } = config;
        let workdir = WorkDir::open(workdir)?;
        if let Some(path) = hash_cache {
            if path.starts_with(workdir.root().join("tenants")) {
                return Err(ServiceError::HashCacheInside(path));
            }
            options.hashes = Some(Arc::new(HashCache::open(path, Arc::clone(&options.clock))));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("layerpack")
            .enable_all()
            .build()
            .map_err(ServiceError::Threads)?;
        let metered = Arc::new(Metered::new(objects));
        let objects: Arc<dyn ObjectStore> = Arc::<Metered<dyn ObjectStore>>::clone(&metered);
        let uploads = UploadService::new(objects, url, create, options);
        let pool = Arc::new(ReadPool::new(reads));
        Ok(Self { runtime, uploads, workdir, metered, pool })
    }

    /// Begins to look after a timeline. Its directory, if there is one, is listed now; its files are compared with the
    /// store in the background, and what is missing there is uploaded. [`AttachedTimeline::wait_opened`] says what came
    /// of it, and which layers only the store has.
    pub fn attach(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
        generation: Option<Generation>,
    ) -> Result<AttachedTimeline, ServiceError> {
        let (local, skipped) = self.scan(tenant, timeline)?;
        let attach = Attach { generation, local: Some(local) };
        let handle = {
            let _entered = self.runtime.enter();
            self.uploads.attach(tenant, timeline, attach)?
        };
        let dir = self.workdir.timeline_dir(tenant, timeline);
        let reads = Reads::new(self.uploads.clone(), Arc::clone(&self.pool), self.workdir.clone());
        Ok(AttachedTimeline::new(handle, self.runtime.handle().clone(), dir, skipped, reads))
    }

    /// What is on the disk; nothing where the timeline has no directory yet.
    fn scan(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
    ) -> Result<(LocalTimeline, Vec<Skipped>), ServiceError> {
        self.workdir.require_newest(tenant, timeline)?;
        match self.workdir.scan(tenant, timeline) {
            Ok(scan) => {
                let skipped = scan.skipped.clone();
                Ok((local_timeline(scan), skipped))
            }
            // What is there and is no directory is an error.
            Err(WorkDirError::NotADirectory(path)) if path.symlink_metadata().is_err() => {
                Ok((LocalTimeline::default(), Vec::new()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Detaches a timeline: takes nothing more, stores what is queued, and says in the log that nobody writes. Blocks,
    /// for `deadline` at most. `None` where it is not attached.
    pub fn detach(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
        deadline: Duration,
    ) -> Option<DetachReport> {
        self.runtime.block_on(self.uploads.detach(tenant, timeline, deadline))
    }

    /// Detaches a timeline and deletes it from the store, for ever: its id is never used again. Its files are the caller's.
    /// Blocks, for some `deadline`s at most. One that has branches is refused, as one is that another writer holds.
    pub fn delete(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
        deadline: Duration,
    ) -> Result<Deletion, EngineError> {
        self.runtime.block_on(self.uploads.delete(tenant, timeline, deadline))
    }

    /// Detaches all timelines at the same time and ends the service. Blocks, for `deadline` at most.
    pub fn shutdown(self, deadline: Duration) -> Vec<(TimelineName, DetachReport)> {
        let reports = self.runtime.block_on(self.uploads.shutdown(deadline));
        self.runtime.shutdown_background();
        reports
    }

    /// Numbers for whoever watches.
    pub fn metrics(&self) -> ServiceMetrics {
        ServiceMetrics::read(&self.uploads, self.metered.metrics().snapshot())
    }

    /// The same, read anew whenever the pageserver's registry gathers: `registry.register(Box::new(service.collector()?))`.
    pub fn collector(&self) -> prometheus::Result<ServiceCollector> {
        ServiceCollector::new(self.uploads.clone(), Arc::clone(&self.metered))
    }

    /// The engine's service, for callers that are async themselves.
    pub fn uploads(&self) -> &UploadService {
        &self.uploads
    }
}
