//! The small values of the formats: identifiers, positions, checksums, each a type of its own.

use std::fmt;
use std::str::FromStr;

/// Why a string is not a tenant id, a timeline id or an LSN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {expected} expected")]
pub struct InvalidId {
    what: &'static str,
    text: String,
    expected: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), expected }
    }
}

/// Why a string is not a layer name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid layer name {name:?}: {reason}")]
pub struct InvalidLayerName {
    name: String,
    reason: &'static str,
}

/// A log sequence number: a byte position in the WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As PostgreSQL prints it: two upper-case hexadecimal halves, `16/B374D848`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("LSN", text, "two hexadecimal halves as in 16/B374D848");
        let half = |half: &str| {
            let hex = (1..=8).contains(&half.len()) && half.bytes().all(|byte| byte.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(half, 16).ok()).flatten().ok_or_else(invalid)
        };
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

/// A range of LSNs that is not empty: `start` is in it, `end` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LsnRange {
    start: Lsn,
    end: Lsn,
}

impl LsnRange {
    /// The range from `start` up to, not including, `end`; `None` where that is empty.
    pub fn new(start: Lsn, end: Lsn) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The range that holds `lsn` alone, as of an image; `None` for the largest LSN, which has no successor.
    pub fn at(lsn: Lsn) -> Option<Self> {
        Some(Self { start: lsn, end: Lsn(lsn.0.checked_add(1)?) })
    }

    /// The first LSN in the range.
    pub fn start(self) -> Lsn {
        self.start
    }

    /// The first LSN after the range.
    pub fn end(self) -> Lsn {
        self.end
    }
}

/// The name of a layer: one path component of UTF-8, 1 to 255 bytes, not `.` or `..`, without `/`, `\` and NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerName(Box<str>);

impl LayerName {
    /// The longest name, in bytes: what file systems allow.
    pub const LEN_MAX: usize = 255;

    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidLayerName> {
        let name = name.into();
        let reason = match name.as_str() {
            "" => "it is empty",
            "." | ".." => "it names a directory",
            _ if name.len() > Self::LEN_MAX => "it is longer than 255 bytes",
            _ if name.contains(['/', '\\']) => "it holds a path separator",
            _ if name.contains('\0') => "it holds a NUL",
            _ => return Ok(Self(name.into_boxed_str())),
        };
        Err(InvalidLayerName { name: name.chars().take(80).collect(), reason })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for LayerName {
    type Err = InvalidLayerName;

    fn from_str(name: &str) -> Result<Self, InvalidLayerName> {
        Self::new(name)
    }
}

fn is_lower_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A tenant: 32 lower-case hexadecimal digits, of a shard with `-` and 4 more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Box<str>);

/// A timeline: 32 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(Box<str>);

impl FromStr for TenantId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let whole = is_lower_hex(text, 32);
        let shard =
            text.split_once('-').is_some_and(|(id, shard)| is_lower_hex(id, 32) && is_lower_hex(shard, 4));
        (whole || shard).then(|| Self(text.into())).ok_or_else(|| {
            InvalidId::new("tenant id", text, "32 lower-case hexadecimal digits, of a shard with -XXXX,")
        })
    }
}

impl FromStr for TimelineId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        is_lower_hex(text, 32)
            .then(|| Self(text.into()))
            .ok_or_else(|| InvalidId::new("timeline id", text, "32 lower-case hexadecimal digits"))
    }
}

impl TenantId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TimelineId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a record in its timeline's log, from 1. `Seq(0)` stands for the empty log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The number of the next record.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the reigns of writers over a timeline, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The random name of one writer's reign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The control plane's generation number of the pageserver that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// Milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// A CRC32C (Castagnoli) checksum.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// The checksum of what this is the checksum of, followed by `len` bytes that have the checksum `next`.
    #[must_use]
    pub fn combine(self, next: Self, len: usize) -> Self {
        Self(crc32c::crc32c_combine(self.0, next.0, len))
    }
}

impl fmt::Display for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The first 16 bytes of a BLAKE3 hash.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hasher(&{
            let mut hasher = blake3::Hasher::new();
            hasher.update(bytes);
            hasher
        })
    }

    pub(crate) fn from_hasher(hasher: &blake3::Hasher) -> Self {
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Self(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity of a record: the digest of its index, which covers its commit and, through their checksums, the
/// bytes of every layer in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub Digest);

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_names_are_single_components() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", &long] {
            assert!(LayerName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["x", "...", "-x", "rel_1663_1_2_0_0_0000000000000001", &long[1..], "ä"] {
            assert_eq!(LayerName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn lsn_prints_and_parses_as_postgresql_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        for bad in ["", "/", "1/", "/1", "1/2/3", "g/1", "+1/2", "123456789/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn ids_are_lower_case_hexadecimal() {
        let id = "1f8ae1ef8989d5601e73fd13ae3dcd26";
        assert_eq!(id.parse::<TimelineId>().unwrap().as_str(), id);
        assert_eq!(format!("{id}-0102").parse::<TenantId>().unwrap().to_string(), format!("{id}-0102"));
        for bad in [
            "",
            "1F8AE1EF8989D5601E73FD13AE3DCD26",
            &id[1..],
            "../etc",
            &format!("{id}-01"),
            &format!("{id}-"),
        ] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?} was accepted");
        }
        assert!(format!("{id}-0102").parse::<TimelineId>().is_err());
    }

    #[test]
    fn digest_is_the_first_half_of_blake3() {
        // The BLAKE3 of nothing, from the test vectors of its specification.
        assert_eq!(Digest::of(b"").to_string(), "af1349b9f5f9a1a6a0404dea36dcc949");
        assert_eq!(Crc32c::of(b"123456789").to_string(), "e3069283");
    }
}
