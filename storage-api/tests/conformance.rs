//! The conformance suite over the store in memory, alone and below each decorator and all of them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use storage_api::conformance::{Exemption, Subject, run_all};
use storage_api::{Limited, MemoryStore, Metered, ObjectStore, RetryPolicy, Retrying, SystemClock};

/// Few enough that the suite's racing callers wait. A case that overwrites what it reads needs two.
const REQUESTS_MAX: NonZeroUsize = NonZeroUsize::new(2).unwrap();

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_conforms() {
    run_all(async || Subject::new(Arc::new(MemoryStore::new())), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_memory_store_shared_by_all_cases_conforms() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    run_all(async || Subject::new(Arc::clone(&store)), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metered_store_conforms() {
    run_all(async || Subject::new(Arc::new(Metered::new(Arc::new(MemoryStore::new())))), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_store_conforms() {
    run_all(async || Subject::new(Arc::new(Limited::new(Arc::new(MemoryStore::new()), REQUESTS_MAX))), &[])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retrying_store_conforms() {
    run_all(async || Subject::new(retrying(Arc::new(MemoryStore::new()))), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn store_below_all_decorators_conforms() {
    let decorated = async || {
        let metered = Arc::new(Metered::new(Arc::new(MemoryStore::new())));
        Subject::new(retrying(Arc::new(Limited::new(metered, REQUESTS_MAX))))
    };
    run_all(decorated, &[]).await;
}

fn retrying(inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    Arc::new(Retrying::new(inner, RetryPolicy::default(), Arc::new(SystemClock)))
}

#[tokio::test]
#[should_panic(expected = "there is no case \"a_case_of_another_suite\"")]
async fn an_exemption_from_no_case_is_an_error() {
    let exemption =
        Exemption { case: "a_case_of_another_suite", reason: "a misspelt name must not pass unseen" };
    run_all(async || Subject::new(Arc::new(MemoryStore::new())), &[exemption]).await;
}
