//! The index of a bundle: found from the last bytes of an object, checked as a whole, then asked where things are.

use std::collections::HashSet;
use std::ops::Range;

use super::footer::{FOOTER_LEN, Footer, INDEX_HEADER_LEN, INDEX_MAGIC};
use super::position::Position;
use super::wire::{self, Sections, Tables};
use crate::codec::Fields;
use crate::tarball::{self, BLOCK, link_header, member_header, padding_len};
use crate::{
    BundleId, Commit, Crc32c, Digest, FormatError, FrameDecoder, LayerEntry, LayerName, Location, LsnRange,
    Place, RawDigest, RecordId, TenantId, TimelineId, limits, seek_table,
};

/// For which timeline and as which object a bundle was made.
///
/// A payload object that was copied to another timeline keeps the origin of what it is a copy of; a record never
/// has any origin but its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The tenant.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The object.
    pub bundle: BundleId,
}

/// A data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedFrame {
    /// Where it begins in the object.
    pub start: u64,
    /// Its stored bytes.
    pub stored_len: u32,
    /// Its bytes of plain text.
    pub plain_len: u32,
    /// The checksum of its stored bytes.
    pub crc32c: Crc32c,
}

impl IndexedFrame {
    /// Checks its stored bytes against their checksum and decompresses them.
    pub fn decode(&self, stored: &[u8], decoder: &mut FrameDecoder) -> Result<Vec<u8>, FormatError> {
        FormatError::check_crc32c("frame", self.start, stored, self.crc32c)?;
        decoder.decode(stored, u64::from(self.plain_len))
    }

    /// Its stored bytes' place in the object.
    pub fn stored_range(&self) -> Range<u64> {
        self.start..self.start + u64::from(self.stored_len)
    }
}

/// A layer that is a member with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedLayer {
    /// Its name.
    pub name: LayerName,
    /// The LSNs it covers, where the caller said so.
    pub lsn_range: Option<LsnRange>,
    /// Its raw bytes' length and checksums.
    pub raw: RawDigest,
    /// The frame in which its bytes begin.
    pub frame: u32,
    /// Where in that frame's plain text.
    pub offset: u32,
}

/// A layer whose bytes are those of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedLink {
    /// Its name.
    pub name: LayerName,
    /// The LSNs it covers, where the caller said so.
    pub lsn_range: Option<LsnRange>,
    /// Which of the bundle's [`layers`](BundleIndex::layers) has the bytes.
    pub target: u32,
}

/// The checked index of a bundle.
#[derive(Clone, Debug)]
pub struct BundleIndex {
    origin: Origin,
    frames: Vec<IndexedFrame>,
    layers: Vec<IndexedLayer>,
    links: Vec<IndexedLink>,
    commit: Option<Commit>,
    record_id: RecordId,
    data_end: u64,
    data_crc32c: Crc32c,
    object_len: u64,
    object_crc32c: Crc32c,
}

/// What came of a look at the last bytes of an object.
#[derive(Clone, Debug)]
pub enum TailParse {
    /// The index, complete and checked.
    Complete(Box<BundleIndex>),
    /// The index is longer: read so many of the object's last bytes.
    NeedMore(u64),
}

/// The last parts of an object, cut apart by their lengths, and checked.
struct Parts<'a> {
    footer: Footer,
    body: &'a [u8],
    seek_table: &'a [u8],
}

impl BundleIndex {
    /// Finds and checks the index in `tail`, the last bytes of an object of `object_len` bytes.
    pub fn parse_tail(tail: &[u8], object_len: u64) -> Result<TailParse, FormatError> {
        FormatError::check_limit("object", object_len, limits::READ_OBJECT_BYTES_MAX)?;
        match cut(tail, object_len)? {
            Ok(parts) => {
                let mut index = Self::from_parts(&parts)?;
                let tail_len = usize::try_from(index.tail_len()).unwrap_or(usize::MAX);
                let tail = &tail[tail.len().saturating_sub(tail_len)..];
                index.object_crc32c = index.data_crc32c.append(tail);
                Ok(TailParse::Complete(Box::new(index)))
            }
            Err(needed) => Ok(TailParse::NeedMore(needed)),
        }
    }

    /// Finds and checks the index of a whole object.
    pub fn parse_object(object: &[u8]) -> Result<Self, FormatError> {
        match Self::parse_tail(object, object.len() as u64)? {
            TailParse::Complete(index) => Ok(*index),
            TailParse::NeedMore(needed) => {
                Err(FormatError::Truncated { what: "bundle", needed, available: object.len() as u64 })
            }
        }
    }

    fn from_parts(Parts { footer, body, seek_table }: &Parts<'_>) -> Result<Self, FormatError> {
        let body_start = footer.data_end + INDEX_HEADER_LEN as u64;
        let Sections { origin, tables: Tables { frames, layers, links }, commit } =
            wire::decode(body, body_start)?;
        let index = Self {
            origin,
            frames,
            layers,
            links,
            commit,
            record_id: RecordId(Digest::of(body)),
            data_end: footer.data_end,
            data_crc32c: footer.data_crc32c,
            object_len: footer.object_len,
            object_crc32c: footer.data_crc32c,
        };
        index.check_frames(footer, seek_table)?;
        index.check_commit()?;
        index.check_layers(footer)?;
        Ok(index)
    }

    fn check_frames(&self, footer: &Footer, seek_table: &[u8]) -> Result<(), FormatError> {
        let malformed = |why: &str| Err(FormatError::malformed("frames section", why));
        FormatError::check_limit("frames", self.frames.len() as u64, limits::READ_FRAMES_MAX)?;
        if self.frames.len() as u64 != u64::from(footer.frames) {
            return malformed("it does not have as many frames as the footer says");
        }
        for frame in &self.frames {
            let (stored_len, plain_len) = (u64::from(frame.stored_len), u64::from(frame.plain_len));
            FormatError::check_limit("frame plain text", plain_len, limits::READ_FRAME_PLAIN_MAX)?;
            FormatError::check_limit("stored frame", stored_len, limits::frame_stored_max(plain_len))?;
            if stored_len == 0 || plain_len == 0 || plain_len % BLOCK != 0 {
                return malformed("a frame of an impossible length");
            }
        }
        if self.frames.last().map_or(0, |frame| frame.stored_range().end) != footer.data_end {
            return malformed("the frames do not fill the object up to the index");
        }
        if self.frames.last().is_none_or(|frame| u64::from(frame.plain_len) != tarball::END.len() as u64) {
            return malformed("the last frame is not the end of the tar stream");
        }
        let entries = seek_entries(&self.frames, footer.body_len)?;
        if seek_table::encode(&entries)? != seek_table {
            return Err(FormatError::malformed("seek table", "it does not list the frames of the index"));
        }
        Ok(())
    }

    fn check_layers(&self, footer: &Footer) -> Result<(), FormatError> {
        let malformed = |why: String| Err(FormatError::malformed("layers section", why));
        if (self.layers.len() + self.links.len()) as u64 != u64::from(footer.layers) {
            return malformed("it does not have as many layers as the footer says".into());
        }
        FormatError::check_limit("layers", u64::from(footer.layers), limits::READ_LAYERS_MAX)?;
        let mut names = HashSet::with_capacity(self.layers.len() + self.links.len());
        let links = self.links.iter().map(|link| &link.name);
        let metadata = self.commit.as_ref().and_then(|commit| commit.metadata.as_ref());
        for name in
            self.layers.iter().map(|layer| &layer.name).chain(links).chain(metadata.map(|m| &m.file_name))
        {
            if !names.insert(name) {
                return malformed(format!("the name {name:?} occurs twice"));
            }
        }
        self.check_positions()
    }

    /// Members follow each other without a gap: every position is what the members before it make it, and the end of
    /// the tar stream is the end of the frames.
    fn check_positions(&self) -> Result<(), FormatError> {
        let malformed = |why: String| Err(FormatError::malformed("layers section", why));
        let mut at = 0u64;
        let mut position = Position::default();
        for layer in &self.layers {
            FormatError::check_limit("layer", layer.raw.size, limits::LAYER_RAW_BYTES_MAX)?;
            let data = at + member_header(&layer.name, layer.raw.size)?.len() as u64;
            if position.advance(&self.frames, data, layer.raw.size)? != Some((layer.frame, layer.offset)) {
                return malformed(format!("{:?} is not where it should be", layer.name));
            }
            // At most 2^16 layers of at most 2^33 bytes: no overflow.
            at = data + layer.raw.size + padding_len(layer.raw.size) as u64;
        }
        for link in &self.links {
            let Some(target) = self.layers.get(link.target as usize) else {
                return malformed(format!("{:?} is a link to nothing", link.name));
            };
            at += link_header(&link.name, &target.name)?.len() as u64;
        }
        if let Some(metadata) = self.commit.as_ref().and_then(|commit| commit.metadata.as_ref()) {
            let size = metadata.bytes.len() as u64;
            at += member_header(&metadata.file_name, size)?.len() as u64 + size + padding_len(size) as u64;
        }
        let plain: u64 = self.frames.iter().map(|frame| u64::from(frame.plain_len)).sum();
        if at + tarball::END.len() as u64 == plain {
            Ok(())
        } else {
            malformed(format!("its members end at {at} of a tar stream of {plain} bytes"))
        }
    }

    fn check_commit(&self) -> Result<(), FormatError> {
        let malformed = |why: &str| Err(FormatError::malformed("commit section", why));
        match (self.origin.bundle, &self.commit) {
            (BundleId::Record(seq), Some(commit)) if commit.seq == seq => {
                if commit.flags.claim && !self.layers.is_empty() {
                    return malformed("a claim that adds layers");
                }
                Ok(())
            }
            (BundleId::Payload(_), None) => Ok(()),
            (BundleId::Record(_), Some(_)) => malformed("it is of another record"),
            (BundleId::Record(_), None) => malformed("a record without a commit"),
            (BundleId::Payload(_), Some(_)) => malformed("a payload object with a commit"),
        }
    }

    /// For what the bundle was made.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// All data frames, in order; the last one ends the tar stream.
    pub fn frames(&self) -> &[IndexedFrame] {
        &self.frames
    }

    /// The layers with data, in the order of the tar stream.
    pub fn layers(&self) -> &[IndexedLayer] {
        &self.layers
    }

    /// The layers that are links, in the order of the tar stream.
    pub fn links(&self) -> &[IndexedLink] {
        &self.links
    }

    /// What the record says; `None` in a payload object.
    pub fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref()
    }

    /// The identity of the record: the digest of its index.
    pub fn record_id(&self) -> RecordId {
        self.record_id
    }

    /// The length of the object.
    pub fn object_len(&self) -> u64 {
        self.object_len
    }

    /// How many bytes at the end of the object are not frames: what a reader fetches to have this index.
    pub fn tail_len(&self) -> u64 {
        self.object_len - self.data_end
    }

    /// The checksum of all frames.
    pub fn data_crc32c(&self) -> Crc32c {
        self.data_crc32c
    }

    /// The checksum that the whole object must have: of all frames, as recorded, and of the bytes behind them.
    pub fn object_crc32c(&self) -> Crc32c {
        self.object_crc32c
    }

    /// The frames that hold a layer's bytes, as indexes into [`frames`](Self::frames); one frame for an empty layer.
    pub fn frames_of(&self, layer: &IndexedLayer) -> Range<usize> {
        self.frames_covering(layer, 0..layer.raw.size)
    }

    /// The frames that hold the raw bytes `range` of a layer, as indexes into [`frames`](Self::frames): at least one.
    /// What of the range is beyond the layer's last byte counts as that byte.
    pub fn frames_covering(&self, layer: &IndexedLayer, range: Range<u64>) -> Range<usize> {
        let first = layer.frame as usize;
        let Some(last_byte) = layer.raw.size.checked_sub(1) else { return first..first + 1 };
        let from = range.start.min(last_byte);
        let to = range.end.saturating_sub(1).clamp(from, last_byte);
        let frame_of = |byte: u64| {
            let mut end = 0;
            let holds = |frame: &IndexedFrame| {
                end += u64::from(frame.plain_len);
                u64::from(layer.offset) + byte < end
            };
            first + self.frames.iter().skip(first).position(holds).unwrap_or(0)
        };
        frame_of(from)..frame_of(to) + 1
    }

    /// Where a layer's bytes are.
    pub fn location(&self, layer: &IndexedLayer) -> Location {
        let frames = &self.frames[self.frames_of(layer)];
        let start = frames.first().map_or(0, |frame| frame.start);
        let crc32c = frames
            .iter()
            .skip(1)
            .fold(frames.first().map_or(Crc32c::default(), |f| f.crc32c), |crc, frame| {
                crc.combine(frame.crc32c, frame.stored_len as usize)
            });
        let stored_len = frames.iter().map(|frame| u64::from(frame.stored_len)).sum();
        Location { start, stored_len, crc32c, offset: layer.offset }
    }

    /// The layer's part of the stored bytes of its frames: by its share of their plain text, its header included.
    pub fn stored_bytes(&self, layer: &IndexedLayer) -> u64 {
        let frames = &self.frames[self.frames_of(layer)];
        let stored: u64 = frames.iter().map(|frame| u64::from(frame.stored_len)).sum();
        if layer.raw.size > limits::SLICE_RAW_BYTES {
            return stored;
        }
        // A product of less than 2^40 stored and 2^19 own bytes: no overflow.
        let plain: u64 = frames.iter().map(|frame| u64::from(frame.plain_len)).sum();
        // A long name makes a longer header; that it can be rendered was seen when the index was checked.
        let header = member_header(&layer.name, layer.raw.size).map_or(BLOCK, |header| header.len() as u64);
        let own = header + layer.raw.size + padding_len(layer.raw.size) as u64;
        stored * own.min(plain) / plain.max(1)
    }

    /// Every layer of the bundle, links included, as the state of a timeline knows it, with the bundle at `bundle`.
    pub fn entries(&self, bundle: BundleId) -> Vec<LayerEntry> {
        let entry = |name: &LayerName, lsn_range, layer: &IndexedLayer| LayerEntry {
            name: name.clone(),
            lsn_range,
            raw: layer.raw,
            place: Place { bundle, location: self.location(layer) },
            stored_bytes: self.stored_bytes(layer),
        };
        let layers = self.layers.iter().map(|layer| entry(&layer.name, layer.lsn_range, layer));
        let links = self.links.iter().filter_map(|link| {
            self.layers.get(link.target as usize).map(|target| entry(&link.name, link.lsn_range, target))
        });
        layers.chain(links).collect()
    }
}

/// The entries of the seek table: every frame, and the index frame.
pub(super) fn seek_entries(frames: &[IndexedFrame], body_len: u32) -> Result<Vec<(u32, u32)>, FormatError> {
    let index_len = u64::from(body_len) + (INDEX_HEADER_LEN + FOOTER_LEN) as u64;
    let index_len = u32::try_from(index_len).map_err(|_| FormatError::Limit {
        what: "index",
        value: index_len,
        limit: u64::from(u32::MAX),
    })?;
    let frames = frames.iter().map(|frame| (frame.stored_len, frame.plain_len));
    Ok(frames.chain([(index_len, 0)]).collect())
}

/// Cuts the tail into its parts and checks their lengths and checksums. The inner error is how many bytes are needed.
fn cut(tail: &[u8], object_len: u64) -> Result<Result<Parts<'_>, u64>, FormatError> {
    let truncated = |what, needed| FormatError::Truncated { what, needed, available: object_len };
    if tail.len() as u64 > object_len {
        return Err(FormatError::malformed("bundle", "more bytes came than the object is said to have"));
    }
    let need = |what, needed: u64| {
        if needed > object_len { Err(truncated(what, needed)) } else { Ok(Err(needed)) }
    };
    let Some(end) = tail.last_chunk::<{ seek_table::FOOTER_LEN }>() else {
        return need("seek table", seek_table::FOOTER_LEN as u64);
    };
    let seek_len = seek_table::len(seek_table::entry_count(end)?);
    let footer_needed = seek_len + FOOTER_LEN as u64;
    let Some(split) = usize::try_from(seek_len).ok().and_then(|len| tail.len().checked_sub(len)) else {
        return need("footer", footer_needed);
    };
    let (before, seek_table) = tail.split_at(split);
    let Some(footer_bytes) = before.last_chunk::<FOOTER_LEN>() else {
        return need("footer", footer_needed);
    };
    let footer = Footer::decode(footer_bytes, object_len - footer_needed)?;
    let body_len = u64::from(footer.body_len);
    FormatError::check_limit("index", body_len, limits::READ_INDEX_STORED_MAX)?;
    let tail_len = INDEX_HEADER_LEN as u64 + body_len + footer_needed;
    if footer.object_len > object_len {
        return Err(truncated("bundle", footer.object_len));
    }
    let whole = footer.data_end.checked_add(tail_len) == Some(object_len) && footer.object_len == object_len;
    if u64::from(footer.seek_len) != seek_len || !whole {
        return Err(FormatError::malformed("footer", "its lengths contradict each other"));
    }
    FormatError::check_crc32c("seek table", object_len - seek_len, seek_table, footer.seek_crc32c)?;
    let Some(start) = usize::try_from(tail_len).ok().and_then(|len| tail.len().checked_sub(len)) else {
        return need("index", tail_len);
    };
    let index_frame = &before[start..before.len() - FOOTER_LEN];
    let mut header = Fields::new("index frame", index_frame);
    if header.u32()? != INDEX_MAGIC || u64::from(header.u32()?) != body_len + FOOTER_LEN as u64 {
        return Err(FormatError::malformed("index frame", "its header is wrong"));
    }
    let body = &index_frame[INDEX_HEADER_LEN..];
    FormatError::check_crc32c("index", footer.data_end + INDEX_HEADER_LEN as u64, body, footer.body_crc32c)?;
    Ok(Ok(Parts { footer, body, seek_table }))
}
