//! What can go wrong in the engine, told apart by what the caller does next.

mod classes;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{
    Ancestor, BranchPoint, FormatError, Generation, LayerName, Lsn, Seq, TenantId, TimelineId, UnixMillis,
    WriterInfo,
};
use storage_api::{InvalidKey, StorageError};

/// The result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed a request.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A name from outside makes no object key.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// There is no store marker: a wrong bucket, directory or prefix, or a store that was never created.
    #[error(
        "there is no Layerpack store at {url}: check the URL; `backup` creates a store where there is none"
    )]
    NoStore {
        /// Where it was looked for.
        url: String,
    },
    /// The store marker does not read.
    #[error(
        "the store marker layerpack.store at {url} is damaged ({why}): restore that object from another copy"
    )]
    MarkerDamaged {
        /// The store.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store was written by a newer program.
    #[error(
        "the store at {url} needs a reader of version {needed}, this program has {supported}: upgrade it"
    )]
    StoreTooNew {
        /// The store.
        url: String,
        /// The least version that may read it.
        needed: u32,
        /// This program's version.
        supported: u32,
    },
    /// The store does not refuse a second create-only put, so it cannot keep two writers apart.
    #[error(
        "the store at {url} overwrites an object that was put create-only (If-None-Match: *), so it cannot fence a second writer: use another store"
    )]
    StoreCannotFence {
        /// The store.
        url: String,
    },
    /// An object does not read as what it is.
    #[error("{object} is damaged{}: run `layerpack verify --deep` to see how far it goes", in_bytes(range.as_ref()))]
    Damaged {
        /// Its key.
        object: String,
        /// The bytes of it that were read, where that was not all of it.
        range: Option<Range<u64>>,
        /// What is wrong with it.
        source: FormatError,
    },
    /// An object was written by a newer program, which says that this one must not read it.
    #[error("{object} was written by a newer program")]
    ObjectTooNew {
        /// Its key.
        object: String,
        /// What this program does not know.
        source: FormatError,
    },
    /// A record is missing from the middle of a log.
    #[error(
        "the log of {tenant}/{timeline} is damaged: record {seq} is missing although later ones exist; restore the object {key} from another copy, or see what `layerpack verify --repair` makes of it"
    )]
    Gap {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The record.
        seq: Seq,
        /// Its key.
        key: String,
    },
    /// The timeline changed faster than it could be read.
    #[error("{tenant}/{timeline} changed {attempts} times while it was being opened: try again")]
    Unstable {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// How often it was read.
        attempts: usize,
    },
    /// The timeline is not in the store.
    #[error("timeline {tenant}/{timeline} is not in the store: `layerpack status` lists what is")]
    TimelineNotFound {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// The timeline was deleted; its id is not used again.
    #[error("timeline {tenant}/{timeline} was deleted, and a deleted id is never used again")]
    TimelineDeleted {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// There are records of the timeline, and nothing was committed with them.
    #[error(
        "nothing was committed to timeline {tenant}/{timeline} yet: its backup or copy was not finished, run that again, or delete the timeline"
    )]
    NothingCommitted {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// An ancestor of the timeline is not there, or cannot be read.
    #[error("{ancestor}, the ancestor of {tenant}/{timeline}, cannot be used")]
    Ancestor {
        /// The tenant.
        tenant: TenantId,
        /// The branch.
        timeline: TimelineId,
        /// The ancestor.
        ancestor: TimelineId,
        /// Why not.
        source: Box<Error>,
    },
    /// The way from a timeline to its ancestors leads in a circle.
    #[error(
        "the ancestors of {tenant}/{timeline} go in a circle by way of {ancestor}: `backup --ancestor` says where a timeline was branched off"
    )]
    AncestorCycle {
        /// The tenant.
        tenant: TenantId,
        /// The timeline whose ancestor was passed already.
        timeline: TimelineId,
        /// That ancestor.
        ancestor: TimelineId,
    },
    /// The way from a timeline to its ancestors has no end.
    #[error(
        "{tenant}/{timeline} is more than {limit} branches away from where it was begun: nothing follows that far"
    )]
    TooManyAncestors {
        /// The tenant.
        tenant: TenantId,
        /// The timeline at which it was given up.
        timeline: TimelineId,
        /// How many are followed.
        limit: usize,
    },
    /// A layer was to be collected that a branch needs. Nothing was written.
    #[error(
        "layer {name} of {tenant}/{timeline} is needed by the branch {}/{}, which left at LSN {}: it can be collected when that branch is deleted",
        branch.tenant, branch.timeline, branch.lsn
    )]
    NeededByBranch {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The layer.
        name: LayerName,
        /// The branch.
        branch: Box<BranchPoint>,
    },
    /// The point in time is not there: it never was, or it is collected.
    #[error("timeline {tenant}/{timeline} has no state as of {at}; there is: {points}")]
    PointNotFound {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// What was asked for.
        at: String,
        /// The oldest and the newest there are.
        points: String,
        /// Whether there was nothing of the timeline yet, for certain.
        is_before_first: bool,
    },
    /// The timeline that was to be made is there.
    #[error("timeline {tenant}/{timeline} exists already: name another one, nothing is overwritten")]
    TimelineExists {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// The timeline cannot be deleted because of its branches.
    #[error(
        "timeline {tenant}/{timeline} is not deleted, because there are branches of it: {branches}; delete those first"
    )]
    HasBranches {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// Which.
        branches: String,
    },
    /// The timeline is not deleted because another one, which may be a branch of it, is damaged.
    #[error(
        "timeline {tenant}/{timeline} is not deleted, because {tenant}/{sibling} is damaged and may be a branch of it: `layerpack verify --repair` of that one first, and delete it if it is not wanted"
    )]
    SiblingDamaged {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The one that is damaged.
        sibling: TimelineId,
        /// Why it is not known what it is.
        source: Box<Error>,
    },
    /// A branch was to be copied to where its ancestor is not.
    #[error(
        "timeline {timeline} is a branch of {}@{}, which tenant {tenant} does not have that far at {url}: copy the ancestor there first, under its own id",
        ancestor.timeline, ancestor.lsn
    )]
    AncestorMissing {
        /// The store.
        url: String,
        /// The tenant that is copied to.
        tenant: TenantId,
        /// The branch.
        timeline: TimelineId,
        /// What it needs.
        ancestor: Ancestor,
    },
    /// A branch was to be copied to where its ancestor does not have what the branch needs of it.
    #[error(
        "{ancestor} of tenant {tenant} at {url} lacks {missing} of the layers that its branch {timeline} needs, the first is {layer}: it was compacted or collected without knowing of the branch, or the source was; copy the ancestor again, with the --at of the branch if it has one, under a new tenant or to another store, and then the branch"
    )]
    AncestorLacks {
        /// The store.
        url: String,
        /// The tenant that is copied to.
        tenant: TenantId,
        /// The branch.
        timeline: TimelineId,
        /// The ancestor, or an ancestor of that.
        ancestor: TimelineId,
        /// The first layer that is missing, or another one under its name.
        layer: LayerName,
        /// How many those are.
        missing: usize,
    },
    /// Layers of a timeline that was to be copied, or was copied before, are lost.
    #[error(
        "{object} is damaged ({problem}) and holds layers of {tenant}/{timeline}: `layerpack verify --repair` first, nothing was copied"
    )]
    SourceDamaged {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The object.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing in the timeline that was to be copied.
    #[error("timeline {tenant}/{timeline} has neither layers nor metadata: there is nothing to copy")]
    SourceEmpty {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// The layer is not in the timeline.
    #[error("layer {name} is not in timeline {tenant}/{timeline}: `layerpack ls` lists what is")]
    LayerNotFound {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The layer.
        name: LayerName,
    },
    /// The layer was removed from the timeline while it was to be read.
    #[error(
        "layer {name} was removed from timeline {tenant}/{timeline} meanwhile: `layerpack ls` lists what is there"
    )]
    LayerRemoved {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The layer.
        name: LayerName,
    },
    /// A file that is not the layer has the layer's name. It was left alone.
    #[error("{} is there and is not the layer of that name: move it away", path.display())]
    NameTaken {
        /// The file.
        path: PathBuf,
    },
    /// Another writer took the timeline over. What was acknowledged before is safe; local files were kept.
    #[error(
        "fenced at record {seq}: timeline {tenant}/{timeline} was taken over by {} (pid {} on {}); stop that writer before this one is started again",
        by.program, by.pid, by.host
    )]
    Fenced {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The record that was not ours.
        seq: Seq,
        /// Who wrote it.
        by: Box<WriterInfo>,
    },
    /// The timeline is not released: its writer may be running. Nothing was written.
    #[error(
        "timeline {tenant}/{timeline} is held by {} (pid {} on {}), which wrote last at {time}: let that writer end first, or take over with --take-over if it is gone",
        by.program, by.pid, by.host, time = utc(*time)
    )]
    Held {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// Who wrote last.
        by: Box<WriterInfo>,
        /// When.
        time: UnixMillis,
    },
    /// A claim with an older generation than the last claim's.
    #[error("generation {} is older than {} of the last claim: this pageserver was replaced", ours.0, last.0)]
    StaleGeneration {
        /// The caller's.
        ours: Generation,
        /// The last claim's.
        last: Generation,
    },
    /// It is not known whether a record was stored, and it could not be found out.
    #[error("whether record {key} was stored is not known, because reading it back failed too: run it again")]
    UnknownOutcome {
        /// Its key.
        key: String,
        /// Why the last attempt failed.
        source: StorageError,
    },
    /// A record was to be appended while it is not known what became of the one before.
    #[error("record {key} must be settled before the next one is appended: resume it")]
    RecordPending {
        /// The key of the one before.
        key: String,
    },
    /// A layer was handed over under a name that the store has with other contents. Neither is overwritten.
    #[error("layer {name} is in the store with other contents: rename or remove one of the two")]
    Conflict {
        /// The layer.
        name: LayerName,
    },
    /// What was handed over is older than what the store has.
    #[error(
        "the metadata handed over is at LSN {}, that of {tenant}/{timeline} in the store at {stored}: nothing is turned back; check that this is the newest copy of the timeline",
        local.map_or_else(|| "unknown".into(), |lsn| lsn.to_string())
    )]
    MetadataOlder {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// The LSN that was handed over; nothing where it says none.
        local: Option<Lsn>,
        /// The LSN in the store.
        stored: Lsn,
    },
    /// A file or directory of this machine failed.
    #[error("cannot {doing} {}", path.display())]
    Local {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not what it was when it was listed.
    #[error("{} changed while it was read: a layer must not be written to after it is handed over", path.display())]
    LayerChanged {
        /// The path.
        path: PathBuf,
    },
    /// A layer was to be stored as a link to an equal one, which could not be read.
    #[error("it equals {of}, which could not be read: run the backup again")]
    EqualLayerFailed {
        /// The equal layer.
        of: LayerName,
    },
    /// A layer or commit does not fit the format.
    #[error("{what} cannot be packed")]
    Unpackable {
        /// The layer's name or the record's key.
        what: String,
        /// Why.
        source: FormatError,
    },
    /// A mirror would remove more than half of a timeline.
    #[error(
        "mirroring would remove {removed} of {total} layers of {tenant}/{timeline}, more than half: is this the right work directory? --force removes them"
    )]
    MirrorTooMuch {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
        /// Layers that would be removed.
        removed: usize,
        /// Layers in the store.
        total: usize,
    },
    /// A mirror of a directory that lacks the metadata file, as an unfinished restore leaves it.
    #[error(
        "the work directory has no metadata file for {tenant}/{timeline}, though the store has one: this looks like an unfinished restore, and is not mirrored without --force"
    )]
    UnfinishedRestore {
        /// The tenant.
        tenant: TenantId,
        /// The timeline.
        timeline: TimelineId,
    },
    /// A task of this program ended before it was done.
    #[error("an internal task ended early: {0}")]
    Task(String),
}

impl Error {
    pub(crate) fn local(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Local { doing, path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn damaged(object: impl ToString, source: FormatError) -> Self {
        let object = object.to_string();
        match source {
            FormatError::TooNew { .. } | FormatError::UnknownSection { .. } => {
                Self::ObjectTooNew { object, source }
            }
            _ => Self::Damaged { object, range: None, source },
        }
    }

    /// The same of the bytes `range` of an object.
    pub(crate) fn damaged_in(object: impl ToString, range: Range<u64>, source: FormatError) -> Self {
        match Self::damaged(object, source) {
            Self::Damaged { object, source, .. } => Self::Damaged { object, range: Some(range), source },
            other => other,
        }
    }
}

/// Where in an object, for a message.
fn in_bytes(range: Option<&Range<u64>>) -> String {
    range.map(|range| format!(" in its bytes {}..{}", range.start, range.end)).unwrap_or_default()
}

/// A time as people write it: `2026-11-27T06:15:00Z`; of a time that no calendar has, the last one that it has.
pub(crate) fn utc(time: UnixMillis) -> String {
    // The end of the year 9999, beyond which the text form ends.
    const LAST_MILLIS: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + Duration::from_millis(time.0.min(LAST_MILLIS));
    humantime::format_rfc3339_seconds(time).to_string()
}
