//! A wait that may be begun, given up, and waited for among other things.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use storage_api::Clock;

/// One wait by the injected clock. It counts from when it was begun, so a clock that is set back prolongs nothing.
#[derive(Default)]
pub(super) struct Timer(Option<BoxFuture<'static, ()>>);

impl Timer {
    /// Begins to wait, unless that was begun before.
    pub(super) fn arm(&mut self, clock: &Arc<dyn Clock>, wait: Duration) {
        if self.0.is_none() {
            let clock = Arc::clone(clock);
            self.0 = Some(async move { clock.sleep(wait).await }.boxed());
        }
    }

    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }

    /// Waits for its end; for ever where nothing was begun.
    pub(super) async fn fired(&mut self) {
        match &mut self.0 {
            Some(wait) => wait.await,
            None => pending().await,
        }
        self.0 = None;
    }
}
