//! Where in the frames a layer begins.

use super::index::IndexedFrame;
use crate::FormatError;

/// Walks along the frames as the layers of the tar stream go by.
///
/// A layer begins in the frame whose plain text holds its first byte; an empty layer in the one that holds the last
/// byte of its header. So the frames of a layer are always those that its bytes are in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    frame: u32,
    /// Where that frame begins in the tar stream.
    start: u64,
}

impl Position {
    /// The frame, and the offset in its plain text, of the layer of `size` bytes whose header ends at `data` of the
    /// tar stream; `None` where the frames end before it does. Layers must come in order.
    pub(super) fn advance(
        &mut self,
        frames: &[IndexedFrame],
        data: u64,
        size: u64,
    ) -> Result<Option<(u32, u32)>, FormatError> {
        let byte = if size == 0 { data.saturating_sub(1) } else { data };
        while let Some(frame) = frames.get(self.frame as usize) {
            let end = self.start.saturating_add(u64::from(frame.plain_len));
            if byte < end {
                let offset = data.saturating_sub(self.start);
                return u32::try_from(offset)
                    .map(|offset| Some((self.frame, offset)))
                    .map_err(|_| FormatError::malformed("bundle", "an offset over 4 GiB"));
            }
            self.start = end;
            self.frame = self.frame.saturating_add(1);
        }
        Ok(None)
    }
}
