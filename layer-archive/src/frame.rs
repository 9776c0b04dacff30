//! One independent zstd frame: the unit that is compressed, checked, fetched and copied.

use std::fmt;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use crate::{Crc32c, FormatError, limits};

/// A zstd compression level. A choice of the writer, not part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub i32);

impl Level {
    /// For deltas, which level 3 makes hardly smaller and twice as slow.
    pub const DELTA: Self = Self(1);
    /// For images, per-relation layers and what nobody knows.
    pub const IMAGE: Self = Self(3);
    /// For what is packed again in the background.
    pub const REPACK: Self = Self(6);
}

/// A compressed frame and what the index says of it.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedFrame {
    /// The zstd frame.
    pub stored: Bytes,
    /// The checksum of `stored`.
    pub crc32c: Crc32c,
    /// Bytes of plain text.
    pub plain_len: u32,
}

impl fmt::Debug for EncodedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedFrame({} -> {} bytes, {})", self.plain_len, self.stored.len(), self.crc32c)
    }
}

/// Compresses frames, one after the other; each worker has its own.
pub struct FrameCompressor {
    compressor: Compressor<'static>,
    level: Level,
}

impl fmt::Debug for FrameCompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameCompressor").field("level", &self.level).finish_non_exhaustive()
    }
}

impl FrameCompressor {
    /// A compressor; it allocates about a megabyte.
    pub fn new() -> Result<Self, FormatError> {
        let failed = |error: std::io::Error| FormatError::malformed("zstd compressor", error.to_string());
        let mut compressor = Compressor::new(Level::IMAGE.0).map_err(failed)?;
        compressor.include_contentsize(true).map_err(failed)?;
        compressor.include_checksum(true).map_err(failed)?;
        Ok(Self { compressor, level: Level::IMAGE })
    }

    /// Compresses `plain` into a frame that says its length and carries an XXH64.
    pub fn compress(&mut self, plain: &[u8], level: Level) -> Result<EncodedFrame, FormatError> {
        let failed = |error: std::io::Error| FormatError::malformed("frame", error.to_string());
        FormatError::check_limit("frame plain text", plain.len() as u64, limits::READ_FRAME_PLAIN_MAX)?;
        if level != self.level {
            self.compressor.set_compression_level(level.0).map_err(failed)?;
            self.level = level;
        }
        let mut stored = self.compressor.compress(plain).map_err(failed)?;
        // It was made as large as the worst case; frames wait for each other in memory.
        stored.shrink_to_fit();
        let stored = Bytes::from(stored);
        let plain_len = u32::try_from(plain.len())
            .map_err(|_| FormatError::malformed("frame", "its plain text is over 4 GiB"))?;
        Ok(EncodedFrame { crc32c: Crc32c::of(&stored), stored, plain_len })
    }
}

/// Decompresses frames, one after the other, never beyond what it is told to expect.
#[derive(Default)]
pub struct FrameDecoder {
    decompressor: Option<Decompressor<'static>>,
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameDecoder").finish_non_exhaustive()
    }
}

impl FrameDecoder {
    /// A decoder; it allocates when it is first used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decompresses one whole frame whose plain text must have exactly `plain_len` bytes.
    pub fn decode(&mut self, stored: &[u8], plain_len: u64) -> Result<Vec<u8>, FormatError> {
        FormatError::check_limit("frame plain text", plain_len, limits::READ_FRAME_PLAIN_MAX)?;
        FormatError::check_limit("stored frame", stored.len() as u64, limits::frame_stored_max(plain_len))?;
        let malformed = |why: String| FormatError::malformed("frame", why);
        if !matches!(zstd::zstd_safe::get_frame_content_size(stored), Ok(Some(len)) if len == plain_len) {
            return Err(malformed(format!("it does not say that it holds {plain_len} bytes")));
        }
        // Else what follows the frame would be decompressed too.
        if !is_one_frame(stored) {
            return Err(malformed("it is not one whole frame".into()));
        }
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(|error| malformed(error.to_string()))?),
        };
        let capacity = usize::try_from(plain_len).map_err(|error| malformed(error.to_string()))?;
        let plain =
            decompressor.decompress(stored, capacity).map_err(|error| malformed(error.to_string()))?;
        if plain.len() == capacity { Ok(plain) } else { Err(malformed("it ends early".into())) }
    }
}

/// Whether `stored` is one zstd frame, whole, and nothing else.
pub(crate) fn is_one_frame(stored: &[u8]) -> bool {
    zstd::zstd_safe::find_frame_compressed_size(stored) == Ok(stored.len())
}

/// The stored length and plain length of the frame that `bytes` begin with, or `None` where more bytes are needed
/// to tell. `at` is its offset in the object.
pub(crate) fn measure(bytes: &[u8], at: u64) -> Result<Option<(usize, u64)>, FormatError> {
    // The longest frame header: magic, descriptor, window, dictionary id, content size.
    const HEADER_LEN_MAX: usize = 18;
    let plain_len = match zstd::zstd_safe::get_frame_content_size(bytes) {
        Ok(Some(len)) => len,
        Err(_) if bytes.len() < HEADER_LEN_MAX => return Ok(None),
        _ => {
            return Err(FormatError::malformed(
                "frame",
                format!("no frame that says its length at offset {at}"),
            ));
        }
    };
    FormatError::check_limit("frame plain text", plain_len, limits::READ_FRAME_PLAIN_MAX)?;
    let stored_max = limits::frame_stored_max(plain_len);
    match zstd::zstd_safe::find_frame_compressed_size(bytes) {
        Ok(len) => {
            FormatError::check_limit("stored frame", len as u64, stored_max)?;
            Ok(Some((len, plain_len)))
        }
        Err(_) if (bytes.len() as u64) < stored_max => Ok(None),
        Err(_) => Err(FormatError::malformed("frame", format!("the frame at offset {at} does not end"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_says_its_length_and_survives_a_round_trip() {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let frame = FrameCompressor::new().unwrap().compress(&plain, Level::DELTA).unwrap();
        assert_eq!(frame.crc32c, Crc32c::of(&frame.stored));
        assert_eq!(FrameDecoder::new().decode(&frame.stored, plain.len() as u64).unwrap(), plain);
        assert_eq!(measure(&frame.stored, 0).unwrap(), Some((frame.stored.len(), plain.len() as u64)));
        for cut in [0, 1, 5, 17, 100, frame.stored.len() - 1] {
            assert_eq!(measure(&frame.stored[..cut], 0), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_inflated() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let limit = |error| matches!(error, FormatError::Limit { what: "frame plain text", .. });
        assert!(limit(measure(&bomb, 0).unwrap_err()));
        assert!(limit(FrameDecoder::new().decode(&bomb, 64 << 20).unwrap_err()));
        let error = FrameDecoder::new().decode(&bomb, 1 << 20).unwrap_err();
        assert!(matches!(error, FormatError::Malformed { what: "frame", .. }), "{error}");
    }

    #[test]
    fn a_frame_with_another_length_is_refused() {
        let frame = FrameCompressor::new().unwrap().compress(b"twelve bytes", Level::IMAGE).unwrap();
        for plain_len in [0, 11, 13] {
            assert!(
                FrameDecoder::new().decode(&frame.stored, plain_len).is_err(),
                "{plain_len} was accepted"
            );
        }
    }
}
