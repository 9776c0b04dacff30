//! What is broken, and when.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::log::{RequestKind, WireRequest};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is not forwarded; this is the answer.
    Answer {
        /// The status.
        status: StatusCode,
        /// Headers of the answer.
        headers: Vec<(&'static str, &'static str)>,
        /// The body.
        body: Bytes,
    },
    /// It is not forwarded; the connection is reset.
    ResetBefore,
    /// It takes effect; then the connection is reset, and the answer is lost.
    ResetAfter,
    /// The connection is reset when so many bytes of the answer's body have been sent.
    ResetInBody(u64),
    /// The connection is closed in order when so many bytes of the answer's body have been sent; the announced length
    /// stays.
    CloseInBody(u64),
    /// A bit of this byte of the answer's body is flipped.
    FlipInAnswer(u64),
    /// A bit of this byte of the request's body is flipped.
    FlipInRequest(u64),
    /// It is forwarded so much later.
    Delay(Duration),
    /// It is not forwarded and never answered.
    StallBefore,
    /// It takes effect and is never answered.
    StallAfter,
    /// Nothing more is sent when so many bytes of the answer's body have been.
    StallInBody(u64),
    /// So long nothing is sent before each piece of the answer's body (some ten to some hundred KiB).
    Trickle(Duration),
    /// It is not forwarded; bytes that are not HTTP come back.
    Garbage(Bytes),
}

impl Fault {
    /// An error as S3 answers it.
    ///
    /// # Panics
    /// If `status` is no HTTP status.
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>injected</Message><RequestId>0</RequestId></Error>"
        );
        Self::answer(status, "application/xml", body.into())
    }

    /// A page as web servers and proxies answer it.
    ///
    /// # Panics
    /// If `status` is no HTTP status.
    pub fn html(status: u16) -> Self {
        let body = "<!DOCTYPE html><html><body><h1>It works!</h1></body></html>";
        Self::answer(status, "text/html", body.into())
    }

    fn answer(status: u16, content_type: &'static str, body: Bytes) -> Self {
        let status = StatusCode::from_u16(status).expect("an HTTP status");
        Self::Answer { status, headers: vec![("content-type", content_type)], body }
    }
}

/// Which requests a fault happens to: the first one, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    kind: Option<RequestKind>,
    containing: String,
    skipped: u64,
    left: u64,
}

impl Rule {
    /// The next request, whatever it is.
    pub fn new(fault: Fault) -> Self {
        Self { fault, kind: None, containing: String::new(), skipped: 0, left: 1 }
    }

    /// Only requests of this kind.
    #[must_use]
    pub fn of(mut self, kind: RequestKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only requests whose path (percent-encoded) or query has this in it.
    #[must_use]
    pub fn containing(mut self, text: &str) -> Self {
        self.containing = text.to_owned();
        self
    }

    /// Not the first so many of them.
    #[must_use]
    pub fn skipping(mut self, requests: u64) -> Self {
        self.skipped = requests;
        self
    }

    /// So many of them.
    #[must_use]
    pub fn times(mut self, requests: u64) -> Self {
        self.left = requests;
        self
    }

    /// All of them.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    fn chooses(&self, request: &WireRequest) -> bool {
        self.left > 0
            && self.kind.is_none_or(|kind| kind == request.kind)
            && (request.path.contains(&self.containing) || request.query.contains(&self.containing))
    }
}

/// The rules of a proxy, with what is left of them.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub(super) fn add(&mut self, rule: Rule) {
        self.0.push(rule);
    }

    /// What happens to `request`.
    pub(super) fn fault(&mut self, request: &WireRequest) -> Option<Fault> {
        for rule in self.0.iter_mut().filter(|rule| rule.chooses(request)) {
            if rule.skipped > 0 {
                rule.skipped -= 1;
                continue;
            }
            rule.left -= 1;
            return Some(rule.fault.clone());
        }
        None
    }
}
