//! What the caller has on its disk: the layers of one timeline and its metadata.

use std::collections::BTreeSet;
use std::path::PathBuf;

use layer_archive::{Ancestor, BranchPoint, LayerName, Level, Lsn, LsnRange, TimelineMetadata};

/// A frozen layer in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLayer {
    /// Its name.
    pub name: LayerName,
    /// The file.
    pub path: PathBuf,
    /// The file's length.
    pub raw_size: u64,
    /// The LSNs it covers, where the caller knows.
    pub lsn_range: Option<LsnRange>,
    /// How hard to compress it.
    pub level: Level,
}

/// One timeline on the caller's disk.
///
/// The metadata was read before the layers were listed, so that every layer it needs is among them.
#[derive(Clone, Debug, Default)]
pub struct LocalTimeline {
    /// The layers, in any order, their names distinct.
    pub layers: Vec<LocalLayer>,
    /// Names that are there in a form that is no layer, a symbolic link for one. They are not gone.
    pub present: BTreeSet<LayerName>,
    /// The metadata file, where there is one.
    pub metadata: Option<TimelineMetadata>,
    /// Up to which LSN the metadata says that the timeline is durable.
    pub disk_consistent_lsn: Option<Lsn>,
    /// Whether there are files that may be layers and could not be taken for one. New metadata is then held back.
    pub is_partial: bool,
    /// Where the timeline was branched off.
    pub ancestor: Option<Ancestor>,
    /// The branches of this timeline that are on the disk too.
    pub branches: Vec<BranchPoint>,
    /// Names of layers that are not there any more and whose contents are in those that are. What else is gone a mirror
    /// takes for collected.
    pub compacted: BTreeSet<LayerName>,
}
