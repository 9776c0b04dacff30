//! An HTTP proxy between a client and an S3 endpoint, which counts what is on the wire and breaks it as told.

mod body;
mod fault;
mod forward;
mod log;
mod socket;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use storage_api::RequestCounts;
use tokio::net::TcpStream;

pub use self::fault::{Fault, Rule};
pub use self::log::{RequestKind, WireRequest};

use self::fault::Rules;
use self::log::Log;
use self::socket::{Socket, Wreck};
use self::upstream::Upstream;
use crate::serving::Serving;

/// A reverse proxy on loopback.
///
/// Requests go on unchanged, `Host` included, so that their signatures stay right. Bodies are streamed. Every request
/// goes to the upstream over a connection of its own, unless connections are [kept](Self::keeping_connections); the
/// client's connections stay open as it likes.
#[derive(Debug)]
pub struct WireProxy {
    shared: Arc<Shared>,
    serving: Serving,
}

/// What the connections of a proxy share.
#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    rules: Mutex<Rules>,
    log: Log,
}

impl WireProxy {
    /// Starts one before `upstream`, an `http://host:port`.
    ///
    /// # Panics
    /// If `upstream` is no such URL, or the machine has no port or thread left.
    pub fn start(upstream: &str) -> Self {
        Self::before(upstream, Upstream::new)
    }

    /// Starts one that uses connections to the upstream again, for measuring: a request then costs what it costs
    /// without a proxy. One that the upstream closes meanwhile fails a request.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn keeping_connections(upstream: &str) -> Self {
        Self::before(upstream, Upstream::kept)
    }

    fn before(upstream: &str, of: fn(&str) -> Upstream) -> Self {
        let authority = upstream.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let Some(authority) = authority.filter(|authority| authority.contains(':')) else {
            panic!("{upstream:?} is not http://host:port");
        };
        let shared = Shared { upstream: of(authority), rules: Mutex::default(), log: Log::default() };
        let shared = Arc::new(shared);
        let for_connections = Arc::clone(&shared);
        let serving =
            Serving::start("wire-proxy", move |stream| connection(stream, Arc::clone(&for_connections)))
                .expect("cannot start a proxy on loopback");
        Self { shared, serving }
    }

    /// What a client is told to connect to: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.serving.address())
    }

    /// Breaks the requests that `rule` chooses, from now on. Of several rules that choose a request the oldest is
    /// taken.
    pub fn inject(&self, rule: Rule) {
        self.rules().add(rule);
    }

    /// Breaks nothing any more.
    pub fn heal(&self) {
        *self.rules() = Rules::default();
    }

    /// The requests so far by kind, and the bytes of their bodies and of the answers' bodies. What is none of the
    /// kinds is only in the [`log`](Self::log).
    pub fn counts(&self) -> RequestCounts {
        self.shared.log.counts()
    }

    /// The requests so far, in the order in which they came.
    pub fn log(&self) -> Vec<WireRequest> {
        self.shared.log.requests()
    }

    /// The requests so far that were broken.
    pub fn broken(&self) -> Vec<WireRequest> {
        self.log().into_iter().filter(|request| request.is_broken).collect()
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.shared.rules()
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forwards the requests of one connection.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let wreck = Wreck::default();
    let socket = Socket::new(stream, wreck.clone());
    let service = service_fn(move |request| forward::answer(Arc::clone(&shared), wreck.clone(), request));
    // How a connection ends is the client's to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}
