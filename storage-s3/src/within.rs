//! Time limits on progress.

use std::time::Duration;

/// The slowest upload that counts as progress, in bytes a second. The SDK does not tell how much of a body that is in
/// memory has been sent, so a request with a body may take the time that it needs at this speed.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Nothing came for so long.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {0:?}: check the network and the store, or raise progress_timeout")]
pub(crate) struct NoProgress(pub(crate) Duration);

/// What comes of `future`, if it comes within `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, NoProgress> {
    tokio::time::timeout(limit, future).await.map_err(|_| NoProgress(limit))
}

/// The limit for a request with a body.
pub(crate) fn upload_limit(progress_timeout: Duration, body_bytes: u64) -> Duration {
    progress_timeout + Duration::from_secs(body_bytes / UPLOAD_BYTES_PER_SECOND_MIN)
}
