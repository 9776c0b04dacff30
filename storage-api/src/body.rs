//! Bytes to be stored, together with their checksum.

use std::fmt;

use bytes::Bytes;

/// A CRC32C (Castagnoli) checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Crc32c(pub u32);

impl Crc32c {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }

    /// The checksum of what this is the checksum of, followed by `bytes`.
    #[must_use]
    pub fn append(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }
}

impl fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The bytes of a put or of a part, with the CRC32C that the store must find them to have.
///
/// The checksum is made where the bytes are made; what damages them on the way is then refused by the store.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Bytes,
    crc32c: Crc32c,
}

impl Body {
    /// `bytes` with their checksum computed now.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let crc32c = Crc32c::of(&bytes);
        Self { bytes, crc32c }
    }

    /// `bytes` with a checksum that was computed as they were made.
    pub fn with_crc32c(bytes: impl Into<Bytes>, crc32c: Crc32c) -> Self {
        Self { bytes: bytes.into(), crc32c }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What the bytes' checksum must be.
    pub fn crc32c(&self) -> Crc32c {
        self.crc32c
    }

    /// Whether the bytes still have their checksum.
    pub fn is_intact(&self) -> bool {
        Crc32c::of(&self.bytes) == self.crc32c
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
