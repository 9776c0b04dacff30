//! What went over the wire.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Method};
use storage_api::RequestCounts;

/// What a request asks of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named like the field of `RequestCounts`")]
pub enum RequestKind {
    Put,
    Get,
    List,
    Head,
    Delete,
    Copy,
    Multipart,
    /// None of the others: lists of buckets, locations of buckets, and what else no backup needs.
    Other,
}

/// A request, and what became of it so far.
#[derive(Clone, Debug)]
pub struct WireRequest {
    /// What it asks.
    pub kind: RequestKind,
    /// The HTTP method.
    pub method: Method,
    /// The path, with the bucket, as sent (percent-encoded).
    pub path: String,
    /// The query, as sent; empty without one.
    pub query: String,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The status that the client was sent, if it was sent one.
    pub status: Option<u16>,
    /// Bytes of the request's body that were forwarded.
    pub bytes_up: u64,
    /// Bytes of the answer's body that the client was sent.
    pub bytes_down: u64,
    /// Whether a [`Rule`](super::Rule) chose it.
    pub is_broken: bool,
}

impl WireRequest {
    pub(super) fn new<B>(request: &http::Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self {
            kind: kind(request.method(), request.uri().path(), query, request.headers()),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: query.to_owned(),
            headers: request.headers().clone(),
            status: None,
            bytes_up: 0,
            bytes_down: 0,
            is_broken: false,
        }
    }

    /// A header of the request, where it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The range that it asks for, `bytes=...`.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }
}

/// What a request asks, by the rules of S3's REST API for a bucket in the path.
fn kind(method: &Method, path: &str, query: &str, headers: &HeaderMap) -> RequestKind {
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    // `/bucket`, `/bucket/` and `/` name no object.
    let is_object = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let is_multipart = has("uploadId") || has("uploads");
    match *method {
        Method::GET | Method::POST | Method::PUT | Method::DELETE if is_multipart => RequestKind::Multipart,
        Method::HEAD if is_object => RequestKind::Head,
        Method::GET if is_object => RequestKind::Get,
        Method::GET if has("list-type") => RequestKind::List,
        Method::PUT if is_object && headers.contains_key("x-amz-copy-source") => RequestKind::Copy,
        Method::PUT if is_object => RequestKind::Put,
        Method::POST if has("delete") => RequestKind::Delete,
        Method::DELETE if is_object => RequestKind::Delete,
        _ => RequestKind::Other,
    }
}

/// The requests of a proxy.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Vec<WireRequest>>);

/// The place of a request in the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry(usize);

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<WireRequest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, request: WireRequest) -> Entry {
        let mut requests = self.lock();
        requests.push(request);
        Entry(requests.len() - 1)
    }

    pub(super) fn update(&self, entry: Entry, change: impl FnOnce(&mut WireRequest)) {
        if let Some(request) = self.lock().get_mut(entry.0) {
            change(request);
        }
    }

    pub(super) fn requests(&self) -> Vec<WireRequest> {
        self.lock().clone()
    }

    pub(super) fn counts(&self) -> RequestCounts {
        let mut counts = RequestCounts::default();
        for request in &*self.lock() {
            counts.bytes_sent += request.bytes_up;
            counts.bytes_received += request.bytes_down;
            let counter = match request.kind {
                RequestKind::Put => &mut counts.put,
                RequestKind::Get => &mut counts.get,
                RequestKind::List => &mut counts.list,
                RequestKind::Head => &mut counts.head,
                RequestKind::Delete => &mut counts.delete,
                RequestKind::Copy => &mut counts.copy,
                RequestKind::Multipart => &mut counts.multipart,
                RequestKind::Other => continue,
            };
            *counter += 1;
        }
        counts
    }
}
