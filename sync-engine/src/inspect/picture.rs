//! A bundle as a picture: its frames as a bar, drawn to scale, and what each part is.

use std::fmt::Write;

use layer_archive::{BundleIndex, IndexedFrame};

const WIDTH: f64 = 960.0;
const BAR_TOP: f64 = 64.0;
const BAR_HEIGHT: f64 = 72.0;
const MARGIN: f64 = 20.0;

/// What a part of a bundle is, its color, and its name in the legend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Shared,
    Slice,
    Links,
    Metadata,
    End,
    Index,
}

impl Part {
    const ALL: [Self; 6] = [Self::Shared, Self::Slice, Self::Links, Self::Metadata, Self::End, Self::Index];

    fn color(self) -> &'static str {
        match self {
            Self::Shared => "#4e79a7",
            Self::Slice => "#59a14f",
            Self::Links => "#f28e2b",
            Self::Metadata => "#e15759",
            Self::End => "#79706e",
            Self::Index => "#b07aa1",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Shared => "small layers, sharing frames",
            Self::Slice => "large layers, a frame each 256 KiB",
            Self::Links => "links to equal layers",
            Self::Metadata => "timeline metadata",
            Self::End => "end of the tar stream",
            Self::Index => "index, footer, seek table",
        }
    }
}

/// Draws a bundle as an SVG document.
pub fn draw_bundle(index: &BundleIndex) -> String {
    let scale = (WIDTH - 2.0 * MARGIN) / as_f64(index.object_len().max(1));
    let mut svg = String::new();
    let title = format!(
        "{}: {} layers in {} frames, {} bytes",
        index.origin().bundle,
        index.layers().len() + index.links().len(),
        index.frames().len(),
        index.object_len()
    );
    // Writing to a String does not fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 240\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"34\" font-size=\"18\">{title}</text>"
    );
    let mut bar = |start: u64, len: u64, part: Part, tip: &str| {
        let (x, width) = (MARGIN + as_f64(start) * scale, (as_f64(len) * scale).max(1.0));
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{BAR_TOP}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{}\" \
             stroke=\"#ffffff\" stroke-width=\"0.6\"><title>{tip}</title></rect>",
            part.color()
        );
    };
    let parts = parts(index);
    for ((number, frame), part) in index.frames().iter().enumerate().zip(&parts) {
        let IndexedFrame { start, stored_len, plain_len, crc32c } = frame;
        let tip = format!("frame {number}: {plain_len} bytes as {stored_len}, crc32c {crc32c}");
        bar(*start, u64::from(*stored_len), *part, &tip);
    }
    let tail = index.tail_len();
    bar(index.object_len() - tail, tail, Part::Index, &format!("{tail} bytes"));
    for (number, part) in (0u32..).zip(Part::ALL) {
        let (x, y) = (MARGIN + f64::from(number % 3) * 310.0, 176.0 + f64::from(number / 3) * 28.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{}\"/><text x=\"{}\" y=\"{y}\">{}</text>",
            y - 12.0,
            part.color(),
            x + 20.0,
            part.label()
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// What each frame is.
fn parts(index: &BundleIndex) -> Vec<Part> {
    let count = index.frames().len();
    let metadata = index.commit().is_some_and(|commit| commit.metadata.is_some());
    let data_end = index.layers().last().map_or(0, |layer| index.frames_of(layer).end);
    let mut parts = vec![Part::Links; count];
    for layer in index.layers() {
        let part =
            if layer.raw.size > layer_archive::limits::SLICE_RAW_BYTES { Part::Slice } else { Part::Shared };
        parts[index.frames_of(layer)].fill(part);
    }
    if let Some(end) = parts.last_mut() {
        *end = Part::End;
    }
    if metadata && count >= 2 && count - 2 >= data_end {
        parts[count - 2] = Part::Metadata;
    }
    parts
}

/// A picture needs no more digits than this keeps.
fn as_f64(value: u64) -> f64 {
    u32::try_from(value >> 8).map_or(f64::MAX, f64::from) * 256.0
        + f64::from(u8::try_from(value & 0xff).unwrap_or(0))
}
