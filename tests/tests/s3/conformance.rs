//! The storage contract: of the backend, below the decorators, through a proxy, and on odd servers.

use std::sync::Arc;

use layerpack_tests::{Quirk, Remote, RequestKind, S3Server, WireProxy};
use storage_api::ObjectStore;
use storage_api::conformance::{Subject, run_all};

use crate::exemptions::exemptions;
use crate::stores::{decorated, plain, subject};

/// The backend by itself on `remote`.
async fn plain_subject(remote: Remote) -> Subject {
    let store: Arc<dyn ObjectStore> = plain(&remote).await;
    subject(&remote, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms() {
    run_all(async || plain_subject(Remote::fresh()).await, exemptions()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms_below_the_decorators() {
    let decorated = async || {
        let remote = Remote::fresh();
        subject(&remote, decorated(&remote).await)
    };
    run_all(decorated, exemptions()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms_through_a_proxy() {
    let Some(endpoint) = Remote::fresh().endpoint else {
        return storage_api::conformance::skip("s3_through_a_proxy", "the remote's URL has no endpoint");
    };
    let proxy = Arc::new(WireProxy::start(&endpoint));
    run_all(async || plain_subject(Remote::fresh().by(&proxy.endpoint())).await, exemptions()).await;
    let log = proxy.log();
    let others: Vec<_> = log.iter().filter(|request| request.kind == RequestKind::Other).collect();
    assert!(log.len() > 1000 && others.is_empty(), "{} requests, {others:?}", log.len());
    let unchecked = log.iter().find(|request| {
        request.kind == RequestKind::Put && request.header("x-amz-checksum-crc32c").is_none()
    });
    assert!(unchecked.is_none(), "sent without its checksum: {unchecked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms_on_a_server_that_keeps_no_checksums() {
    let server = S3Server::with_quirk(Quirk::KeepsNoChecksums);
    run_all(async || plain_subject(Remote::of(&server)).await, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms_on_a_server_that_lists_directory_by_directory() {
    let server = S3Server::with_quirk(Quirk::ListsByDirectory);
    run_all(async || plain_subject(Remote::of(&server)).await, &[]).await;
}
