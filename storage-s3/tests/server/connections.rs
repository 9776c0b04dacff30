//! Connections that are not made, that break, and that fall silent.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use futures::StreamExt;
use layerpack_tests::{Fault, READ_WRITE, RequestKind, Rule, S3Server};
use storage_api::RetryClass;
use storage_api::{Body, ErrorKind, GetRange, ListRequest, ObjectStore, ObjectStoreExt, Operation, PutMode};

use crate::{OPERATIONS, Scene, attempt, cause, connect, key};

/// A port of this machine that nobody listens on.
fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

async fn failure(url: &str) -> storage_api::StorageError {
    attempt(&connect(url, READ_WRITE).await, Operation::List).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_there_is_named() {
    let port = closed_port();
    let error = failure(&format!("s3://b/p?endpoint=http://127.0.0.1:{port}&region=us-east-1")).await;
    assert_eq!((error.kind(), error.retry_class()), (ErrorKind::Connection, RetryClass::Safe));
    let text = cause(&error);
    assert!(text.contains(&format!("http://127.0.0.1:{port} cannot be reached")), "{text}");
    assert!(text.contains("onnection refused") && text.contains("check the endpoint"), "{text}");

    // No resolver knows this name (RFC 6761).
    let error = failure("s3://b/p?endpoint=https://nobody.invalid&region=us-east-1").await;
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(
        cause(&error).contains("the host of https://nobody.invalid cannot be found"),
        "{}",
        cause(&error)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_tls_is_told() {
    let server = S3Server::start();
    let url = server.url("p").replace("http://", "https://");
    let error = failure(&url).await;
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    let text = cause(&error);
    assert!(text.contains("no secure connection") && text.contains("speaks https"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_or_talks_nonsense_is_an_error_of_every_operation() {
    let scene = Scene::set().await;
    for fault in [Fault::ResetBefore, Fault::Garbage("SSH-2.0-OpenSSH_9.2\r\n".into())] {
        for operation in OPERATIONS {
            scene.proxy.inject(Rule::new(fault.clone()));
            let error = attempt(&scene.store, operation).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connection, "{fault:?} {operation:?}: {error:?}");
            assert_ne!(error.retry_class(), RetryClass::Never);
            cause(&error);
        }
    }
    assert_eq!(scene.proxy.log().len(), 2 * OPERATIONS.len(), "nothing is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_interrupted() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new(vec![7; 100_000]), PutMode::Create).await.unwrap();
    for fault in [Fault::ResetInBody(50), Fault::CloseInBody(50)] {
        for (kind, operation) in [(RequestKind::Get, Operation::Get), (RequestKind::List, Operation::List)] {
            scene.proxy.inject(Rule::new(fault.clone()).of(kind));
            let error = attempt(&scene.store, operation).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Interrupted, "{fault:?} {operation:?}: {error:?}");
            assert!(cause(&error).contains("broke off"), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_is_found_at_the_end_of_the_whole() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new(vec![7; 100_000]), PutMode::Create).await.unwrap();
    scene.proxy.inject(Rule::new(Fault::FlipInAnswer(99_999)).of(RequestKind::Get));
    let mut response = scene.store.get(&key("k"), GetRange::Full).await.unwrap();
    let (mut bytes, mut end) = (0, None);
    while let Some(chunk) = response.stream.next().await {
        match chunk {
            Ok(chunk) => bytes += chunk.len(),
            Err(error) => end = Some(error),
        }
    }
    let error = end.unwrap();
    assert_eq!((bytes, error.kind(), error.operation()), (100_000, ErrorKind::Integrity, Operation::Get));
    assert!(cause(&error).contains("checksum"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_has_a_bound() {
    let scene = Scene::on(S3Server::start(), &[("progress_timeout", "0.2")]).await;
    for operation in [Operation::Get, Operation::List, Operation::PutCreate, Operation::Delete] {
        scene.proxy.inject(Rule::new(Fault::StallBefore));
        let answer = tokio::time::timeout(Duration::from_secs(30), attempt(&scene.store, operation)).await;
        let error = answer.unwrap_or_else(|_| panic!("{operation:?} waits for ever")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{operation:?}");
        assert!(cause(&error).contains("progress_timeout"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_be_given_up_at_any_time() {
    let scene = Scene::set().await;
    scene.store.put(&key("k"), Body::new(vec![7; 1 << 20]), PutMode::Create).await.unwrap();
    for fault in [Fault::StallBefore, Fault::StallAfter, Fault::StallInBody(1000)] {
        scene.proxy.inject(Rule::new(fault).times(OPERATIONS.len() as u64));
        // A delete may take effect, and then there is nothing to be read.
        for operation in OPERATIONS.into_iter().filter(|operation| *operation != Operation::Delete) {
            let given_up = tokio::time::timeout(Duration::from_millis(20), attempt(&scene.store, operation));
            let _ = given_up.await;
        }
        scene.proxy.heal();
        let (_, bytes) = scene.store.get_bytes(&key("k"), GetRange::Full, 1 << 20).await.unwrap();
        assert!(bytes == vec![7; 1 << 20] || bytes == "bytes", "{} bytes", bytes.len());
        scene.store.put(&key("k"), Body::new(vec![7; 1 << 20]), PutMode::Overwrite).await.unwrap();
        assert!(!scene.store.list(&ListRequest::default()).await.unwrap().objects.is_empty());
    }
}
