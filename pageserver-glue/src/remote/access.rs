//! The way of a request to a remote: counted, limited, tried again.

use std::num::NonZeroUsize;
use std::sync::Arc;

use storage_api::{Clock, Limited, Metered, Metrics, ObjectStore, RetryPolicy, Retrying};

use super::{Absent, RemoteError, RemoteUrl};

/// How a program makes its requests.
#[derive(Clone, Debug)]
pub struct Access {
    /// Requests to an object store that are in flight at the same time.
    pub requests_in_flight: NonZeroUsize,
    /// How often, and for how long, a request to an object store is tried again.
    pub retry: RetryPolicy,
    /// By which retries wait.
    pub clock: Arc<dyn Clock>,
    /// What counts the requests, each attempt by itself.
    pub metrics: Arc<Metrics>,
}

impl RemoteUrl {
    /// The object store at this URL as programs use it: its requests are counted as they go over the wire, and those to
    /// S3 are limited and tried again. A directory answers at once or fails for good.
    pub async fn open(&self, absent: Absent, access: &Access) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        let Access { requests_in_flight, retry, clock, metrics } = access;
        let counted = Arc::new(Metered::with_metrics(self.connect(absent).await?, Arc::clone(metrics)));
        if self.directory().is_some() {
            return Ok(counted);
        }
        let limited = Arc::new(Limited::new(counted, *requests_in_flight));
        Ok(Arc::new(Retrying::new(limited, retry.clone(), Arc::clone(clock))))
    }
}
