//! What was measured, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use storage_api::RequestCounts;

use super::ways::{Files, digest};
use super::{Measured, RoundTrip, Way};

/// What the figures leave out, printed with them.
const NOT_MEASURED: &str = "\
Not measured: a network's bandwidth and loss, TLS, and a store's price or throttling. Client, proxy and a server that \
was started share this machine's cores, which weighs on many requests more than on few. Every request takes the \
latency once, whatever it asks; connecting takes none. The image is read from the page cache, and restored files are \
synced to this machine's disk by both ways alike.";

const NOT_OPTIMISED: &str = "\
This program was built without optimisation, which weighs on many requests more than on few: for figures to be told, \
`cargo run --release --package xtask -- bench`.";

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(super) image: Image,
    pub(super) server: String,
    /// Whether this program was built with optimisation.
    pub(super) is_optimised: bool,
    pub(super) comparisons: Vec<Comparison>,
}

/// The image.
#[derive(Debug, Serialize)]
pub(super) struct Image {
    source: String,
    files: usize,
    bytes: u64,
}

impl Image {
    pub(super) fn of(source: String, files: &Files) -> Result<Self> {
        let digests: Result<Vec<_>> = files.values().map(|path| digest(path)).collect();
        Ok(Self { source, files: files.len(), bytes: digests?.iter().map(|digest| digest.size).sum() })
    }
}

/// Both ways at one latency.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    latency_seconds: f64,
    backup: Both,
    restore: Both,
}

/// Both ways to do one thing, run by run.
#[derive(Debug, Default, Serialize)]
struct Both {
    packed: Series,
    one_object_per_layer: Series,
}

/// The runs of one way to do one thing.
#[derive(Debug, Default, Serialize)]
struct Series {
    seconds: Vec<f64>,
    /// Of the last run.
    requests: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

/// The middle one of several figures, and the ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Comparison {
    pub(super) fn new(latency: Duration) -> Self {
        Self { latency_seconds: latency.as_secs_f64(), backup: Both::default(), restore: Both::default() }
    }

    pub(super) fn add(&mut self, way: Way, RoundTrip { backup, restore }: RoundTrip) {
        self.backup.of(way).add(backup);
        self.restore.of(way).add(restore);
    }
}

impl Both {
    fn of(&mut self, way: Way) -> &mut Series {
        match way {
            Way::Packed => &mut self.packed,
            Way::OneObjectPerLayer => &mut self.one_object_per_layer,
        }
    }

    /// How many times as long one object per layer takes, run by run.
    fn ratio(&self) -> Option<Spread> {
        let pairs = self.one_object_per_layer.seconds.iter().zip(&self.packed.seconds);
        spread(pairs.map(|(theirs, ours)| theirs / ours.max(f64::MIN_POSITIVE)).collect())
    }
}

impl Series {
    fn add(&mut self, Measured { time, requests }: Measured) {
        self.seconds.push(time.as_secs_f64());
        let RequestCounts { bytes_sent, bytes_received, .. } = requests;
        (self.requests, self.bytes_sent, self.bytes_received) =
            (requests.requests(), bytes_sent, bytes_received);
    }
}

/// Of nothing there is none. Of an even number the median is the mean of the middle two.
pub(super) fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
    Some(Spread { median, min, max })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, server, comparisons, .. } = self;
        writeln!(f, "image: {} ({} files, {} bytes)", image.source, image.files, image.bytes)?;
        writeln!(f, "server: {server}")?;
        writeln!(
            f,
            "every file was restored and compared (length, CRC32C, BLAKE3); both ways have 100 requests in flight"
        )?;
        for Comparison { latency_seconds, backup, restore } in comparisons {
            writeln!(f, "\n{:.0} ms more a request", latency_seconds * 1_000.0)?;
            writeln!(
                f,
                "{:<32}{:>22}{:>10}{:>12}{:>12}",
                "", "seconds (min to max)", "requests", "sent", "received"
            )?;
            for (what, both) in [("backup", backup), ("restore", restore)] {
                row(f, &format!("{what}, Layerpack"), &both.packed)?;
                row(f, &format!("{what}, one object per layer"), &both.one_object_per_layer)?;
                if let Some(Spread { median, min, max }) = both.ratio() {
                    writeln!(f, "{what}: {median:.1} times as fast ({min:.1} to {max:.1})")?;
                }
            }
        }
        write!(f, "\n{NOT_MEASURED}")?;
        match self.is_optimised {
            true => Ok(()),
            false => write!(f, "\n{NOT_OPTIMISED}"),
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, label: &str, series: &Series) -> fmt::Result {
    let Series { seconds, requests, bytes_sent, bytes_received } = series;
    let Some(Spread { median, min, max }) = spread(seconds.clone()) else { return Ok(()) };
    let seconds = format!("{median:.3} ({min:.3} to {max:.3})");
    writeln!(f, "{label:<32}{seconds:>22}{requests:>10}{bytes_sent:>12}{bytes_received:>12}")
}
