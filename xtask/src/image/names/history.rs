//! A made-up history of a timeline, as the names of the layers it leaves behind.

use std::collections::VecDeque;

use super::Random;

/// Deltas that a compaction makes of one range of LSNs, at most; each covers the next range of keys.
const DELTAS_MAX: u32 = 16;
/// Image layers made at one LSN, at most.
const IMAGES_MAX: u32 = 24;
/// Of this many compactions, one is followed by image layers.
const COMPACTIONS_PER_IMAGES: u32 = 2;
/// The WAL between two compactions, at most.
const WAL_BYTES_MAX: u32 = 1 << 30;
/// The suffix of a local file: the generation of the pageserver that wrote it.
const GENERATION: &str = "-v1-00000001";

/// Gives one layer name after the other, never the same twice.
#[derive(Debug)]
pub(super) struct History {
    random: Random,
    lsn: u64,
    ready: VecDeque<String>,
}

impl History {
    /// The history that `random` decides.
    pub(super) fn new(random: Random) -> Self {
        Self { random, lsn: 0x0150_0708, ready: VecDeque::new() }
    }

    /// The name of the next layer.
    pub(super) fn next_name(&mut self) -> String {
        loop {
            if let Some(name) = self.ready.pop_front() {
                return name;
            }
            self.advance();
        }
    }

    /// One compaction: the LSN moves on, deltas cover what was written since, and sometimes images follow.
    fn advance(&mut self) {
        let start = self.lsn;
        self.lsn += 8 * (1 + u64::from(self.random.below(WAL_BYTES_MAX / 8)));
        let end = self.lsn;
        self.add_layers(DELTAS_MAX, &format!("{start:016X}-{end:016X}"));
        if self.random.below(COMPACTIONS_PER_IMAGES) == 0 {
            self.add_layers(IMAGES_MAX, &format!("{end:016X}"));
        }
    }

    /// Adjacent ranges of keys at the given LSNs.
    fn add_layers(&mut self, layers_max: u32, lsns: &str) {
        let mut relation = 1_247 + self.random.below(400);
        let mut block = 0;
        let mut start = key(relation, block);
        for _ in 0..=self.random.below(layers_max) {
            if self.random.below(3) == 0 {
                relation += 1 + self.random.below(2_000);
                block = 0;
            }
            block += 1 + self.random.below(16_384);
            let end = key(relation, block);
            self.ready.push_back(format!("{start}-{end}__{lsns}{GENERATION}"));
            start = end;
        }
    }
}

/// The key of a block: kind and tablespace, database 5, relation, fork 0, block.
fn key(relation: u32, block: u32) -> String {
    format!("000000067F00000005{relation:08X}00{block:08X}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_grammar_and_never_repeat() {
        let mut history = History::new(Random::for_stream(1, 0));
        let names: Vec<String> = (0..26_690).map(|_| history.next_name()).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        for name in &names {
            let (keys, rest) = name.split_once("__").unwrap();
            let (first, last) = keys.split_once('-').unwrap();
            assert!(first.len() == 36 && last.len() == 36 && first < last, "{name}");
            let lsns = rest.strip_suffix(GENERATION).unwrap();
            match lsns.split_once('-') {
                Some((start, end)) => assert!(start.len() == 16 && end.len() == 16 && start < end, "{name}"),
                None => assert_eq!(lsns.len(), 16, "{name}"),
            }
        }
    }
}
