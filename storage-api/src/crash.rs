//! Points at which a test may kill a process: before each change of a file system.

/// The variable with the number of the point, counted from 1, at which the process ends.
pub const CRASH_AT_VARIABLE: &str = "LAYERPACK_CRASH_AT";

/// Ends the process here, as `kill -9` does, if this is the point that [`CRASH_AT_VARIABLE`] names.
///
/// Without the feature `crash-points`, which only tests have, it does nothing.
#[inline]
pub fn crash_point() {
    #[cfg(feature = "crash-points")]
    enabled::pass();
}

#[cfg(feature = "crash-points")]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) fn pass() {
        static PASSED: AtomicU64 = AtomicU64::new(0);
        static CRASH_AT: OnceLock<Option<u64>> = OnceLock::new();
        let crash_at = CRASH_AT.get_or_init(|| std::env::var(super::CRASH_AT_VARIABLE).ok()?.parse().ok());
        let passed = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
        if Some(passed) == *crash_at {
            // No destructor runs, nothing is flushed.
            std::process::abort();
        }
    }
}
