//! The last 64 bytes of the index frame: how long everything is, and the checksums that tie it together.

use crate::codec::Fields;
use crate::{Crc32c, FormatError};

pub(super) const FOOTER_LEN: usize = 64;
/// Marks the index frame: one of the sixteen numbers that zstd reserves for skippable frames. 0x184D2A50 is used by
/// pzstd and zstd:chunked, 0x184D2A5E is the seek table.
pub(super) const INDEX_MAGIC: u32 = 0x184D_2A5B;
/// Magic and length of a skippable frame.
pub(super) const INDEX_HEADER_LEN: usize = 8;
const MAGIC: [u8; 8] = *b"LPBNDL1\n";
const VERSION: u16 = 1;

/// Fields in the order of their bytes, all little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) body_len: u32,
    pub(super) body_crc32c: Crc32c,
    /// Where the frames end and the index frame begins.
    pub(super) data_end: u64,
    /// The length of the whole object.
    pub(super) object_len: u64,
    /// The checksum of all bytes before `data_end`.
    pub(super) data_crc32c: Crc32c,
    pub(super) frames: u32,
    pub(super) layers: u32,
    pub(super) seek_len: u32,
    pub(super) seek_crc32c: Crc32c,
}

impl Footer {
    pub(super) fn encode(&self) -> [u8; FOOTER_LEN] {
        let Self {
            body_len,
            body_crc32c,
            data_end,
            object_len,
            data_crc32c,
            frames,
            layers,
            seek_len,
            seek_crc32c,
        } = *self;
        let mut bytes = Vec::with_capacity(FOOTER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&body_len.to_le_bytes());
        bytes.extend_from_slice(&body_crc32c.0.to_le_bytes());
        bytes.extend_from_slice(&data_end.to_le_bytes());
        bytes.extend_from_slice(&object_len.to_le_bytes());
        bytes.extend_from_slice(&data_crc32c.0.to_le_bytes());
        bytes.extend_from_slice(&frames.to_le_bytes());
        bytes.extend_from_slice(&layers.to_le_bytes());
        bytes.extend_from_slice(&seek_len.to_le_bytes());
        bytes.extend_from_slice(&seek_crc32c.0.to_le_bytes());
        let mut footer = [0; FOOTER_LEN];
        footer[..60].copy_from_slice(&bytes);
        footer[60..].copy_from_slice(&Crc32c::of(&bytes).0.to_le_bytes());
        footer
    }

    /// Decodes the footer that lies at `offset` of the object.
    pub(super) fn decode(bytes: &[u8; FOOTER_LEN], offset: u64) -> Result<Self, FormatError> {
        let mut fields = Fields::new("footer", bytes);
        if fields.bytes()? != MAGIC {
            return Err(FormatError::Magic { what: "bundle" });
        }
        let crc32c = Crc32c(Fields::new("footer", &bytes[60..]).u32()?);
        FormatError::check_crc32c("footer", offset, &bytes[..60], crc32c)?;
        let (_version, needed, flags) = (fields.u16()?, fields.u16()?, fields.u32()?);
        if needed > VERSION {
            return Err(FormatError::TooNew { what: "bundle", needed, supported: VERSION });
        }
        if flags != 0 {
            return Err(FormatError::malformed("footer", format!("unknown flags {flags:#x}")));
        }
        Ok(Self {
            body_len: fields.u32()?,
            body_crc32c: Crc32c(fields.u32()?),
            data_end: fields.u64()?,
            object_len: fields.u64()?,
            data_crc32c: Crc32c(fields.u32()?),
            frames: fields.u32()?,
            layers: fields.u32()?,
            seek_len: fields.u32()?,
            seek_crc32c: Crc32c(fields.u32()?),
        })
    }
}
