//! What happened, in order: what two runs of one seed have in common, and what a failing test shows.

use std::fmt;
use std::time::Duration;

use crate::{ErrorKind, Operation};

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who sends it.
    pub client: String,
    /// The number of the request among this client's, from 1.
    pub number: u64,
    /// What it is.
    pub operation: Operation,
    /// The key or prefix that it names; of a bulk delete the first key.
    pub key: String,
}

/// A moment of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was sent. What goes wrong with it, if anything does.
    Sent(Option<String>),
    /// It took effect, or was refused by the store itself.
    TookEffect(Result<(), ErrorKind>),
    /// The caller got its answer.
    Answered(Result<(), ErrorKind>),
    /// The client died with it.
    Killed,
}

/// An event and when it happened, counted from the beginning of the simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// When.
    pub at: Duration,
    /// Of which request.
    pub request: Request,
    /// What.
    pub event: Event,
}

impl fmt::Display for TraceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { client, number, operation, key } = &self.request;
        write!(f, "{:10.3} s  {client} #{number} {} {key}: ", self.at.as_secs_f64(), operation.verb())?;
        match &self.event {
            Event::Sent(None) => f.write_str("sent"),
            Event::Sent(Some(fault)) => write!(f, "sent, meets {fault}"),
            Event::TookEffect(result) => write!(f, "took effect: {}", phrase(result)),
            Event::Answered(result) => write!(f, "answered: {}", phrase(result)),
            Event::Killed => f.write_str("its client is killed"),
        }
    }
}

fn phrase(result: &Result<(), ErrorKind>) -> &'static str {
    match result {
        Ok(()) => "done",
        Err(kind) => kind.phrase(),
    }
}
