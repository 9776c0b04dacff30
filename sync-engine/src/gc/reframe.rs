//! Live layers of old bundles into new ones: frames that are all live as they are stored, the others made anew.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use layer_archive::{
    BundleIndex, BundleWriter, EncodedFrame, FormatError, FrameCompressor, FrameDecoder, IndexedFrame,
    IndexedLayer, LayerEntry, LayerName, Level, Location, LsnRange, PackedLayer, RawDigest, limits,
    member_header, padding_len,
};

/// Plain text that is decoded at once: far more than any unit of this program's bundles that has to be.
const UNIT_PLAIN_MAX: u64 = 64 << 20;

/// The live layers of a bundle, by where they are. The first is a member, the others its links.
pub(super) type LiveLayers = HashMap<Location, Vec<LayerEntry>>;

/// Frames that hold whole members and nothing else: one shared frame, or all slices of a large layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) frames: Range<usize>,
    pub(super) layers: Range<usize>,
    /// Whether nothing but these members is in the frames, so that they can be copied.
    is_exact: bool,
}

/// Cuts a bundle into units. What follows the last layer, links, metadata and the end, is in none.
pub(super) fn units(index: &BundleIndex) -> Result<Vec<Unit>, FormatError> {
    let mut units = Vec::new();
    let (mut frames, mut layers) = (0..0, 0..0);
    let (mut member_end, mut frame_end) = (0, 0);
    for layer in index.layers() {
        member_end += member_len(layer)?;
        layers.end += 1;
        while frame_end < member_end {
            let Some(frame) = index.frames().get(frames.end) else { break };
            frame_end += u64::from(frame.plain_len);
            frames.end += 1;
        }
        if frame_end == member_end {
            units.push(Unit { frames: frames.clone(), layers: layers.clone(), is_exact: true });
            (frames.start, layers.start) = (frames.end, layers.end);
        }
    }
    if !layers.is_empty() {
        units.push(Unit { frames, layers, is_exact: false });
    }
    Ok(units)
}

fn member_len(layer: &IndexedLayer) -> Result<u64, FormatError> {
    let header = member_header(&layer.name, layer.raw.size)?.len() + padding_len(layer.raw.size);
    Ok(header as u64 + layer.raw.size)
}

impl Unit {
    /// The stored bytes of its frames.
    pub(super) fn range(&self, index: &BundleIndex) -> Range<u64> {
        let frames = &index.frames()[self.frames.clone()];
        let start = frames.first().map_or(0, |frame| frame.start);
        start..frames.last().map_or(start, |frame| frame.stored_range().end)
    }

    /// Whether any of its layers is live.
    pub(super) fn is_live(&self, index: &BundleIndex, live: &LiveLayers) -> bool {
        index.layers()[self.layers.clone()].iter().any(|layer| live.contains_key(&index.location(layer)))
    }
}

/// A member to be: its own name, what it is, and the names of its links.
struct NewMember {
    layer: PackedLayer,
    links: Vec<(LayerName, Option<LsnRange>)>,
}

impl NewMember {
    /// `names` are the live layers of one place. The one that keeps its name in the tar stream goes first.
    fn new(member: &IndexedLayer, names: &[LayerEntry]) -> Option<Self> {
        let own = names.iter().find(|entry| entry.name == member.name).or(names.first())?;
        let links = names.iter().filter(|entry| entry.name != own.name);
        Some(Self {
            layer: PackedLayer { name: own.name.clone(), lsn_range: own.lsn_range, raw: member.raw },
            links: links.map(|entry| (entry.name.clone(), entry.lsn_range)).collect(),
        })
    }

    fn keeps_its_name(&self, member: &IndexedLayer) -> bool {
        self.layer.name == member.name
    }

    fn layer_count(&self) -> usize {
        1 + self.links.len()
    }
}

/// Fills new bundles.
pub(super) struct Rebundler {
    bundle_bytes_target: u64,
    compressor: FrameCompressor,
    decoder: FrameDecoder,
    bundle: BundleWriter,
    /// The plain text of the shared frame that is being filled, and what is in it.
    plain: Vec<u8>,
    members: Vec<NewMember>,
    /// Bundles that are full.
    full: Vec<BundleWriter>,
}

impl Rebundler {
    pub(super) fn new(bundle_bytes_target: u64) -> Result<Self, FormatError> {
        Ok(Self {
            bundle_bytes_target,
            compressor: FrameCompressor::new()?,
            decoder: FrameDecoder::new(),
            bundle: BundleWriter::new(),
            plain: Vec::new(),
            members: Vec::new(),
            full: Vec::new(),
        })
    }

    /// The bundles that are full.
    pub(super) fn take_full(&mut self) -> Vec<BundleWriter> {
        std::mem::take(&mut self.full)
    }

    /// Closes the last bundle.
    pub(super) fn finish(mut self) -> Result<Vec<BundleWriter>, FormatError> {
        self.flush()?;
        self.close();
        Ok(self.full)
    }

    /// Takes the live layers of a unit, whose stored bytes are `stored`.
    pub(super) fn push(
        &mut self,
        index: &BundleIndex,
        unit: &Unit,
        stored: &Bytes,
        live: &LiveLayers,
    ) -> Result<(), FormatError> {
        let indexed = &index.layers()[unit.layers.clone()];
        let news: Vec<Option<NewMember>> =
            indexed.iter().map(|layer| NewMember::new(layer, live.get(&index.location(layer))?)).collect();
        let frames = cut(&index.frames()[unit.frames.clone()], stored)?;
        let all_kept = news
            .iter()
            .zip(indexed)
            .all(|(new, layer)| new.as_ref().is_some_and(|new| new.keeps_its_name(layer)));
        match (indexed, unit.is_exact) {
            (_, true) if all_kept => self.copy(&frames, news.into_iter().flatten().collect()),
            ([layer], true) if frames.len() > 1 => {
                let new: Vec<NewMember> = news.into_iter().flatten().collect();
                let frames = self.rename(layer, &new, frames)?;
                self.copy(&frames, new)
            }
            _ => self.rewrite(indexed, news, &frames),
        }
    }

    /// Appends frames as they are.
    fn copy(&mut self, frames: &[EncodedFrame], members: Vec<NewMember>) -> Result<(), FormatError> {
        let stored: u64 = frames.iter().map(|frame| frame.stored.len() as u64).sum();
        let layers = members.iter().map(NewMember::layer_count).sum();
        self.make_room(stored, layers, frames.len());
        frames.iter().try_for_each(|frame| self.bundle.push_frame(frame))?;
        self.name(members)
    }

    /// The frames of a large layer under its new name: only the header in the first one changes.
    fn rename(
        &mut self,
        layer: &IndexedLayer,
        new: &[NewMember],
        mut frames: Vec<EncodedFrame>,
    ) -> Result<Vec<EncodedFrame>, FormatError> {
        if let ([NewMember { layer: renamed, .. }], Some(first)) = (new, frames.first_mut()) {
            let plain = self.decoder.decode(&first.stored, u64::from(first.plain_len))?;
            let header_len = member_header(&layer.name, layer.raw.size)?.len();
            let mut anew = member_header(&renamed.name, layer.raw.size)?;
            anew.extend_from_slice(plain.get(header_len..).unwrap_or_default());
            *first = self.compressor.compress(&anew, Level::REPACK)?;
        }
        Ok(frames)
    }

    /// Decodes frames and takes what lives in them.
    fn rewrite(
        &mut self,
        indexed: &[IndexedLayer],
        news: Vec<Option<NewMember>>,
        frames: &[EncodedFrame],
    ) -> Result<(), FormatError> {
        let plain_len: u64 = frames.iter().map(|frame| u64::from(frame.plain_len)).sum();
        if plain_len > UNIT_PLAIN_MAX {
            return Err(FormatError::Limit {
                what: "frames without a cut",
                value: plain_len,
                limit: UNIT_PLAIN_MAX,
            });
        }
        let mut plain = Vec::new();
        for frame in frames {
            plain.extend(self.decoder.decode(&frame.stored, u64::from(frame.plain_len))?);
        }
        let mut rest = &*plain;
        for (layer, new) in indexed.iter().zip(news) {
            let header = member_header(&layer.name, layer.raw.size)?.len();
            let len = usize::try_from(layer.raw.size).unwrap_or(usize::MAX);
            let (member, after) = rest
                .split_at_checked(header.saturating_add(len).saturating_add(padding_len(layer.raw.size)))
                .ok_or(FormatError::Truncated {
                    what: "frames",
                    needed: layer.raw.size,
                    available: rest.len() as u64,
                })?;
            rest = after;
            let Some(new) = new else { continue };
            let raw = &member[header..header + len];
            layer.raw.check(&layer.name, &RawDigest::of(raw))?;
            self.pack(new, raw)?;
        }
        Ok(())
    }

    /// Puts a layer into the shared frame that is being filled, or cuts it into frames of its own.
    fn pack(&mut self, member: NewMember, raw: &[u8]) -> Result<(), FormatError> {
        let mut plain = member_header(&member.layer.name, member.layer.raw.size)?;
        if member.layer.raw.size > limits::SLICE_RAW_BYTES {
            let mut frames = Vec::new();
            let slice = usize::try_from(limits::SLICE_RAW_BYTES).unwrap_or(usize::MAX);
            let mut slices = raw.chunks(slice).peekable();
            while let Some(slice) = slices.next() {
                plain.extend_from_slice(slice);
                if slices.peek().is_none() {
                    plain.resize(plain.len() + padding_len(member.layer.raw.size), 0);
                }
                frames.push(self.compressor.compress(&plain, Level::REPACK)?);
                plain.clear();
            }
            return self.copy(&frames, vec![member]);
        }
        plain.extend_from_slice(raw);
        plain.resize(plain.len() + padding_len(member.layer.raw.size), 0);
        let layers: usize = self.members.iter().map(NewMember::layer_count).sum();
        let is_full = self.plain.len() + plain.len() > limits::SHARED_FRAME_PLAIN_MAX
            || layers + member.layer_count() > limits::FRAME_LAYERS_MAX;
        if is_full {
            self.flush()?;
        }
        self.plain.extend_from_slice(&plain);
        self.members.push(member);
        Ok(())
    }

    /// Appends the shared frame that was being filled.
    fn flush(&mut self) -> Result<(), FormatError> {
        let members = std::mem::take(&mut self.members);
        if members.is_empty() {
            return Ok(());
        }
        let frame = self.compressor.compress(&std::mem::take(&mut self.plain), Level::REPACK)?;
        let layers = members.iter().map(NewMember::layer_count).sum();
        self.make_room(frame.stored.len() as u64, layers, 1);
        self.bundle.push_frame(&frame)?;
        self.name(members)
    }

    fn name(&mut self, members: Vec<NewMember>) -> Result<(), FormatError> {
        for NewMember { layer, links } in members {
            let target = self.bundle.push_layer(layer)?;
            for (name, lsn_range) in links {
                self.bundle.push_link(name, lsn_range, target);
            }
        }
        Ok(())
    }

    /// Closes the bundle where what comes next does not fit it.
    fn make_room(&mut self, stored: u64, layers: usize, frames: usize) {
        let is_full = self.bundle.stored_len() + stored > self.bundle_bytes_target
            || self.bundle.layer_count() + layers > limits::BUNDLE_LAYERS_MAX
            || self.bundle.frame_count() + frames > limits::BUNDLE_FRAMES_MAX;
        if is_full {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.bundle.layer_count() > 0 {
            self.full.push(std::mem::take(&mut self.bundle));
        }
    }
}

/// Frames that follow each other, cut out of their stored bytes. Each must have its checksum: what is copied is never
/// decoded.
fn cut(frames: &[IndexedFrame], stored: &Bytes) -> Result<Vec<EncodedFrame>, FormatError> {
    let mut rest = stored.clone();
    let cut = |frame: &IndexedFrame| {
        let (len, available) = (frame.stored_len as usize, rest.len());
        if len > available {
            let (needed, available) = (u64::from(frame.stored_len), available as u64);
            return Err(FormatError::Truncated { what: "frames", needed, available });
        }
        let stored = rest.split_to(len);
        let actual = layer_archive::Crc32c::of(&stored);
        if actual != frame.crc32c {
            let (offset, expected) = (frame.start, frame.crc32c);
            return Err(FormatError::Checksum { what: "frame", offset, expected, actual });
        }
        Ok(EncodedFrame { stored, crc32c: frame.crc32c, plain_len: frame.plain_len })
    };
    frames.iter().map(cut).collect()
}
