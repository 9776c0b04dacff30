//! Bodies on their way: counted, cut, flipped.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use storage_api::{Clock, SystemClock};

use super::Shared;
use super::log::Entry;
use super::socket::Wreck;

/// A body of either direction.
pub(super) type WireBody = UnsyncBoxBody<Bytes, io::Error>;

/// How long what was sent has to leave before the connection is wrecked.
const FLUSH_TIME: Duration = Duration::from_millis(50);

/// Which way a body goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Up,
    Down,
}

/// What is done to a body.
#[derive(Clone, Debug)]
pub(super) enum Tamper {
    Nothing,
    /// So long nothing is sent before each piece.
    Trickle(Duration),
    /// A bit of this byte is flipped.
    Flip(u64),
    /// After so many bytes, this happens.
    Cut(u64, Ending),
}

/// How a body ends before its time.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    Close,
    Reset(Wreck),
    Stall,
}

/// A body that is there already.
pub(super) fn full(bytes: Bytes) -> WireBody {
    Full::new(bytes).map_err(never).boxed_unsync()
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

/// A body that is streamed through, counted in the log and tampered with.
pub(super) fn streamed(
    body: Incoming,
    direction: Direction,
    tamper: Tamper,
    log: (Arc<Shared>, Entry),
) -> WireBody {
    if body.is_end_stream() {
        // An empty stream would be announced as a body of unknown length.
        return Empty::new().map_err(never).boxed_unsync();
    }
    let (shared, entry) = log;
    let passage = Passage { body, direction, tamper, shared, entry, passed: 0 };
    StreamBody::new(passage.frames()).boxed_unsync()
}

/// A body halfway through.
struct Passage {
    body: Incoming,
    direction: Direction,
    tamper: Tamper,
    shared: Arc<Shared>,
    entry: Entry,
    passed: u64,
}

impl Passage {
    fn frames(self) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
        futures::stream::unfold(self, async |mut passage| {
            let frame = passage.next().await?;
            Some((frame, passage))
        })
    }

    async fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        if let Tamper::Cut(after, ending) = &self.tamper
            && self.passed >= *after
        {
            return Some(Err(end(ending).await));
        }
        let frame = match self.body.frame().await? {
            Ok(frame) => frame,
            Err(error) => return Some(Err(io::Error::other(error))),
        };
        if let Tamper::Trickle(pause) = self.tamper {
            SystemClock.sleep(pause).await;
        }
        // Only data is tampered with.
        Some(Ok(match frame.into_data() {
            Ok(data) => Frame::data(self.pass(data)),
            Err(other) => other,
        }))
    }

    /// What becomes of the next bytes.
    fn pass(&mut self, mut data: Bytes) -> Bytes {
        let len = data.len() as u64;
        match &self.tamper {
            Tamper::Flip(at) if (self.passed..self.passed + len).contains(at) => {
                let mut flipped = BytesMut::from(&data[..]);
                let index = usize::try_from(at - self.passed).unwrap_or(0);
                flipped[index] ^= 1;
                data = flipped.freeze();
            }
            Tamper::Cut(after, _) => {
                let room = usize::try_from(after.saturating_sub(self.passed)).unwrap_or(usize::MAX);
                data.truncate(room);
            }
            Tamper::Nothing | Tamper::Trickle(_) | Tamper::Flip(_) => {}
        }
        let passed = data.len() as u64;
        self.passed += passed;
        self.shared.log.update(self.entry, |request| match self.direction {
            Direction::Up => request.bytes_up += passed,
            Direction::Down => request.bytes_down += passed,
        });
        data
    }
}

/// Ends a body before its time; the error makes the HTTP library drop the connection.
async fn end(ending: &Ending) -> io::Error {
    match ending {
        Ending::Close => SystemClock.sleep(FLUSH_TIME).await,
        Ending::Reset(wreck) => {
            SystemClock.sleep(FLUSH_TIME).await;
            wreck.reset();
        }
        Ending::Stall => std::future::pending().await,
    }
    io::Error::other("the body was cut off")
}
