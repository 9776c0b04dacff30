//! What the commands share: settings, the opened store and the counts of its requests.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use layer_archive::WriterInfo;
use pageserver_glue::{Absent, Access, InvalidRemoteUrl, RemoteUrl, TimelineError};
use serde::Serialize;
use storage_api::{Clock, Metrics, ObjectStore, RequestCounts, RetryPolicy, SystemClock};
use sync_engine::{Catalog, CatalogEntry, Created, Error, PackOptions, Progress, Store, WriterOptions};

use crate::args::{Arguments, OneTimeline, RemoteArg, Selection, WorkdirArg};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::{Style, explain_failure, human_bytes};
use crate::progress::Meter;

/// Bundle sizes that make sense: a frame at least, and what memory holds a few of.
const BUNDLE_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=256 << 20;

/// Parts in flight that make sense: each is in memory.
const PARTS_IN_FLIGHT: std::ops::RangeInclusive<usize> = 1..=16;

/// How long nobody has written to what is swept: no writer that is alive pauses for so long.
const STALE: Duration = Duration::from_secs(3600);

/// Requests to an object store in flight, if the configuration says nothing.
const REQUESTS_IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// For how long a request is tried again, if nobody says anything.
const RETRY_FOR: Duration = Duration::from_secs(300);

/// For how long a store that has never answered is asked: a command has failed within 10 s, on a busy machine too.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(8);

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Session {
    config: Config,
    style: Style,
    retry_for: Duration,
    clock: Arc<dyn Clock>,
    started: SystemTime,
    metrics: Arc<Metrics>,
}

/// What a command cost, as its JSON says it.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    requests: Requests,
    bytes_sent: u64,
    bytes_received: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Requests {
    put: u64,
    get: u64,
    list: u64,
    head: u64,
    delete: u64,
    copy: u64,
    multipart: u64,
}

impl Session {
    /// Reads the configuration that `arguments` name.
    pub(crate) fn new(arguments: &Arguments, style: Style) -> Result<Self, Failure> {
        let config = arguments.global.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let retry_for = arguments.command.retry_for().or(config.s3.retry_for).unwrap_or(RETRY_FOR);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Ok(Self { config, style, retry_for, started: clock.now(), clock, metrics: Arc::default() })
    }

    /// The remote that the command line or the configuration names.
    fn remote(&self, argument: &RemoteArg) -> Result<RemoteUrl, Failure> {
        match argument.remote.as_ref().or(self.config.remote.as_ref()) {
            Some(text) => self.parse_remote(text),
            None => Err(Failure::Usage("no remote: name it with --remote URL".into())),
        }
    }

    /// The remote at the URL `text`, with what the configuration says of remotes of its kind.
    pub(crate) fn parse_remote(&self, text: &str) -> Result<RemoteUrl, Failure> {
        RemoteUrl::with_defaults(text, &self.config.s3.options)
            .map_err(|error: InvalidRemoteUrl| Failure::Usage(error.to_string()))
    }

    /// The work directory that the command line or the configuration names.
    pub(crate) fn workdir(&self, argument: &WorkdirArg) -> Result<PathBuf, Failure> {
        let workdir = argument.workdir.as_ref().or(self.config.workdir.as_ref());
        workdir.cloned().ok_or_else(|| Failure::Usage("no work directory: name it with --workdir DIR".into()))
    }

    /// Opens the store, with one request.
    pub(crate) async fn open(&self, argument: &RemoteArg) -> Result<Store, Failure> {
        let remote = self.remote(argument)?;
        let objects = self.connect(&remote, Absent::Refuse).await?;
        Ok(Store::open(objects, remote.as_str()).await?)
    }

    /// Opens the store, and creates it where there is none unless the configuration says otherwise.
    pub(crate) async fn open_or_create(&self, argument: &RemoteArg) -> Result<(Store, Created), Failure> {
        if self.config.create_store == Some(false) {
            return Ok((self.open(argument).await?, Created::No));
        }
        let remote = self.remote(argument)?;
        let objects = self.connect(&remote, Absent::Create).await?;
        Ok(Store::open_or_create(objects, remote.as_str()).await?)
    }

    /// Removes what killed writers have left in the store; where that fails, says why.
    pub(crate) async fn sweep_stale(&self, argument: &RemoteArg) -> Option<String> {
        let swept = match self.remote(argument) {
            Ok(remote) => remote.sweep_stale(STALE).await.map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        swept.err().map(|failure| explain_failure(&failure))
    }

    /// Refuses a store that is the work directory, or lies among its tenants: it would be lost with what it is a copy
    /// of, and a pageserver would find its objects among its layers.
    pub(crate) fn require_apart(&self, argument: &RemoteArg, workdir: &Path) -> Result<(), Failure> {
        let remote = self.remote(argument)?;
        let Some(store) = remote.directory() else { return Ok(()) };
        // What does not exist yet is judged by what does.
        let existing = store.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
        let Some((above, real)) = existing else { return Ok(()) };
        let store = store.strip_prefix(above).map_or_else(|_| real.clone(), |rest| real.join(rest));
        let workdir = workdir.canonicalize().unwrap_or_else(|_| workdir.to_owned());
        if store == workdir || store.starts_with(workdir.join("tenants")) {
            let why = format!(
                "{remote} is inside the work directory {}: keep the store elsewhere",
                workdir.display()
            );
            return Err(Failure::Usage(why));
        }
        Ok(())
    }

    /// The object store at `remote`, every request of which is counted.
    pub(crate) async fn connect(
        &self,
        remote: &RemoteUrl,
        absent: Absent,
    ) -> Result<Arc<dyn ObjectStore>, Failure> {
        let access = Access {
            requests_in_flight: self.config.s3.requests_in_flight.unwrap_or(REQUESTS_IN_FLIGHT),
            retry: RetryPolicy { first_answer_max: FIRST_ANSWER_MAX, ..RetryPolicy::lasting(self.retry_for) },
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        };
        Ok(remote.open(absent, &access).await?)
    }

    /// The timelines of the store that `selection` selects. One that was asked for and is not there is an error.
    pub(crate) async fn select(
        &self,
        store: &Store,
        selection: &Selection,
    ) -> Result<Vec<CatalogEntry>, Failure> {
        let (tenant, timeline) = (selection.tenant.as_ref(), selection.timeline.as_ref());
        let timelines = Catalog::read(store, tenant, timeline).await?.timelines;
        match tenant {
            Some(tenant) if timelines.is_empty() => {
                Err(Failure::TenantNotFound { url: store.url().to_owned(), tenant: tenant.clone() })
            }
            _ => Ok(timelines),
        }
    }

    /// The one timeline of the store that `which` names, to which something was committed.
    pub(crate) async fn open_timeline(
        &self,
        argument: &RemoteArg,
        which: &OneTimeline,
    ) -> Result<(Store, sync_engine::TimelineView), Failure> {
        let store = self.open(argument).await?;
        let OneTimeline { tenant, timeline } = which;
        let view = sync_engine::TimelineView::open_existing(&store, tenant, timeline, None).await?;
        Ok((store, view.require_commits()?))
    }

    /// How layers are packed.
    pub(crate) fn pack_options(&self) -> Result<PackOptions, Failure> {
        let mut options = PackOptions::default();
        if let Some(target) = self.config.bundle_bytes_target {
            if !BUNDLE_BYTES.contains(&target) {
                let (min, max) = (BUNDLE_BYTES.start(), BUNDLE_BYTES.end());
                return Err(Failure::Usage(format!("bundle_bytes_target is {target}: {min} to {max} work")));
            }
            options.bundle_bytes_target = target;
        }
        if let Some(parts) = self.config.parts_in_flight {
            if !PARTS_IN_FLIGHT.contains(&parts) {
                let (min, max) = (PARTS_IN_FLIGHT.start(), PARTS_IN_FLIGHT.end());
                return Err(Failure::Usage(format!("parts_in_flight is {parts}: {min} to {max} work")));
            }
            options.parts_in_flight = parts;
        }
        Ok(options)
    }

    /// How long the past is kept: as the command line says, or the configuration, or a week.
    pub(crate) fn retention(&self, argument: Option<Duration>) -> Result<Duration, Failure> {
        match (argument, &self.config.retention) {
            (Some(retention), _) => Ok(retention),
            (None, Some(text)) => humantime::parse_duration(text).map_err(|error| {
                Failure::Usage(format!("retention is {text:?} in the configuration: {error}"))
            }),
            (None, None) => Ok(sync_engine::gc::GcPolicy::RETENTION),
        }
    }

    /// What this machine's clock says.
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Who writes: this process.
    pub(crate) fn writer_options(&self) -> WriterOptions {
        let writer = WriterInfo {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            program: concat!("layerpack ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        WriterOptions { writer, generation: None, clock: Arc::clone(&self.clock) }
    }

    /// Shows how far the work on a timeline or a tenant has come, until the meter is dropped.
    pub(crate) fn meter(&self, doing: &str, what: &impl Display, progress: &Arc<Progress>) -> Meter {
        Meter::start(self.style, format!("{doing} {what}"), Arc::clone(progress))
    }

    /// What it has cost so far.
    pub(crate) fn cost(&self) -> Cost {
        let RequestCounts { put, get, list, head, delete, copy, multipart, bytes_sent, bytes_received } =
            self.metrics.snapshot();
        let requests = Requests { put, get, list, head, delete, copy, multipart };
        Cost { requests, bytes_sent, bytes_received, seconds: self.elapsed().as_secs_f64() }
    }

    /// The same in a line for people.
    pub(crate) fn cost_line(&self) -> String {
        let counts = self.metrics.snapshot();
        let (sent, received) = (human_bytes(counts.bytes_sent), human_bytes(counts.bytes_received));
        let (requests, seconds) = (counts.requests(), self.elapsed().as_secs_f64());
        format!("{requests} requests, {sent} sent, {received} received, {seconds:.2} s\n")
    }

    fn elapsed(&self) -> Duration {
        self.clock.now().duration_since(self.started).unwrap_or_default()
    }
}

/// Whether an error is about the one timeline, so that the others can go on.
pub(crate) fn concerns_one_timeline(failure: &Failure) -> bool {
    use crate::exit::Exit;
    match failure.exit() {
        Exit::Failed | Exit::Damaged | Exit::NotFound | Exit::Fenced => true,
        Exit::Done | Exit::Usage | Exit::Unreachable | Exit::Interrupted | Exit::Terminated => {
            // What a newer program wrote may be one timeline's.
            matches!(
                failure,
                Failure::Engine(Error::ObjectTooNew { .. })
                    | Failure::Timeline(TimelineError::Engine(Error::ObjectTooNew { .. }))
            )
        }
    }
}
