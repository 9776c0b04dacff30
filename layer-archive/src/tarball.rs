//! The tar stream inside a bundle: the exact bytes around every layer.
//!
//! Members have GNU headers with mode 0600 and no owner, group or time, so that equal layers make equal bytes; names
//! over 100 bytes are written as GNU `L` (and link targets as GNU `K`) members, never as pax records, whose `size`
//! overrides have let tar parsers disagree (CVE-2025-62518).

use std::io;

use tar::{Builder, EntryType, Header};

use crate::{FormatError, LayerName};

/// Tar's unit.
pub(crate) const BLOCK: u64 = 512;

/// What ends a tar stream: two blocks of zeros.
pub(crate) const END: [u8; 1024] = [0; 1024];

/// The header blocks in front of a member of `size` bytes.
pub fn member_header(name: &LayerName, size: u64) -> Result<Vec<u8>, FormatError> {
    let mut header = header(EntryType::Regular, size);
    render(name, |builder| builder.append_data(&mut header, name.as_str(), io::empty()))
}

/// The header blocks of a hard link to an earlier member.
pub(crate) fn link_header(name: &LayerName, target: &LayerName) -> Result<Vec<u8>, FormatError> {
    let mut header = header(EntryType::Link, 0);
    render(name, |builder| builder.append_link(&mut header, name.as_str(), target.as_str()))
}

/// How many zeros follow a member's `size` bytes, so that the next header begins at a block.
pub fn padding_len(size: u64) -> usize {
    usize::try_from((BLOCK - size % BLOCK) % BLOCK).unwrap_or(0)
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn render(
    name: &LayerName,
    append: impl FnOnce(&mut Builder<Vec<u8>>) -> io::Result<()>,
) -> Result<Vec<u8>, FormatError> {
    let mut builder = Builder::new(Vec::new());
    append(&mut builder).map_err(|error| {
        FormatError::malformed("tar header", format!("{name:?} cannot be a member: {error}"))
    })?;
    // Taken before the builder is dropped, which would end the stream.
    Ok(std::mem::take(builder.get_mut()))
}
