//! How pageservers name layers: by key range ([`KeyedName`]) or, in older versions, by relation ([`RelishName`]).
//!
//! One deterministic grammar: every part has a fixed width or a single spelling, so that a name has at most one
//! reading and the reading gives the name back, byte for byte.

use std::fmt;
use std::str::FromStr;

use layer_archive::LsnRange;

mod key;
mod keyed;
mod number;
mod relish;
mod span;
#[cfg(test)]
mod tests;

pub use key::{KeyRange, LayerKey};
pub use keyed::KeyedName;
pub use relish::{Relish, RelishName, SlruKind};
pub use span::LayerKind;

/// Where a name is used. The two differ in how they spell a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A pageserver's work directory: `-v1-<generation>`. The stored name of a layer is its name here.
    WorkDirectory,
    /// A remote of one object per layer: `-<generation>`.
    Remote,
}

/// What a layer's name says. Its `Display` is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParsedLayerName {
    /// A name by key range and LSN.
    Keyed(KeyedName),
    /// An older name, by relation.
    Relish(RelishName),
}

/// Why a name is none that is known. The layer is backed up all the same, as opaque bytes without an LSN range: names
/// change between pageserver versions, and an unknown one is no reason to lose the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpaqueName {
    /// Not a layer name in shape.
    #[error("it begins neither with a key range nor like a per-relation name")]
    Shape,
    /// A key range without keys.
    #[error("its key range is empty")]
    EmptyKeyRange,
    /// An LSN that is missing or spelled otherwise.
    #[error("an LSN is not 16 upper-case hex digits")]
    Lsn,
    /// An LSN range without LSNs.
    #[error("its LSN range is empty or has no end")]
    EmptyLsnRange,
    /// A number of a per-relation name that is missing, too large or not in its one spelling.
    #[error("a number is missing, too large or not spelled as a pageserver spells it")]
    Number,
    /// Something else after the last part.
    #[error("it ends with something that is neither a generation nor a drop mark")]
    Suffix,
}

impl FromStr for ParsedLayerName {
    type Err = OpaqueName;

    fn from_str(name: &str) -> Result<Self, OpaqueName> {
        match RelishName::parse(name) {
            Some(parsed) => parsed.map(Self::Relish),
            None => KeyedName::parse(name).map(Self::Keyed),
        }
    }
}

impl ParsedLayerName {
    /// Whether the layer is an image or a delta.
    pub fn kind(&self) -> LayerKind {
        match self {
            Self::Keyed(name) => name.kind(),
            Self::Relish(name) => name.kind(),
        }
    }

    /// The layer's LSNs; an image at `L` has the range from `L` to below `L + 1`.
    pub fn lsn_range(&self) -> LsnRange {
        match self {
            Self::Keyed(name) => name.lsn_range(),
            Self::Relish(name) => name.lsn_range(),
        }
    }

    /// The layout whose spelling this is; `None` where it is everybody's.
    pub fn layout(&self) -> Option<Layout> {
        match self {
            Self::Keyed(name) => name.layout(),
            Self::Relish(_) => None,
        }
    }
}

impl fmt::Display for ParsedLayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keyed(name) => name.fmt(f),
            Self::Relish(name) => name.fmt(f),
        }
    }
}

/// The name in `layout` of the layer that `name` names in any layout. Opaque and per-relation names, and those without a
/// generation, are the same everywhere.
///
/// Mapped to [`Layout::WorkDirectory`] a name is the *stored* name, the one that belongs in a work directory; a stored
/// name mapped to [`Layout::Remote`] and back is unchanged.
pub fn in_layout(name: &str, layout: Layout) -> String {
    match name.parse() {
        Ok(ParsedLayerName::Keyed(name)) => name.in_layout(layout).to_string(),
        Ok(ParsedLayerName::Relish(_)) | Err(_) => name.to_owned(),
    }
}
