//! Virtual time: tokio's, which stands still while anything runs where a runtime's time is paused.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::Clock;

/// 2027-01-15, as good as any day.
const START: Duration = Duration::from_secs(1_800_000_000);

/// A clock that shows tokio's time, from a fixed day on.
#[derive(Clone, Copy, Debug)]
pub struct VirtualClock {
    origin: Instant,
}

impl VirtualClock {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + START + self.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is a clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
