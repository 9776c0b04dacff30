//! The conformance suite over a directory, alone and below the decorators.

use std::num::NonZeroUsize;
use std::sync::Arc;

use storage_api::conformance::{Subject, run_all};
use storage_api::{Limited, Metered, ObjectStore, RetryPolicy, Retrying, SystemClock};
use storage_localfs::LocalStore;

#[tokio::test(flavor = "multi_thread")]
async fn local_store_conforms() {
    run_all(
        async || {
            let root = tempfile::tempdir().unwrap();
            Subject::with_guard(Arc::new(LocalStore::open(root.path()).unwrap()), root)
        },
        &[],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metered_local_store_shared_by_all_cases_conforms() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(root.path()).unwrap());
    let metered: Arc<dyn ObjectStore> = Arc::new(Metered::new(store));
    run_all(async || Subject::new(Arc::clone(&metered)), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_below_all_decorators_conforms() {
    let decorated = async || {
        let root = tempfile::tempdir().unwrap();
        let metered = Arc::new(Metered::new(Arc::new(LocalStore::open(root.path()).unwrap())));
        let limited = Arc::new(Limited::new(metered, NonZeroUsize::new(2).unwrap()));
        let retrying = Retrying::new(limited, RetryPolicy::default(), Arc::new(SystemClock));
        Subject::with_guard(Arc::new(retrying), root)
    };
    run_all(decorated, &[]).await;
}
