//! The background service: layers are handed over, and it sees to it that they get into the store.
//!
//! ```text
//! caller                      a task for each timeline                                        store
//!   hand_over(change) ------> queue -> gather -> compare -> claim -> pack, upload -> append ---> record
//!   wait(ticket) <----------- acknowledged <------------------------------------------- known to exist
//! ```
//!
//! Nothing that was handed over is replaced or dropped. What fails is tried again for ever; what needs a person is
//! tried again every few minutes, and can be seen in the [status](TimelineHandle::status). Only another writer's claim
//! stops a timeline for good.

mod delete;
mod event;
mod facts;
mod handle;
mod pass;
mod queue;
mod reconcile;
mod retry;
mod shared;
mod status;
mod task;
mod timer;
mod upkeep;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use layer_archive::{Generation, TenantId, TimelineId, WriterInfo};
use storage_api::{Clock, ObjectStore};
use tokio::sync::OnceCell;

pub use self::event::{Event, Observer};
pub use self::handle::{DetachReport, TimelineHandle};
pub use self::queue::{Change, Lag};
pub use self::reconcile::Reconciliation;
pub use self::retry::RetryTimes;
use self::shared::Shared;
pub use self::shared::{HandOverError, Stopped};
pub use self::status::{Phase, TimelineStatus, Written};
use self::task::TimelineTask;
pub use self::upkeep::{BackgroundGc, LastGc};
use crate::backup::UPLOAD_BYTES_MAX;
use crate::budget::Budget;
use crate::{HashCache, LocalTimeline, PackOptions, Result, Store};

/// How the service works.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Who writes; for people.
    pub writer: WriterInfo,
    /// The clock that commits are dated and waits are made by.
    pub clock: Arc<dyn Clock>,
    /// How layers are packed.
    pub pack: PackOptions,
    /// Bytes that all timelines together may have built and in flight. A single layer larger than that in a store
    /// without uploads in parts may have more.
    pub upload_bytes_max: u64,
    /// How long the first of what is gathered waits for more.
    pub linger: Duration,
    /// How long to wait after a failure.
    pub retry: RetryTimes,
    /// Who is told what happens.
    pub observer: Observer,
    /// The digests of local files that were hashed before.
    pub hashes: Option<Arc<HashCache>>,
    /// How garbage is collected in the background; with nothing it is left to `layerpack gc`.
    pub gc: Option<BackgroundGc>,
}

impl ServiceOptions {
    /// The defaults: 96 MiB for uploads, a second of linger, a collection a day.
    pub fn new(writer: WriterInfo, clock: Arc<dyn Clock>) -> Self {
        Self {
            writer,
            clock,
            pack: PackOptions::default(),
            upload_bytes_max: UPLOAD_BYTES_MAX,
            linger: Duration::from_secs(1),
            retry: RetryTimes::default(),
            observer: Observer::default(),
            hashes: None,
            gc: Some(BackgroundGc::default()),
        }
    }
}

/// The number of a change that was handed over, by which it can be waited for. Later changes have larger numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// How a timeline is attached.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// The generation that the control plane gave this pageserver for the tenant.
    pub generation: Option<Generation>,
    /// What is on the disk, to be compared with the store: what is missing there is uploaded.
    pub local: Option<LocalTimeline>,
}

/// Why a timeline was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It is attached, or was not quite detached.
    #[error("timeline {tenant}/{timeline} is attached already: detach it first")]
    Attached {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// The service is being shut down.
    #[error("the service is shutting down and attaches no timeline")]
    ShuttingDown,
}

/// A timeline and its tenant.
pub type TimelineName = (TenantId, TimelineId);

/// The service. Clones are the same service.
#[derive(Clone)]
pub struct UploadService {
    core: Arc<Core>,
}

/// Whether a store is created where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CreateStore {
    /// It is waited for: somebody else creates it, or corrects the configuration.
    #[default]
    Never,
    /// It is created.
    IfMissing,
}

/// What all timelines share.
pub(crate) struct Core {
    objects: Arc<dyn ObjectStore>,
    url: String,
    create: CreateStore,
    store: OnceCell<Store>,
    pub(crate) options: ServiceOptions,
    pub(crate) budget: Budget,
    /// One timeline is surveyed at a time.
    surveys: tokio::sync::Mutex<()>,
    timelines: Mutex<Timelines>,
}

#[derive(Default)]
struct Timelines {
    attached: BTreeMap<TimelineName, TimelineHandle>,
    shutting_down: bool,
}

impl Core {
    /// A timeline that is attached, or has stopped and was not detached.
    pub(crate) fn attached(&self, tenant: &TenantId, timeline: &TimelineId) -> Option<TimelineHandle> {
        let timelines = self.timelines.lock().unwrap_or_else(PoisonError::into_inner);
        timelines.attached.get(&(tenant.clone(), timeline.clone())).cloned()
    }

    /// The store, opened by the first timeline that reaches it.
    pub(crate) async fn store(&self) -> Result<&Store> {
        let open = || async {
            let objects = Arc::clone(&self.objects);
            match self.create {
                CreateStore::Never => Store::open(objects, &self.url).await,
                CreateStore::IfMissing => Ok(Store::open_or_create(objects, &self.url).await?.0),
            }
        };
        self.store.get_or_try_init(open).await
    }
}

impl UploadService {
    /// A service that writes to the store in `objects`. It need not be reachable yet: what is handed over waits.
    /// `url` is how messages name it.
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        url: impl Into<String>,
        create: CreateStore,
        options: ServiceOptions,
    ) -> Self {
        let (url, store, budget) = (url.into(), OnceCell::new(), Budget::new(options.upload_bytes_max));
        let (surveys, timelines) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { core: Arc::new(Core { objects, url, create, store, options, budget, surveys, timelines }) }
    }

    /// The store, which is opened, or created where that was asked for, when it is first needed.
    pub async fn store(&self) -> Result<&Store> {
        self.core.store().await
    }

    /// Begins to look after a timeline, with a task on the runtime that this is called on.
    pub fn attach(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
        attach: Attach,
    ) -> Result<TimelineHandle, AttachError> {
        let mut timelines = self.lock();
        if timelines.shutting_down {
            return Err(AttachError::ShuttingDown);
        }
        let name = (tenant.clone(), timeline.clone());
        if timelines.attached.get(&name).is_some_and(|handle| !handle.has_ended()) {
            return Err(AttachError::Attached { tenant: name.0, timeline: name.1 });
        }
        let shared = Arc::new(Shared::new(Arc::clone(&self.core.options.clock)));
        let task = TimelineTask::new(Arc::clone(&self.core), name.clone(), Arc::clone(&shared), attach);
        let handle = TimelineHandle::new(name.clone(), shared, tokio::spawn(task.run()).abort_handle());
        timelines.attached.insert(name, handle.clone());
        Ok(handle)
    }

    /// The timeline, if it is attached.
    pub fn timeline(&self, tenant: &TenantId, timeline: &TimelineId) -> Option<TimelineHandle> {
        self.lock().attached.get(&(tenant.clone(), timeline.clone())).cloned()
    }

    /// All timelines that are attached, or have stopped and were not detached.
    pub fn timelines(&self) -> Vec<TimelineHandle> {
        self.lock().attached.values().cloned().collect()
    }

    /// The time by the clock of the service.
    pub fn now(&self) -> SystemTime {
        self.core.options.clock.now()
    }

    /// Detaches a timeline; see [`TimelineHandle::detach`]. `None` where it is not attached.
    pub async fn detach(
        &self,
        tenant: &TenantId,
        timeline: &TimelineId,
        deadline: Duration,
    ) -> Option<DetachReport> {
        let handle = self.timeline(tenant, timeline)?;
        let report = handle.detach(deadline).await;
        self.lock().attached.remove(handle.name());
        Some(report)
    }

    /// Detaches all timelines at the same time, within `deadline`. Nothing is attached any more.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<(TimelineName, DetachReport)> {
        self.lock().shutting_down = true;
        let detaching = self.timelines().into_iter().map(|handle| async move {
            let report = handle.detach(deadline).await;
            (handle.name().clone(), report)
        });
        let reports = join_all(detaching).await;
        self.lock().attached.clear();
        reports
    }

    fn lock(&self) -> MutexGuard<'_, Timelines> {
        self.core.timelines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for UploadService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadService").field("options", &self.core.options).finish_non_exhaustive()
    }
}
