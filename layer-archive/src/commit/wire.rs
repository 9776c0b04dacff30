//! The frozen structs of a commit's section. A released struct is never edited: a change is a new struct.

use serde::{Deserialize, Serialize};

use super::{
    Ancestor, BranchPoint, Commit, CommitFlags, Moved, PayloadRef, RemovalReason, Removed, TimelineMetadata,
    WriterInfo,
};
use crate::codec::{self, Rows, fixed};
use crate::{
    BundleId, Crc32c, Digest, Epoch, FormatError, Generation, LayerEntry, LayerName, Location, Lsn,
    PayloadId, Place, RawDigest, Seq, Term, UnixMillis,
};

const CLAIM: u32 = 1;
const RELEASED: u32 = 2;
const DELETED: u32 = 4;

const IN_RECORD: u8 = 0;
const IN_PAYLOAD: u8 = 1;

const COMPACTED: u8 = 0;
const COLLECTED: u8 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CommitV1 {
    seq: u64,
    parent: [u8; 16],
    flags: u32,
    #[serde(with = "postcard::fixint::le")]
    term: u64,
    epoch: u64,
    generation: Option<u32>,
    writer: WriterV1,
    time_ms: u64,
    metadata: Option<MetadataV1>,
    disk_consistent_lsn: Option<u64>,
    ancestor: Option<AncestorV1>,
    branch_points_added: Rows<BranchPointV1>,
    branch_points_removed: Rows<BranchPointV1>,
    payloads: Rows<PayloadV1>,
    added: Rows<AddedV1>,
    moved: Rows<MovedV1>,
    removed: Rows<RemovedV1>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WriterV1 {
    host: String,
    pid: u32,
    program: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MetadataV1 {
    file_name: String,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AncestorV1 {
    timeline: String,
    lsn: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BranchPointV1 {
    tenant: String,
    timeline: String,
    lsn: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PayloadV1 {
    claim: u64,
    #[serde(with = "postcard::fixint::le")]
    term: u64,
    number: u32,
    stored_bytes: u64,
    tail_len: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PlaceV1 {
    kind: u8,
    seq: u64,
    #[serde(with = "postcard::fixint::le")]
    term: u64,
    number: u32,
    start: u64,
    stored_len: u64,
    #[serde(with = "fixed")]
    crc32c: u32,
    offset: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AddedV1 {
    name: String,
    lsn: Option<(u64, u64)>,
    raw_size: u64,
    #[serde(with = "fixed")]
    raw_crc32c: u32,
    raw_blake3: [u8; 16],
    place: PlaceV1,
    stored_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MovedV1 {
    name: String,
    from: PlaceV1,
    to: PlaceV1,
    stored_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RemovedV1 {
    name: String,
    reason: u8,
}

fn malformed(error: impl ToString) -> FormatError {
    FormatError::malformed("commit", error.to_string())
}

impl From<&WriterInfo> for WriterV1 {
    fn from(writer: &WriterInfo) -> Self {
        let WriterInfo { host, pid, program } = writer;
        Self { host: host.clone(), pid: *pid, program: program.clone() }
    }
}

impl From<WriterV1> for WriterInfo {
    fn from(WriterV1 { host, pid, program }: WriterV1) -> Self {
        Self { host, pid, program }
    }
}

impl From<&TimelineMetadata> for MetadataV1 {
    fn from(metadata: &TimelineMetadata) -> Self {
        let TimelineMetadata { file_name, bytes } = metadata;
        Self { file_name: file_name.to_string(), bytes: bytes.clone() }
    }
}

impl TryFrom<MetadataV1> for TimelineMetadata {
    type Error = FormatError;

    fn try_from(MetadataV1 { file_name, bytes }: MetadataV1) -> Result<Self, FormatError> {
        Ok(Self { file_name: LayerName::new(file_name).map_err(malformed)?, bytes })
    }
}

impl From<&Ancestor> for AncestorV1 {
    fn from(Ancestor { timeline, lsn }: &Ancestor) -> Self {
        Self { timeline: timeline.to_string(), lsn: lsn.0 }
    }
}

impl TryFrom<AncestorV1> for Ancestor {
    type Error = FormatError;

    fn try_from(AncestorV1 { timeline, lsn }: AncestorV1) -> Result<Self, FormatError> {
        Ok(Self { timeline: timeline.parse().map_err(malformed)?, lsn: Lsn(lsn) })
    }
}

impl From<&BranchPoint> for BranchPointV1 {
    fn from(BranchPoint { tenant, timeline, lsn }: &BranchPoint) -> Self {
        Self { tenant: tenant.to_string(), timeline: timeline.to_string(), lsn: lsn.0 }
    }
}

impl TryFrom<BranchPointV1> for BranchPoint {
    type Error = FormatError;

    fn try_from(BranchPointV1 { tenant, timeline, lsn }: BranchPointV1) -> Result<Self, FormatError> {
        let tenant = tenant.parse().map_err(malformed)?;
        Ok(Self { tenant, timeline: timeline.parse().map_err(malformed)?, lsn: Lsn(lsn) })
    }
}

impl From<&PayloadRef> for PayloadV1 {
    fn from(PayloadRef { id, stored_bytes, tail_len }: &PayloadRef) -> Self {
        let PayloadId { claim, term, number } = *id;
        Self { claim: claim.0, term: term.0, number, stored_bytes: *stored_bytes, tail_len: *tail_len }
    }
}

impl From<PayloadV1> for PayloadRef {
    fn from(PayloadV1 { claim, term, number, stored_bytes, tail_len }: PayloadV1) -> Self {
        Self { id: PayloadId { claim: Seq(claim), term: Term(term), number }, stored_bytes, tail_len }
    }
}

impl From<&Place> for PlaceV1 {
    fn from(Place { bundle, location }: &Place) -> Self {
        let (kind, seq, term, number) = bundle_id_fields(*bundle);
        let Location { start, stored_len, crc32c, offset } = *location;
        Self { kind, seq, term, number, start, stored_len, crc32c: crc32c.0, offset }
    }
}

impl TryFrom<PlaceV1> for Place {
    type Error = FormatError;

    fn try_from(wire: PlaceV1) -> Result<Self, FormatError> {
        let PlaceV1 { kind, seq, term, number, start, stored_len, crc32c, offset } = wire;
        let bundle = bundle_id(kind, seq, term, number)?;
        Ok(Self { bundle, location: Location { start, stored_len, crc32c: Crc32c(crc32c), offset } })
    }
}

/// The four fields by which records and manifests name a bundle.
pub(crate) fn bundle_id_fields(bundle: BundleId) -> (u8, u64, u64, u32) {
    match bundle {
        BundleId::Record(seq) => (IN_RECORD, seq.0, 0, 0),
        BundleId::Payload(PayloadId { claim, term, number }) => (IN_PAYLOAD, claim.0, term.0, number),
    }
}

/// The bundle that these four fields name.
pub(crate) fn bundle_id(kind: u8, seq: u64, term: u64, number: u32) -> Result<BundleId, FormatError> {
    match (kind, term, number) {
        (IN_RECORD, 0, 0) => Ok(BundleId::Record(Seq(seq))),
        (IN_PAYLOAD, ..) => Ok(BundleId::Payload(PayloadId { claim: Seq(seq), term: Term(term), number })),
        _ => Err(malformed(format!("unknown kind of bundle {kind}"))),
    }
}

impl From<&LayerEntry> for AddedV1 {
    fn from(LayerEntry { name, lsn_range, raw, place, stored_bytes }: &LayerEntry) -> Self {
        Self {
            name: name.to_string(),
            lsn: codec::lsn_pair(*lsn_range),
            raw_size: raw.size,
            raw_crc32c: raw.crc32c.0,
            raw_blake3: raw.blake3.0,
            place: place.into(),
            stored_bytes: *stored_bytes,
        }
    }
}

impl TryFrom<AddedV1> for LayerEntry {
    type Error = FormatError;

    fn try_from(wire: AddedV1) -> Result<Self, FormatError> {
        let AddedV1 { name, lsn, raw_size, raw_crc32c, raw_blake3, place, stored_bytes } = wire;
        Ok(Self {
            name: LayerName::new(name).map_err(malformed)?,
            lsn_range: codec::lsn_range(lsn)?,
            raw: RawDigest { size: raw_size, crc32c: Crc32c(raw_crc32c), blake3: Digest(raw_blake3) },
            place: place.try_into()?,
            stored_bytes,
        })
    }
}

impl From<&Moved> for MovedV1 {
    fn from(Moved { name, from, to, stored_bytes }: &Moved) -> Self {
        Self { name: name.to_string(), from: from.into(), to: to.into(), stored_bytes: *stored_bytes }
    }
}

impl TryFrom<MovedV1> for Moved {
    type Error = FormatError;

    fn try_from(MovedV1 { name, from, to, stored_bytes }: MovedV1) -> Result<Self, FormatError> {
        let name = LayerName::new(name).map_err(malformed)?;
        Ok(Self { name, from: from.try_into()?, to: to.try_into()?, stored_bytes })
    }
}

impl From<&Removed> for RemovedV1 {
    fn from(Removed { name, reason }: &Removed) -> Self {
        let reason = match reason {
            RemovalReason::Compacted => COMPACTED,
            RemovalReason::Collected => COLLECTED,
        };
        Self { name: name.to_string(), reason }
    }
}

impl TryFrom<RemovedV1> for Removed {
    type Error = FormatError;

    fn try_from(RemovedV1 { name, reason }: RemovedV1) -> Result<Self, FormatError> {
        let reason = match reason {
            COMPACTED => RemovalReason::Compacted,
            COLLECTED => RemovalReason::Collected,
            _ => return Err(malformed(format!("unknown reason of a removal {reason}"))),
        };
        Ok(Self { name: LayerName::new(name).map_err(malformed)?, reason })
    }
}

fn to_rows<'a, T: 'a, W: From<&'a T>>(values: &'a [T]) -> Rows<W> {
    Rows(values.iter().map(W::from).collect())
}

fn from_rows<W, T: TryFrom<W, Error = FormatError>>(rows: Rows<W>) -> Result<Vec<T>, FormatError> {
    rows.0.into_iter().map(T::try_from).collect()
}

impl From<&Commit> for CommitV1 {
    fn from(commit: &Commit) -> Self {
        let CommitFlags { claim, released, deleted } = commit.flags;
        let flag = |set: bool, bit| if set { bit } else { 0 };
        Self {
            seq: commit.seq.0,
            parent: commit.parent.0,
            flags: flag(claim, CLAIM) | flag(released, RELEASED) | flag(deleted, DELETED),
            term: commit.term.0,
            epoch: commit.epoch.0,
            generation: commit.generation.map(|generation| generation.0),
            writer: (&commit.writer).into(),
            time_ms: commit.time.0,
            metadata: commit.metadata.as_ref().map(Into::into),
            disk_consistent_lsn: commit.disk_consistent_lsn.map(|lsn| lsn.0),
            ancestor: commit.ancestor.as_ref().map(Into::into),
            branch_points_added: to_rows(&commit.branch_points_added),
            branch_points_removed: to_rows(&commit.branch_points_removed),
            payloads: to_rows(&commit.payloads),
            added: to_rows(&commit.added),
            moved: to_rows(&commit.moved),
            removed: to_rows(&commit.removed),
        }
    }
}

impl TryFrom<CommitV1> for Commit {
    type Error = FormatError;

    fn try_from(wire: CommitV1) -> Result<Self, FormatError> {
        if wire.flags & !(CLAIM | RELEASED | DELETED) != 0 {
            return Err(malformed(format!("unknown flags {:#x}", wire.flags)));
        }
        let flag = |bit| wire.flags & bit != 0;
        let commit = Self {
            seq: Seq(wire.seq),
            parent: Digest(wire.parent),
            flags: CommitFlags { claim: flag(CLAIM), released: flag(RELEASED), deleted: flag(DELETED) },
            term: Term(wire.term),
            epoch: Epoch(wire.epoch),
            generation: wire.generation.map(Generation),
            writer: wire.writer.into(),
            time: UnixMillis(wire.time_ms),
            metadata: wire.metadata.map(TryInto::try_into).transpose()?,
            disk_consistent_lsn: wire.disk_consistent_lsn.map(Lsn),
            ancestor: wire.ancestor.map(TryInto::try_into).transpose()?,
            branch_points_added: from_rows(wire.branch_points_added)?,
            branch_points_removed: from_rows(wire.branch_points_removed)?,
            payloads: wire.payloads.0.into_iter().map(PayloadRef::from).collect(),
            added: from_rows(wire.added)?,
            moved: from_rows(wire.moved)?,
            removed: from_rows(wire.removed)?,
        };
        commit.check()?;
        Ok(commit)
    }
}
