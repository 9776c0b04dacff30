//! What can be wrong with the bytes of a bundle or a manifest.

use crate::Crc32c;

/// Bytes that are not what the format says. Offsets count from the beginning of the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The object ends before a part of it does.
    #[error("truncated: {what} needs {needed} bytes and {available} are there")]
    Truncated {
        /// The part.
        what: &'static str,
        /// How long it must be at least.
        needed: u64,
        /// How long it is.
        available: u64,
    },
    /// The object does not begin, or end, as the format does.
    #[error("not a Layerpack {what} (wrong magic number)")]
    Magic {
        /// "bundle" or "manifest".
        what: &'static str,
    },
    /// A newer program wrote this and says that older ones must not read it.
    #[error(
        "{what} needs a reader of format version {needed}, this program reads up to {supported}: upgrade it"
    )]
    TooNew {
        /// "bundle" or "manifest".
        what: &'static str,
        /// The least version that may read it.
        needed: u16,
        /// The newest version that this program reads.
        supported: u16,
    },
    /// A section that must be understood is not known to this program.
    #[error("unknown required section {tag:#06x} of version {version}: upgrade this program")]
    UnknownSection {
        /// The section's tag.
        tag: u16,
        /// The section's version.
        version: u16,
    },
    /// Bytes do not match their checksum.
    #[error("checksum mismatch of {what} at offset {offset}: {expected} recorded, {actual} computed")]
    Checksum {
        /// Which bytes.
        what: &'static str,
        /// Where they begin.
        offset: u64,
        /// The recorded CRC32C.
        expected: Crc32c,
        /// The CRC32C of the bytes.
        actual: Crc32c,
    },
    /// Contents do not match their hash although every checksum of the stored bytes holds.
    #[error("contents of {name:?} do not match their recorded {what}: {difference}")]
    Contents {
        /// The layer.
        name: String,
        /// "length", "crc32c" or "blake3".
        what: &'static str,
        /// What was recorded, and what the contents have.
        difference: String,
    },
    /// A number is beyond what a reader accepts.
    #[error("{what} is {value}, at most {limit} are accepted")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// A part does not decode, or contradicts another.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The part.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl FormatError {
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }

    /// Refuses a `value` above `limit`.
    pub(crate) fn check_limit(what: &'static str, value: u64, limit: u64) -> Result<(), Self> {
        if value > limit { Err(Self::Limit { what, value, limit }) } else { Ok(()) }
    }

    /// Refuses `bytes`, at `offset`, that do not have the checksum `expected`.
    pub(crate) fn check_crc32c(
        what: &'static str,
        offset: u64,
        bytes: &[u8],
        expected: Crc32c,
    ) -> Result<(), Self> {
        let actual = Crc32c::of(bytes);
        if actual == expected { Ok(()) } else { Err(Self::Checksum { what, offset, expected, actual }) }
    }
}
