//! The conformance suite over a directory, alone and behind the decorator.

use std::sync::Arc;

use storage_api::conformance::{Subject, run_all};
use storage_api::{Metered, ObjectStore};
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
