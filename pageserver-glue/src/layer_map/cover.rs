//! How much of a rectangle of keys and LSNs other rectangles cover.

use std::collections::BTreeMap;

use layer_archive::{Lsn, LsnRange};

use crate::{KeyRange, LayerKey};

/// A rectangle, and how high it is covered from below, without gaps.
#[derive(Clone, Debug)]
pub(super) struct Cover {
    keys: KeyRange,
    lsns: LsnRange,
    /// From this key on, up to the next one, the LSNs below this one are covered. Neighbours differ.
    covered: BTreeMap<LayerKey, Lsn>,
}

impl Cover {
    /// Of which nothing is covered yet.
    pub(super) fn of(keys: KeyRange, lsns: LsnRange) -> Self {
        Self { keys, lsns, covered: BTreeMap::from([(keys.start(), lsns.start())]) }
    }

    /// Takes in all rectangles that there are; once.
    pub(super) fn add(&mut self, others: impl Iterator<Item = (KeyRange, LsnRange)>) {
        let touches = |keys: &KeyRange, lsns: &LsnRange| {
            keys.start() < self.keys.end()
                && self.keys.start() < keys.end()
                && lsns.start() < self.lsns.end()
                && self.lsns.start() < lsns.end()
        };
        let mut others: Vec<(KeyRange, LsnRange)> =
            others.filter(|(keys, lsns)| touches(keys, lsns)).collect();
        // From below: what leaves a gap now, nothing that follows fills.
        others.sort_by_key(|(_, lsns)| lsns.start());
        for (keys, lsns) in others {
            self.raise(keys, lsns);
        }
    }

    fn raise(&mut self, keys: KeyRange, lsns: LsnRange) {
        let (start, end) = (keys.start().max(self.keys.start()), keys.end().min(self.keys.end()));
        self.cut(start);
        if end < self.keys.end() {
            self.cut(end);
        }
        for (_, covered) in self.covered.range_mut(start..end) {
            if lsns.start() <= *covered {
                *covered = lsns.end().max(*covered);
            }
        }
        self.join(start, end);
    }

    /// Begins a piece at `key`, which is in the rectangle.
    fn cut(&mut self, key: LayerKey) {
        let below = self.covered.range(..=key).next_back().map(|(_, covered)| *covered);
        if let Some(covered) = below {
            self.covered.entry(key).or_insert(covered);
        }
    }

    /// Joins equal neighbours from `start` to `end`, so that the pieces stay few.
    fn join(&mut self, start: LayerKey, end: LayerKey) {
        let mut before = self.covered.range(..start).next_back().map(|(_, covered)| *covered);
        let mut equal = Vec::new();
        for (key, covered) in self.covered.range(start..=end) {
            if before == Some(*covered) {
                equal.push(*key);
            }
            before = Some(*covered);
        }
        for key in equal {
            self.covered.remove(&key);
        }
    }

    /// Whether nothing is left uncovered.
    pub(super) fn is_whole(&self) -> bool {
        self.covered.values().all(|covered| *covered >= self.lsns.end())
    }
}
