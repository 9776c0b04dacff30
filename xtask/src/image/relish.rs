//! Names of per-relation layers, as pageservers of 2021 wrote them; decimal ids, LSNs of 16 upper-case hex digits.

use std::fmt;

/// Bytes of one segment of a relation; a longer relation has several layers.
pub(super) const SEGMENT_BYTES: u64 = 10 << 20;

/// The tablespace of databases.
pub(super) const BASE_TABLESPACE: u32 = 1663;
/// The tablespace of relations shared by all databases, which belong to database 0.
pub(super) const GLOBAL_TABLESPACE: u32 = 1664;

/// Which of a relation's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fork {
    /// The relation itself.
    Main,
    /// Its free space map.
    FreeSpace,
    /// Its visibility map.
    Visibility,
    /// What an unlogged relation is reset to.
    Init,
}

impl Fork {
    fn number(self) -> u32 {
        match self {
            Self::Main => 0,
            Self::FreeSpace => 1,
            Self::Visibility => 2,
            Self::Init => 3,
        }
    }
}

/// One file set of one relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Relation {
    /// Tablespace oid.
    pub(super) tablespace: u32,
    /// Database oid.
    pub(super) database: u32,
    /// File node.
    pub(super) node: u32,
    /// Fork.
    pub(super) fork: Fork,
}

/// A layer's name, before the LSN is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Relish {
    /// A segment of a relation.
    Segment(Relation, u64),
    /// The file node map of a database.
    FileNodeMap {
        /// Tablespace oid.
        tablespace: u32,
        /// Database oid.
        database: u32,
    },
    /// A file of transaction states.
    TransactionStatus,
    /// A file of multixact offsets.
    MultixactOffsets,
    /// A file of multixact members.
    MultixactMembers,
    /// The control file.
    Control,
    /// The checkpoint in the control file.
    ControlCheckpoint,
}

impl Relish {
    /// The image layer's name at `lsn`.
    pub(super) fn image_name(self, lsn: u64) -> String {
        format!("{self}_{lsn:016X}")
    }
}

impl fmt::Display for Relish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(Relation { tablespace, database, node, fork }, segment) => {
                write!(f, "rel_{tablespace}_{database}_{node}_{}_{segment}", fork.number())
            }
            Self::FileNodeMap { tablespace, database } => {
                write!(f, "pg_filenodemap_{tablespace}_{database}_0")
            }
            Self::TransactionStatus => f.write_str("pg_xact_0000_0"),
            Self::MultixactOffsets => f.write_str("pg_multixact_offsets_0000_0"),
            Self::MultixactMembers => f.write_str("pg_multixact_members_0000_0"),
            Self::Control => f.write_str("pg_control_0"),
            Self::ControlCheckpoint => f.write_str("pg_control_checkpoint_0"),
        }
    }
}
