//! The frozen structs of a bundle's sections. A released struct is never edited: a change is a new struct.

use serde::{Deserialize, Serialize};

use super::index::{IndexedFrame, IndexedLayer, IndexedLink, Origin};
use crate::codec::{self, Rows, fixed};
use crate::commit::CommitV1;
use crate::entry::RawDigest;
use crate::{Crc32c, Digest, FormatError, LayerName};

/// For which timeline and as which object the bundle was made.
pub(super) const ORIGIN: u16 = 1;
/// Every data frame.
pub(super) const FRAMES: u16 = 2;
/// The layers that are members with data, in the order of the tar stream.
pub(super) const LAYERS: u16 = 3;
/// The layers that are links to those, in the order of the tar stream.
pub(super) const LINKS: u16 = 4;
/// What the record says; only in records.
pub(super) const COMMIT: u16 = 5;

const VERSION: u16 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OriginV1 {
    pub(super) tenant: String,
    pub(super) timeline: String,
    /// As in the object's key below its timeline, without the suffix.
    pub(super) object: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FrameV1 {
    stored_len: u32,
    plain_len: u32,
    #[serde(with = "fixed")]
    crc32c: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LayerV1 {
    name: String,
    lsn: Option<(u64, u64)>,
    raw_size: u64,
    frame: u32,
    offset: u32,
    #[serde(with = "fixed")]
    crc32c: u32,
    blake3: [u8; 16],
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LinkV1 {
    name: String,
    lsn: Option<(u64, u64)>,
    target: u32,
}

/// The index of a bundle as its writer and its reader hold it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) frames: Vec<IndexedFrame>,
    pub(super) layers: Vec<IndexedLayer>,
    pub(super) links: Vec<IndexedLink>,
}

/// Renders all sections.
pub(super) fn encode(
    origin: &Origin,
    tables: &Tables,
    commit: Option<&CommitV1>,
) -> Result<Vec<u8>, FormatError> {
    let mut body = Vec::new();
    let mut append = |tag, what, plain: Vec<u8>| codec::append_section(&mut body, tag, VERSION, what, &plain);
    append(ORIGIN, "origin section", codec::encode("origin section", &OriginV1::from(origin))?)?;
    let frames: Vec<FrameV1> = tables.frames.iter().map(FrameV1::from).collect();
    append(FRAMES, "frames section", codec::encode("frames section", &frames)?)?;
    let layers: Vec<LayerV1> = tables.layers.iter().map(LayerV1::from).collect();
    append(LAYERS, "layers section", codec::encode("layers section", &layers)?)?;
    if !tables.links.is_empty() {
        let links: Vec<LinkV1> = tables.links.iter().map(LinkV1::from).collect();
        append(LINKS, "links section", codec::encode("links section", &links)?)?;
    }
    if let Some(commit) = commit {
        append(COMMIT, "commit section", codec::encode("commit section", commit)?)?;
    }
    Ok(body)
}

/// What the sections of a bundle say.
pub(super) struct Sections {
    pub(super) origin: Origin,
    pub(super) tables: Tables,
    pub(super) commit: Option<crate::Commit>,
}

/// Decodes the sections of `body`, which begins at `offset` of the object.
pub(super) fn decode(body: &[u8], offset: u64) -> Result<Sections, FormatError> {
    let (mut origin, mut frames, mut layers, mut links, mut commit) = (None, None, None, None, None);
    let mut seen = Vec::new();
    for section in codec::sections(body, offset)? {
        let (tag, version) = (section.tag, section.version());
        if seen.contains(&tag) {
            return Err(FormatError::malformed("index", format!("two sections {tag:#06x}")));
        }
        seen.push(tag);
        match (tag, version) {
            (ORIGIN, VERSION) => origin = Some(decode_origin(&section.plain("origin section")?)?),
            (FRAMES, VERSION) => frames = Some(decode_frames(&section.plain("frames section")?)?),
            (LAYERS, VERSION) => layers = Some(decode_layers(&section.plain("layers section")?)?),
            (LINKS, VERSION) => links = Some(decode_links(&section.plain("links section")?)?),
            (COMMIT, VERSION) => commit = Some(decode_commit(&section.plain("commit section")?)?),
            _ if section.is_critical() => return Err(FormatError::UnknownSection { tag, version }),
            _ => {}
        }
    }
    let missing = |what| FormatError::malformed("index", format!("there is no {what} section"));
    let tables = Tables {
        frames: frames.ok_or_else(|| missing("frames"))?,
        layers: layers.ok_or_else(|| missing("layers"))?,
        links: links.unwrap_or_default(),
    };
    Ok(Sections { origin: origin.ok_or_else(|| missing("origin"))?, tables, commit })
}

fn decode_origin(plain: &[u8]) -> Result<Origin, FormatError> {
    codec::decode::<OriginV1>("origin section", plain)?.try_into()
}

fn decode_frames(plain: &[u8]) -> Result<Vec<IndexedFrame>, FormatError> {
    let mut start = 0u64;
    let wire = codec::decode::<Rows<FrameV1>>("frames section", plain)?.0;
    Ok(wire
        .into_iter()
        .map(|FrameV1 { stored_len, plain_len, crc32c }| {
            let frame = IndexedFrame { start, stored_len, plain_len, crc32c: Crc32c(crc32c) };
            // At most 2^20 lengths of 32 bits: no overflow.
            start += u64::from(stored_len);
            frame
        })
        .collect())
}

fn decode_layers(plain: &[u8]) -> Result<Vec<IndexedLayer>, FormatError> {
    let wire = codec::decode::<Rows<LayerV1>>("layers section", plain)?.0;
    wire.into_iter().map(IndexedLayer::try_from).collect()
}

fn decode_links(plain: &[u8]) -> Result<Vec<IndexedLink>, FormatError> {
    let wire = codec::decode::<Rows<LinkV1>>("links section", plain)?.0;
    wire.into_iter().map(IndexedLink::try_from).collect()
}

fn decode_commit(plain: &[u8]) -> Result<crate::Commit, FormatError> {
    codec::decode::<CommitV1>("commit section", plain)?.try_into()
}

impl From<&Origin> for OriginV1 {
    fn from(Origin { tenant, timeline, bundle }: &Origin) -> Self {
        Self { tenant: tenant.to_string(), timeline: timeline.to_string(), object: bundle.to_string() }
    }
}

impl TryFrom<OriginV1> for Origin {
    type Error = FormatError;

    fn try_from(OriginV1 { tenant, timeline, object }: OriginV1) -> Result<Self, FormatError> {
        let malformed = |error: crate::InvalidId| FormatError::malformed("origin section", error.to_string());
        Ok(Self {
            tenant: tenant.parse().map_err(malformed)?,
            timeline: timeline.parse().map_err(malformed)?,
            bundle: object.parse()?,
        })
    }
}

impl From<&IndexedFrame> for FrameV1 {
    fn from(IndexedFrame { start: _, stored_len, plain_len, crc32c }: &IndexedFrame) -> Self {
        Self { stored_len: *stored_len, plain_len: *plain_len, crc32c: crc32c.0 }
    }
}

impl From<&IndexedLayer> for LayerV1 {
    fn from(IndexedLayer { name, lsn_range, raw, frame, offset }: &IndexedLayer) -> Self {
        Self {
            name: name.to_string(),
            lsn: codec::lsn_pair(*lsn_range),
            raw_size: raw.size,
            frame: *frame,
            offset: *offset,
            crc32c: raw.crc32c.0,
            blake3: raw.blake3.0,
        }
    }
}

fn layer_name(name: String) -> Result<LayerName, FormatError> {
    LayerName::new(name).map_err(|error| FormatError::malformed("index", error.to_string()))
}

impl TryFrom<LayerV1> for IndexedLayer {
    type Error = FormatError;

    fn try_from(wire: LayerV1) -> Result<Self, FormatError> {
        let LayerV1 { name, lsn, raw_size, frame, offset, crc32c, blake3 } = wire;
        let raw = RawDigest { size: raw_size, crc32c: Crc32c(crc32c), blake3: Digest(blake3) };
        Ok(Self { name: layer_name(name)?, lsn_range: codec::lsn_range(lsn)?, raw, frame, offset })
    }
}

impl From<&IndexedLink> for LinkV1 {
    fn from(IndexedLink { name, lsn_range, target }: &IndexedLink) -> Self {
        Self { name: name.to_string(), lsn: codec::lsn_pair(*lsn_range), target: *target }
    }
}

impl TryFrom<LinkV1> for IndexedLink {
    type Error = FormatError;

    fn try_from(LinkV1 { name, lsn, target }: LinkV1) -> Result<Self, FormatError> {
        Ok(Self { name: layer_name(name)?, lsn_range: codec::lsn_range(lsn)?, target })
    }
}
