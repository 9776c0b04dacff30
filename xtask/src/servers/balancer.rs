//! One port before several gateways: connections go to them in turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Forwards connections until it is dropped.
#[derive(Debug)]
pub(super) struct Balancer {
    address: SocketAddr,
    /// Of its own, as it must go on while we wait for a child process.
    runtime: Option<Runtime>,
}

impl Balancer {
    /// Starts one before these ports of the loopback address.
    pub(super) fn start(upstreams: Vec<u16>) -> Result<Self> {
        let listener =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for a balancer")?;
        listener.set_nonblocking(true).context("preparing a port for a balancer")?;
        let address = listener.local_addr().context("asking for a balancer's port")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let guard = runtime.enter();
        let listener = TcpListener::from_std(listener).context("starting a balancer")?;
        drop(guard);
        runtime.spawn(accept(listener, upstreams.into()));
        Ok(Self { address, runtime: Some(runtime) })
    }

    /// Where it listens: `http://127.0.0.1:port`.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped inside another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, upstreams: Arc<[u16]>) {
    let turn = AtomicUsize::new(0);
    loop {
        // A connection that broke before it was accepted is the client's to notice.
        let Ok((client, _)) = listener.accept().await else { continue };
        let upstream = upstreams[turn.fetch_add(1, Ordering::Relaxed) % upstreams.len()];
        tokio::spawn(forward(client, upstream));
    }
}

async fn forward(mut client: TcpStream, upstream: u16) {
    // How a connection ends is the client's to notice.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A port where the first connection is answered with `answer`.
    fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(answer.as_bytes()).unwrap());
        port
    }

    #[test]
    fn connections_go_to_the_gateways_in_turn() {
        let balancer = Balancer::start(vec![answering("one"), answering("two")]).unwrap();
        let said = || {
            let mut said = String::new();
            TcpStream::connect(balancer.address).unwrap().read_to_string(&mut said).unwrap();
            said
        };
        assert_eq!([said(), said()], ["one", "two"]);
    }
}
