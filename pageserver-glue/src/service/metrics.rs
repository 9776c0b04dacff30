//! Numbers for whoever watches: plain ones, and for Prometheus, as a collector for the pageserver's registry or as text.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, Opts, TextEncoder};
use storage_api::{Metered, ObjectStore, RequestCounts};
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

/// The type of a metric.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}
use Kind::{Counter, Gauge};

/// A metric of a timeline: its name, type and help, and its value.
type Metric = (&'static str, Kind, &'static str, fn(&TimelineMetrics) -> f64);

const TIMELINE_METRICS: [Metric; 19] = [
    ("lag_changes", Gauge, "Changes handed over and not durable.", |timeline| {
        float(timeline.status.lag.changes as u64)
    }),
    ("lag_layers", Gauge, "Layers not stored.", |timeline| float(timeline.status.lag.layers as u64)),
    ("lag_bytes", Gauge, "Raw bytes of layers not stored.", |timeline| float(timeline.status.lag.raw_bytes)),
    ("lag_seconds", Gauge, "Age of the oldest change that is not durable.", |timeline| timeline.lag_seconds),
    ("failed_layers", Gauge, "Layers that cannot be uploaded: see the log.", |timeline| {
        float(timeline.status.failed.len() as u64)
    }),
    ("waiting", Gauge, "1 while something fails and is tried again.", |timeline| {
        float(u64::from(matches!(timeline.status.phase, Phase::Waiting { .. })))
    }),
    ("stopped", Gauge, "1 after another writer has taken over: uploads have stopped for good.", |timeline| {
        float(u64::from(matches!(timeline.status.phase, Phase::Stopped(_))))
    }),
    ("remote_consistent_lsn", Gauge, "LSN as of which the timeline can be restored.", |timeline| {
        float(timeline.status.remote_consistent_lsn.map_or(0, |lsn| lsn.0))
    }),
    ("records_total", Counter, "Records written.", |timeline| float(timeline.status.written.records)),
    ("layers_total", Counter, "Layers written.", |timeline| float(timeline.status.written.layers)),
    ("raw_bytes_total", Counter, "Raw bytes of layers written.", |timeline| {
        float(timeline.status.written.raw_bytes)
    }),
    ("stored_bytes_total", Counter, "Bytes of records and payload objects written.", |timeline| {
        float(timeline.status.written.stored_bytes)
    }),
    ("deleted_objects_total", Counter, "Objects that gc has deleted.", |timeline| {
        float(timeline.status.written.deleted)
    }),
    ("deleted_bytes_total", Counter, "Bytes of the objects that gc has deleted.", |timeline| {
        float(timeline.status.written.deleted_bytes)
    }),
    ("repacked_layers_total", Counter, "Layers repacked.", |timeline| {
        float(timeline.status.written.repacked)
    }),
    ("repacked_bytes_total", Counter, "Bytes of payload objects written by repacking.", |timeline| {
        float(timeline.status.written.repacked_bytes)
    }),
    ("gc_timestamp_seconds", Gauge, "When the last collection ended, as Unix time; 0 before.", |timeline| {
        timeline.status.last_gc.as_ref().map_or(0.0, |last| seconds_since(UNIX_EPOCH, last.at))
    }),
    (
        "gc_trouble",
        Gauge,
        "1 where the last collection was broken off, has found damage or could not delete: see the log.",
        |timeline| float(u64::from(timeline.status.last_gc.as_ref().is_some_and(LastGc::is_troubled))),
    ),
    ("retries_total", Counter, "Failures after which something was tried again.", |timeline| {
        float(timeline.status.written.retries)
    }),
];

#[expect(clippy::cast_precision_loss, reason = "Prometheus has nothing but floating point")]
fn float(number: u64) -> f64 {
    number as f64
}

/// What comes before every name.
const NAMESPACE: &str = "layerpack";

const TIMELINE_LABELS: [&str; 2] = ["tenant", "timeline"];

const REQUESTS: (&str, &str, &str) =
    ("requests_total", "kind", "Requests to the store, failed ones included.");

const BYTES: (&str, &str, &str) =
    ("bytes_total", "direction", "Bytes of bodies sent to the store and received from it.");

/// Values, by the values of their labels.
type Values<'a> = Vec<(Vec<&'a str>, f64)>;

fn family(
    (name, kind, help): (&str, Kind, &str),
    labels: &[&str],
    values: Values<'_>,
) -> prometheus::Result<Vec<MetricFamily>> {
    let opts = Opts::new(name, help).namespace(NAMESPACE);
    match kind {
        Gauge => {
            let gauges = GaugeVec::new(opts, labels)?;
            for (labels, value) in values {
                gauges.get_metric_with_label_values(&labels)?.set(value);
            }
            Ok(gauges.collect())
        }
        Counter => {
            let counters = CounterVec::new(opts, labels)?;
            for (labels, value) in values {
                counters.get_metric_with_label_values(&labels)?.inc_by(value);
            }
            Ok(counters.collect())
        }
    }
}

impl ServiceMetrics {
    /// The numbers as Prometheus has them; families without a timeline are left out.
    pub fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let mut families = Vec::new();
        for (name, kind, help, value) in TIMELINE_METRICS {
            let values = self.timelines.iter().map(|timeline| {
                let (tenant, id) = &timeline.name;
                (vec![tenant.as_str(), id.as_str()], value(timeline))
            });
            families.extend(family((name, kind, help), &TIMELINE_LABELS, values.collect())?);
        }
        let RequestCounts { put, get, list, head, delete, copy, multipart, bytes_sent, bytes_received } =
            self.requests;
        let requests = [
            ("put", put),
            ("get", get),
            ("list", list),
            ("head", head),
            ("delete", delete),
            ("copy", copy),
            ("multipart", multipart),
        ];
        let bytes = [("sent", bytes_sent), ("received", bytes_received)];
        for ((name, label, help), counts) in [(REQUESTS, &requests[..]), (BYTES, &bytes[..])] {
            let values = counts.iter().map(|(value, count)| (vec![*value], float(*count))).collect();
            families.extend(family((name, Counter, help), &[label], values)?);
        }
        families.retain(|family| !family.get_metric().is_empty());
        Ok(families)
    }
}

impl fmt::Display for ServiceMetrics {
    /// The text that Prometheus reads: the
    /// [exposition format](https://prometheus.io/docs/instrumenting/exposition_formats/).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.families().and_then(|families| TextEncoder::new().encode_to_string(&families));
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

/// The numbers of a running service, for the registry of the pageserver.
pub struct ServiceCollector {
    uploads: UploadService,
    metered: Arc<Metered<dyn ObjectStore>>,
    descriptions: Vec<Desc>,
}

impl ServiceCollector {
    pub(super) fn new(
        uploads: UploadService,
        metered: Arc<Metered<dyn ObjectStore>>,
    ) -> prometheus::Result<Self> {
        let of_timelines = TIMELINE_METRICS.map(|(name, _, help, _)| (name, &TIMELINE_LABELS[..], help));
        let of_all =
            [&REQUESTS, &BYTES].map(|(name, label, help)| (*name, std::slice::from_ref(label), *help));
        let descriptions = of_timelines.into_iter().chain(of_all).map(|(name, labels, help)| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(format!("{NAMESPACE}_{name}"), help.to_owned(), labels, HashMap::new())
        });
        Ok(Self { descriptions: descriptions.collect::<Result<_, _>>()?, uploads, metered })
    }
}

impl Collector for ServiceCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = ServiceMetrics::read(&self.uploads, self.metered.metrics().snapshot());
        metrics.families().unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics of Layerpack cannot be collected");
            Vec::new()
        })
    }
}

impl fmt::Debug for ServiceCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceCollector").field("uploads", &self.uploads).finish_non_exhaustive()
    }
}
