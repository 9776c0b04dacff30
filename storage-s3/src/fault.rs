//! What went wrong in the words of S3, and its kind among the errors of stores: one table.
//!
//! An error of the SDK ends here. Its texts repeat each other and its `Debug` shows whole answers; what is kept is one
//! sentence that says the cause and the remedy, with the request's id.

mod codes;
mod connection;

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use storage_api::{ErrorKind, Operation, StorageError};

use crate::answer::NotAnAnswer;
use crate::within::NoProgress;

/// The name of this kind of store in errors.
pub(crate) const BACKEND: &str = "s3";

/// The most characters of a text from elsewhere that a message repeats.
const QUOTED_MAX: usize = 200;

/// What messages say of where the store is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) bucket: String,
    /// The endpoint, or AWS.
    pub(crate) at: String,
    /// The region of the requests' signatures.
    pub(crate) region: String,
}

/// A failure before it is known to which key it happened.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: ErrorKind,
    /// S3's word for it; empty where it has none.
    code: String,
    text: String,
    retry_after: Option<Duration>,
}

/// The whole cause of an error, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

impl Fault {
    pub(crate) fn new(kind: ErrorKind, text: String) -> Self {
        Self { kind, code: String::new(), text, retry_after: None }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// S3's word for it, or nothing.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// The whole error.
    pub(crate) fn into_error(self, operation: Operation, key: &str) -> StorageError {
        let error = StorageError::new(self.kind, operation, key, BACKEND).with_source(Cause(self.text));
        match self.retry_after {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }

    /// An answer that no S3 server gives.
    pub(crate) fn not_s3(what: &str, place: &Place) -> Self {
        let text = format!("{} sent {what}: check that the endpoint is that of an S3 server", place.at);
        Self::new(ErrorKind::Unexpected, text)
    }

    /// Nothing came.
    pub(crate) fn of_silence(silence: NoProgress, place: &Place) -> Self {
        Self::new(ErrorKind::Timeout, format!("{}: {silence}", place.at))
    }

    /// A body that broke off.
    pub(crate) fn of_body(error: &(dyn StdError + 'static), place: &Place) -> Self {
        let text = format!("the answer of {} broke off: {}", place.at, quoted(&innermost(error)));
        Self::new(ErrorKind::Interrupted, text)
    }

    /// A request that failed.
    pub(crate) fn of_sdk<E>(error: &SdkError<E>, operation: Operation, place: &Place) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        if let Some(wrong) = chain(error).find_map(|error| error.downcast_ref::<CredentialsError>()) {
            return connection::no_credentials(wrong);
        }
        if let Some(wrong) = chain(error).find_map(|error| error.downcast_ref::<NotAnAnswer>()) {
            return Self::of_no_answer(wrong, operation, place);
        }
        match error {
            SdkError::ServiceError(answered) => {
                let (code, message) = (answered.err().code(), answered.err().message());
                let answer = Answer::of(answered.raw(), code, message);
                answer.fault(operation, place)
            }
            SdkError::ResponseError(_) if chain(error).any(connection::is_broken_body) => {
                Self::of_body(error, place)
            }
            SdkError::ResponseError(answered) => {
                let status = answered.raw().status().as_u16();
                Self::not_s3(&format!("what cannot be read as an answer of S3, with status {status}"), place)
            }
            _ => connection::failed(error, place),
        }
    }

    /// An error that is told of one key of many, without a status of its own.
    pub(crate) fn of_code(code: &str, message: &str, operation: Operation, place: &Place) -> Self {
        Answer { code, message, ..Answer::default() }.fault(operation, place)
    }

    fn of_no_answer(wrong: &NotAnAnswer, operation: Operation, place: &Place) -> Self {
        match *wrong {
            NotAnAnswer::Range => Self::not_s3("a status and a range that do not fit together", place),
            NotAnAnswer::Page { status } => {
                let kind = match codes::of_status(status, operation) {
                    // A page is no word of the store on what it has.
                    ErrorKind::NotFound | ErrorKind::StoreMissing | ErrorKind::AlreadyExists => {
                        ErrorKind::Unexpected
                    }
                    kind => kind,
                };
                let text = format!(
                    "{} answered {status} with a web page: check the endpoint, and what stands before the store (a \
                     proxy, a portal)",
                    place.at
                );
                Self::new(kind, text)
            }
        }
    }
}

/// What an answer says of a failure.
#[derive(Debug, Default)]
struct Answer<'a> {
    /// 0 where there is none.
    status: u16,
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
    /// The region that the bucket is in, if it is told.
    region: Option<&'a str>,
    retry_after: Option<Duration>,
}

impl<'a> Answer<'a> {
    fn of(raw: &'a HttpResponse, code: Option<&'a str>, message: Option<&'a str>) -> Self {
        let header = |name: &str| raw.headers().get(name);
        let message = message.unwrap_or_default();
        // "the region 'x' is wrong; expecting 'y'"
        let expected = message.split_once("expecting '").and_then(|(_, rest)| rest.split_once('\''));
        Self {
            status: raw.status().as_u16(),
            code: code.unwrap_or_default(),
            message,
            request_id: header("x-amz-request-id").unwrap_or_default(),
            region: header("x-amz-bucket-region").or(expected.map(|(region, _)| region)),
            retry_after: retry_after(header("retry-after"), header("date")),
        }
    }

    fn fault(&self, operation: Operation, place: &Place) -> Fault {
        let (kind, meaning) = self.meaning(operation, place);
        let mut text = match (self.status, self.code) {
            (0, code) => format!("the store says {}", quoted(code)),
            (status, "") => format!("the store answered {status}"),
            (status, code) => format!("the store answered {status} {}", quoted(code)),
        };
        text.push_str(": ");
        text.push_str(&meaning);
        if !self.request_id.is_empty() {
            text.push_str(&format!(" (request {})", quoted(self.request_id)));
        }
        Fault { kind, code: self.code.to_owned(), text, retry_after: self.retry_after }
    }

    /// The kind, and what it means and what to do.
    fn meaning(&self, operation: Operation, place: &Place) -> (ErrorKind, String) {
        if let Some(region) = self.region.filter(|region| *region != place.region && self.is_of_region()) {
            let text = format!(
                "the bucket {:?} is in the region {:?} and was asked for in {:?}: add region={} to the URL",
                place.bucket,
                quoted(region),
                place.region,
                quoted(region)
            );
            return (ErrorKind::Invalid, text);
        }
        if operation == Operation::PutCreate && self.is_of_condition() {
            let text = "it cannot create an object only where there is none (If-None-Match), so that it cannot keep \
                        two writers apart: use another store";
            return (ErrorKind::Unsupported, text.to_owned());
        }
        let known = codes::of_code(self.code, operation);
        let kind = known.map_or_else(|| codes::of_status(self.status, operation), |(kind, _)| kind);
        let remedy = known.map_or("", |(_, remedy)| remedy);
        let text = match (kind, remedy) {
            (ErrorKind::StoreMissing, _) => {
                format!(
                    "there is no bucket {:?} at {}: create it, or correct the bucket or the endpoint in the URL",
                    place.bucket, place.at
                )
            }
            // What a store says of credentials may repeat them.
            (ErrorKind::Unauthenticated, "") => codes::UNAUTHENTICATED.to_owned(),
            (_, "") if self.message.is_empty() => codes::remedy(kind).to_owned(),
            (_, "") => format!("{}: {}", quoted(self.message), codes::remedy(kind)),
            (_, remedy) => remedy.to_owned(),
        };
        (kind, text)
    }

    /// Whether the failure can be that the request went to another region than the bucket's.
    fn is_of_region(&self) -> bool {
        matches!(self.status, 301 | 307 | 308 | 400)
    }

    /// Whether the condition of a create-only put is what is refused.
    fn is_of_condition(&self) -> bool {
        let names_it = self.message.to_ascii_lowercase().contains("none-match");
        matches!(self.status, 501) || self.code == "NotImplemented" || (self.status == 400 && names_it)
    }
}

/// The wait that an answer asks for: seconds, or the time until which, which the answer's own date is subtracted from.
fn retry_after(value: Option<&str>, date: Option<&str>) -> Option<Duration> {
    let value = value?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    until.duration_since(httpdate::parse_http_date(date?).ok()?).ok()
}

/// A text from elsewhere: bounded, and on one line.
fn quoted(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    text.chars().take(QUOTED_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error and its sources.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// What is at the end of a chain of errors.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}
