//! Takes bundles and manifests apart and puts them together again, checksums made right, by `docs/format.md` alone.
//!
//! Nothing here uses the crate under test but its CRC32C: what reader and writer agree on wrongly shows here.

use layer_archive::Crc32c;

pub(crate) const CRITICAL: u16 = 0x8000;
pub(crate) const COMPRESSED: u16 = 0x4000;

/// A bundle, cut into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dissected {
    pub(crate) data: Vec<u8>,
    pub(crate) sections: Vec<Section>,
    pub(crate) version: u16,
    pub(crate) min_reader: u16,
    pub(crate) flags: u32,
    pub(crate) frames: u32,
    pub(crate) layers: u32,
    /// Stored and plain length of every frame before the seek table.
    pub(crate) seek: Vec<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) tag: u16,
    /// With its two flags.
    pub(crate) version: u16,
    pub(crate) plain: Vec<u8>,
}

/// A row of the frames section: stored length, plain length, CRC32C of the stored bytes.
pub(crate) type FrameRow = (u32, u32, [u8; 4]);
/// A row of the layers section: name, LSN range, raw size, frame, offset, CRC32C, BLAKE3.
pub(crate) type LayerRow = (Vec<u8>, Option<(u64, u64)>, u64, u32, u32, [u8; 4], [u8; 16]);
/// A row of the links section: name, LSN range, number of the layer.
pub(crate) type LinkRow = (Vec<u8>, Option<(u64, u64)>, u32);

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where the three parts behind the data begin and end: index frame, footer, seek table.
pub(crate) fn tail_offsets(object: &[u8]) -> Option<(usize, usize, usize)> {
    let end = object.len();
    (u32_at(object, end.checked_sub(4)?)? == 0x8F92_EAB1).then_some(())?;
    let entries = u32_at(object, end.checked_sub(9)?)? as usize;
    let seek_table = end.checked_sub(17 + 8 * entries)?;
    let footer = seek_table.checked_sub(64)?;
    let body_len = u32_at(object, footer + 16)? as usize;
    Some((footer.checked_sub(8 + body_len)?, footer, seek_table))
}

impl Dissected {
    pub(crate) fn read(object: &[u8]) -> Option<Self> {
        let (index, footer, seek_table) = tail_offsets(object)?;
        (object.get(footer..footer + 8)? == b"LPBNDL1\n").then_some(())?;
        let mut sections = Vec::new();
        let mut at = index + 8;
        while at < footer {
            let (tag, version) = (u16_at(object, at)?, u16_at(object, at + 2)?);
            let len = u32_at(object, at + 4)? as usize;
            let stored = object.get(at + 12..at + 12 + len)?;
            let compressed = version & COMPRESSED != 0;
            let plain = if compressed { zstd::stream::decode_all(stored).ok()? } else { stored.to_vec() };
            sections.push(Section { tag, version, plain });
            at += 12 + len;
        }
        let entries = (object.len() - seek_table - 17) / 8;
        let entry =
            |n| Some((u32_at(object, seek_table + 8 + 8 * n)?, u32_at(object, seek_table + 12 + 8 * n)?));
        Some(Self {
            data: object[..index].to_vec(),
            sections,
            version: u16_at(object, footer + 8)?,
            min_reader: u16_at(object, footer + 10)?,
            flags: u32_at(object, footer + 12)?,
            frames: u32_at(object, footer + 44)?,
            layers: u32_at(object, footer + 48)?,
            seek: (0..entries).map(entry).collect::<Option<_>>()?,
        })
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for Section { tag, version, plain } in &self.sections {
            let compressed = version & COMPRESSED != 0;
            let stored = if compressed { compress(plain) } else { plain.clone() };
            body.extend(tag.to_le_bytes());
            body.extend(version.to_le_bytes());
            body.extend((stored.len() as u32).to_le_bytes());
            body.extend(Crc32c::of(&stored).0.to_le_bytes());
            body.extend(stored);
        }
        body
    }

    /// The bundle, with every length and checksum as it should be.
    pub(crate) fn write(&self) -> Vec<u8> {
        self.write_with_body(&self.body(), |_| ())
    }

    /// The same with this body, and with its footer edited before its checksum is made.
    pub(crate) fn write_with_body(&self, body: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut seek = self.seek.clone();
        if let Some(index_frame) = seek.last_mut() {
            index_frame.0 = body.len() as u32 + 72;
        }
        let mut seek_table = Vec::new();
        seek_table.extend(0x184D_2A5E_u32.to_le_bytes());
        seek_table.extend((8 * seek.len() as u32 + 9).to_le_bytes());
        for (stored_len, plain_len) in &seek {
            seek_table.extend(stored_len.to_le_bytes());
            seek_table.extend(plain_len.to_le_bytes());
        }
        seek_table.extend((seek.len() as u32).to_le_bytes());
        seek_table.push(0);
        seek_table.extend(0x8F92_EAB1_u32.to_le_bytes());

        let mut object = self.data.clone();
        object.extend(0x184D_2A5B_u32.to_le_bytes());
        object.extend((body.len() as u32 + 64).to_le_bytes());
        object.extend(body);
        let mut footer = b"LPBNDL1\n".to_vec();
        footer.extend(self.version.to_le_bytes());
        footer.extend(self.min_reader.to_le_bytes());
        footer.extend(self.flags.to_le_bytes());
        footer.extend((body.len() as u32).to_le_bytes());
        footer.extend(Crc32c::of(body).0.to_le_bytes());
        footer.extend((self.data.len() as u64).to_le_bytes());
        footer.extend(((object.len() + 64 + seek_table.len()) as u64).to_le_bytes());
        footer.extend(Crc32c::of(&self.data).0.to_le_bytes());
        footer.extend(self.frames.to_le_bytes());
        footer.extend(self.layers.to_le_bytes());
        footer.extend((seek_table.len() as u32).to_le_bytes());
        footer.extend(Crc32c::of(&seek_table).0.to_le_bytes());
        edit(&mut footer);
        footer.extend(Crc32c::of(&footer).0.to_le_bytes());
        object.extend(footer);
        object.extend(seek_table);
        object
    }

    pub(crate) fn section(&mut self, tag: u16) -> &mut Section {
        self.sections.iter_mut().find(|section| section.tag == tag).unwrap()
    }

    /// Decodes a section's plain text as `T`, edits it and encodes it again.
    pub(crate) fn edit<T: serde::Serialize + serde::de::DeserializeOwned>(
        &mut self,
        tag: u16,
        edit: impl FnOnce(&mut T),
    ) {
        let section = self.section(tag);
        let (mut value, rest) = postcard::take_from_bytes::<T>(&section.plain).unwrap();
        assert!(rest.is_empty());
        edit(&mut value);
        section.plain = postcard::to_stdvec(&value).unwrap();
    }

    /// The tar stream.
    pub(crate) fn tar_stream(&self) -> Vec<u8> {
        zstd::stream::decode_all(&*self.data).unwrap()
    }
}

/// One zstd frame that says its length.
pub(crate) fn compress(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 3).unwrap_or_default()
}

/// A manifest's header fields and the plain text of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DissectedManifest {
    pub(crate) version: u16,
    pub(crate) min_reader: u16,
    pub(crate) features: u32,
    pub(crate) plain: Vec<u8>,
}

impl DissectedManifest {
    pub(crate) fn read(object: &[u8]) -> Option<Self> {
        (object.get(..8)? == b"LPMANIF\n").then_some(())?;
        Some(Self {
            version: u16_at(object, 8)?,
            min_reader: u16_at(object, 10)?,
            features: u32_at(object, 12)?,
            plain: zstd::stream::decode_all(object.get(64..)?).ok()?,
        })
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        self.write_with_body(&compress(&self.plain), self.plain.len() as u64)
    }

    pub(crate) fn write_with_body(&self, body: &[u8], plain_len: u64) -> Vec<u8> {
        let mut object = b"LPMANIF\n".to_vec();
        object.extend(self.version.to_le_bytes());
        object.extend(self.min_reader.to_le_bytes());
        object.extend(self.features.to_le_bytes());
        object.extend((body.len() as u64).to_le_bytes());
        object.extend(plain_len.to_le_bytes());
        object.extend(Crc32c::of(body).0.to_le_bytes());
        object.extend([0; 24]);
        object.extend(Crc32c::of(&object).0.to_le_bytes());
        object.extend(body);
        object
    }
}
