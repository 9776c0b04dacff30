//! How often and how long.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use storage_api::{
    Body, Clock, ErrorKind, ListRequest, ManualClock, ObjectStore, Operation, PutMode, RetryPolicy, Retrying,
};

use crate::script::{Scripted, Step, key, policy};

const SECOND: Duration = Duration::from_secs(1);

/// The store fails so for ever.
fn for_ever(kind: ErrorKind) -> impl Iterator<Item = Step> {
    std::iter::repeat_n(Step::Fail(kind), 10_000)
}

#[tokio::test]
async fn attempts_are_bounded() {
    let script = Scripted::new();
    let three = RetryPolicy { attempts_max: NonZeroU32::new(3).unwrap(), ..policy() };
    let retrying = script.retried(three);
    for kind in [ErrorKind::Throttled, ErrorKind::Connection] {
        script.script(for_ever(kind));
        assert_eq!(retrying.head(&key("k")).await.unwrap_err().kind(), kind);
        assert_eq!(script.sent().len(), 3, "{kind:?}");
    }
}

#[tokio::test]
async fn time_is_bounded_at_a_store_that_has_answered() {
    let script = Scripted::new();
    let retrying = script.known().await;
    for kind in [ErrorKind::Throttled, ErrorKind::Connection] {
        let before = script.clock.ran();
        script.script(for_ever(kind));
        assert_eq!(retrying.head(&key("k")).await.unwrap_err().kind(), kind);
        let took = script.clock.ran() - before;
        assert!((280 * SECOND..300 * SECOND).contains(&took), "{kind:?}: {took:?}");
        let sent = script.sent().len();
        assert!((30..150).contains(&sent), "{kind:?}: {sent} attempts");
    }
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up_soon() {
    for kind in [ErrorKind::Connection, ErrorKind::Timeout, ErrorKind::Unexpected] {
        let script = Scripted::new();
        let retrying = script.retried(policy());
        script.script(for_ever(kind));
        assert_eq!(retrying.head(&key("k")).await.unwrap_err().kind(), kind);
        assert!(script.clock.ran() < 9 * SECOND, "{:?}", script.clock.ran());
        assert!(script.sent().len() > 3);
        // What is tried besides costs an attempt each and no time.
        let before = script.clock.ran();
        for _ in 0..5 {
            script.clock.advance(9 * SECOND);
            retrying.head(&key("k")).await.unwrap_err();
        }
        assert_eq!((script.clock.ran() - before, script.sent().len()), (45 * SECOND, 5));
    }
}

#[tokio::test]
async fn an_attempt_that_never_ends_is_cut_off_until_there_was_an_answer() {
    let script = Scripted::new();
    let retrying = script.retried(policy());
    for _ in 0..2 {
        let before = script.clock.ran();
        script.script([Step::Hang]);
        let error = retrying.list(&ListRequest::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, Operation::List));
        assert_eq!(script.clock.ran() - before, 9 * SECOND, "a later request has the time too");
    }
    script.script([]);
    retrying.list(&ListRequest::default()).await.unwrap();
    script.script([Step::Hang]);
    let everything = ListRequest::default();
    let before = script.clock.ran();
    assert!(
        futures::poll!(pin!(retrying.list(&everything))).is_pending(),
        "the backend watches the progress"
    );
    assert_eq!(script.clock.ran(), before, "there is no deadline any more");
}

#[tokio::test]
async fn an_attempt_is_not_cut_off_where_another_was_answered_meanwhile() {
    let script = Scripted::new();
    let once = RetryPolicy { attempts_max: NonZeroU32::MIN, ..policy() };
    let retrying = Retrying::new(Arc::clone(&script), once, Arc::new(Yielding));
    script.script([Step::Hang, Step::Hang, Step::Pass]);
    let everything = ListRequest::default();
    let (mut first, mut second) = (retrying.list(&everything), retrying.list(&everything));
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert!(futures::poll!(first.as_mut()).is_ready(), "nobody was answered");
    assert!(futures::poll!(second.as_mut()).is_pending());
    retrying.list(&everything).await.unwrap();
    assert!(futures::poll!(second.as_mut()).is_pending());
}

/// A clock that stands still, and at which every wait takes a moment.
#[derive(Debug)]
struct Yielding;

#[async_trait]
impl Clock for Yielding {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    async fn sleep(&self, _: Duration) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_body_has_the_time_that_it_takes() {
    let script = Scripted::new();
    let retrying = script.retried(policy());
    script.script([Step::Hang]);
    let k = key("k");
    let put = retrying.put(&k, Body::new("x"), PutMode::Overwrite);
    assert!(futures::poll!(pin!(put)).is_pending());
}

#[tokio::test]
async fn any_answer_makes_the_store_one_that_answers() {
    for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::Throttled] {
        let script = Scripted::new();
        let retrying = script.retried(policy());
        script.script([Step::Fail(kind)]);
        let _ = retrying.head(&key("k")).await;
        script.script(for_ever(ErrorKind::Connection));
        retrying.head(&key("k")).await.unwrap_err();
        assert!(script.clock.ran() > 280 * SECOND, "{kind:?}: {:?}", script.clock.ran());
    }
}

#[tokio::test]
async fn a_store_that_falls_silent_is_waited_for_once_by_all_requests_together() {
    let script = Scripted::new();
    let retrying = script.known().await;
    script.script(for_ever(ErrorKind::Connection));
    retrying.head(&key("k")).await.unwrap_err();
    // The rest of the time, which was too short for the last wait.
    script.clock.advance(20 * SECOND);
    script.sent();
    let before = script.clock.ran();
    for _ in 0..5 {
        retrying.put(&key("k"), Body::new("x"), PutMode::Create).await.unwrap_err();
    }
    assert_eq!((script.clock.ran() - before, script.sent().len()), (Duration::ZERO, 5));
    // One answer, and each request has all the time again.
    script.script([]);
    retrying.list(&ListRequest::default()).await.unwrap();
    script.script(for_ever(ErrorKind::Connection));
    retrying.head(&key("k")).await.unwrap_err();
    assert!(script.clock.ran() - before > 280 * SECOND);
}

#[tokio::test]
async fn slow_attempts_count_by_their_time() {
    let script = Scripted::new();
    let retrying = script.known().await;
    script.script(std::iter::repeat_n(Step::Slow(100 * SECOND, ErrorKind::Timeout), 9));
    retrying.head(&key("k")).await.unwrap_err();
    assert_eq!(script.sent().len(), 3, "no attempt begins after the bound");
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_keep_a_request_for_ever() {
    let script = Scripted::new();
    let clock = Arc::new(Backwards(ManualClock::new(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)));
    let retrying = Retrying::new(Arc::clone(&script), policy(), clock);
    script.script(for_ever(ErrorKind::Throttled));
    assert_eq!(retrying.head(&key("k")).await.unwrap_err().kind(), ErrorKind::Throttled);
    assert_eq!(script.sent().len(), 151);
}

/// A clock that goes back with every wait.
#[derive(Debug)]
struct Backwards(ManualClock);

#[async_trait]
impl Clock for Backwards {
    fn now(&self) -> SystemTime {
        self.0.now()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.set(self.0.now() - duration);
    }
}

#[tokio::test]
async fn waits_double_up_to_the_longest_and_are_random_below() {
    let mut longest = [Duration::ZERO; 12];
    for seed in 0..200 {
        let script = Scripted::new();
        let retrying = script.retried(RetryPolicy { seed: Some(seed), ..policy() });
        script.script(std::iter::repeat_n(Step::Fail(ErrorKind::Throttled), longest.len()));
        retrying.list(&ListRequest::default()).await.unwrap();
        let waits = script.clock.waits();
        assert_eq!(waits.len(), longest.len(), "seed {seed}: {waits:?}");
        for (number, (wait, longest)) in waits.iter().zip(&mut longest).enumerate() {
            let bound = (Duration::from_millis(100) * (1 << number)).min(10 * SECOND);
            assert!(*wait <= bound, "seed {seed}, wait {number}: {wait:?}");
            *longest = (*longest).max(*wait);
        }
    }
    for (number, longest) in longest.into_iter().enumerate() {
        let bound = (Duration::from_millis(100) * (1 << number)).min(10 * SECOND);
        assert!(longest > bound.mul_f64(0.9), "wait {number} is never longer than {longest:?}");
    }
}

#[tokio::test]
async fn equal_seeds_wait_equally_and_others_do_not() {
    let waits = async |seed| {
        let script = Scripted::new();
        let retrying = script.retried(RetryPolicy { seed, ..policy() });
        script.script(std::iter::repeat_n(Step::Fail(ErrorKind::Throttled), 5));
        retrying.list(&ListRequest::default()).await.unwrap();
        script.clock.waits()
    };
    assert_eq!(waits(Some(1)).await, waits(Some(1)).await);
    assert_ne!(waits(Some(1)).await, waits(Some(2)).await);
    assert_ne!(waits(None).await, waits(None).await, "two processes wait the same");
}

#[tokio::test]
async fn the_store_may_ask_for_a_longer_wait_within_a_bound() {
    for (asked, bounds) in [(7, 7.0..=7.1), (3600, 60.0..=60.1), (0, 0.0..=0.1)] {
        let script = Scripted::new();
        let retrying = script.known().await;
        script.script([Step::FailFor(ErrorKind::Throttled, asked * SECOND)]);
        retrying.list(&ListRequest::default()).await.unwrap();
        let waits = script.clock.waits();
        assert!(waits.len() == 1 && bounds.contains(&waits[0].as_secs_f64()), "{asked}: {waits:?}");
    }
}

#[tokio::test]
async fn a_longer_time_has_more_attempts_and_none_has_one() {
    let hour = RetryPolicy { seed: Some(1), ..RetryPolicy::lasting(3600 * SECOND) };
    let script = Scripted::new();
    let retrying = script.retried(hour);
    retrying.list(&ListRequest::default()).await.unwrap();
    script.script(for_ever(ErrorKind::Throttled));
    retrying.head(&key("k")).await.unwrap_err();
    assert!(script.clock.ran() > 3580 * SECOND, "{:?}", script.clock.ran());

    for kind in [ErrorKind::Throttled, ErrorKind::Timeout] {
        let script = Scripted::new();
        let retrying = script.retried(RetryPolicy::lasting(Duration::ZERO));
        script.script(for_ever(kind));
        retrying.head(&key("k")).await.unwrap_err();
        assert_eq!(script.sent().len(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_failure_after_an_idle_hour_is_not_taken_for_an_hour_of_silence() {
    let script = Scripted::new();
    let retrying = script.known().await;
    script.script(for_ever(ErrorKind::Connection));
    retrying.head(&key("k")).await.unwrap_err();
    for (idle, attempts) in [(30 * SECOND, 1), (3600 * SECOND, 2)] {
        script.sent();
        script.clock.advance(idle);
        script.script([Step::Fail(ErrorKind::Connection)]);
        let _ = retrying.head(&key("k")).await;
        assert_eq!(script.sent().len(), attempts, "after {idle:?}");
    }
}
