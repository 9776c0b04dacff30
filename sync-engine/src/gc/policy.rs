//! What a collection may do.

use std::time::Duration;

/// How long the past is kept, what is worth repacking, and how much of it one run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// How long a state stays restorable after it was superseded. Zero keeps the newest alone.
    pub retention: Duration,
    /// A bundle is repacked when less than so many percent of its frames' bytes are live.
    pub live_percent_min: u64,
    /// Bundles with at most so many stored bytes are joined with others of their size...
    pub small_bundle_bytes: u64,
    /// ...when there are at least so many of them.
    pub small_bundles_min: usize,
    /// The floor is moved on, with a manifest, when that frees at least so many bytes, and more than the manifest takes.
    pub checkpoint_bytes_min: u64,
    /// Live bytes that a run repacks at most: a tenth of the timeline's, but one bundle's target where that is more,
    /// unless this is less than either.
    pub repack_bytes_max: u64,
    /// Requests that a run makes at most, about: what does not fit waits for the next one.
    pub requests_max: usize,
}

impl GcPolicy {
    /// A week, as pageservers keep it.
    pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

    /// The part of the live bytes that one run repacks at most.
    pub(super) const REPACK_DIVISOR: u64 = 10;
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self {
            retention: Self::RETENTION,
            live_percent_min: 50,
            small_bundle_bytes: 1 << 20,
            small_bundles_min: 16,
            checkpoint_bytes_min: 4 << 10,
            repack_bytes_max: u64::MAX,
            requests_max: usize::MAX,
        }
    }
}
