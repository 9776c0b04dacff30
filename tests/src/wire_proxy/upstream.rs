//! Connections to the upstream.

use std::io;
use std::sync::{Mutex, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::WireBody;

/// Where requests go.
#[derive(Debug)]
pub(super) struct Upstream {
    /// `host:port`.
    authority: String,
    /// Connections that have been used, where they are used again.
    kept: Option<Mutex<Vec<SendRequest<WireBody>>>>,
}

impl Upstream {
    /// One that every request gets a connection of its own to.
    pub(super) fn new(authority: &str) -> Self {
        Self { authority: authority.to_owned(), kept: None }
    }

    /// One to which connections are used again.
    pub(super) fn kept(authority: &str) -> Self {
        Self { authority: authority.to_owned(), kept: Some(Mutex::default()) }
    }

    /// Sends a request, and gives the answer as soon as its head has come.
    pub(super) async fn send(&self, request: Request<WireBody>) -> io::Result<Response<Incoming>> {
        let mut sender = match self.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok(answer)
    }

    /// A connection whose last answer is through.
    fn take(&self) -> Option<SendRequest<WireBody>> {
        let mut kept = self.kept.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|sender| !sender.is_closed());
        let idle = kept.iter().position(SendRequest::is_ready)?;
        Some(kept.swap_remove(idle))
    }

    /// Whether the next request finds a connection that is kept.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let idle = self.take();
        let is_idle = idle.is_some();
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(idle);
        }
        is_idle
    }

    async fn connect(&self) -> io::Result<SendRequest<WireBody>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
