//! Bulk deletes that fail for some keys.

use storage_api::{Body, ErrorKind, ObjectStore, Operation, PutMode};

use crate::script::{Scripted, Step, key};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

async fn filled() -> std::sync::Arc<Scripted> {
    let script = Scripted::new();
    for name in NAMES {
        script.inner.put(&key(name), Body::new("x"), PutMode::Create).await.unwrap();
    }
    script
}

fn keys_sent(script: &Scripted) -> Vec<String> {
    script.sent().into_iter().map(|(_, keys, _)| keys).collect()
}

#[tokio::test]
async fn a_delete_is_sent_again_for_the_keys_that_failed() {
    let script = filled().await;
    let retrying = script.known().await;
    script.script([Step::Half(ErrorKind::Throttled), Step::Half(ErrorKind::Unexpected)]);
    let outcomes = retrying.delete(&NAMES.map(key)).await.unwrap();
    assert_eq!(keys_sent(&script), ["a b c d e", "b d", "d"]);
    let mut answered: Vec<_> = outcomes.iter().map(|outcome| outcome.key.as_str()).collect();
    answered.sort_unstable();
    assert_eq!(answered, NAMES);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
}

#[tokio::test]
async fn keys_that_are_refused_are_not_sent_again() {
    let script = filled().await;
    let retrying = script.known().await;
    script.script([Step::Half(ErrorKind::PermissionDenied)]);
    let outcomes = retrying.delete(&NAMES.map(key)).await.unwrap();
    assert_eq!(keys_sent(&script), ["a b c d e"]);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.result.is_err()).count(), 2);
}

#[tokio::test]
async fn what_was_deleted_is_told_where_the_rest_is_given_up() {
    for rest in [ErrorKind::Connection, ErrorKind::PermissionDenied] {
        let script = filled().await;
        let retrying = script.known().await;
        let rest = std::iter::repeat_n(Step::Fail(rest), 1_000);
        script.script([Step::Half(ErrorKind::Throttled)].into_iter().chain(rest));
        let outcomes = retrying.delete(&NAMES.map(key)).await.unwrap();
        assert_eq!(outcomes.len(), NAMES.len());
        for outcome in outcomes {
            let is_open = ["b", "d"].contains(&outcome.key.as_str());
            let expected = is_open.then_some((ErrorKind::Throttled, Operation::Delete));
            let error = outcome.result.err();
            assert_eq!(error.map(|error| (error.kind(), error.operation())), expected, "{}", outcome.key);
        }
    }
}

#[tokio::test]
async fn a_delete_that_fails_as_a_whole_is_an_error() {
    let script = filled().await;
    let retrying = script.known().await;
    script.script(std::iter::repeat_n(Step::Fail(ErrorKind::Connection), 1_000));
    assert_eq!(retrying.delete(&NAMES.map(key)).await.unwrap_err().kind(), ErrorKind::Connection);
}
