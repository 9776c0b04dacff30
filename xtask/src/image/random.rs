//! A small generator of pseudo-random numbers whose output never changes.
//!
//! Images must stay the same byte for byte when dependencies are updated, which the `rand` crate does not promise for
//! its small generators. This is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The generator of item `stream` of an image made from `seed`; streams do not depend on each other.
    pub(super) fn for_stream(seed: u64, stream: u64) -> Self {
        let mut outer = Self(seed);
        Self(outer.next() ^ Self(stream).next())
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let scaled = (self.next() >> 32) * u64::from(bound);
        (scaled >> 32) as u32
    }

    /// An element of `items`.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        items[self.below(count) as usize]
    }

    /// Fills `buffer`.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
