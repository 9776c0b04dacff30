//! A commit: what a record says of its timeline, apart from the layers in the record's own bundle.

#[cfg(test)]
mod tests;
mod wire;

use crate::{
    Digest, Epoch, FormatError, Generation, LayerEntry, LayerName, Lsn, PayloadId, Place, Seq, TenantId,
    Term, TimelineId, UnixMillis, limits,
};

pub(crate) use wire::{
    AncestorV1, BranchPointV1, CommitV1, MetadataV1, WriterV1, bundle_id, bundle_id_fields,
};

/// What one record changes.
///
/// The layers of the bundle inside the record are not listed here but in the bundle's own index; the state takes
/// both. Applied in this order: claim, removals, moves, layers added (payload bundles first, the record's own last),
/// metadata, branch points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The record's number.
    pub seq: Seq,
    /// The digest over the ids of all records before it, so that a record fits one history only.
    pub parent: Digest,
    /// What kind of record this is.
    pub flags: CommitFlags,
    /// The writer's reign.
    pub term: Term,
    /// The number of the writer's reign.
    pub epoch: Epoch,
    /// The control plane's generation, where one was ever given.
    pub generation: Option<Generation>,
    /// Who wrote it.
    pub writer: WriterInfo,
    /// When, by the writer's clock, but never less than in the record before.
    pub time: UnixMillis,
    /// New timeline metadata.
    pub metadata: Option<TimelineMetadata>,
    /// Up to which LSN the timeline is durable with this record. With metadata, `None` means that it does not say;
    /// without, that nothing changes.
    pub disk_consistent_lsn: Option<Lsn>,
    /// The timeline this one was branched from, said once, by the first commit.
    pub ancestor: Option<Ancestor>,
    /// Branches of this timeline that begin to exist.
    pub branch_points_added: Vec<BranchPoint>,
    /// Branches of this timeline that have ceased to exist.
    pub branch_points_removed: Vec<BranchPoint>,
    /// The payload objects that this record names for the first time.
    pub payloads: Vec<PayloadRef>,
    /// Layers added, in payload objects.
    pub added: Vec<LayerEntry>,
    /// Layers that are now found elsewhere.
    pub moved: Vec<Moved>,
    /// Layers that are no more.
    pub removed: Vec<Removed>,
}

/// What kind of record a commit makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommitFlags {
    /// The record is a claim: its writer takes over, everybody before it is fenced. It adds no layers.
    pub claim: bool,
    /// Nobody writes after this record, until the next claim.
    pub released: bool,
    /// The timeline is deleted, for ever.
    pub deleted: bool,
}

/// Who wrote a record; for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriterInfo {
    /// The name of the machine.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// The program and its version.
    pub program: String,
}

/// A timeline's metadata file: opaque bytes under a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineMetadata {
    /// The name of the file in the work directory.
    pub file_name: LayerName,
    /// Its bytes, at most [`limits::METADATA_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// Where a timeline was branched off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ancestor {
    /// The timeline it was branched from.
    pub timeline: TimelineId,
    /// At which of its LSNs.
    pub lsn: Lsn,
}

/// Where a branch leaves this timeline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BranchPoint {
    /// The tenant that the branch belongs to.
    pub tenant: TenantId,
    /// The branch.
    pub timeline: TimelineId,
    /// At which LSN.
    pub lsn: Lsn,
}

/// A payload object that a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRef {
    /// Its name.
    pub id: PayloadId,
    /// Its length.
    pub stored_bytes: u64,
    /// How many of its last bytes hold the index.
    pub tail_len: u32,
}

/// A layer that is now found elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its name.
    pub name: LayerName,
    /// Where it was. The move is ignored where that is not the layer's current place.
    pub from: Place,
    /// Where it is now.
    pub to: Place,
    /// Its part of the stored bytes there.
    pub stored_bytes: u64,
}

/// A layer that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its name.
    pub name: LayerName,
    /// Why.
    pub reason: RemovalReason,
}

/// Why a layer is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemovalReason {
    /// What it holds is in other layers, which are in this or an earlier record: all of it. A compaction that drops history
    /// which nobody needs any more has collected the layers that held it.
    Compacted,
    /// Nothing needs what it holds.
    Collected,
}

impl TimelineMetadata {
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let (len, max) = (self.bytes.len() as u64, limits::METADATA_BYTES_MAX as u64);
        FormatError::check_limit("timeline metadata", len, max)
    }
}

impl Commit {
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let malformed = |why: &str| Err(FormatError::malformed("commit", why));
        if self.seq == Seq(0) {
            return malformed("records count from 1");
        }
        self.metadata.iter().try_for_each(TimelineMetadata::check)?;
        self.added.iter().try_for_each(LayerEntry::check)?;
        self.moved.iter().try_for_each(|moved| moved.from.location.check().and(moved.to.location.check()))?;
        let changes_layers = !(self.payloads.is_empty()
            && self.added.is_empty()
            && self.moved.is_empty()
            && self.removed.is_empty());
        if self.flags.claim && changes_layers {
            return malformed("a claim that changes layers");
        }
        Ok(())
    }
}
