//! An S3 endpoint in this process: HTTP, XML and signatures by the `s3s` crate, over any object store.

mod access;
mod answers;
mod backend;
mod by_directory;
mod lists;
#[cfg(test)]
mod tests;
mod uploads;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use storage_api::{MemoryStore, ObjectStore};
use tokio::net::TcpStream;

use self::access::{BucketAccess, KeyPairs};
use self::backend::Backend;
use crate::serving::Serving;

/// The one bucket of an [`S3Server`].
pub const BUCKET: &str = "layerpack";
/// The region of an [`S3Server`].
pub const REGION: &str = "us-east-1";
/// The credentials that may do everything.
pub const READ_WRITE: KeyPair = KeyPair { id: "AKLAYERPACKWRITER", secret: "the/secret+of/the+writer" };
/// The credentials that may only read: every write is `AccessDenied`.
pub const READ_ONLY: KeyPair = KeyPair { id: "AKLAYERPACKREADER", secret: "the/secret+of/the+reader" };

/// An access key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The access key's id.
    pub id: &'static str,
    /// The secret.
    pub secret: &'static str,
}

/// How a server differs from S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// A create-only put overwrites, as on Garage.
    IgnoresIfNoneMatch,
    /// No answer has a checksum, as from servers that do not keep them. What is sent with one is checked.
    KeepsNoChecksums,
    /// A read of a range is answered with the whole object and 200, as HTTP allows.
    IgnoresRanges,
    /// Lists go directory by directory instead of in byte order, as on SeaweedFS, whose name is in the answers.
    ListsByDirectory,
}

/// An S3 endpoint on loopback.
#[derive(Debug)]
pub struct S3Server {
    store: Arc<MemoryStore>,
    serving: Serving,
}

impl S3Server {
    /// Starts one over an empty [`MemoryStore`].
    ///
    /// # Panics
    /// If the machine has no port or thread left.
    pub fn start() -> Self {
        Self::with_quirks(&[])
    }

    /// Starts one that differs from S3.
    ///
    /// # Panics
    /// If the machine has no port or thread left.
    pub fn with_quirk(quirk: Quirk) -> Self {
        Self::with_quirks(&[quirk])
    }

    /// Starts one over `store`, whose bounds and clock the test has chosen.
    ///
    /// # Panics
    /// If the machine has no port or thread left.
    pub fn over(store: Arc<MemoryStore>) -> Self {
        Self::serve(store, &[])
    }

    fn with_quirks(quirks: &[Quirk]) -> Self {
        Self::serve(Arc::new(MemoryStore::new()), quirks)
    }

    fn serve(store: Arc<MemoryStore>, quirks: &[Quirk]) -> Self {
        let objects: Arc<dyn ObjectStore> = store.clone();
        let mut builder = S3ServiceBuilder::new(Backend::new(objects, quirks));
        builder.set_auth(KeyPairs);
        builder.set_access(BucketAccess);
        let service = builder.build();
        let requests = Arc::<AtomicU64>::default();
        let name = quirks.contains(&Quirk::ListsByDirectory).then_some("SeaweedFS as imitated");
        let serving = Serving::start("s3-server", move |stream| {
            connection(stream, service.clone(), requests.clone(), name)
        })
        .expect("cannot start an S3 server on loopback");
        Self { store, serving }
    }

    /// What a client is told to connect to: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.serving.address())
    }

    /// The URL of a remote below `prefix` of the bucket (without slashes at its ends; empty for the whole bucket).
    pub fn url(&self, prefix: &str) -> String {
        s3_url(BUCKET, prefix, &self.endpoint())
    }

    /// The credentials that may do everything.
    pub fn credentials(&self) -> KeyPair {
        READ_WRITE
    }

    /// What is in the bucket.
    pub fn store(&self) -> &Arc<MemoryStore> {
        &self.store
    }
}

/// The URL of a remote below `prefix` of `bucket` at `endpoint`, in this server's region.
pub(crate) fn s3_url(bucket: &str, prefix: &str, endpoint: &str) -> String {
    format!("s3://{bucket}/{prefix}?endpoint={endpoint}&region={REGION}")
}

/// Answers the requests of one connection.
async fn connection(
    stream: TcpStream,
    service: S3Service,
    requests: Arc<AtomicU64>,
    name: Option<&'static str>,
) {
    let numbered = service_fn(move |request: http::Request<Incoming>| {
        let number = requests.fetch_add(1, Ordering::Relaxed);
        let service = service.clone();
        async move {
            let mut answer = service.call(request.map(s3s::Body::from)).await?;
            // S3 names every request, and clients put the name into their messages.
            let id = HeaderValue::from_str(&format!("{number:016X}"));
            answer.headers_mut().extend(id.ok().map(|id| (http::HeaderName::from_static(REQUEST_ID), id)));
            let name = name.map(|name| (http::header::SERVER, HeaderValue::from_static(name)));
            answer.headers_mut().extend(name);
            Ok::<_, s3s::HttpError>(answer)
        }
    });
    // How a connection ends is the client's to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), numbered).await;
}

const REQUEST_ID: &str = "x-amz-request-id";
