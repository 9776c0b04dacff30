//! One request on its way to the upstream, and its answer on the way back.

use std::io;
use std::sync::Arc;

use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use storage_api::{Clock, SystemClock};

use super::Shared;
use super::body::{Direction, Ending, Tamper, WireBody, full, streamed};
use super::fault::Fault;
use super::log::{Entry, WireRequest};
use super::socket::Wreck;

/// Answers a request as the upstream does, or as a fault says. An error ends the client's connection without an
/// answer.
pub(super) async fn answer(
    shared: Arc<Shared>,
    wreck: Wreck,
    request: Request<Incoming>,
) -> io::Result<Response<WireBody>> {
    let mut logged = WireRequest::new(&request);
    let fault = shared.rules().fault(&logged);
    logged.is_broken = fault.is_some();
    let entry = shared.log.add(logged);
    let passage = Passage { shared, entry };
    let Some(fault) = fault else { return passage.forward(request, Tamper::Nothing, Tamper::Nothing).await };
    match fault {
        Fault::Answer { status, headers, body } => passage.made_up(status, &headers, body),
        Fault::ResetBefore => Err(reset(&wreck)),
        Fault::ResetAfter => {
            passage.take_effect(request).await?;
            Err(reset(&wreck))
        }
        Fault::ResetInBody(after) => passage.cut(request, after, Ending::Reset(wreck)).await,
        Fault::CloseInBody(after) => passage.cut(request, after, Ending::Close).await,
        Fault::StallInBody(after) => passage.cut(request, after, Ending::Stall).await,
        Fault::Trickle(pause) => passage.forward(request, Tamper::Nothing, Tamper::Trickle(pause)).await,
        Fault::FlipInAnswer(at) => passage.forward(request, Tamper::Nothing, Tamper::Flip(at)).await,
        Fault::FlipInRequest(at) => passage.forward(request, Tamper::Flip(at), Tamper::Nothing).await,
        Fault::Delay(time) => {
            SystemClock.sleep(time).await;
            passage.forward(request, Tamper::Nothing, Tamper::Nothing).await
        }
        Fault::StallBefore => std::future::pending().await,
        Fault::StallAfter => {
            passage.take_effect(request).await?;
            std::future::pending().await
        }
        Fault::Garbage(garbage) => {
            wreck.send_instead(garbage);
            Ok(Response::new(full("HTTP would be here".into())))
        }
    }
}

fn reset(wreck: &Wreck) -> io::Error {
    wreck.reset();
    io::Error::other("the connection is reset")
}

/// A request with its place in the log.
struct Passage {
    shared: Arc<Shared>,
    entry: Entry,
}

impl Passage {
    /// Sends the request on, and hands the answer back as it comes.
    async fn forward(
        &self,
        request: Request<Incoming>,
        up: Tamper,
        down: Tamper,
    ) -> io::Result<Response<WireBody>> {
        let answer = self.send(request, up).await?;
        self.log_status(answer.status());
        let (mut parts, body) = answer.into_parts();
        remove_hops(&mut parts.headers);
        let log = (Arc::clone(&self.shared), self.entry);
        Ok(Response::from_parts(parts, streamed(body, Direction::Down, down, log)))
    }

    async fn cut(
        &self,
        request: Request<Incoming>,
        after: u64,
        ending: Ending,
    ) -> io::Result<Response<WireBody>> {
        self.forward(request, Tamper::Nothing, Tamper::Cut(after, ending)).await
    }

    /// Sends the request on, and waits until all of its answer has come.
    async fn take_effect(&self, request: Request<Incoming>) -> io::Result<()> {
        let answer = self.send(request, Tamper::Nothing).await?;
        answer.into_body().collect().await.map_err(io::Error::other)?;
        Ok(())
    }

    fn made_up(
        &self,
        status: http::StatusCode,
        headers: &[(&'static str, &'static str)],
        body: bytes::Bytes,
    ) -> io::Result<Response<WireBody>> {
        self.log_status(status);
        let len = body.len() as u64;
        self.shared.log.update(self.entry, |request| request.bytes_down += len);
        let mut answer = Response::new(full(body));
        *answer.status_mut() = status;
        for (name, value) in headers {
            answer.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Ok(answer)
    }

    async fn send(&self, request: Request<Incoming>, tamper: Tamper) -> io::Result<Response<Incoming>> {
        let log = (Arc::clone(&self.shared), self.entry);
        let (mut parts, body) = request.into_parts();
        remove_hops(&mut parts.headers);
        let request = Request::from_parts(parts, streamed(body, Direction::Up, tamper, log));
        self.shared.upstream.send(request).await
    }

    fn log_status(&self, status: http::StatusCode) {
        self.shared.log.update(self.entry, |request| request.status = Some(status.as_u16()));
    }
}

/// Removes what is between two ends of one connection only.
fn remove_hops(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}
