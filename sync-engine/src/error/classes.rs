//! What an error means for whoever meets it.

use std::io;

use storage_api::{ErrorKind, Operation};

use super::Error;

impl Error {
    /// Whether bytes came that are not what they should be, so that reading them once more may help.
    pub(crate) fn is_corrupt(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Storage(error) => error.kind() == ErrorKind::Integrity,
            _ => false,
        }
    }

    /// Whether a timeline is not what it should be, and not only out of reach: it can be rebuilt as far as it is there.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Gap { .. }) || self.is_corrupt()
    }

    /// Whether an object that was to be read is not there: lost, or deleted by gc after its layers had been moved.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_not_found() && error.operation() == Operation::Get,
            _ => false,
        }
    }

    /// Whether the disk takes nothing more, so that the next file fails like this one.
    pub(crate) fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Self::Local { source, .. } => {
                matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
            }
            _ => false,
        }
    }
}
