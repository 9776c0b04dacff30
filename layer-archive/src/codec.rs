//! Frozen structs to bytes and back: postcard without slack, sections, bounded tables.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Crc32c, FormatError, Lsn, LsnRange, frame, limits};

/// Set in a section's version: a reader that does not know the tag must refuse the object.
const CRITICAL: u16 = 1 << 15;
/// Set in a section's version: the body is one zstd frame.
const COMPRESSED: u16 = 1 << 14;
/// The bits of the version proper.
const VERSION: u16 = COMPRESSED - 1;
/// Tag, version, length, checksum.
const SECTION_HEADER_LEN: usize = 12;
/// Indexes are small and read at every open: more effort than layers get costs nothing that matters.
const SECTION_LEVEL: i32 = 6;

/// A table with at most [`limits::READ_ROWS_MAX`] rows; more are refused before they are held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows<T>(pub(crate) Vec<T>);

impl<T: Serialize> Serialize for Rows<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RowsVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for RowsVisitor<T> {
            type Value = Rows<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a table of at most {} rows", limits::READ_ROWS_MAX)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Rows<T>, A::Error> {
                let mut table = Vec::with_capacity(rows.size_hint().unwrap_or(0).min(4096));
                while let Some(row) = rows.next_element()? {
                    if table.len() == limits::READ_ROWS_MAX {
                        return Err(serde::de::Error::custom("too many rows"));
                    }
                    table.push(row);
                }
                Ok(Rows(table))
            }
        }

        deserializer.deserialize_seq(RowsVisitor(std::marker::PhantomData))
    }
}

/// A `u32` that takes 4 bytes whatever its value: a checksum as a varint would take 5.
pub(crate) mod fixed {
    pub(crate) use postcard::fixint::le::{deserialize, serialize};
}

pub(crate) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, FormatError> {
    postcard::to_stdvec(value).map_err(|error| FormatError::malformed(what, error.to_string()))
}

/// Decodes a whole value: bytes left over mean that the struct is not the one that was written.
pub(crate) fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, FormatError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(FormatError::malformed(what, format!("{} bytes too many", rest.len()))),
        Err(error) => Err(FormatError::malformed(what, error.to_string())),
    }
}

/// An optional LSN range as every struct writes it.
pub(crate) fn lsn_pair(range: Option<LsnRange>) -> Option<(u64, u64)> {
    range.map(|range| (range.start().0, range.end().0))
}

pub(crate) fn lsn_range(pair: Option<(u64, u64)>) -> Result<Option<LsnRange>, FormatError> {
    let empty = || FormatError::malformed("LSN range", "it is empty");
    pair.map(|(start, end)| LsnRange::new(Lsn(start), Lsn(end)).ok_or_else(empty)).transpose()
}

pub(crate) fn compress(what: &'static str, plain: &[u8], level: i32) -> Result<Vec<u8>, FormatError> {
    zstd::bulk::compress(plain, level).map_err(|error| FormatError::malformed(what, error.to_string()))
}

/// Decompresses one zstd frame that says its length, which is at most `limit`.
pub(crate) fn decompress(what: &'static str, stored: &[u8], limit: u64) -> Result<Vec<u8>, FormatError> {
    let declared = match zstd::zstd_safe::get_frame_content_size(stored) {
        Ok(Some(len)) => len,
        _ => return Err(FormatError::malformed(what, "its zstd frame does not say its length")),
    };
    FormatError::check_limit(what, declared, limit)?;
    if !frame::is_one_frame(stored) {
        return Err(FormatError::malformed(what, "it is not one whole zstd frame"));
    }
    let len = usize::try_from(declared).map_err(|_| FormatError::Limit {
        what,
        value: declared,
        limit: usize::MAX as u64,
    })?;
    let plain = zstd::bulk::decompress(stored, len)
        .map_err(|error| FormatError::malformed(what, error.to_string()))?;
    if plain.len() == len {
        Ok(plain)
    } else {
        Err(FormatError::malformed(what, "it is shorter than it says"))
    }
}

/// A section as it was found: its body is checked against its checksum and not yet decoded.
pub(crate) struct Section<'a> {
    pub(crate) tag: u16,
    version: u16,
    stored: &'a [u8],
}

impl Section<'_> {
    pub(crate) fn version(&self) -> u16 {
        self.version & VERSION
    }

    pub(crate) fn is_critical(&self) -> bool {
        self.version & CRITICAL != 0
    }

    /// The body, decompressed where it is compressed.
    pub(crate) fn plain(&self, what: &'static str) -> Result<Vec<u8>, FormatError> {
        if self.version & COMPRESSED == 0 {
            return Ok(self.stored.to_vec());
        }
        decompress(what, self.stored, limits::READ_SECTION_PLAIN_MAX)
    }
}

/// Appends a section that readers must know, compressed where that makes it smaller.
pub(crate) fn append_section(
    out: &mut Vec<u8>,
    tag: u16,
    version: u16,
    what: &'static str,
    plain: &[u8],
) -> Result<(), FormatError> {
    let compressed = compress(what, plain, SECTION_LEVEL)?;
    let (flags, body) = if compressed.len() < plain.len() {
        (CRITICAL | COMPRESSED, &*compressed)
    } else {
        (CRITICAL, plain)
    };
    let len = u32::try_from(body.len()).map_err(|_| FormatError::Limit {
        what,
        value: body.len() as u64,
        limit: u64::from(u32::MAX),
    })?;
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&(version | flags).to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&Crc32c::of(body).0.to_le_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// Cuts `body`, which begins at `offset` of the object, into sections.
pub(crate) fn sections(body: &[u8], offset: u64) -> Result<Vec<Section<'_>>, FormatError> {
    let mut sections = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        if sections.len() == limits::READ_SECTIONS_MAX {
            return Err(FormatError::malformed("index", "too many sections"));
        }
        let at = offset + (body.len() - rest.len()) as u64;
        let mut fields = Fields::new("section", rest);
        let (tag, version, len, crc32c) = (fields.u16()?, fields.u16()?, fields.u32()?, fields.u32()?);
        let after = &rest[SECTION_HEADER_LEN..];
        let truncated =
            FormatError::Truncated { what: "section", needed: u64::from(len), available: after.len() as u64 };
        let (stored, next) =
            usize::try_from(len).ok().and_then(|len| after.split_at_checked(len)).ok_or(truncated)?;
        FormatError::check_crc32c("section", at + SECTION_HEADER_LEN as u64, stored, Crc32c(crc32c))?;
        sections.push(Section { tag, version, stored });
        rest = next;
    }
    Ok(sections)
}

/// Reads little-endian integers off the front of bytes.
pub(crate) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let Some((field, rest)) = self.rest.split_first_chunk::<N>() else {
            let available = self.rest.len() as u64;
            return Err(FormatError::Truncated { what: self.what, needed: N as u64, available });
        };
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.bytes().map(u64::from_le_bytes)
    }
}
