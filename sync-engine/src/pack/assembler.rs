//! The last stage: encoded frames, in order, to bundles.

use layer_archive::{BundleWriter, Content, EncodedFrame, FormatError, limits};

use super::{Keep, PackInput, Packed, Unit, packed_layer};
use crate::{Error, Result};

/// Fills bundles one after the other.
pub(super) struct Assembler<'a> {
    inputs: &'a [PackInput],
    contents: &'a [Content],
    bytes_target: u64,
    bundle: BundleWriter,
    /// Whether the bundle holds the first frames of a large layer, and nothing else.
    in_large: bool,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(inputs: &'a [PackInput], contents: &'a [Content], bytes_target: u64) -> Self {
        Self { inputs, contents, bytes_target, bundle: BundleWriter::new(), in_large: false }
    }

    /// Adds a unit to the bundle, or to the next one where this one is full.
    pub(super) fn push(&mut self, unit: Unit, emit: &mut impl FnMut(Packed) -> Keep) -> Result<Keep> {
        let Unit { frames, members, failed } = unit;
        for (input, error) in failed {
            let input = Box::new(self.inputs[input].clone());
            if let Keep::Stopped = emit(Packed::Failed { input, error }) {
                return Ok(Keep::Stopped);
            }
        }
        // Frames without a member are what is left of a layer that failed.
        if members.is_empty() {
            if std::mem::take(&mut self.in_large) {
                self.bundle = BundleWriter::new();
            }
            return Ok(Keep::Going);
        }
        let stored: u64 = frames.iter().map(|frame| frame.stored.len() as u64).sum();
        let layers: usize = members.iter().map(|member| 1 + self.contents[member.content].links.len()).sum();
        let full = self.bundle.stored_len() + stored > self.bytes_target
            || self.bundle.layer_count() + layers > limits::BUNDLE_LAYERS_MAX
            || self.bundle.frame_count() + frames.len() > limits::BUNDLE_FRAMES_MAX;
        if full && self.close(emit) == Keep::Stopped {
            return Ok(Keep::Stopped);
        }
        self.in_large = false;
        self.push_frames(frames)?;
        for member in members {
            let input = &self.inputs[member.input];
            let packed = packed_layer(input, member.raw);
            let target = self.bundle.push_layer(packed).map_err(unpackable)?;
            let Content { layer, links } = &self.contents[member.content];
            // All names of the content but the one it was read under, and those that failed before that.
            for &link in std::iter::once(layer).chain(links).skip_while(|name| **name != member.input).skip(1)
            {
                let layer = &self.inputs[link].layer;
                self.bundle.push_link(layer.name.clone(), layer.lsn_range, target);
            }
        }
        Ok(Keep::Going)
    }

    /// Adds the first frames of a layer that needs more than a bundle's target by itself. It gets a bundle of its own,
    /// so that its frames need not wait for its end; should it fail, that bundle is dropped.
    pub(super) fn push_large(
        &mut self,
        frames: Vec<EncodedFrame>,
        emit: &mut impl FnMut(Packed) -> Keep,
    ) -> Result<Keep> {
        if self.close(emit) == Keep::Stopped {
            return Ok(Keep::Stopped);
        }
        self.in_large = true;
        self.push_frames(frames)?;
        Ok(Keep::Going)
    }

    fn push_frames(&mut self, frames: Vec<EncodedFrame>) -> Result<()> {
        frames.iter().try_for_each(|frame| self.bundle.push_frame(frame)).map_err(unpackable)
    }

    /// Hands the bundle on, unless it holds no whole layer yet.
    fn close(&mut self, emit: &mut impl FnMut(Packed) -> Keep) -> Keep {
        if self.bundle.layer_count() == 0 {
            return Keep::Going;
        }
        emit(Packed::Bundle(Box::new(std::mem::take(&mut self.bundle))))
    }

    /// Closes the last bundle.
    pub(super) fn finish(mut self, emit: &mut impl FnMut(Packed) -> Keep) {
        self.close(emit);
    }
}

fn unpackable(source: FormatError) -> Error {
    Error::Unpackable { what: "a bundle".into(), source }
}
