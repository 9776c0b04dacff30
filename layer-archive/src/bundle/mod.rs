//! The bundle: a `.tar.zst` of layers with an index behind it.
//!
//! ```text
//! data frames        zstd frames; their plain texts joined are a tar stream: members, then links to them
//! metadata frame     zstd frame: the timeline metadata as a tar member (records with metadata only)
//! end frame          zstd frame: the two zero blocks that end a tar stream
//! index frame        zstd skippable frame: sections, then a footer of 64 bytes
//! seek table         zstd skippable frame: the public zstd seekable format
//! ```

mod checker;
mod decoder;
mod footer;
mod index;
mod position;
#[cfg(test)]
mod tests;
mod wire;
mod writer;

pub use checker::BundleChecker;
pub use decoder::{LayerDecoder, decode_frames};
pub use index::{BundleIndex, IndexedFrame, IndexedLayer, IndexedLink, Origin, TailParse};
pub use writer::{BundleWriter, FinishedBundle, PackedLayer};
