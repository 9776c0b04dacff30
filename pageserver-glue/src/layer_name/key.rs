//! Keys and key ranges, as layer names spell them.

use std::fmt;

use super::number;

/// A page key: 18 bytes, ordered as bytes, spelled as 36 upper-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKey(pub [u8; 18]);

impl LayerKey {
    /// How many hex digits spell a key.
    pub const DIGITS: usize = 36;

    /// The lowest key.
    pub const MIN: Self = Self([0; 18]);

    /// The highest key; a key range that ends here covers everything that can be written.
    pub const MAX: Self = Self([0xFF; 18]);

    /// The key that exactly 36 upper-case hex digits spell.
    pub(super) fn parse(digits: &str) -> Option<Self> {
        let digits: &[u8; Self::DIGITS] = digits.as_bytes().try_into().ok()?;
        let mut key = [0; 18];
        for (byte, pair) in key.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = number::upper_digit(pair[0])? << 4 | number::upper_digit(pair[1])?;
        }
        Some(Self(key))
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// The keys of a layer: from `start` to below `end`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: LayerKey,
    end: LayerKey,
}

impl KeyRange {
    /// All keys that can be written.
    pub const ALL: Self = Self { start: LayerKey::MIN, end: LayerKey::MAX };

    /// The keys from `keys.start` to below `keys.end`; `None` where there are none.
    pub fn new(keys: std::ops::Range<LayerKey>) -> Option<Self> {
        (keys.start < keys.end).then_some(Self { start: keys.start, end: keys.end })
    }

    /// The first key.
    pub fn start(&self) -> LayerKey {
        self.start
    }

    /// The key after the last one.
    pub fn end(&self) -> LayerKey {
        self.end
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: LayerKey) -> bool {
        self.start <= key && key < self.end
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}
