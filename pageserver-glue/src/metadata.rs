//! What a pageserver's timeline `metadata` file says. The bytes are stored unchanged; a file that does not parse is
//! carried as opaque bytes.
//!
//! Both forms are 512 bytes, integers big-endian but for the trailer's. They share the body:
//!
//! ```text
//! u64 disk_consistent_lsn
//! u8 tag (0 or 1) [ u64 prev_record_lsn ]
//! u8 tag (0 or 1) [ 16 bytes ancestor timeline ]
//! u64 ancestor_lsn
//! u64 latest_gc_cutoff, u64 initdb_lsn        0 in the oldest files
//! u32 pg_version                              in version 4 only
//!
//! trailer form: body, zeros to 508, u32 little-endian crc32c of bytes 0..508
//! header form:  u32 crc32c of bytes 8..size, u16 size, u16 version (3 or 4), body up to size, zeros to 512
//! ```

use layer_archive::{Crc32c, Lsn, TimelineId};

#[cfg(test)]
mod tests;

/// The length of a metadata file of either form.
pub const METADATA_BYTES: usize = 512;

const TRAILER_AT: usize = METADATA_BYTES - 4;
const HEADER_LEN: usize = 8;

/// How a metadata file is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataForm {
    /// The oldest: a checksum in the last 4 bytes.
    Trailer,
    /// A header, version 3.
    HeaderV3,
    /// A header, version 4, which knows PostgreSQL's version.
    HeaderV4,
}

/// How far a timeline is durable, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedMetadata {
    /// Everything up to here is in layer files.
    pub disk_consistent_lsn: Lsn,
    /// The record before `disk_consistent_lsn`, where the pageserver knew it.
    pub prev_record_lsn: Option<Lsn>,
    /// The timeline this one was branched from, and the LSN on it.
    pub ancestor: Option<(TimelineId, Lsn)>,
    /// What is older may have been collected; `Lsn(0)` in files older than the field.
    pub latest_gc_cutoff: Lsn,
    /// Where the timeline's history begins; `Lsn(0)` in files older than the field.
    pub initdb_lsn: Lsn,
    /// PostgreSQL's major version, as in 15; version 4 only.
    pub pg_version: Option<u32>,
    /// Which form the file has.
    pub form: MetadataForm,
}

/// Why a metadata file could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Neither form has this length.
    #[error("it has {0} bytes, not {METADATA_BYTES}")]
    Length(usize),
    /// The checksum is wrong, or the form is unknown.
    #[error("it has neither a trailer nor a header of version 3 or 4 with the right checksum")]
    Checksum,
    /// The checksum is right and the fields are not.
    #[error("its checksum is right, but byte {at} is not what its form has there")]
    Body {
        /// The offset in the file, in bytes.
        at: usize,
    },
}

impl ParsedMetadata {
    /// Reads a metadata file of either form. No byte goes unchecked: each is under the checksum or must be zero.
    pub fn parse(file: &[u8]) -> Result<Self, MetadataError> {
        let file: &[u8; METADATA_BYTES] = file.try_into().map_err(|_| MetadataError::Length(file.len()))?;
        let (form, mut body) = if Crc32c::of(&file[..TRAILER_AT]).0.to_le_bytes() == file[TRAILER_AT..] {
            (MetadataForm::Trailer, Body { file, at: 0, end: TRAILER_AT })
        } else {
            find_header(file).ok_or(MetadataError::Checksum)?
        };
        let metadata = body.read(form)?;
        let padding_end = if form == MetadataForm::Trailer { TRAILER_AT } else { METADATA_BYTES };
        match (body.at..padding_end).find(|&at| file[at] != 0) {
            Some(at) => Err(MetadataError::Body { at }),
            None => Ok(metadata),
        }
    }
}

/// The form and the body that a header with the right checksum declares.
fn find_header(file: &[u8; METADATA_BYTES]) -> Option<(MetadataForm, Body<'_>)> {
    let &[a, b, c, d, size_high, size_low, version_high, version_low] = file.first_chunk::<HEADER_LEN>()?;
    let form = match u16::from_be_bytes([version_high, version_low]) {
        3 => MetadataForm::HeaderV3,
        4 => MetadataForm::HeaderV4,
        _ => return None,
    };
    let end = usize::from(u16::from_be_bytes([size_high, size_low]));
    let checksum = Crc32c::of(file.get(HEADER_LEN..end)?);
    (checksum.0 == u32::from_be_bytes([a, b, c, d])).then_some((form, Body { file, at: HEADER_LEN, end }))
}

/// The fields of a metadata file, read one after the other.
struct Body<'a> {
    file: &'a [u8; METADATA_BYTES],
    at: usize,
    end: usize,
}

impl Body<'_> {
    fn read(&mut self, form: MetadataForm) -> Result<ParsedMetadata, MetadataError> {
        let disk_consistent_lsn = self.lsn()?;
        let prev_record_lsn = if self.is_some()? { Some(self.lsn()?) } else { None };
        let ancestor = if self.is_some()? { Some(self.timeline()?) } else { None };
        let ancestor_lsn = self.lsn()?;
        Ok(ParsedMetadata {
            disk_consistent_lsn,
            prev_record_lsn,
            ancestor: ancestor.map(|timeline| (timeline, ancestor_lsn)),
            latest_gc_cutoff: self.lsn()?,
            initdb_lsn: self.lsn()?,
            pg_version: if form == MetadataForm::HeaderV4 {
                Some(u32::from_be_bytes(self.take()?))
            } else {
                None
            },
            form,
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MetadataError> {
        let body = self.file.get(self.at..self.end);
        let field = *body.and_then(<[u8]>::first_chunk).ok_or(MetadataError::Body { at: self.at })?;
        self.at += N;
        Ok(field)
    }

    fn lsn(&mut self) -> Result<Lsn, MetadataError> {
        self.take().map(u64::from_be_bytes).map(Lsn)
    }

    fn is_some(&mut self) -> Result<bool, MetadataError> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(MetadataError::Body { at: self.at - 1 }),
        }
    }

    fn timeline(&mut self) -> Result<TimelineId, MetadataError> {
        let at = self.at;
        let id = u128::from_be_bytes(self.take()?);
        format!("{id:032x}").parse().map_err(|_| MetadataError::Body { at })
    }
}
