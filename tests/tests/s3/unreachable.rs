//! Stores that are not there: a command must learn so soon, and not after the minutes for which a known store is tried.

use std::time::Duration;

use layerpack_tests::{Fault, Remote, RequestKind, Rule, S3Server, WireProxy};
use storage_api::ErrorKind;
use sync_engine::{Error, Store};

use crate::stores::decorated;

/// Far more than the nine seconds that a busy machine makes of it, far less than the five minutes.
const SOON: Duration = Duration::from_secs(60);

/// Opens the store at `remote`, as a command does first.
async fn open(remote: &Remote) -> Error {
    let store = decorated(remote).await;
    let opened = tokio::time::timeout(SOON, Store::open(store, &remote.url)).await;
    assert!(opened.is_ok(), "it is tried for ever");
    opened.unwrap().unwrap_err()
}

/// The kind of the store's error, where it is one.
fn kind(error: &Error) -> Option<ErrorKind> {
    match error {
        Error::Storage(error) => Some(error.kind()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_given_up_soon() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let remote = Remote::of(&S3Server::start()).by(&closed);
    assert_eq!(kind(&open(&remote).await), Some(ErrorKind::Connection));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_otherwise_than_a_store_is_given_up_soon() {
    let faults = [
        (Fault::StallBefore, ErrorKind::Timeout),
        (Fault::ResetBefore, ErrorKind::Connection),
        (Fault::html(200), ErrorKind::Unexpected),
        (Fault::html(404), ErrorKind::Unexpected),
        (Fault::html(502), ErrorKind::Unexpected),
        (Fault::html(503), ErrorKind::Unexpected),
    ];
    let server = S3Server::start();
    let scenes = faults.into_iter().map(async |(fault, expected)| {
        let remote = Remote::of(&server);
        let proxy = WireProxy::start(remote.endpoint.as_deref().unwrap());
        proxy.inject(Rule::new(fault.clone()).always());
        let error = open(&remote.by(&proxy.endpoint())).await;
        assert_eq!(kind(&error), Some(expected), "{fault:?}: {error}");
        let log = proxy.log();
        assert!(log.iter().all(|request| request.kind == RequestKind::Get), "{log:?}");
    });
    futures::future::join_all(scenes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_sent_once() {
    let server = S3Server::start();
    for code in [
        (403, "AccessDenied"),
        (403, "SignatureDoesNotMatch"),
        (403, "InvalidAccessKeyId"),
        (404, "NoSuchBucket"),
    ] {
        let remote = Remote::of(&server);
        let proxy = WireProxy::start(remote.endpoint.as_deref().unwrap());
        proxy.inject(Rule::new(Fault::error(code.0, code.1)).always());
        let error = open(&remote.by(&proxy.endpoint())).await;
        assert_eq!(proxy.log().len(), 1, "{code:?}: {error}");
    }
}
