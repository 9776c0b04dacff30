//! Numbers for whoever watches: plain ones, and as text for Prometheus.
//!
//! The text is the [exposition format](https://prometheus.io/docs/instrumenting/exposition_formats/), which is simple
//! enough to be written without a library in every pageserver that links this.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use storage_api::RequestCounts;
use sync_engine::service::{LastGc, Phase, TimelineName, TimelineStatus, UploadService};

/// Numbers of the service.
#[derive(Clone, Debug)]
pub struct ServiceMetrics {
    /// Requests to the store since the start, and the bytes in them.
    pub requests: RequestCounts,
    /// Each timeline that is attached.
    pub timelines: Vec<TimelineMetrics>,
}

/// Numbers of a timeline.
#[derive(Clone, Debug)]
pub struct TimelineMetrics {
    /// The tenant and the timeline.
    pub name: TimelineName,
    /// How it is.
    pub status: TimelineStatus,
    /// For how long its oldest change has waited, in seconds.
    pub lag_seconds: f64,
}

impl ServiceMetrics {
    pub(super) fn read(uploads: &UploadService, requests: RequestCounts) -> Self {
        let now = uploads.now();
        let timelines = uploads.timelines().into_iter().map(|handle| {
            let status = handle.status();
            let lag_seconds = status.lag.oldest.map_or(0.0, |oldest| seconds_since(oldest, now));
            TimelineMetrics { name: handle.name().clone(), status, lag_seconds }
        });
        Self { requests, timelines: timelines.collect() }
    }
}

/// Never negative, also where the clock was set back.
fn seconds_since(then: SystemTime, now: SystemTime) -> f64 {
    now.duration_since(then).unwrap_or_default().as_secs_f64()
}

/// A metric of a timeline: its name, type and help, and its value.
type Metric = (&'static str, &'static str, &'static str, fn(&TimelineMetrics) -> f64);

const TIMELINE_METRICS: [Metric; 19] = [
    ("lag_changes", "gauge", "Changes handed over and not durable.", |timeline| {
        float(timeline.status.lag.changes as u64)
    }),
    ("lag_layers", "gauge", "Layers not stored.", |timeline| float(timeline.status.lag.layers as u64)),
    ("lag_bytes", "gauge", "Raw bytes of layers not stored.", |timeline| {
        float(timeline.status.lag.raw_bytes)
    }),
    ("lag_seconds", "gauge", "Age of the oldest change that is not durable.", |timeline| {
        timeline.lag_seconds
    }),
    ("failed_layers", "gauge", "Layers that cannot be uploaded: see the log.", |timeline| {
        float(timeline.status.failed.len() as u64)
    }),
    ("waiting", "gauge", "1 while something fails and is tried again.", |timeline| {
        float(u64::from(matches!(timeline.status.phase, Phase::Waiting { .. })))
    }),
    (
        "stopped",
        "gauge",
        "1 after another writer has taken over: uploads have stopped for good.",
        |timeline| float(u64::from(matches!(timeline.status.phase, Phase::Stopped(_)))),
    ),
    ("remote_consistent_lsn", "gauge", "LSN as of which the timeline can be restored.", |timeline| {
        float(timeline.status.remote_consistent_lsn.map_or(0, |lsn| lsn.0))
    }),
    ("records_total", "counter", "Records written.", |timeline| float(timeline.status.written.records)),
    ("layers_total", "counter", "Layers written.", |timeline| float(timeline.status.written.layers)),
    ("raw_bytes_total", "counter", "Raw bytes of layers written.", |timeline| {
        float(timeline.status.written.raw_bytes)
    }),
    ("stored_bytes_total", "counter", "Bytes of records and payload objects written.", |timeline| {
        float(timeline.status.written.stored_bytes)
    }),
    ("deleted_objects_total", "counter", "Objects that gc has deleted.", |timeline| {
        float(timeline.status.written.deleted)
    }),
    ("deleted_bytes_total", "counter", "Bytes of the objects that gc has deleted.", |timeline| {
        float(timeline.status.written.deleted_bytes)
    }),
    ("repacked_layers_total", "counter", "Layers repacked.", |timeline| {
        float(timeline.status.written.repacked)
    }),
    ("repacked_bytes_total", "counter", "Bytes of payload objects written by repacking.", |timeline| {
        float(timeline.status.written.repacked_bytes)
    }),
    (
        "gc_timestamp_seconds",
        "gauge",
        "When the last collection ended, as Unix time; 0 before.",
        |timeline| timeline.status.last_gc.as_ref().map_or(0.0, |last| seconds_since(UNIX_EPOCH, last.at)),
    ),
    (
        "gc_trouble",
        "gauge",
        "1 where the last collection was broken off, has found damage or could not delete: see the log.",
        |timeline| float(u64::from(timeline.status.last_gc.as_ref().is_some_and(LastGc::is_troubled))),
    ),
    ("retries_total", "counter", "Failures after which something was tried again.", |timeline| {
        float(timeline.status.written.retries)
    }),
];

#[expect(clippy::cast_precision_loss, reason = "Prometheus has nothing but floating point")]
fn float(number: u64) -> f64 {
    number as f64
}

impl fmt::Display for ServiceMetrics {
    /// The text that Prometheus reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, kind, help, value) in TIMELINE_METRICS {
            writeln!(f, "# HELP layerpack_{name} {help}\n# TYPE layerpack_{name} {kind}")?;
            for timeline in &self.timelines {
                let (tenant, id) = &timeline.name;
                let value = value(timeline);
                writeln!(f, "layerpack_{name}{{tenant=\"{tenant}\",timeline=\"{id}\"}} {value}")?;
            }
        }
        let RequestCounts { put, get, list, head, delete, copy, multipart, bytes_sent, bytes_received } =
            self.requests;
        writeln!(f, "# HELP layerpack_requests_total Requests to the store, failed ones included.")?;
        writeln!(f, "# TYPE layerpack_requests_total counter")?;
        let kinds = [
            ("put", put),
            ("get", get),
            ("list", list),
            ("head", head),
            ("delete", delete),
            ("copy", copy),
            ("multipart", multipart),
        ];
        for (kind, count) in kinds {
            writeln!(f, "layerpack_requests_total{{kind=\"{kind}\"}} {count}")?;
        }
        writeln!(f, "# HELP layerpack_bytes_total Bytes of bodies sent to the store and received from it.")?;
        writeln!(f, "# TYPE layerpack_bytes_total counter")?;
        writeln!(f, "layerpack_bytes_total{{direction=\"sent\"}} {bytes_sent}")?;
        writeln!(f, "layerpack_bytes_total{{direction=\"received\"}} {bytes_received}")
    }
}
