//! Where a request waits until the test lets it pass.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// A gate: requests that a rule sends here wait until they are let through. Clones are handles to the same.
#[derive(Clone)]
pub struct Gate {
    arrivals: Arc<Semaphore>,
    passes: Arc<Semaphore>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { arrivals: Arc::new(Semaphore::new(0)), passes: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until one more request has come to the gate.
    pub async fn reached(&self) {
        take(&self.arrivals).await;
    }

    /// Lets one request through, the next to come where none waits.
    pub fn pass(&self) {
        self.passes.add_permits(1);
    }

    /// Lets all requests through from now on.
    pub fn open(&self) {
        self.passes.close();
    }

    /// What a request does at the gate.
    pub(super) async fn go_through(&self) {
        self.arrivals.add_permits(1);
        take(&self.passes).await;
    }
}

/// Takes a permit away; a closed semaphore has as many as are asked for.
async fn take(semaphore: &Semaphore) {
    if let Ok(permit) = semaphore.acquire().await {
        permit.forget();
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
