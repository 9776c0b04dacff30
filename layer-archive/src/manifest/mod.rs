//! The manifest: a snapshot of a timeline after a record, in one object.
//!
//! A header of 64 bytes, then one zstd frame that holds the body. Layers are sorted by name and written as columns:
//! names front-coded, and the frames that several layers share only once.

mod column;
mod columns;
#[cfg(test)]
mod tests;
mod wire;

use crate::codec::{self, Fields};
use crate::{
    Ancestor, BranchPoint, BundleId, Crc32c, Digest, Epoch, FormatError, Generation, LayerEntry, Lsn, Seq,
    TenantId, Term, TimelineId, TimelineMetadata, UnixMillis, WriterInfo, limits,
};

const MAGIC: [u8; 8] = *b"LPMANIF\n";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 64;
const LEVEL: i32 = 6;

/// The state of a timeline after the records 1 to `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The tenant.
    pub tenant: TenantId,
    /// The timeline.
    pub timeline: TimelineId,
    /// The last record that is in the state.
    pub seq: Seq,
    /// The digest over the ids of those records.
    pub history: Digest,
    /// The newest claim's record.
    pub claim: Seq,
    /// The newest claim's term.
    pub term: Term,
    /// The newest claim's epoch.
    pub epoch: Epoch,
    /// The newest claim's generation.
    pub generation: Option<Generation>,
    /// Who wrote the last record.
    pub writer: WriterInfo,
    /// When the last record was written.
    pub time: UnixMillis,
    /// Whether nobody writes.
    pub released: bool,
    /// Whether the timeline is deleted.
    pub deleted: bool,
    /// The timeline metadata.
    pub metadata: Option<TimelineMetadata>,
    /// Up to which LSN the timeline is durable.
    pub disk_consistent_lsn: Option<Lsn>,
    /// The timeline this one was branched from.
    pub ancestor: Option<Ancestor>,
    /// The branches of this timeline, sorted.
    pub branch_points: Vec<BranchPoint>,
    /// The bundles that hold layers, sorted by id; and the payload objects of the newest claim that hold none.
    pub bundles: Vec<BundleEntry>,
    /// The layers, sorted by name.
    pub layers: Vec<LayerEntry>,
}

/// A bundle, as the state of a timeline knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleEntry {
    /// Its name.
    pub id: BundleId,
    /// The last record that names it.
    pub named_by: Seq,
    /// Its length.
    pub stored_bytes: u64,
    /// How many of its bytes belong to live layers, each place counted once.
    pub live_bytes: u64,
    /// How many of its last bytes hold its index.
    pub tail_len: u32,
}

impl Manifest {
    /// Renders the manifest. Equal states make equal bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let plain = codec::encode("manifest", &wire::ManifestV1::try_from(self)?)?;
        let body = codec::compress("manifest", &plain, LEVEL)?;
        let mut object = Vec::with_capacity(HEADER_LEN + body.len());
        object.extend_from_slice(&MAGIC);
        object.extend_from_slice(&VERSION.to_le_bytes());
        object.extend_from_slice(&VERSION.to_le_bytes());
        object.extend_from_slice(&0u32.to_le_bytes());
        object.extend_from_slice(&(body.len() as u64).to_le_bytes());
        object.extend_from_slice(&(plain.len() as u64).to_le_bytes());
        object.extend_from_slice(&Crc32c::of(&body).0.to_le_bytes());
        object.resize(HEADER_LEN - 4, 0);
        object.extend_from_slice(&Crc32c::of(&object).0.to_le_bytes());
        object.extend_from_slice(&body);
        Ok(object)
    }

    /// Decodes and checks a manifest.
    pub fn decode(object: &[u8]) -> Result<Self, FormatError> {
        let Some((header, body)) = object.split_first_chunk::<HEADER_LEN>() else {
            let (needed, available) = (HEADER_LEN as u64, object.len() as u64);
            return Err(FormatError::Truncated { what: "manifest", needed, available });
        };
        let mut fields = Fields::new("manifest header", header);
        if fields.bytes()? != MAGIC {
            return Err(FormatError::Magic { what: "manifest" });
        }
        let crc32c = Crc32c(Fields::new("manifest header", &header[HEADER_LEN - 4..]).u32()?);
        FormatError::check_crc32c("manifest header", 0, &header[..HEADER_LEN - 4], crc32c)?;
        let (_version, needed, features) = (fields.u16()?, fields.u16()?, fields.u32()?);
        if needed > VERSION {
            return Err(FormatError::TooNew { what: "manifest", needed, supported: VERSION });
        }
        if features != 0 {
            return Err(FormatError::malformed("manifest header", format!("unknown features {features:#x}")));
        }
        let (body_len, plain_len, body_crc32c) = (fields.u64()?, fields.u64()?, Crc32c(fields.u32()?));
        let (needed, available) = (body_len, body.len() as u64);
        if available < needed {
            return Err(FormatError::Truncated { what: "manifest body", needed, available });
        }
        if available > needed {
            return Err(FormatError::malformed("manifest", "more bytes follow its body"));
        }
        FormatError::check_crc32c("manifest body", HEADER_LEN as u64, body, body_crc32c)?;
        let plain = codec::decompress("manifest", body, limits::READ_SECTION_PLAIN_MAX)?;
        if plain.len() as u64 != plain_len {
            return Err(FormatError::malformed("manifest", "it is not as long as it says"));
        }
        let manifest = Self::try_from(codec::decode::<wire::ManifestV1>("manifest", &plain)?)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bundle with this id, if it is in the state.
    pub fn bundle(&self, id: BundleId) -> Option<&BundleEntry> {
        self.bundles
            .binary_search_by_key(&id, |bundle| bundle.id)
            .ok()
            .and_then(|index| self.bundles.get(index))
    }

    /// What holds for every state, before it is written and after it is read.
    fn check(&self) -> Result<(), FormatError> {
        let malformed = |why: String| Err(FormatError::malformed("manifest", why));
        if !self.layers.is_sorted_by(|a, b| a.name < b.name) {
            return malformed("its layers are not sorted, or two have one name".into());
        }
        if !self.bundles.is_sorted_by(|a, b| a.id < b.id) || !self.branch_points.is_sorted() {
            return malformed("its bundles or branch points are not sorted".into());
        }
        self.metadata.iter().try_for_each(TimelineMetadata::check)?;
        for layer in &self.layers {
            layer.check()?;
            let Some(bundle) = self.bundle(layer.place.bundle) else {
                return malformed(format!("{:?} is in a bundle that is not listed", layer.name));
            };
            if layer.place.location.end() > bundle.stored_bytes {
                return malformed(format!("{:?} is outside its bundle", layer.name));
            }
        }
        Ok(())
    }
}
