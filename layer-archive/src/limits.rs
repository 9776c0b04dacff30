//! What writers keep to and what readers accept at most.
//!
//! A reader's limits are wider than a writer's, so that a later writer may use other choices without a new format.

/// Plain text of a shared frame, at most.
pub const SHARED_FRAME_PLAIN_MAX: usize = 1 << 20;
/// Layers of at most this many raw bytes share frames; larger ones are cut into slices of this size.
pub const SLICE_RAW_BYTES: u64 = 256 << 10;
/// A writer closes a bundle before it holds more layers than this, so that its index fits one tail read.
pub const BUNDLE_LAYERS_MAX: usize = 1_200;
/// A writer closes a bundle before it has more frames than this, unless one layer alone needs them.
pub const BUNDLE_FRAMES_MAX: usize = 2_000;
/// Layers, links included, that begin in one frame, at most (a writer's limit).
pub const FRAME_LAYERS_MAX: usize = 1_000;
/// Timeline metadata, at most.
pub const METADATA_BYTES_MAX: usize = 64 << 10;
/// What a reader asks for when it knows nothing of a bundle but its key.
pub const TAIL_READ_BYTES: u64 = 64 << 10;

/// Plain text of any frame that a reader accepts.
pub const READ_FRAME_PLAIN_MAX: u64 = 8 << 20;
/// Frames of a bundle that a reader accepts.
pub const READ_FRAMES_MAX: u64 = 1 << 16;
/// Layers of a bundle, links included, that a reader accepts.
pub const READ_LAYERS_MAX: u64 = 1 << 16;
/// Rows of any one table of a bundle or manifest that a reader accepts.
pub const READ_ROWS_MAX: usize = 1 << 20;
/// Stored bytes of all sections of a bundle that a reader accepts.
pub const READ_INDEX_STORED_MAX: u64 = 64 << 20;
/// Decompressed bytes of one section that a reader accepts.
pub const READ_SECTION_PLAIN_MAX: u64 = 128 << 20;
/// Sections of a bundle that a reader accepts.
pub const READ_SECTIONS_MAX: usize = 64;
/// An object that a reader accepts: what S3 takes in one put is 5 GiB, an upload in parts may be longer.
pub const READ_OBJECT_BYTES_MAX: u64 = 64 << 30;
/// Raw bytes of a layer that a reader accepts, and that a writer packs.
pub const LAYER_RAW_BYTES_MAX: u64 = READ_FRAMES_MAX / 2 * SLICE_RAW_BYTES;

/// The stored bytes of a frame that a reader accepts for `plain_len` bytes of plain text.
pub fn frame_stored_max(plain_len: u64) -> u64 {
    plain_len.saturating_add(plain_len / 128 + 1024)
}
