//! A connection that can be wrecked below HTTP.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How a connection is to end, told to its [`Socket`] from where its requests are answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Wreck(Arc<Mutex<Plan>>);

#[derive(Clone, Debug, Default)]
enum Plan {
    #[default]
    None,
    /// With a TCP reset instead of an orderly end.
    Reset,
    /// These bytes are sent instead of what HTTP would send.
    Garbage(Bytes),
}

impl Wreck {
    pub(super) fn reset(&self) {
        self.set(Plan::Reset);
    }

    pub(super) fn send_instead(&self, garbage: Bytes) {
        self.set(Plan::Garbage(garbage));
    }

    fn set(&self, plan: Plan) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    fn plan(&self) -> Plan {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A TCP connection that ends as its [`Wreck`] says.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    wreck: Wreck,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, wreck: Wreck) -> Self {
        Self { stream, wreck }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Plan::Garbage(mut garbage) = self.wreck.plan() else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        while !garbage.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &garbage) {
                Poll::Ready(Ok(written)) => {
                    garbage.advance(written);
                    self.wreck.send_instead(garbage.clone());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wreck.plan() {
            Plan::Reset => Poll::Ready(Ok(())),
            Plan::None | Plan::Garbage(_) => Pin::new(&mut self.stream).poll_shutdown(context),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Plan::Reset = self.wreck.plan() {
            // Without lingering, closing sends a reset and drops what was not sent.
            let _ = self.stream.set_zero_linger();
        }
    }
}
