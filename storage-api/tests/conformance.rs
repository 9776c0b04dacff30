//! The conformance suite over the store in memory, alone and behind the decorator.

use std::sync::Arc;

use storage_api::conformance::{Exemption, Subject, run_all};
use storage_api::{MemoryStore, Metered, ObjectStore};

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

#[tokio::test]
#[should_panic(expected = "there is no case \"a_case_of_another_suite\"")]
async fn an_exemption_from_no_case_is_an_error() {
    let exemption =
        Exemption { case: "a_case_of_another_suite", reason: "a misspelt name must not pass unseen" };
    run_all(async || Subject::new(Arc::new(MemoryStore::new())), &[exemption]).await;
}
