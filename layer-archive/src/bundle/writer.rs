//! Joins encoded frames and what is in them into the bytes of a bundle.

use super::footer::{FOOTER_LEN, Footer, INDEX_HEADER_LEN, INDEX_MAGIC};
use super::index::{BundleIndex, IndexedFrame, IndexedLayer, IndexedLink, Origin, seek_entries};
use super::position::Position;
use super::wire::{self, Tables};
use crate::commit::CommitV1;
use crate::limits::{FRAME_LAYERS_MAX, LAYER_RAW_BYTES_MAX, SHARED_FRAME_PLAIN_MAX};
use crate::tarball::{self, link_header, member_header, padding_len};
use crate::{
    Commit, Crc32c, EncodedFrame, FormatError, FrameCompressor, LayerName, Level, LsnRange, RawDigest,
    seek_table,
};

/// A layer as the writer is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedLayer {
    /// Its name.
    pub name: LayerName,
    /// The LSNs it covers, where the caller knows.
    pub lsn_range: Option<LsnRange>,
    /// Its raw bytes' length and checksums.
    pub raw: RawDigest,
}

/// Writes one bundle, front to back.
///
/// The caller renders the plain text of the data frames (see [`plan_frames`](crate::plan_frames)), compresses them
/// wherever it likes and appends them in order; then it names the layers, in the same order, and their links. The
/// bytes so far may be [taken](Self::take_part) as they come, so that a long bundle need not be in memory.
#[derive(Debug, Default)]
pub struct BundleWriter {
    tables: Tables,
    /// Bytes of the bundle that were not taken yet.
    bytes: Vec<u8>,
    crc32c: Crc32c,
    stored_len: u64,
    plain_len: u64,
    /// Where in the tar stream the next member begins.
    next_member: u64,
    position: Position,
}

/// What [`BundleWriter::finish`] leaves behind.
#[derive(Debug)]
pub struct FinishedBundle {
    /// The bytes that were not taken yet.
    pub bytes: Vec<u8>,
    /// The CRC32C of the whole object.
    pub crc32c: Crc32c,
    /// The index, as a reader would find it.
    pub index: BundleIndex,
}

impl BundleWriter {
    /// A bundle with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the next data frame.
    pub fn push_frame(&mut self, frame: &EncodedFrame) -> Result<(), FormatError> {
        let stored_len = u32::try_from(frame.stored.len())
            .map_err(|_| FormatError::malformed("frame", "its stored bytes are over 4 GiB"))?;
        self.tables.frames.push(IndexedFrame {
            start: self.stored_len,
            stored_len,
            plain_len: frame.plain_len,
            crc32c: frame.crc32c,
        });
        self.plain_len += u64::from(frame.plain_len);
        self.append(&frame.stored);
        Ok(())
    }

    /// Names the next layer of the tar stream, whose last byte is in a frame that was appended. Returns its number,
    /// to be used as the target of links.
    pub fn push_layer(&mut self, layer: PackedLayer) -> Result<u32, FormatError> {
        let PackedLayer { name, lsn_range, raw } = layer;
        FormatError::check_limit("layer", raw.size, LAYER_RAW_BYTES_MAX)?;
        let data = self.next_member + member_header(&name, raw.size)?.len() as u64;
        let end = data + raw.size + padding_len(raw.size) as u64;
        let outside = || FormatError::malformed("bundle", format!("{name:?} is not in the frames so far"));
        if end > self.plain_len {
            return Err(outside());
        }
        let position = self.position.advance(&self.tables.frames, data, raw.size)?;
        let (frame, offset) = position.ok_or_else(outside)?;
        let number = u32::try_from(self.tables.layers.len())
            .map_err(|_| FormatError::malformed("bundle", "more than 2^32 layers"))?;
        self.tables.layers.push(IndexedLayer { name, lsn_range, raw, frame, offset });
        self.next_member = end;
        Ok(number)
    }

    /// Names a layer whose bytes are those of layer number `target`.
    pub fn push_link(&mut self, name: LayerName, lsn_range: Option<LsnRange>, target: u32) {
        self.tables.links.push(IndexedLink { name, lsn_range, target });
    }

    /// Stored bytes of the frames so far.
    pub fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Data frames so far.
    pub fn frame_count(&self) -> usize {
        self.tables.frames.len()
    }

    /// Layers and links so far.
    pub fn layer_count(&self) -> usize {
        self.tables.layers.len() + self.tables.links.len()
    }

    /// The next `part_bytes` bytes of the bundle, if there are so many.
    pub fn take_part(&mut self, part_bytes: usize) -> Option<Vec<u8>> {
        // A copy, so that a part holds no more memory than it has bytes.
        let part = self.bytes.get(..part_bytes)?.to_vec();
        self.bytes.drain(..part_bytes);
        Some(part)
    }

    /// Appends links, metadata, the end of the tar stream, index and seek table.
    ///
    /// `commit` is what the record says, and `None` for a payload object; its metadata becomes the last member.
    pub fn finish(
        mut self,
        origin: &Origin,
        commit: Option<&Commit>,
        compressor: &mut FrameCompressor,
    ) -> Result<FinishedBundle, FormatError> {
        if self.next_member != self.plain_len {
            return Err(FormatError::malformed("bundle", "its frames hold more than the layers named"));
        }
        for plain in self.render_links()? {
            self.push_frame(&compressor.compress(&plain, Level::IMAGE)?)?;
        }
        if let Some(metadata) = commit.and_then(|commit| commit.metadata.as_ref()) {
            let size = metadata.bytes.len() as u64;
            let mut plain = member_header(&metadata.file_name, size)?;
            plain.extend_from_slice(&metadata.bytes);
            plain.resize(plain.len() + padding_len(size), 0);
            self.push_frame(&compressor.compress(&plain, Level::IMAGE)?)?;
        }
        self.push_frame(&compressor.compress(&tarball::END, Level::IMAGE)?)?;
        let body = wire::encode(origin, &self.tables, commit.map(CommitV1::from).as_ref())?;
        let tail = self.render_tail(&body)?;
        self.append(&tail);
        let index = match BundleIndex::parse_tail(&tail, self.stored_len)? {
            super::TailParse::Complete(index) => *index,
            super::TailParse::NeedMore(_) => {
                return Err(FormatError::malformed("bundle", "its tail is incomplete"));
            }
        };
        Ok(FinishedBundle { bytes: self.bytes, crc32c: self.crc32c, index })
    }

    /// The plain texts of the frames that hold nothing but link headers.
    fn render_links(&self) -> Result<Vec<Vec<u8>>, FormatError> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for (number, link) in self.tables.links.iter().enumerate() {
            let target = self.tables.layers.get(link.target as usize).ok_or_else(|| {
                FormatError::malformed("bundle", format!("{:?} is a link to nothing", link.name))
            })?;
            let header = link_header(&link.name, &target.name)?;
            match frames.last_mut() {
                Some(frame)
                    if number % FRAME_LAYERS_MAX != 0
                        && frame.len() + header.len() <= SHARED_FRAME_PLAIN_MAX =>
                {
                    frame.extend_from_slice(&header);
                }
                _ => frames.push(header),
            }
        }
        Ok(frames)
    }

    /// Index frame and seek table.
    fn render_tail(&self, body: &[u8]) -> Result<Vec<u8>, FormatError> {
        let narrow = |what, value: usize| {
            let limit = u64::from(u32::MAX);
            u32::try_from(value).map_err(|_| FormatError::Limit { what, value: value as u64, limit })
        };
        let body_len = narrow("index", body.len())?;
        let seek_table = seek_table::encode(&seek_entries(&self.tables.frames, body_len)?)?;
        let tail_len = INDEX_HEADER_LEN + body.len() + FOOTER_LEN + seek_table.len();
        let footer = Footer {
            body_len,
            body_crc32c: Crc32c::of(body),
            data_end: self.stored_len,
            object_len: self.stored_len + tail_len as u64,
            data_crc32c: self.crc32c,
            frames: narrow("frames", self.tables.frames.len())?,
            layers: narrow("layers", self.layer_count())?,
            seek_len: narrow("seek table", seek_table.len())?,
            seek_crc32c: Crc32c::of(&seek_table),
        };
        let mut tail = Vec::with_capacity(tail_len);
        tail.extend_from_slice(&INDEX_MAGIC.to_le_bytes());
        tail.extend_from_slice(&narrow("index", body.len() + FOOTER_LEN)?.to_le_bytes());
        tail.extend_from_slice(body);
        tail.extend_from_slice(&footer.encode());
        tail.extend_from_slice(&seek_table);
        Ok(tail)
    }

    fn append(&mut self, bytes: &[u8]) {
        self.crc32c = self.crc32c.append(bytes);
        self.stored_len += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
    }
}
