//! In which order layers are packed, which are links to others, and where frames are cut.
//!
//! Small layers are sorted by (size, name): copies and near-copies, which are of one size, then lie side by side in
//! one frame. On the image of a fresh cluster that takes 45 % off what path order needs.

use std::collections::HashMap;
use std::ops::Range;

use crate::limits::{FRAME_LAYERS_MAX, SHARED_FRAME_PLAIN_MAX, SLICE_RAW_BYTES};
use crate::tarball::{member_header, padding_len};
use crate::{Digest, FormatError, LayerName};

/// A layer to be packed, as far as its arrangement depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packable {
    /// Its name.
    pub name: LayerName,
    /// Its raw bytes.
    pub raw_size: u64,
    /// The hash of its raw bytes, where it is known. Only layers with known and equal hashes become links.
    pub blake3: Option<Digest>,
}

/// Raw bytes that are stored once, under the name of their first layer; the others become hard links to it.
///
/// Both are indexes into what was given to [`arrange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The layer that becomes a member with data.
    pub layer: usize,
    /// The layers that become links.
    pub links: Vec<usize>,
}

/// Groups equal layers and sorts the groups: those that share frames first, by (size, name), then the large ones.
///
/// Empty layers are never links. The order does not depend on the order of `layers`.
pub fn arrange(layers: &[Packable]) -> Vec<Content> {
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&layers[a], &layers[b]);
        let shares = |layer: &Packable| layer.raw_size <= SLICE_RAW_BYTES;
        (!shares(a), a.raw_size, &a.name).cmp(&(!shares(b), b.raw_size, &b.name))
    });
    let mut contents: Vec<Content> = Vec::new();
    let mut first_with: HashMap<(u64, Digest), usize> = HashMap::new();
    for layer in order {
        let Packable { raw_size, blake3, .. } = layers[layer];
        let key = blake3.filter(|_| raw_size > 0).map(|blake3| (raw_size, blake3));
        // A bundle has room for so many layers; beyond that the content is stored again.
        let known = key.and_then(|key| first_with.get(&key).copied());
        match known.filter(|&content| contents[content].links.len() + 1 < FRAME_LAYERS_MAX) {
            Some(content) => contents[content].links.push(layer),
            None => {
                if let Some(key) = key {
                    first_with.insert(key, contents.len());
                }
                contents.push(Content { layer, links: Vec::new() });
            }
        }
    }
    contents
}

/// What one data frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FramePlan {
    /// Whole members: of each its header, its bytes and its padding. Indexes into the contents.
    Shared(Vec<usize>),
    /// A slice of a large layer: the first has the header in front, the last the padding behind.
    Slice {
        /// Index into the contents.
        content: usize,
        /// The raw bytes in this slice.
        range: Range<u64>,
    },
}

impl FramePlan {
    /// Whether the layer of a slice ends here; shared frames hold whole layers.
    pub fn ends_layer(&self, raw_size: u64) -> bool {
        match self {
            Self::Shared(_) => true,
            Self::Slice { content: _, range } => range.end == raw_size,
        }
    }
}

/// Cuts contents, in order, into frames. `layers` is what [`arrange`] was given.
pub fn plan_frames(layers: &[Packable], contents: &[Content]) -> Result<Vec<FramePlan>, FormatError> {
    let mut plans = Vec::new();
    let mut shared = SharedFrame::default();
    for (index, content) in contents.iter().enumerate() {
        let Packable { name, raw_size, .. } = &layers[content.layer];
        FormatError::check_limit("layer", *raw_size, crate::limits::LAYER_RAW_BYTES_MAX)?;
        if *raw_size > SLICE_RAW_BYTES {
            shared.close(&mut plans);
            let mut start = 0;
            while start < *raw_size {
                let end = (start + SLICE_RAW_BYTES).min(*raw_size);
                plans.push(FramePlan::Slice { content: index, range: start..end });
                start = end;
            }
            continue;
        }
        let data_len = usize::try_from(*raw_size).unwrap_or(usize::MAX);
        let len = member_header(name, *raw_size)?.len() + data_len + padding_len(*raw_size);
        let count = 1 + content.links.len();
        if shared.plain_len + len > SHARED_FRAME_PLAIN_MAX || shared.layers + count > FRAME_LAYERS_MAX {
            shared.close(&mut plans);
        }
        shared.contents.push(index);
        shared.plain_len += len;
        shared.layers += count;
    }
    shared.close(&mut plans);
    Ok(plans)
}

#[derive(Default)]
struct SharedFrame {
    contents: Vec<usize>,
    plain_len: usize,
    layers: usize,
}

impl SharedFrame {
    fn close(&mut self, plans: &mut Vec<FramePlan>) {
        let Self { contents, .. } = std::mem::take(self);
        if !contents.is_empty() {
            plans.push(FramePlan::Shared(contents));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, raw_size: u64, content: Option<u8>) -> Packable {
        Packable {
            name: LayerName::new(name).unwrap(),
            raw_size,
            blake3: content.map(|content| Digest([content; 16])),
        }
    }

    #[test]
    fn small_layers_come_first_by_size_and_copies_follow_the_first_name() {
        let layers = [
            layer("z-big", 1 << 20, Some(1)),
            layer("b", 100, Some(2)),
            layer("a", 100, Some(2)),
            layer("c", 7, None),
            layer("a-big", 1 << 20, Some(1)),
            layer("d", 7, None),
        ];
        let contents = arrange(&layers);
        let names: Vec<(&str, Vec<&str>)> = contents
            .iter()
            .map(|content| {
                let links = content.links.iter().map(|&link| layers[link].name.as_str()).collect();
                (layers[content.layer].name.as_str(), links)
            })
            .collect();
        assert_eq!(names, [("c", vec![]), ("d", vec![]), ("a", vec!["b"]), ("a-big", vec!["z-big"])]);
    }

    #[test]
    fn empty_layers_and_layers_of_another_size_are_never_links() {
        let layers =
            [layer("a", 0, Some(1)), layer("b", 0, Some(1)), layer("c", 5, Some(1)), layer("d", 6, Some(1))];
        assert!(arrange(&layers).iter().all(|content| content.links.is_empty()));
    }

    #[test]
    fn frames_are_bounded_and_hold_everything_once() {
        let mut layers: Vec<_> = (0..2_500).map(|n| layer(&format!("s{n:04}"), n % 9_000, None)).collect();
        layers.push(layer("big", SLICE_RAW_BYTES + 1, None));
        let contents = arrange(&layers);
        let plans = plan_frames(&layers, &contents).unwrap();
        let mut seen = Vec::new();
        let mut slices = Vec::new();
        for plan in &plans {
            match plan {
                FramePlan::Shared(members) => {
                    let plain: u64 = members
                        .iter()
                        .map(|&m| 512 + layers[contents[m].layer].raw_size.div_ceil(512) * 512)
                        .sum();
                    assert!(plain <= SHARED_FRAME_PLAIN_MAX as u64 && members.len() <= FRAME_LAYERS_MAX);
                    seen.extend(members.iter().copied());
                }
                FramePlan::Slice { range, .. } => slices.push(range.clone()),
            }
        }
        assert_eq!(seen, (0..2_500).collect::<Vec<_>>());
        assert_eq!(slices, [0..SLICE_RAW_BYTES, SLICE_RAW_BYTES..SLICE_RAW_BYTES + 1]);
    }
}
