//! What went wrong with which path, and its kind among the errors of stores.

use std::io;

use rustix::io::Errno;
use storage_api::{ErrorKind, Operation, StorageError};

/// The name of this kind of store in errors.
pub(crate) const BACKEND: &str = "localfs";

pub(crate) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A failure before it is known which operation of the store it fails.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path:?}")]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    doing: &'static str,
    path: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Fault {
    /// A failure that the operating system reported.
    pub(crate) fn io(doing: &'static str, path: impl Into<String>, error: io::Error) -> Self {
        Self { kind: kind_of(&error), doing, path: path.into(), source: error.into() }
    }

    /// A failure that this crate found, with what is wrong.
    pub(crate) fn new(
        kind: ErrorKind,
        doing: &'static str,
        path: impl Into<String>,
        wrong: impl Into<String>,
    ) -> Self {
        Self { kind, doing, path: path.into(), source: wrong.into().into() }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    pub(crate) fn into_storage_error(self, operation: Operation, key: &str) -> StorageError {
        StorageError::new(self.kind, operation, key, BACKEND).with_source(self)
    }
}

/// What the caller of a store can do about an error of the operating system.
fn kind_of(error: &io::Error) -> ErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => ErrorKind::NotFound,
        Some(Errno::EXIST) => ErrorKind::AlreadyExists,
        // A limit on the size of files is a full store as far as its user is concerned.
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => ErrorKind::StorageFull,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP) => ErrorKind::PermissionDenied,
        Some(Errno::NAMETOOLONG | Errno::NOTDIR | Errno::ISDIR) => ErrorKind::Invalid,
        Some(Errno::TIMEDOUT) => ErrorKind::Timeout,
        _ => ErrorKind::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_says_what_the_caller_can_do() {
        for (errno, kind) in [
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::EXIST, ErrorKind::AlreadyExists),
            (Errno::NOSPC, ErrorKind::StorageFull),
            (Errno::DQUOT, ErrorKind::StorageFull),
            (Errno::FBIG, ErrorKind::StorageFull),
            (Errno::ACCESS, ErrorKind::PermissionDenied),
            (Errno::PERM, ErrorKind::PermissionDenied),
            (Errno::ROFS, ErrorKind::PermissionDenied),
            (Errno::NAMETOOLONG, ErrorKind::Invalid),
            (Errno::IO, ErrorKind::Unexpected),
        ] {
            assert_eq!(Fault::io("test", "path", errno.into()).kind, kind, "{errno}");
        }
        let other = Fault::io("test", "path", io::Error::other("not from the system"));
        assert_eq!(other.kind, ErrorKind::Unexpected);
    }
}
