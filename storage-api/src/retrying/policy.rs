//! How often and for how long a request is tried.

use std::num::NonZeroU32;
use std::time::Duration;

/// The bounds of a request that is sent again. The time is that of the injected clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is sent at most, whatever the clock says.
    pub attempts_max: NonZeroU32,
    /// For how long requests are tried while the store has never answered anything. An attempt without a body that takes
    /// longer than this is cut off.
    pub first_answer_max: Duration,
    /// For how long a request is tried at a store that has answered before: no attempt begins later. How long one
    /// attempt may take is for the backend to say, by its progress.
    pub elapsed_max: Duration,
    /// The longest wait after the first failure. It doubles with each failure up to [`wait_max`](Self::wait_max), and
    /// each wait is random between nothing and that ("full jitter"), so that those whom one fault has hit do not come
    /// back together.
    pub wait_min: Duration,
    /// The longest wait, but for what the store asks for.
    pub wait_max: Duration,
    /// The longest wait that a store may ask for; it is waited for besides the random wait.
    pub retry_after_max: Duration,
    /// Where the random waits come from, for tests. Without it they are different in each process.
    pub seed: Option<u64>,
}

impl RetryPolicy {
    /// The default, with requests to a store that has answered before tried for `elapsed_max`.
    pub fn lasting(elapsed_max: Duration) -> Self {
        // A wait is 5 s in the mean in the long run: the time is what runs out.
        let attempts = u32::try_from(elapsed_max.as_secs() / 2).unwrap_or(u32::MAX);
        Self {
            attempts_max: NonZeroU32::MIN.saturating_add(attempts.max(19)),
            // A command whose store never answers has failed within 10 s, with what it does before and after.
            first_answer_max: Duration::from_secs(9),
            elapsed_max,
            wait_min: Duration::from_millis(100),
            wait_max: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(60),
            seed: None,
        }
    }
}

impl Default for RetryPolicy {
    /// Five minutes.
    fn default() -> Self {
        Self::lasting(Duration::from_secs(300))
    }
}
