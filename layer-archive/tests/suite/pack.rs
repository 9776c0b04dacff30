//! Packs layers into a bundle, one after the other.

use layer_archive::{
    BundleIndex, BundleWriter, Commit, Digest, FormatError, FrameCompressor, FramePlan, LayerName, Level,
    LsnRange, Origin, Packable, PackedLayer, RawDigest, arrange, member_header, padding_len, plan_frames,
};

/// A layer to be packed.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Its name.
    pub(crate) name: LayerName,
    /// The LSNs it covers.
    pub(crate) lsn_range: Option<LsnRange>,
    /// Its raw bytes.
    pub(crate) bytes: Vec<u8>,
}

/// A whole bundle, and its index as the writer returned it.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The object.
    pub(crate) object: Vec<u8>,
    /// Its index.
    pub(crate) index: BundleIndex,
}

/// Packs `layers`, whatever their order, into the record or payload object `origin`.
pub(crate) fn pack(
    origin: &Origin,
    layers: &[Layer],
    commit: Option<&Commit>,
) -> Result<Packed, FormatError> {
    let packables: Vec<Packable> = layers
        .iter()
        .map(|layer| Packable {
            name: layer.name.clone(),
            raw_size: layer.bytes.len() as u64,
            blake3: Some(Digest::of(&layer.bytes)),
        })
        .collect();
    let contents = arrange(&packables);
    let mut compressor = FrameCompressor::new()?;
    let mut writer = BundleWriter::new();
    for plan in plan_frames(&packables, &contents)? {
        let plain = render(&plan, |content| &layers[contents[content].layer])?;
        writer.push_frame(&compressor.compress(&plain, Level::IMAGE)?)?;
    }
    let mut links = Vec::new();
    for content in &contents {
        let Layer { name, lsn_range, bytes } = &layers[content.layer];
        let raw = RawDigest::of(bytes);
        let number = writer.push_layer(PackedLayer { name: name.clone(), lsn_range: *lsn_range, raw })?;
        links.extend(content.links.iter().map(|&link| (link, number)));
    }
    for (link, target) in links {
        writer.push_link(layers[link].name.clone(), layers[link].lsn_range, target);
    }
    let finished = writer.finish(origin, commit, &mut compressor)?;
    Ok(Packed { object: finished.bytes, index: finished.index })
}

/// The plain text of a frame.
fn render<'a>(plan: &FramePlan, layer: impl Fn(usize) -> &'a Layer) -> Result<Vec<u8>, FormatError> {
    let mut plain = Vec::new();
    match plan {
        FramePlan::Shared(contents) => {
            for content in contents {
                let Layer { name, bytes, .. } = layer(*content);
                plain.extend(member_header(name, bytes.len() as u64)?);
                plain.extend(bytes);
                plain.extend(vec![0; padding_len(bytes.len() as u64)]);
            }
        }
        FramePlan::Slice { content, range } => {
            let Layer { name, bytes, .. } = layer(*content);
            if range.start == 0 {
                plain.extend(member_header(name, bytes.len() as u64)?);
            }
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            plain.extend(&bytes[index(range.start)..index(range.end)]);
            if range.end == bytes.len() as u64 {
                plain.extend(vec![0; padding_len(range.end)]);
            }
        }
    }
    Ok(plain)
}
