//! Copies in parts, of objects that are small enough for a test.

use layerpack_tests::{Fault, READ_WRITE, RequestKind, Rule, S3Server, WireProxy};
use storage_api::{Body, GetRange, KeyPrefix, ObjectStore, ObjectStoreExt, PutMode};
use url::Url;

use super::*;
use crate::{S3Config, StaticCredentials};

const PART_BYTES: usize = 5 << 20;

async fn scene() -> (S3Server, WireProxy, S3Store) {
    let server = S3Server::start();
    let proxy = WireProxy::start(&server.endpoint());
    let url = server.url("p").replace(&server.endpoint(), &proxy.endpoint());
    let mut config = S3Config::from_url(&Url::parse(&url).unwrap()).unwrap();
    config.credentials = Some(StaticCredentials {
        access_key_id: READ_WRITE.id.to_owned(),
        secret_access_key: READ_WRITE.secret.to_owned(),
        session_token: None,
    });
    let mut store = S3Store::connect(config).await.unwrap();
    store.copy_bytes_max = PART_BYTES as u64;
    (server, proxy, store)
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn too_large() -> Rule {
    Rule::new(Fault::error(400, "InvalidRequest")).of(RequestKind::Copy)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_one_request_is_copied_in_parts() {
    let (_server, proxy, store) = scene().await;
    let bytes: Vec<u8> = (0..PART_BYTES + 12_345).map(|n| n.to_le_bytes()[n % 3]).collect();
    let from = key("odd +%20/from");
    store.put(&from, Body::new(bytes.clone()), PutMode::Create).await.unwrap();
    proxy.inject(too_large());
    store.copy(&from, &key("to")).await.unwrap();
    let (_, copied) = store.get_bytes(&key("to"), GetRange::Full, u64::MAX).await.unwrap();
    assert!(copied == bytes);
    let log = proxy.log();
    let ranges: Vec<_> = log.iter().filter_map(|request| request.header("x-amz-copy-source-range")).collect();
    assert_eq!(ranges, ["bytes=0-5242879", "bytes=5242880-5255224"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_parts_that_fails_leaves_nothing() {
    let (_server, proxy, store) = scene().await;
    store.put(&key("from"), Body::new(vec![1; PART_BYTES + 1]), PutMode::Create).await.unwrap();
    proxy.inject(too_large());
    proxy.inject(Rule::new(Fault::error(500, "InternalError")).containing("partNumber=2"));
    let error = store.copy(&key("from"), &key("to")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected, "{error:?}");
    assert_eq!(store.multipart_list(&KeyPrefix::root()).await.unwrap(), []);
    assert!(store.head(&key("to")).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_another_reason_stays_one() {
    let (_server, proxy, store) = scene().await;
    store.put(&key("from"), Body::new("small"), PutMode::Create).await.unwrap();
    proxy.inject(too_large());
    let error = store.copy(&key("from"), &key("to")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(!proxy.log().iter().any(|request| request.kind == RequestKind::Multipart));
}
