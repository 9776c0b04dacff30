//! The formats of Layerpack: bundles and manifests, as bytes and as values.
//!
//! Pure: nothing here opens a file, asks a clock or talks to a store. A writer turns layers into the bytes of a
//! [bundle](BundleWriter) (a `.tar.zst` of independent zstd frames followed by an index); a reader finds its way
//! from the last bytes of an object ([`BundleIndex`]) to every layer and page in it; a [`Manifest`] is the snapshot
//! of a timeline. `docs/format.md` is the normative description of the bytes.
//!
//! Whatever is read is untrusted: every length is checked against the object and against [`limits`] before anything
//! is allocated, every byte is under a checksum, and nothing panics.

mod arrange;
mod bundle;
mod codec;
mod commit;
mod entry;
mod error;
mod frame;
mod ids;
pub mod limits;
mod manifest;
mod seek_table;
mod tarball;

pub use arrange::{Content, FramePlan, Packable, arrange, plan_frames};
pub use bundle::{
    BundleChecker, BundleIndex, BundleWriter, FinishedBundle, IndexedFrame, IndexedLayer, IndexedLink,
    LayerDecoder, Origin, PackedLayer, TailParse, decode_frames,
};
pub use commit::{
    Ancestor, BranchPoint, Commit, CommitFlags, Moved, PayloadRef, RemovalReason, Removed, TimelineMetadata,
    WriterInfo,
};
pub use entry::{BundleId, LayerEntry, Location, PayloadId, Place, RawDigest, RawHasher};
pub use error::FormatError;
pub use frame::{EncodedFrame, FrameCompressor, FrameDecoder, Level};
pub use ids::{
    Crc32c, Digest, Epoch, Generation, InvalidId, InvalidLayerName, LayerName, Lsn, LsnRange, RecordId, Seq,
    TenantId, Term, TimelineId, UnixMillis,
};
pub use manifest::{BundleEntry, Manifest};
pub use tarball::{member_header, padding_len};
