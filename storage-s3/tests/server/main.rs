//! The backend against servers that refuse, lie, break off and keep silent.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod answers;
mod connections;
mod credentials;
mod lists;
mod requests;

use std::error::Error;

use layerpack_tests::{KeyPair, READ_WRITE, Remote, S3Server, WireProxy};
use storage_api::{Body, GetRange, Key, KeyPrefix, ListRequest, ObjectStore, ObjectStoreExt, Operation};
use storage_api::{PutMode, Result, StorageError, UploadId};
use storage_s3::{S3Config, S3Store, StaticCredentials};
use url::Url;

/// A store of which every request goes through a proxy.
struct Scene {
    server: S3Server,
    proxy: WireProxy,
    store: S3Store,
}

impl Scene {
    async fn set() -> Self {
        Self::on(S3Server::start(), &[]).await
    }

    /// The same on `server`, with options of the URL.
    async fn on(server: S3Server, options: &[(&str, &str)]) -> Self {
        let proxy = WireProxy::start(&server.endpoint());
        let mut remote = Remote::of(&server).by(&proxy.endpoint());
        for (name, value) in options {
            remote = remote.with(name, value);
        }
        let store = connect(&remote.url, READ_WRITE).await;
        Self { server, proxy, store }
    }
}

async fn connect(url: &str, pair: KeyPair) -> S3Store {
    let mut config = S3Config::from_url(&Url::parse(url).unwrap()).unwrap();
    config.credentials = Some(StaticCredentials {
        access_key_id: pair.id.to_owned(),
        secret_access_key: pair.secret.to_owned(),
        session_token: None,
    });
    S3Store::connect(config).await.unwrap()
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Does `operation` to the key `k`, whatever comes of it.
async fn attempt(store: &S3Store, operation: Operation) -> Result<()> {
    let (k, upload, body) = (key("k"), UploadId("u".to_owned()), Body::new("bytes"));
    match operation {
        Operation::PutCreate => store.put(&k, body, PutMode::Create).await.map(drop),
        Operation::PutOverwrite => store.put(&k, body, PutMode::Overwrite).await.map(drop),
        Operation::Get => store.get_bytes(&k, GetRange::Full, 1 << 20).await.map(drop),
        Operation::Head => store.head(&k).await.map(drop),
        Operation::List => store.list(&ListRequest::default()).await.map(drop),
        Operation::Delete => store.delete(&[k]).await?.remove(0).result,
        Operation::Copy => store.copy(&k, &key("to")).await.map(drop),
        Operation::MultipartCreate => store.multipart_create(&k).await.map(drop),
        Operation::MultipartPut => store.multipart_put(&k, &upload, 1, body).await.map(drop),
        Operation::MultipartComplete => {
            let part = storage_api::PartId { number: 1, etag: "e".to_owned(), crc32c: body.crc32c() };
            store.multipart_complete(&k, &upload, &[part], body.crc32c()).await.map(drop)
        }
        Operation::MultipartAbort => store.multipart_abort(&k, &upload).await,
        Operation::MultipartList => store.multipart_list(&KeyPrefix::root()).await.map(drop),
        _ => panic!("{operation:?} is no operation of a store"),
    }
}

const OPERATIONS: [Operation; 12] = [
    Operation::PutCreate,
    Operation::PutOverwrite,
    Operation::Get,
    Operation::Head,
    Operation::List,
    Operation::Delete,
    Operation::Copy,
    Operation::MultipartCreate,
    Operation::MultipartPut,
    Operation::MultipartComplete,
    Operation::MultipartAbort,
    Operation::MultipartList,
];

/// The cause of an error. Checks that there is one, of one line and bounded, and that nothing of the request's
/// secrets is anywhere in the error.
#[track_caller]
fn cause(error: &StorageError) -> String {
    let source = error.source().unwrap_or_else(|| panic!("{error} has no cause"));
    assert!(source.source().is_none(), "more than one cause: {error:?}");
    let text = source.to_string();
    assert!(!text.contains('\n') && text.len() < 500, "{text}");
    let shown = format!("{error} {error:?} {error:#?} {text}");
    for secret in [READ_WRITE.secret, "Signature=", "AWS4-HMAC", "Credential="] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    text
}
