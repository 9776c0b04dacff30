//! The frozen structs of a manifest's body. A released struct is never edited: a change is a new struct.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::column::{Column, from_deltas, to_deltas};
use super::columns::LayersV1;
use super::{BundleEntry, Manifest};
use crate::codec::Rows;
use crate::commit::{AncestorV1, BranchPointV1, MetadataV1, WriterV1, bundle_id, bundle_id_fields};
use crate::{
    BundleId, Digest, Epoch, FormatError, Generation, InvalidId, Lsn, Seq, Term, UnixMillis, limits,
};

const RELEASED: u32 = 1;
const DELETED: u32 = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ManifestV1 {
    tenant: String,
    timeline: String,
    seq: u64,
    history: [u8; 16],
    claim: u64,
    #[serde(with = "postcard::fixint::le")]
    term: u64,
    epoch: u64,
    generation: Option<u32>,
    writer: WriterV1,
    time_ms: u64,
    flags: u32,
    metadata: Option<MetadataV1>,
    disk_consistent_lsn: Option<u64>,
    ancestor: Option<AncestorV1>,
    branch_points: Rows<BranchPointV1>,
    bundles: BundlesV1,
    layers: LayersV1,
}

/// The bundles, a column per field.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BundlesV1 {
    bundles: u32,
    kind: Column,
    /// As deltas.
    seq: Column,
    term: Column,
    number: Column,
    /// How far after `seq`.
    named_by: Column,
    stored_bytes: Column,
    /// How many of the stored bytes are not live.
    not_live: Column,
    tail_len: Column,
}

fn malformed(error: InvalidId) -> FormatError {
    FormatError::malformed("manifest", error.to_string())
}

impl BundlesV1 {
    fn encode(bundles: &[BundleEntry]) -> Result<Self, FormatError> {
        FormatError::check_limit("bundles", bundles.len() as u64, limits::READ_ROWS_MAX as u64)?;
        let ids: Vec<_> = bundles.iter().map(|bundle| bundle_id_fields(bundle.id)).collect();
        let of_ids = |field: fn(&(u8, u64, u64, u32)) -> u64| {
            Column::encode(&ids.iter().map(field).collect::<Vec<_>>())
        };
        let of_bundles =
            |field: fn(&BundleEntry) -> u64| Column::encode(&bundles.iter().map(field).collect::<Vec<_>>());
        let after = bundles.iter().zip(&ids).map(|(bundle, id)| bundle.named_by.0.wrapping_sub(id.1));
        Ok(Self {
            bundles: u32::try_from(bundles.len()).unwrap_or(u32::MAX),
            kind: of_ids(|id| u64::from(id.0)),
            seq: Column::encode(&to_deltas(ids.iter().map(|id| id.1))),
            term: of_ids(|id| id.2),
            number: of_ids(|id| u64::from(id.3)),
            named_by: Column::encode(&after.collect::<Vec<_>>()),
            stored_bytes: of_bundles(|bundle| bundle.stored_bytes),
            not_live: of_bundles(|bundle| bundle.stored_bytes.wrapping_sub(bundle.live_bytes)),
            tail_len: of_bundles(|bundle| u64::from(bundle.tail_len)),
        })
    }

    fn decode(&self) -> Result<Vec<BundleEntry>, FormatError> {
        const WHAT: &str = "manifest bundles";
        let numbers =
            |column: &Column| column.decode(WHAT, usize::try_from(self.bundles).unwrap_or(usize::MAX));
        let seqs = from_deltas(numbers(&self.seq)?);
        let (kinds, terms, counts) = (numbers(&self.kind)?, numbers(&self.term)?, numbers(&self.number)?);
        let (after, stored) = (numbers(&self.named_by)?, numbers(&self.stored_bytes)?);
        let (not_live, tails) = (numbers(&self.not_live)?, numbers(&self.tail_len)?);
        let wide = |_| FormatError::malformed(WHAT, "a number that is too large");
        let entry = |row: usize| {
            let kind = u8::try_from(kinds[row]).map_err(wide)?;
            let number = u32::try_from(counts[row]).map_err(wide)?;
            Ok(BundleEntry {
                id: bundle_id(kind, seqs[row], terms[row], number)?,
                named_by: Seq(seqs[row].wrapping_add(after[row])),
                stored_bytes: stored[row],
                live_bytes: stored[row].wrapping_sub(not_live[row]),
                tail_len: u32::try_from(tails[row]).map_err(wide)?,
            })
        };
        (0..seqs.len()).map(entry).collect()
    }
}

impl TryFrom<&Manifest> for ManifestV1 {
    type Error = FormatError;

    fn try_from(manifest: &Manifest) -> Result<Self, FormatError> {
        let numbers: BTreeMap<BundleId, u32> =
            manifest.bundles.iter().zip(0..).map(|(bundle, number)| (bundle.id, number)).collect();
        let flag = |set: bool, bit| if set { bit } else { 0 };
        Ok(Self {
            tenant: manifest.tenant.to_string(),
            timeline: manifest.timeline.to_string(),
            seq: manifest.seq.0,
            history: manifest.history.0,
            claim: manifest.claim.0,
            term: manifest.term.0,
            epoch: manifest.epoch.0,
            generation: manifest.generation.map(|generation| generation.0),
            writer: (&manifest.writer).into(),
            time_ms: manifest.time.0,
            flags: flag(manifest.released, RELEASED) | flag(manifest.deleted, DELETED),
            metadata: manifest.metadata.as_ref().map(Into::into),
            disk_consistent_lsn: manifest.disk_consistent_lsn.map(|lsn| lsn.0),
            ancestor: manifest.ancestor.as_ref().map(Into::into),
            branch_points: Rows(manifest.branch_points.iter().map(Into::into).collect()),
            bundles: BundlesV1::encode(&manifest.bundles)?,
            layers: LayersV1::encode(&manifest.layers, &numbers)?,
        })
    }
}

impl TryFrom<ManifestV1> for Manifest {
    type Error = FormatError;

    fn try_from(wire: ManifestV1) -> Result<Self, FormatError> {
        if wire.flags & !(RELEASED | DELETED) != 0 {
            return Err(FormatError::malformed("manifest", format!("unknown flags {:#x}", wire.flags)));
        }
        let bundles = wire.bundles.decode()?;
        let ids: Vec<BundleId> = bundles.iter().map(|bundle| bundle.id).collect();
        Ok(Self {
            tenant: wire.tenant.parse().map_err(malformed)?,
            timeline: wire.timeline.parse().map_err(malformed)?,
            seq: Seq(wire.seq),
            history: Digest(wire.history),
            claim: Seq(wire.claim),
            term: Term(wire.term),
            epoch: Epoch(wire.epoch),
            generation: wire.generation.map(Generation),
            writer: wire.writer.into(),
            time: UnixMillis(wire.time_ms),
            released: wire.flags & RELEASED != 0,
            deleted: wire.flags & DELETED != 0,
            metadata: wire.metadata.map(TryInto::try_into).transpose()?,
            disk_consistent_lsn: wire.disk_consistent_lsn.map(Lsn),
            ancestor: wire.ancestor.map(TryInto::try_into).transpose()?,
            branch_points: wire
                .branch_points
                .0
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            layers: wire.layers.decode(&ids)?,
            bundles,
        })
    }
}
