//! Reads a whole bundle and compares every byte of its tar stream with what its index says must be there.

use crate::entry::RawHasher;
use crate::tarball::{self, link_header, member_header, padding_len};
use crate::{BundleIndex, Crc32c, FormatError, FrameDecoder, LayerName, RawDigest};

/// One stretch of the tar stream.
enum Stretch {
    /// Headers, padding, metadata and the end: bytes that the index determines.
    Fixed(Vec<u8>),
    /// The raw bytes of a layer.
    Layer(LayerName, RawDigest),
}

/// Checks a bundle frame by frame: stored checksums, plain texts, headers, and the contents of every layer.
///
/// A tar stream and an index that disagree would restore differently with stock tools; here they are one truth.
pub struct BundleChecker<'a> {
    index: &'a BundleIndex,
    decoder: FrameDecoder,
    next_frame: usize,
    data_crc32c: Crc32c,
    stretches: std::vec::IntoIter<Stretch>,
    current: Option<(Stretch, u64)>,
    hasher: RawHasher,
    /// What is wrong with which layer, so that one damaged layer does not hide the next.
    layer_errors: Vec<(LayerName, FormatError)>,
}

impl std::fmt::Debug for BundleChecker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BundleChecker").field("next_frame", &self.next_frame).finish_non_exhaustive()
    }
}

impl<'a> BundleChecker<'a> {
    /// A checker of the bundle that has this index.
    pub fn new(index: &'a BundleIndex) -> Result<Self, FormatError> {
        let mut stretches = Vec::new();
        for layer in index.layers() {
            stretches.push(Stretch::Fixed(member_header(&layer.name, layer.raw.size)?));
            stretches.push(Stretch::Layer(layer.name.clone(), layer.raw));
            stretches.push(Stretch::Fixed(vec![0; padding_len(layer.raw.size)]));
        }
        for link in index.links() {
            let target = &index.layers()[link.target as usize].name;
            stretches.push(Stretch::Fixed(link_header(&link.name, target)?));
        }
        if let Some(metadata) = index.commit().and_then(|commit| commit.metadata.as_ref()) {
            let size = metadata.bytes.len() as u64;
            stretches.push(Stretch::Fixed(member_header(&metadata.file_name, size)?));
            stretches.push(Stretch::Fixed(metadata.bytes.clone()));
            stretches.push(Stretch::Fixed(vec![0; padding_len(size)]));
        }
        stretches.push(Stretch::Fixed(tarball::END.to_vec()));
        Ok(Self {
            index,
            decoder: FrameDecoder::new(),
            next_frame: 0,
            data_crc32c: Crc32c::default(),
            stretches: stretches.into_iter(),
            current: None,
            hasher: RawHasher::default(),
            layer_errors: Vec::new(),
        })
    }

    /// Checks the stored bytes of the next frame of [`BundleIndex::frames`].
    pub fn push_frame(&mut self, stored: &[u8]) -> Result<(), FormatError> {
        let Some(frame) = self.index.frames().get(self.next_frame) else {
            return Err(FormatError::malformed("bundle", "more frames than the index has"));
        };
        self.next_frame += 1;
        self.data_crc32c = self.data_crc32c.append(stored);
        FormatError::check_crc32c("frame", frame.start, stored, frame.crc32c)?;
        let plain = self.decoder.decode(stored, u64::from(frame.plain_len))?;
        let mut rest = &*plain;
        while !rest.is_empty() {
            rest = self.take(rest)?;
        }
        Ok(())
    }

    /// Compares the beginning of `plain` with the current stretch and returns what is left.
    fn take<'p>(&mut self, plain: &'p [u8]) -> Result<&'p [u8], FormatError> {
        let (stretch, done) = match self.current.take() {
            Some(current) => current,
            None => match self.stretches.next() {
                Some(stretch) => (stretch, 0),
                None => return Err(FormatError::malformed("tar stream", "it goes on after its end")),
            },
        };
        let len = match &stretch {
            Stretch::Fixed(bytes) => bytes.len() as u64,
            Stretch::Layer(_, raw) => raw.size,
        };
        let count = usize::try_from(len - done).unwrap_or(usize::MAX).min(plain.len());
        let (bytes, rest) = plain.split_at(count);
        match &stretch {
            Stretch::Fixed(expected) => {
                let from = usize::try_from(done).unwrap_or(usize::MAX);
                if expected.get(from..from + count) != Some(bytes) {
                    return Err(FormatError::malformed(
                        "tar stream",
                        "a header is not what the index makes it",
                    ));
                }
            }
            Stretch::Layer(..) => self.hasher.update(bytes),
        }
        let done = done + count as u64;
        if done < len {
            self.current = Some((stretch, done));
        } else if let Stretch::Layer(name, expected) = stretch {
            let actual = std::mem::take(&mut self.hasher).finish();
            if let Err(error) = expected.check(&name, &actual) {
                self.layer_errors.push((name, error));
            }
        }
        Ok(rest)
    }

    /// Checks that everything came, and returns the layers whose contents are not what the index says.
    pub fn finish(mut self) -> Result<Vec<(LayerName, FormatError)>, FormatError> {
        let left = self.current.is_some()
            || self.stretches.any(|stretch| match stretch {
                Stretch::Fixed(bytes) => !bytes.is_empty(),
                Stretch::Layer(_, raw) => raw.size > 0,
            });
        if left || self.next_frame != self.index.frames().len() {
            return Err(FormatError::malformed("tar stream", "it ends before its layers do"));
        }
        let (expected, actual) = (self.index.data_crc32c(), self.data_crc32c);
        if actual != expected {
            return Err(FormatError::Checksum { what: "frames", offset: 0, expected, actual });
        }
        Ok(self.layer_errors)
    }
}
