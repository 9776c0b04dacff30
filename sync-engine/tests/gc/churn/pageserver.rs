//! What a pageserver does to one timeline: it freezes layers, compacts deltas into images, and collects old images.

use std::collections::BTreeMap;

use layer_archive::Lsn;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// By how much layers and bundles are smaller than in the field.
pub(super) const SCALE: u64 = 512;
/// Deltas that are compacted.
const DELTAS: usize = 20;
/// Images that are kept, unless branches need more.
const IMAGES: usize = 60;

/// A layer: the seed of its bytes, how many they are, and its LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) seed: u64,
    pub(super) len: usize,
    pub(super) lsn: Lsn,
}

/// Layers by name.
pub(super) type Live = BTreeMap<String, Layer>;

/// What is on the disk of the pageserver, and what it will do next.
pub(super) struct Pageserver {
    random: SmallRng,
    serial: u64,
    lsn: u64,
    deltas: Vec<String>,
    images: Vec<String>,
    pub(super) live: Live,
}

/// One commit.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) add: Vec<(String, Layer)>,
    pub(super) compacted: Vec<String>,
    pub(super) collected: Vec<String>,
}

/// A layer size of the fleet, by its percentiles and straight lines between their logarithms, scaled.
fn layer_bytes(random: &mut SmallRng) -> usize {
    const POINTS: [(f64, f64); 5] =
        [(0.0, 8192.0), (0.01, 36_879.0), (0.5, 61_471.0), (0.9, 44.7e6), (1.0, 275e6)];
    let at: f64 = random.random();
    let after = POINTS.iter().position(|(p, _)| *p > at).unwrap_or(POINTS.len() - 1);
    let ((p0, b0), (p1, b1)) = (POINTS[after - 1], POINTS[after]);
    let bytes = (b0.ln() + (b1.ln() - b0.ln()) * (at - p0) / (p1 - p0)).exp();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 8 KiB and 275 MB")]
    let bytes = bytes as usize;
    (bytes / usize::try_from(SCALE).unwrap()).max(64)
}

impl Pageserver {
    /// A timeline that begins at `lsn`.
    pub(super) fn new(seed: u64, lsn: Lsn) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            serial: seed << 32,
            lsn: lsn.0,
            deltas: Vec::new(),
            images: Vec::new(),
            live: Live::new(),
        }
    }

    /// Up to where it has written.
    pub(super) fn lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }

    /// The images that there are: what a branch that leaves now reads, unless they are compacted.
    pub(super) fn images(&self) -> Live {
        self.images.iter().map(|name| (name.clone(), self.live[name])).collect()
    }

    fn freeze(&mut self, kind: &str) -> (String, Layer) {
        self.serial += 1;
        self.lsn += 1;
        let layer = Layer { seed: self.serial, len: layer_bytes(&mut self.random), lsn: Lsn(self.lsn) };
        let name = format!("{kind}-{:012}", self.serial);
        self.live.insert(name.clone(), layer);
        (name, layer)
    }

    /// A checkpoint; now and then a compaction, and a collection, which spares what the branch that left last needs.
    pub(super) fn next(&mut self, last_branch: Option<Lsn>) -> Change {
        let mut change = Change::default();
        for _ in 0..self.random.random_range(1..4) {
            let delta = self.freeze("delta");
            self.deltas.push(delta.0.clone());
            change.add.push(delta);
        }
        if self.deltas.len() >= DELTAS {
            change.compacted.append(&mut self.deltas);
            for _ in 0..self.random.random_range(4..8) {
                let image = self.freeze("image");
                self.images.push(image.0.clone());
                change.add.push(image);
            }
        }
        // The horizon moves on: of old images some are covered by newer ones.
        let is_free = |name: &String| last_branch.is_none_or(|branch| self.live[name].lsn > branch);
        let mut free: Vec<String> = self.images.iter().filter(|name| is_free(name)).cloned().collect();
        while free.len() > IMAGES {
            let old = free.remove(self.random.random_range(0..IMAGES / 2));
            self.images.retain(|image| *image != old);
            change.collected.push(old);
        }
        for gone in change.compacted.iter().chain(&change.collected) {
            self.live.remove(gone);
        }
        // What is compacted away before it was ever stored is not stored.
        let live = &self.live;
        change.add.retain(|(layer, _)| live.contains_key(layer));
        change
    }
}
