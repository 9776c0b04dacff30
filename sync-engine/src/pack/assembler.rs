//! The last stage: encoded frames, in order, to bundles.

use layer_archive::{BundleWriter, Content, EncodedFrame, FormatError, limits};

use super::{Keep, PackInput, PackOptions, Packed, Unit, packed_layer};
use crate::{Error, Result};

/// Fills bundles one after the other.
pub(super) struct Assembler<'a> {
    inputs: &'a [PackInput],
    contents: &'a [Content],
    options: PackOptions,
    bundle: BundleWriter,
    /// The inputs whose layers and links are in the bundle.
    members: Vec<usize>,
    /// Whether the bundle holds the first frames of a large layer, and nothing else.
    in_large: bool,
    /// Whether parts of the bundle were handed on.
    parts_taken: bool,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(inputs: &'a [PackInput], contents: &'a [Content], options: PackOptions) -> Self {
        let (bundle, members) = (BundleWriter::new(), Vec::new());
        Self { inputs, contents, options, bundle, members, in_large: false, parts_taken: false }
    }

    /// Whether a large layer has begun and not ended.
    pub(super) fn is_in_large(&self) -> bool {
        self.in_large
    }

    /// Adds a unit to the bundle, or to the next one where this one is full.
    pub(super) fn push(&mut self, unit: Unit, emit: &mut impl FnMut(Packed) -> Keep) -> Result<Keep> {
        let Unit { frames, members, failed } = unit;
        for (input, error) in failed {
            if let Keep::Stopped = emit(Packed::Failed { input, error }) {
                return Ok(Keep::Stopped);
            }
        }
        // Frames without a member are what is left of a layer that failed.
        if members.is_empty() {
            if std::mem::take(&mut self.in_large) {
                self.bundle = BundleWriter::new();
                if std::mem::take(&mut self.parts_taken) {
                    return Ok(emit(Packed::PartsVoid));
                }
            }
            return Ok(Keep::Going);
        }
        let stored: u64 = frames.iter().map(|frame| frame.stored.len() as u64).sum();
        let layers: usize = members.iter().map(|member| 1 + self.contents[member.content].links.len()).sum();
        if self.make_room(stored, emit) == Keep::Stopped {
            return Ok(Keep::Stopped);
        }
        let full = self.bundle.layer_count() + layers > limits::BUNDLE_LAYERS_MAX
            || self.bundle.frame_count() + frames.len() > limits::BUNDLE_FRAMES_MAX;
        if full && self.close(emit, true) == Keep::Stopped {
            return Ok(Keep::Stopped);
        }
        self.in_large = false;
        self.push_frames(frames)?;
        for member in members {
            let input = &self.inputs[member.input];
            let packed = packed_layer(input, member.raw);
            let target = self.bundle.push_layer(packed).map_err(unpackable)?;
            self.members.push(member.input);
            let Content { layer, links } = &self.contents[member.content];
            // All names of the content but the one it was read under, and those that failed before that.
            for &link in std::iter::once(layer).chain(links).skip_while(|name| **name != member.input).skip(1)
            {
                let layer = &self.inputs[link].layer;
                self.bundle.push_link(layer.name.clone(), layer.lsn_range, target);
                self.members.push(link);
            }
        }
        Ok(Keep::Going)
    }

    /// Hands the bundle on where `stored` bytes more would be too many, so that no more than a bundle's target is held
    /// in the bundle and in the frames that wait for the end of their layer.
    pub(super) fn make_room(&mut self, stored: u64, emit: &mut impl FnMut(Packed) -> Keep) -> Keep {
        if self.bundle.stored_len() + stored <= self.options.bundle_bytes_target {
            return Keep::Going;
        }
        self.close(emit, true)
    }

    /// Adds the next frames of a layer that needs more than a bundle's target by itself. It gets a bundle of its own,
    /// so that its frames need not wait for its end: they are handed on in parts. Should it fail, the parts are void.
    pub(super) fn push_large(
        &mut self,
        frames: Vec<EncodedFrame>,
        emit: &mut impl FnMut(Packed) -> Keep,
    ) -> Result<Keep> {
        if self.close(emit, true) == Keep::Stopped {
            return Ok(Keep::Stopped);
        }
        self.in_large = true;
        self.push_frames(frames)?;
        while let Some(part) = self.bundle.take_part(self.options.part_bytes) {
            self.parts_taken = true;
            if emit(Packed::Part(part)) == Keep::Stopped {
                return Ok(Keep::Stopped);
            }
        }
        Ok(Keep::Going)
    }

    fn push_frames(&mut self, frames: Vec<EncodedFrame>) -> Result<()> {
        frames.iter().try_for_each(|frame| self.bundle.push_frame(frame)).map_err(unpackable)
    }

    /// Hands the bundle on, unless it holds no whole layer yet.
    fn close(&mut self, emit: &mut impl FnMut(Packed) -> Keep, more: bool) -> Keep {
        if self.bundle.layer_count() == 0 {
            return Keep::Going;
        }
        self.parts_taken = false;
        let (bundle, inputs) = (std::mem::take(&mut self.bundle), std::mem::take(&mut self.members));
        emit(Packed::Bundle { bundle: Box::new(bundle), inputs, more })
    }

    /// Closes the last bundle.
    pub(super) fn finish(mut self, emit: &mut impl FnMut(Packed) -> Keep) {
        self.close(emit, false);
    }
}

fn unpackable(source: FormatError) -> Error {
    Error::Unpackable { what: "a bundle".into(), source }
}
