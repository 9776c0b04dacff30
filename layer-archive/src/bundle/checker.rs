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

impl Stretch {
    fn len(&self) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes.len() as u64,
            Self::Layer(_, raw) => raw.size,
        }
    }
}

/// `count` of `bytes`, from `at`.
fn part(bytes: &[u8], at: u64, count: u64) -> Option<&[u8]> {
    let from = usize::try_from(at).ok()?;
    bytes.get(from..from.checked_add(usize::try_from(count).ok()?)?)
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
    /// Whether a part of the current layer was in a broken frame.
    layer_spoilt: bool,
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
            layer_spoilt: false,
            layer_errors: Vec::new(),
        })
    }

    /// Checks the stored bytes of the next frame of [`BundleIndex::frames`].
    ///
    /// After an error the frames behind it can still be checked: what the broken one should hold is passed over.
    pub fn push_frame(&mut self, stored: &[u8]) -> Result<(), FormatError> {
        let Some(frame) = self.index.frames().get(self.next_frame) else {
            return Err(FormatError::malformed("bundle", "more frames than the index has"));
        };
        self.next_frame += 1;
        self.data_crc32c = self.data_crc32c.append(stored);
        match frame.decode(stored, &mut self.decoder) {
            Ok(plain) => self.compare(u64::from(frame.plain_len), Some(&plain)),
            Err(error) => {
                self.compare(u64::from(frame.plain_len), None)?;
                Err(error)
            }
        }
    }

    /// Compares the next `len` bytes of the tar stream, where they are known, with what must be there.
    fn compare(&mut self, len: u64, plain: Option<&[u8]>) -> Result<(), FormatError> {
        let mut at = 0;
        let mut outcome = Ok(());
        while at < len {
            let (stretch, done) = match self.current.take() {
                Some(current) => current,
                None => match self.stretches.next() {
                    Some(stretch) => (stretch, 0),
                    None => return Err(FormatError::malformed("tar stream", "it goes on after its end")),
                },
            };
            let count = (stretch.len() - done).min(len - at);
            let known = plain.and_then(|plain| part(plain, at, count));
            match (&stretch, known) {
                (Stretch::Fixed(expected), Some(bytes)) if part(expected, done, count) != Some(bytes) => {
                    outcome =
                        Err(FormatError::malformed("tar stream", "a header is not what the index makes it"));
                }
                (Stretch::Fixed(_), _) => {}
                (Stretch::Layer(..), Some(bytes)) => self.hasher.update(bytes),
                (Stretch::Layer(..), None) => self.layer_spoilt |= count > 0,
            }
            at += count;
            if done + count < stretch.len() {
                self.current = Some((stretch, done + count));
            } else if let Stretch::Layer(name, expected) = stretch {
                self.end_layer(name, expected);
            }
        }
        outcome
    }

    fn end_layer(&mut self, name: LayerName, expected: RawDigest) {
        let actual = std::mem::take(&mut self.hasher).finish();
        // Of a layer in a broken frame nothing more is to be said than of the frame.
        if std::mem::take(&mut self.layer_spoilt) {
            return;
        }
        if let Err(error) = expected.check(&name, &actual) {
            self.layer_errors.push((name, error));
        }
    }

    /// Checks that everything came, and returns the layers whose contents are not what the index says.
    pub fn finish(mut self) -> Result<Vec<(LayerName, FormatError)>, FormatError> {
        let left = self.current.is_some() || self.stretches.any(|stretch| stretch.len() > 0);
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
