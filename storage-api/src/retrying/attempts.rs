//! One request and its attempts: which failure is followed by another, and after how long.

use std::error::Error;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::{Either, select};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::RetryPolicy;
use crate::{Clock, ErrorKind, Operation, Result, RetryClass, StorageError};

/// How often a request is sent that the store finds corrupt, or whose answer is. What flips on the way does not flip
/// each time.
const CORRUPT_MAX: u32 = 3;
/// A request that has failed for so long is told to people: until then it may be over by itself, and after that either the
/// request succeeds or its error says it.
const QUIET: Duration = Duration::from_secs(10);
/// For how long it is taken for known that a store is silent, when nothing is asked of it.
const SILENCE_KNOWN_MAX: Duration = Duration::from_secs(120);

/// What the requests to one store share.
#[derive(Debug)]
pub(super) struct Retrier {
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    random: Mutex<SmallRng>,
    contact: Mutex<Contact>,
}

/// What is known of the way to the store.
#[derive(Debug, Default)]
struct Contact {
    has_answered: bool,
    /// When a request failed without an answer, where no other was answered since.
    silent_since: Option<SystemTime>,
    /// When the last one did.
    silent_last: Option<SystemTime>,
}

impl Retrier {
    pub(super) fn new(policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        let random = match policy.seed {
            Some(seed) => SmallRng::seed_from_u64(seed),
            // Without randomness the waits are those of everybody who has none, which is no reason to fail.
            None => SmallRng::try_from_os_rng().unwrap_or_else(|_| SmallRng::seed_from_u64(0)),
        };
        Self { policy, clock, random: Mutex::new(random), contact: Mutex::default() }
    }

    /// A request that is about to be sent for the first time.
    pub(super) fn attempts<'a>(&'a self, operation: Operation, key: &'a str) -> Attempts<'a> {
        let begun = self.clock.now();
        let mut contact = self.contact();
        // Nothing was asked for so long: whether the store is silent still is to be found out anew.
        if contact.silent_last.is_some_and(|last| self.since(last) > SILENCE_KNOWN_MAX) {
            (contact.silent_since, contact.silent_last) = (None, None);
        }
        drop(contact);
        Attempts { retrier: self, operation, key, begun, failures: 0, corrupt: 0 }
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_answered(&self) -> bool {
        self.contact().has_answered
    }

    /// The time since `then`. A clock that was set back makes it short; attempts are bounded too.
    fn since(&self, then: SystemTime) -> Duration {
        self.clock.now().duration_since(then).unwrap_or_default()
    }

    /// The wait after so many failures, the last of which asked for `retry_after`.
    fn wait(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let RetryPolicy { wait_min, wait_max, retry_after_max, .. } = self.policy;
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let longest = wait_min.saturating_mul(doubled).min(wait_max);
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let jittered = longest.mul_f64(random.random_range(0.0..=1.0));
        retry_after.unwrap_or_default().min(retry_after_max) + jittered
    }
}

/// The attempts of one request.
pub(super) struct Attempts<'a> {
    retrier: &'a Retrier,
    operation: Operation,
    key: &'a str,
    begun: SystemTime,
    failures: u32,
    corrupt: u32,
}

impl Attempts<'_> {
    /// Sends the request once.
    pub(super) async fn send<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let result = match self.operation {
            // However long a body takes to be sent, the backend watches its progress.
            Operation::PutOverwrite | Operation::PutCreate | Operation::MultipartPut => request.await,
            _ if self.retrier.has_answered() => request.await,
            _ => self.send_to_a_stranger(request).await,
        };
        let is_answer = result.as_ref().map_or_else(StorageError::is_answer, |_| true);
        let now = self.retrier.clock.now();
        let mut contact = self.retrier.contact();
        if is_answer {
            *contact = Contact { has_answered: true, ..Contact::default() };
        } else {
            contact.silent_since.get_or_insert(now);
            contact.silent_last = Some(now);
        }
        result
    }

    /// Sends the request to a store that has never answered, and does not wait for ever for that.
    async fn send_to_a_stranger<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let bound = self.retrier.policy.first_answer_max;
        let mut request = pin!(request);
        let deadline = self.retrier.clock.sleep(bound.saturating_sub(self.retrier.since(self.begun)));
        match select(request.as_mut(), deadline).await {
            Either::Left((result, _)) => result,
            // Another request was answered in the meantime: this one may take its time.
            Either::Right(_) if self.retrier.has_answered() => request.await,
            Either::Right(_) => {
                let why = format!("the store has not answered anything for {} s", bound.as_secs_f64());
                Err(StorageError::new(ErrorKind::Timeout, self.operation, self.key, "remote")
                    .with_source(why))
            }
        }
    }

    /// Whether the request is to be sent again after it has failed with `error`. If so, it has been waited for.
    pub(super) async fn go_on(&mut self, error: &StorageError) -> bool {
        if error.retry_class() == RetryClass::Never {
            return false;
        }
        self.failures += 1;
        self.corrupt += u32::from(error.kind() == ErrorKind::Integrity);
        let policy = &self.retrier.policy;
        let wait = self.retrier.wait(self.failures, error.retry_after());
        let Contact { has_answered, silent_since, silent_last: _ } = *self.retrier.contact();
        let bound = match has_answered {
            true => policy.elapsed_max,
            false => policy.first_answer_max.min(policy.elapsed_max),
        };
        // The time for which a store is waited is not multiplied by the requests that it does not answer.
        let elapsed = self.retrier.since(silent_since.map_or(self.begun, |silent| silent.min(self.begun)));
        let goes_on = self.failures < policy.attempts_max.get()
            && self.corrupt < CORRUPT_MAX
            && elapsed.saturating_add(wait) < bound;
        self.log(error, elapsed, goes_on.then_some(wait));
        if goes_on {
            self.retrier.clock.sleep(wait).await;
        }
        goes_on
    }

    fn log(&self, error: &StorageError, elapsed: Duration, wait: Option<Duration>) {
        let (operation, key, attempt) = (self.operation.verb(), self.key, self.failures);
        let error = Chain(error);
        match wait {
            // Whoever asked for it has the error.
            None => tracing::debug!(operation, key, attempt, ?elapsed, %error, "a request is given up"),
            Some(wait) if elapsed < QUIET => {
                tracing::debug!(operation, key, attempt, ?wait, %error, "a request is sent again");
            }
            Some(wait) => tracing::warn!(operation, key, attempt, ?wait, %error, "a request is sent again"),
        }
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a StorageError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next: Option<&(dyn Error + 'static)> = Some(self.0);
        let mut separator = "";
        while let Some(error) = next {
            write!(f, "{separator}{error}")?;
            separator = ": ";
            next = error.source();
        }
        Ok(())
    }
}
