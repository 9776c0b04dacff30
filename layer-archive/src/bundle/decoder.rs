//! Turns the stored bytes of a layer's frames, as they arrive, into the layer's raw bytes.

use crate::entry::RawHasher;
use crate::{Crc32c, FormatError, FrameDecoder, LayerEntry, LayerName, Location, RawDigest, frame};

/// Decodes one layer from the bytes of its [`Location`], piece by piece, in memory for about one frame.
///
/// Frames are found by their own headers, so a manifest's entry is all that is needed. The bytes are final only when
/// [`finish`](Self::finish) succeeds: that is where length, CRC32C and BLAKE3 are compared.
#[derive(Debug)]
pub struct LayerDecoder {
    name: LayerName,
    expected: RawDigest,
    location: Location,
    decoder: FrameDecoder,
    /// Stored bytes of a frame that has not come whole.
    pending: Vec<u8>,
    /// A frame that did not decode. The checksum of all stored bytes, known at the end, says more than it does.
    broken: Option<FormatError>,
    stored_seen: u64,
    stored_crc32c: Crc32c,
    raw: RawHasher,
    /// Plain bytes before the layer's first that are still to be skipped.
    skip: u64,
    raw_left: u64,
}

impl LayerDecoder {
    /// A decoder of the layer `entry`.
    pub fn new(entry: &LayerEntry) -> Self {
        Self {
            name: entry.name.clone(),
            expected: entry.raw,
            location: entry.place.location,
            decoder: FrameDecoder::new(),
            pending: Vec::new(),
            broken: None,
            stored_seen: 0,
            stored_crc32c: Crc32c::default(),
            raw: RawHasher::default(),
            skip: u64::from(entry.place.location.offset),
            raw_left: entry.raw.size,
        }
    }

    /// Takes the next stored bytes and hands the raw bytes that they complete to `sink`, frame by frame.
    pub fn push<E: From<FormatError>>(
        &mut self,
        stored: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stored_seen += stored.len() as u64;
        if self.stored_seen > self.location.stored_len {
            let why = format!("more than its {} stored bytes came", self.location.stored_len);
            return Err(FormatError::malformed("layer", why).into());
        }
        self.stored_crc32c = self.stored_crc32c.append(stored);
        self.pending.extend_from_slice(stored);
        let mut pending = std::mem::take(&mut self.pending);
        let mut done = 0;
        // What follows a frame that does not decode is taken for its checksum alone.
        while done < pending.len() && self.broken.is_none() {
            match self.next_frame(&pending[done..]) {
                Ok(Some((len, plain))) => {
                    done += len;
                    let raw = self.cut(&plain);
                    if !raw.is_empty() {
                        self.raw.update(raw);
                        sink(raw)?;
                    }
                }
                Ok(None) => break,
                Err(error) => self.broken = Some(error),
            }
        }
        pending.drain(..done);
        if self.broken.is_none() {
            self.pending = pending;
        }
        Ok(())
    }

    /// Decodes the frame that `stored` begins with, if it is there as a whole. Returns its stored length too.
    fn next_frame(&mut self, stored: &[u8]) -> Result<Option<(usize, Vec<u8>)>, FormatError> {
        let at = self.location.start + self.stored_seen - stored.len() as u64;
        match frame::measure(stored, at)? {
            Some((len, plain_len)) => Ok(Some((len, self.decoder.decode(&stored[..len], plain_len)?))),
            None => Ok(None),
        }
    }

    /// The part of a frame's plain text that is the layer's.
    fn cut<'a>(&mut self, plain: &'a [u8]) -> &'a [u8] {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(plain.len());
        self.skip -= skipped as u64;
        let rest = &plain[skipped..];
        let len = usize::try_from(self.raw_left).unwrap_or(usize::MAX).min(rest.len());
        self.raw_left -= len as u64;
        &rest[..len]
    }

    /// Checks that everything came and is what it should be.
    pub fn finish(self) -> Result<(), FormatError> {
        let Location { start, stored_len, crc32c: expected, offset: _ } = self.location;
        if self.stored_seen < stored_len {
            let (what, needed, available) = ("layer", stored_len, self.stored_seen);
            return Err(FormatError::Truncated { what, needed, available });
        }
        let actual = self.stored_crc32c;
        if actual != expected {
            return Err(FormatError::Checksum { what: "stored layer", offset: start, expected, actual });
        }
        if let Some(error) = self.broken {
            return Err(error);
        }
        if !self.pending.is_empty() {
            return Err(FormatError::malformed("layer", "its last frame is cut off"));
        }
        self.expected.check(&self.name, &self.raw.finish())
    }
}

/// Checks and decompresses the frames of a location that small layers share, at once.
///
/// `plain_max` bounds the plain text of all of them; what it is compared with is not the layers' contents but the
/// stored bytes' checksum, so each layer cut out of it is still to be compared with its [`RawDigest`].
pub fn decode_frames(stored: &[u8], location: &Location, plain_max: u64) -> Result<Vec<u8>, FormatError> {
    if stored.len() as u64 != location.stored_len {
        let (what, needed, available) = ("frames", location.stored_len, stored.len() as u64);
        return Err(FormatError::Truncated { what, needed, available });
    }
    FormatError::check_crc32c("frames", location.start, stored, location.crc32c)?;
    let mut decoder = FrameDecoder::new();
    let mut plain = Vec::new();
    let mut rest = stored;
    while !rest.is_empty() {
        let at = location.end() - rest.len() as u64;
        let Some((len, plain_len)) = frame::measure(rest, at)? else {
            return Err(FormatError::malformed("frames", "the last one is cut off"));
        };
        FormatError::check_limit("plain text", plain.len() as u64 + plain_len, plain_max)?;
        plain.append(&mut decoder.decode(&rest[..len], plain_len)?);
        rest = &rest[len..];
    }
    Ok(plain)
}
