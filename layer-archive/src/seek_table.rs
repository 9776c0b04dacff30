//! The seek table of the public "zstd seekable format" 0.1.0: the last skippable frame of a bundle, by which readers
//! that know nothing of Layerpack find frames.
//!
//! Every frame before it is listed, the skippable index frame too (with no plain text), or some readers refuse the
//! file; and nothing may follow it.

use crate::codec::Fields;
use crate::{FormatError, limits};

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const HEADER_LEN: u64 = 8;
const ENTRY_LEN: u64 = 8;
/// Number of frames, descriptor, magic.
pub(crate) const FOOTER_LEN: usize = 9;

/// The whole table's length with `entries` entries.
pub(crate) fn len(entries: u64) -> u64 {
    HEADER_LEN + ENTRY_LEN * entries + FOOTER_LEN as u64
}

/// Renders the table; an entry is the stored and the plain length of a frame.
pub(crate) fn encode(entries: &[(u32, u32)]) -> Result<Vec<u8>, FormatError> {
    FormatError::check_limit("frames", entries.len() as u64, limits::READ_FRAMES_MAX + 1)?;
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let content_len = u32::try_from(len(u64::from(count)) - HEADER_LEN).unwrap_or(u32::MAX);
    let mut table = Vec::new();
    table.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    table.extend_from_slice(&content_len.to_le_bytes());
    for (stored_len, plain_len) in entries {
        table.extend_from_slice(&stored_len.to_le_bytes());
        table.extend_from_slice(&plain_len.to_le_bytes());
    }
    table.extend_from_slice(&count.to_le_bytes());
    table.push(0);
    table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    Ok(table)
}

/// How many entries the table has whose last bytes are `end`.
pub(crate) fn entry_count(end: &[u8; FOOTER_LEN]) -> Result<u64, FormatError> {
    let mut fields = Fields::new("seek table", end);
    let (count, [descriptor], magic) = (fields.u32()?, fields.bytes::<1>()?, fields.u32()?);
    if magic != SEEKABLE_MAGIC {
        return Err(FormatError::Magic { what: "bundle" });
    }
    if descriptor != 0 {
        return Err(FormatError::malformed("seek table", format!("descriptor {descriptor:#04x}")));
    }
    FormatError::check_limit("frames", u64::from(count), limits::READ_FRAMES_MAX + 1)?;
    Ok(u64::from(count))
}
