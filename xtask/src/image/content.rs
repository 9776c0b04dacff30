//! What the layers of modern pageservers hold, as far as a compressor can tell.

use std::io::{self, Write};

use super::random::Random;

/// The two kinds of layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerKind {
    /// Pages at one LSN. Pageservers compress them one by one, so that little is left to gain.
    Image,
    /// Changes over a range of LSNs, not compressed yet.
    Delta,
}

/// Bytes made at a time.
const BLOCK_BYTES: u64 = 8192;

impl LayerKind {
    /// Of every 100 bytes, how many are random: what a real layer's compression leaves.
    fn random_percent(self) -> u64 {
        match self {
            Self::Image => 75,
            Self::Delta => 17,
        }
    }

    /// Writes `bytes` bytes of such a layer.
    pub(super) fn write(self, file: &mut dyn Write, bytes: u64, random: &mut Random) -> io::Result<()> {
        let mut block = Vec::new();
        let mut left = bytes;
        while left > 0 {
            block.clear();
            block.resize(left.min(BLOCK_BYTES) as usize, 0);
            let noise = left.min(BLOCK_BYTES) * self.random_percent() / 100;
            random.fill(&mut block[..noise as usize]);
            file.write_all(&block)?;
            left -= block.len() as u64;
        }
        Ok(())
    }
}
