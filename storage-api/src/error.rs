//! Typed errors: what went wrong, in which operation, on which key, and whether a retry can help.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The result of a storage operation.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, as far as the caller's next step depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store answered, and the key does not exist.
    NotFound,
    /// The store itself does not exist: the bucket or the root directory is missing.
    StoreMissing,
    /// A put with [`PutMode::Create`](crate::PutMode::Create) lost: the key exists.
    AlreadyExists,
    /// A condition other than create-only did not hold.
    PreconditionFailed,
    /// The range lies outside the object.
    Range,
    /// The store does not know who is asking.
    Unauthenticated,
    /// The store knows who is asking and refuses.
    PermissionDenied,
    /// The store asks for fewer requests.
    Throttled,
    /// No connection, or it broke before an answer came.
    Connection,
    /// No progress for longer than the configured bound.
    Timeout,
    /// The answer began and broke off.
    Interrupted,
    /// Bytes do not match their checksum or length.
    Integrity,
    /// The store has no room left.
    StorageFull,
    /// The store cannot do this.
    Unsupported,
    /// The request makes no sense: a bug in the caller or a wrong configuration.
    Invalid,
    /// The caller gave up.
    Cancelled,
    /// Anything else, a 500 included.
    Unexpected,
}

impl ErrorKind {
    /// A short phrase for people, lower case, without a full stop.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::StoreMissing => "the store does not exist",
            Self::AlreadyExists => "already exists",
            Self::PreconditionFailed => "precondition failed",
            Self::Range => "range outside the object",
            Self::Unauthenticated => "not authenticated",
            Self::PermissionDenied => "permission denied",
            Self::Throttled => "throttled by the store",
            Self::Connection => "connection failed",
            Self::Timeout => "timed out",
            Self::Interrupted => "answer broke off",
            Self::Integrity => "checksum or length mismatch",
            Self::StorageFull => "no space left in the store",
            Self::Unsupported => "not supported by the store",
            Self::Invalid => "invalid request",
            Self::Cancelled => "cancelled",
            Self::Unexpected => "unexpected failure",
        }
    }
}

/// The operation of [`ObjectStore`](crate::ObjectStore) that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is named like the trait's method")]
pub enum Operation {
    Open,
    PutOverwrite,
    PutCreate,
    Get,
    Head,
    List,
    Delete,
    Copy,
    MultipartCreate,
    MultipartPut,
    MultipartComplete,
    MultipartAbort,
    MultipartList,
}

impl Operation {
    /// The verb phrase used in messages: "cannot VERB".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::PutOverwrite => "put",
            Self::PutCreate => "create",
            Self::Get => "read",
            Self::Head => "look up",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
            Self::MultipartCreate => "begin an upload of",
            Self::MultipartPut => "upload a part of",
            Self::MultipartComplete => "complete the upload of",
            Self::MultipartAbort => "abort the upload of",
            Self::MultipartList => "list uploads under",
        }
    }
}

/// What a retry of the same request can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryClass {
    /// The answer is final: asking again changes nothing.
    Never,
    /// The same request may simply be sent again.
    Safe,
    /// The request may have taken effect and its answer may be lost. Sending it again is allowed, but an
    /// [`ErrorKind::AlreadyExists`] that follows may be our own first attempt: read the object back and compare.
    Ambiguous,
}

/// An error of a store.
///
/// `Display` says what was being done to which key of which store and the kind; the cause is the
/// [`source`](StdError::source), which a caller prints as a chain.
#[derive(Debug)]
pub struct StorageError {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: Operation,
    key: String,
    backend: &'static str,
    retry_after: Option<Duration>,
    source: Option<Source>,
}

impl StorageError {
    /// An error of `backend` ("memory", "localfs", "s3") in `operation` on `key` (a key, a prefix or a root).
    pub fn new(kind: ErrorKind, operation: Operation, key: impl Into<String>, backend: &'static str) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                operation,
                key: key.into(),
                backend,
                retry_after: None,
                source: None,
            }),
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// The same error with the wait that the store asked for.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.inner.retry_after = Some(wait);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.inner.operation
    }

    /// The key, prefix or root it was done to.
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// Which kind of store failed.
    pub fn backend(&self) -> &'static str {
        self.inner.backend
    }

    /// How long the store asked to wait before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Whether the key does not exist in a store that answers.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether a create-only put was refused because the key exists.
    pub fn is_already_exists(&self) -> bool {
        self.kind() == ErrorKind::AlreadyExists
    }

    /// Whether the store itself was reached and has answered. An [`Unexpected`](ErrorKind::Unexpected) failure is no
    /// proof: whatever is on the way, a proxy, can answer so in its place.
    pub(crate) fn is_answer(&self) -> bool {
        match self.kind() {
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Cancelled | ErrorKind::Unexpected => {
                false
            }
            ErrorKind::NotFound
            | ErrorKind::StoreMissing
            | ErrorKind::AlreadyExists
            | ErrorKind::PreconditionFailed
            | ErrorKind::Range
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::Throttled
            | ErrorKind::Interrupted
            | ErrorKind::Integrity
            | ErrorKind::StorageFull
            | ErrorKind::Unsupported
            | ErrorKind::Invalid => true,
        }
    }

    /// Whether sending the same request again can help: an allow-list, exhaustive over kind and operation.
    pub fn retry_class(&self) -> RetryClass {
        let transient = match self.kind() {
            ErrorKind::NotFound
            | ErrorKind::StoreMissing
            | ErrorKind::AlreadyExists
            | ErrorKind::PreconditionFailed
            | ErrorKind::Range
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::StorageFull
            | ErrorKind::Unsupported
            | ErrorKind::Invalid
            | ErrorKind::Cancelled => return RetryClass::Never,
            // The store refused before it did anything.
            ErrorKind::Throttled => return RetryClass::Safe,
            // The store has the parts and has compared them: they will not have another checksum the next time.
            ErrorKind::Integrity if self.operation() == Operation::MultipartComplete => {
                return RetryClass::Never;
            }
            ErrorKind::Connection
            | ErrorKind::Timeout
            | ErrorKind::Interrupted
            | ErrorKind::Integrity
            | ErrorKind::Unexpected => self.operation(),
        };
        match transient {
            Operation::Open
            | Operation::PutOverwrite
            | Operation::Get
            | Operation::Head
            | Operation::List
            | Operation::Delete
            | Operation::Copy
            | Operation::MultipartCreate
            | Operation::MultipartPut
            | Operation::MultipartAbort
            | Operation::MultipartList => RetryClass::Safe,
            Operation::PutCreate | Operation::MultipartComplete => RetryClass::Ambiguous,
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, operation, key, backend, retry_after: _, source: _ } = &*self.inner;
        write!(f, "cannot {} {key:?} in the {backend} store: {}", operation.verb(), kind.phrase())
    }
}

impl StdError for StorageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_retried_and_lost_creates_are_ambiguous() {
        let class = |kind, operation| StorageError::new(kind, operation, "k", "test").retry_class();
        assert_eq!(class(ErrorKind::PermissionDenied, Operation::Get), RetryClass::Never);
        assert_eq!(class(ErrorKind::Unauthenticated, Operation::PutCreate), RetryClass::Never);
        assert_eq!(class(ErrorKind::Timeout, Operation::Get), RetryClass::Safe);
        assert_eq!(class(ErrorKind::Timeout, Operation::PutCreate), RetryClass::Ambiguous);
        assert_eq!(class(ErrorKind::Throttled, Operation::PutCreate), RetryClass::Safe);
    }

    #[test]
    fn message_names_operation_key_and_kind_but_not_the_source() {
        let error = StorageError::new(ErrorKind::Range, Operation::Get, "a/b", "memory")
            .with_source(std::io::Error::other("inner"));
        assert_eq!(error.to_string(), "cannot read \"a/b\" in the memory store: range outside the object");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("inner"));
    }
}
