//! Layer names by key range and LSN:
//!
//! ```text
//! name  = key "-" key "__" lsn [ suffix ]            ; an image
//!       | key "-" key "__" lsn "-" lsn [ suffix ]    ; a delta: from the first LSN to below the second
//! key   = 36 upper-case hex digits
//! lsn   = 16 upper-case hex digits
//! suffix = "-v1-" generation                         ; in a work directory
//!        | "-" generation                            ; in a remote of one object per layer
//! generation = 8 lower-case hex digits
//! ```
//!
//! What follows the first LSN is 0, 9 or 12 characters long in an image's name and 17, 26 or 29 in a delta's, so an
//! image with a generation is never taken for a delta.

use std::fmt;

use layer_archive::{Generation, Lsn, LsnRange};

use super::span::Span;
use super::{KeyRange, LayerKey, LayerKind, Layout, OpaqueName, number};

/// A layer name by key range and LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyedName {
    key_range: KeyRange,
    span: Span,
    suffix: Suffix,
}

/// The generation and how it is spelled; none in names from before there were generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Suffix {
    None,
    WorkDirectory(Generation),
    Remote(Generation),
}

impl KeyedName {
    pub(super) fn parse(name: &str) -> Result<Self, OpaqueName> {
        let (start, rest) = split_key(name, "-")?;
        let (end, rest) = split_key(rest, "__")?;
        let key_range = KeyRange::new(start..end).ok_or(OpaqueName::EmptyKeyRange)?;
        let (start, rest) = split_lsn(rest)?;
        let (span, rest) = match rest.strip_prefix('-') {
            Some(delta) if delta.len() >= number::LSN_DIGITS => {
                let (end, rest) = split_lsn(delta)?;
                (Span::delta(start, end), rest)
            }
            _ => (Span::image(start), rest),
        };
        let span = span.ok_or(OpaqueName::EmptyLsnRange)?;
        let suffix = Suffix::parse(rest).ok_or(OpaqueName::Suffix)?;
        Ok(Self { key_range, span, suffix })
    }

    /// The layer's keys.
    pub fn key_range(&self) -> KeyRange {
        self.key_range
    }

    /// Whether the layer is an image or a delta.
    pub fn kind(&self) -> LayerKind {
        self.span.kind
    }

    /// The layer's LSNs.
    pub fn lsn_range(&self) -> LsnRange {
        self.span.range
    }

    /// The generation of the pageserver that wrote the layer; `None` from before there were generations.
    pub fn generation(&self) -> Option<Generation> {
        match self.suffix {
            Suffix::None => None,
            Suffix::WorkDirectory(generation) | Suffix::Remote(generation) => Some(generation),
        }
    }

    /// The layout whose spelling of the generation this is; `None` where there is no generation to spell.
    pub fn layout(&self) -> Option<Layout> {
        match self.suffix {
            Suffix::None => None,
            Suffix::WorkDirectory(_) => Some(Layout::WorkDirectory),
            Suffix::Remote(_) => Some(Layout::Remote),
        }
    }

    /// The same layer's name in `layout`.
    #[must_use]
    pub fn in_layout(self, layout: Layout) -> Self {
        let suffix = match (self.generation(), layout) {
            (None, _) => Suffix::None,
            (Some(generation), Layout::WorkDirectory) => Suffix::WorkDirectory(generation),
            (Some(generation), Layout::Remote) => Suffix::Remote(generation),
        };
        Self { suffix, ..self }
    }
}

/// The key at the beginning of `text`, and what follows it and `separator`.
fn split_key<'a>(text: &'a str, separator: &str) -> Result<(LayerKey, &'a str), OpaqueName> {
    let (key, rest) = text.split_at_checked(LayerKey::DIGITS).ok_or(OpaqueName::Shape)?;
    let key = LayerKey::parse(key).ok_or(OpaqueName::Shape)?;
    Ok((key, rest.strip_prefix(separator).ok_or(OpaqueName::Shape)?))
}

/// The LSN at the beginning of `text`, and what follows it.
fn split_lsn(text: &str) -> Result<(Lsn, &str), OpaqueName> {
    let (lsn, rest) = text.split_at_checked(number::LSN_DIGITS).ok_or(OpaqueName::Lsn)?;
    Ok((number::lsn(lsn).ok_or(OpaqueName::Lsn)?, rest))
}

impl Suffix {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::None);
        }
        match text.strip_prefix("-v1-") {
            Some(digits) => number::lower_u32(digits).map(Generation).map(Self::WorkDirectory),
            None => number::lower_u32(text.strip_prefix('-')?).map(Generation).map(Self::Remote),
        }
    }
}

impl fmt::Display for KeyedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}__", self.key_range)?;
        self.span.write(f, '-')?;
        match self.suffix {
            Suffix::None => Ok(()),
            Suffix::WorkDirectory(Generation(generation)) => write!(f, "-v1-{generation:08x}"),
            Suffix::Remote(Generation(generation)) => write!(f, "-{generation:08x}"),
        }
    }
}
