//! Per-relation ("relish") layer names, which came before key ranges:
//!
//! ```text
//! name     = relish "_" segment "_" lsn [ "_" lsn [ "_DROPPED" ] ]
//! relish   = "rel_" number "_" number "_" number "_" number        ; tablespace, database, relation, fork
//!          | ( "pg_xact_" | "pg_multixact_members_" | "pg_multixact_offsets_" ) slru-segment
//!          | "pg_filenodemap_" number "_" number                   ; tablespace, database
//!          | "pg_twophase_" number                                 ; transaction id
//!          | "pg_control_checkpoint" | "pg_control"
//! segment  = number                                                ; of 10 MiB
//! number   = decimal, no leading zeros
//! slru-segment = at least 4 upper-case hex digits
//! lsn      = 16 upper-case hex digits
//! ```

use std::fmt;
use std::str::Split;

use layer_archive::LsnRange;

use super::span::Span;
use super::{LayerKind, OpaqueName, number};

/// Which of PostgreSQL's transaction status areas a layer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlruKind {
    /// `pg_xact`: commit status.
    Xact,
    /// `pg_multixact/members`.
    MultixactMembers,
    /// `pg_multixact/offsets`.
    MultixactOffsets,
}

/// What a per-relation layer holds a segment of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relish {
    /// A fork of a relation.
    Relation {
        /// The tablespace's oid.
        tablespace: u32,
        /// The database's oid, 0 for shared relations.
        database: u32,
        /// The relation's file node.
        relation: u32,
        /// The fork's number: 0 main, 1 free space map, 2 visibility map, 3 init.
        fork: u8,
    },
    /// A segment of a transaction status area.
    Slru {
        /// Which area.
        kind: SlruKind,
        /// The number of PostgreSQL's own segment file.
        file: u32,
    },
    /// The file-node map of a database.
    FileNodeMap {
        /// The tablespace's oid.
        tablespace: u32,
        /// The database's oid, 0 for the shared map.
        database: u32,
    },
    /// The state of a prepared transaction.
    TwoPhase {
        /// The transaction's id.
        xid: u32,
    },
    /// The checkpoint in PostgreSQL's control file.
    Checkpoint,
    /// PostgreSQL's control file.
    ControlFile,
}

/// A per-relation layer name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelishName {
    relish: Relish,
    segment: u32,
    span: Span,
    dropped: bool,
}

/// The beginnings of all per-relation names; of two that fit, the longer one is first.
const PREFIXES: [(&str, Prefix); 8] = [
    ("rel_", Prefix::Relation),
    ("pg_xact_", Prefix::Slru(SlruKind::Xact)),
    ("pg_multixact_members_", Prefix::Slru(SlruKind::MultixactMembers)),
    ("pg_multixact_offsets_", Prefix::Slru(SlruKind::MultixactOffsets)),
    ("pg_filenodemap_", Prefix::FileNodeMap),
    ("pg_twophase_", Prefix::TwoPhase),
    ("pg_control_checkpoint_", Prefix::Checkpoint),
    ("pg_control_", Prefix::ControlFile),
];

#[derive(Clone, Copy)]
enum Prefix {
    Relation,
    Slru(SlruKind),
    FileNodeMap,
    TwoPhase,
    Checkpoint,
    ControlFile,
}

impl RelishName {
    /// Reads `name`; `None` where it does not begin like a per-relation name at all.
    pub(super) fn parse(name: &str) -> Option<Result<Self, OpaqueName>> {
        let (rest, prefix) =
            PREFIXES.iter().find_map(|(text, prefix)| Some((name.strip_prefix(text)?, *prefix)))?;
        Some(Self::parse_fields(prefix, rest.split('_')))
    }

    fn parse_fields(prefix: Prefix, mut fields: Split<'_, char>) -> Result<Self, OpaqueName> {
        let relish = parse_relish(prefix, &mut fields).ok_or(OpaqueName::Number)?;
        let segment = fields.next().and_then(number::decimal).ok_or(OpaqueName::Number)?;
        let start = fields.next().and_then(number::lsn).ok_or(OpaqueName::Lsn)?;
        let (span, dropped) = match (fields.next(), fields.next(), fields.next()) {
            (None, ..) => (Span::image(start), false),
            (Some(end), mark, None) if mark.is_none_or(|mark| mark == "DROPPED") => {
                (Span::delta(start, number::lsn(end).ok_or(OpaqueName::Lsn)?), mark.is_some())
            }
            _ => return Err(OpaqueName::Suffix),
        };
        Ok(Self { relish, segment, span: span.ok_or(OpaqueName::EmptyLsnRange)?, dropped })
    }

    /// What the layer holds a segment of.
    pub fn relish(&self) -> Relish {
        self.relish
    }

    /// Which segment of 10 MiB.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Whether the layer is an image or a delta.
    pub fn kind(&self) -> LayerKind {
        self.span.kind
    }

    /// The layer's LSNs.
    pub fn lsn_range(&self) -> LsnRange {
        self.span.range
    }

    /// Whether the segment was dropped at the end of the LSN range; never of an image.
    pub fn is_dropped(&self) -> bool {
        self.dropped
    }
}

fn parse_relish(prefix: Prefix, fields: &mut Split<'_, char>) -> Option<Relish> {
    Some(match prefix {
        Prefix::Relation => Relish::Relation {
            tablespace: number::decimal(fields.next()?)?,
            database: number::decimal(fields.next()?)?,
            relation: number::decimal(fields.next()?)?,
            fork: number::decimal(fields.next()?)?,
        },
        Prefix::Slru(kind) => Relish::Slru { kind, file: number::padded_u32(fields.next()?)? },
        Prefix::FileNodeMap => Relish::FileNodeMap {
            tablespace: number::decimal(fields.next()?)?,
            database: number::decimal(fields.next()?)?,
        },
        Prefix::TwoPhase => Relish::TwoPhase { xid: number::decimal(fields.next()?)? },
        Prefix::Checkpoint => Relish::Checkpoint,
        Prefix::ControlFile => Relish::ControlFile,
    })
}

impl fmt::Display for Relish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relation { tablespace, database, relation, fork } => {
                write!(f, "rel_{tablespace}_{database}_{relation}_{fork}")
            }
            Self::Slru { kind: SlruKind::Xact, file } => write!(f, "pg_xact_{file:04X}"),
            Self::Slru { kind: SlruKind::MultixactMembers, file } => {
                write!(f, "pg_multixact_members_{file:04X}")
            }
            Self::Slru { kind: SlruKind::MultixactOffsets, file } => {
                write!(f, "pg_multixact_offsets_{file:04X}")
            }
            Self::FileNodeMap { tablespace, database } => write!(f, "pg_filenodemap_{tablespace}_{database}"),
            Self::TwoPhase { xid } => write!(f, "pg_twophase_{xid}"),
            Self::Checkpoint => f.write_str("pg_control_checkpoint"),
            Self::ControlFile => f.write_str("pg_control"),
        }
    }
}

impl fmt::Display for RelishName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_", self.relish, self.segment)?;
        self.span.write(f, '_')?;
        if self.dropped { f.write_str("_DROPPED") } else { Ok(()) }
    }
}
