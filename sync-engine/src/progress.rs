//! How far long work has come, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that an executor advances and anybody may read.
#[derive(Debug, Default)]
pub struct Progress {
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
}

impl Progress {
    /// Raw bytes to be done in all, as far as is known, and raw bytes done.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_total.load(Ordering::Relaxed), self.bytes_done.load(Ordering::Relaxed))
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}
