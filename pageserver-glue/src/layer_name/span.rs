//! The LSNs of a layer: one for an image, two for a delta.

use std::fmt;

use layer_archive::{Lsn, LsnRange};

/// Which part of the history a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// The pages as they are at the range's only LSN.
    Image,
    /// The changes of the range.
    Delta,
}

/// The kind and the LSNs of a layer. An image at `L` has the range from `L` to below `L + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) kind: LayerKind,
    pub(super) range: LsnRange,
}

impl Span {
    /// An image at `lsn`; `None` at the highest LSN, whose range would have no end.
    pub(super) fn image(lsn: Lsn) -> Option<Self> {
        LsnRange::at(lsn).map(|range| Self { kind: LayerKind::Image, range })
    }

    /// A delta; `None` where the range is empty.
    pub(super) fn delta(start: Lsn, end: Lsn) -> Option<Self> {
        LsnRange::new(start, end).map(|range| Self { kind: LayerKind::Delta, range })
    }

    /// Writes one LSN or two, with `separator` between them.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>, separator: char) -> fmt::Result {
        write!(f, "{:016X}", self.range.start().0)?;
        match self.kind {
            LayerKind::Image => Ok(()),
            LayerKind::Delta => write!(f, "{separator}{:016X}", self.range.end().0),
        }
    }
}
