//! A layer as the state of a timeline knows it: what it is and where its bytes are.

use std::fmt;
use std::str::FromStr;

use crate::{Crc32c, Digest, FormatError, LayerName, LsnRange, Seq, Term, limits};

/// Names a payload object: the `number`-th that the writer of a claim made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadId {
    /// The record that is the writer's claim.
    pub claim: Seq,
    /// The claim's term.
    pub term: Term,
    /// Counts the writer's payload objects, from 0.
    pub number: u32,
}

impl fmt::Display for PayloadId {
    /// As in the object's key: `<claim, 16 hex digits>-<term, 16 hex digits>-<number, 8 hex digits>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}-{:08x}", self.claim.0, self.term, self.number)
    }
}

impl FromStr for PayloadId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let parse = || {
            let (claim, rest) = text.split_once('-')?;
            let (term, number) = rest.split_once('-')?;
            Some(Self {
                claim: Seq(lower_hex(claim, 16)?),
                term: Term(lower_hex(term, 16)?),
                number: u32::try_from(lower_hex(number, 8)?).ok()?,
            })
        };
        parse().ok_or_else(|| FormatError::malformed("payload id", format!("{text:?}")))
    }
}

fn lower_hex(text: &str, len: usize) -> Option<u64> {
    let digits = text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Names the object that holds a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BundleId {
    /// The bundle inside a record.
    Record(Seq),
    /// A bundle that is an object of its own.
    Payload(PayloadId),
}

impl fmt::Display for BundleId {
    /// As the object's key below its timeline, without the suffix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(seq) => write!(f, "log/{:016x}", seq.0),
            Self::Payload(payload) => write!(f, "payload/{payload}"),
        }
    }
}

impl FromStr for BundleId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let record = || lower_hex(text.strip_prefix("log/")?, 16).map(|seq| Self::Record(Seq(seq)));
        match text.strip_prefix("payload/") {
            Some(payload) => payload.parse().map(Self::Payload),
            None => record().ok_or_else(|| FormatError::malformed("bundle id", format!("{text:?}"))),
        }
    }
}

/// Where in a bundle a layer's bytes are: a range of whole frames, and an offset in the first frame's plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Where the first frame begins in the object.
    pub start: u64,
    /// Stored bytes of all its frames.
    pub stored_len: u64,
    /// The checksum of those stored bytes.
    pub crc32c: Crc32c,
    /// Where the layer begins in the plain text of the first frame.
    pub offset: u32,
}

impl Location {
    /// Where the frames end in the object.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.stored_len)
    }

    /// Refuses what no bundle can have.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        FormatError::check_limit("end of a layer", self.end(), limits::READ_OBJECT_BYTES_MAX)
    }
}

/// A bundle and a location in it. A layer is alive by (name, place), never by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The bundle.
    pub bundle: BundleId,
    /// Where in it.
    pub location: Location,
}

/// Length and checksums of a layer's raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawDigest {
    /// Raw bytes.
    pub size: u64,
    /// Their CRC32C.
    pub crc32c: Crc32c,
    /// The first 16 bytes of their BLAKE3.
    pub blake3: Digest,
}

impl RawDigest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = RawHasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Reads `reader` to its end and returns the digest of what came.
    pub fn of_reader(mut reader: impl std::io::Read) -> std::io::Result<Self> {
        let mut hasher = RawHasher::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(len) => hasher.update(&buffer[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Refuses the raw bytes of `name` that have the digest `actual` instead of this one.
    pub fn check(&self, name: &LayerName, actual: &Self) -> Result<(), FormatError> {
        let (what, expected, actual) = if self.size != actual.size {
            ("length", self.size.to_string(), actual.size.to_string())
        } else if self.crc32c != actual.crc32c {
            ("crc32c", self.crc32c.to_string(), actual.crc32c.to_string())
        } else if self.blake3 != actual.blake3 {
            ("blake3", self.blake3.to_string(), actual.blake3.to_string())
        } else {
            return Ok(());
        };
        let difference = format!("{expected} recorded, {actual} computed");
        Err(FormatError::Contents { name: name.to_string(), what, difference })
    }
}

/// Computes a [`RawDigest`] piece by piece.
#[derive(Clone, Debug, Default)]
pub struct RawHasher {
    size: u64,
    crc32c: Crc32c,
    blake3: blake3::Hasher,
}

impl RawHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.crc32c = self.crc32c.append(bytes);
        self.blake3.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(&self) -> RawDigest {
        RawDigest { size: self.size, crc32c: self.crc32c, blake3: Digest::from_hasher(&self.blake3) }
    }
}

/// A layer of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// Its name.
    pub name: LayerName,
    /// The LSNs it covers, where the caller said so.
    pub lsn_range: Option<LsnRange>,
    /// Its raw bytes' length and checksums.
    pub raw: RawDigest,
    /// Where its bytes are.
    pub place: Place,
    /// Its part of the stored bytes of its frames: all of them where it has them for itself, a share by plain bytes
    /// where it does not.
    pub stored_bytes: u64,
}

impl LayerEntry {
    /// Refuses what no layer of a bundle can be.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        FormatError::check_limit("layer", self.raw.size, limits::LAYER_RAW_BYTES_MAX)?;
        self.place.location.check()
    }
}
