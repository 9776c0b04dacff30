//! What matters about an image to a benchmark: how many files, how long, how often repeated, how compressible.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Bytes of a frame in the figures below.
const FRAME_BYTES: usize = 1 << 20;
/// The level they are compressed at.
const LEVEL: i32 = 3;

/// The figures of the layer files of one timeline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) files: usize,
    pub(super) empty_files: usize,
    pub(super) one_page_files: usize,
    pub(super) bytes: usize,
    pub(super) median_bytes: usize,
    pub(super) p90_bytes: usize,
    pub(super) max_bytes: usize,
    /// Different contents.
    pub(super) distinct_files: usize,
    /// Each file compressed by itself.
    pub(super) stored_per_file: usize,
    /// All files in order of their names, as one frame.
    pub(super) stored_in_path_order: usize,
    /// All files sorted by size and name, in frames of 1 MiB.
    pub(super) stored_sorted: usize,
    /// The same without repeated contents.
    pub(super) stored_linked: usize,
}

impl Figures {
    /// Every figure with its name.
    pub(super) fn named(&self) -> [(&'static str, usize); 12] {
        let Self {
            files,
            empty_files,
            one_page_files,
            bytes,
            median_bytes,
            p90_bytes,
            max_bytes,
            distinct_files,
            stored_per_file,
            stored_in_path_order,
            stored_sorted,
            stored_linked,
        } = *self;
        [
            ("files", files),
            ("empty files", empty_files),
            ("one-page files", one_page_files),
            ("bytes", bytes),
            ("median bytes", median_bytes),
            ("p90 bytes", p90_bytes),
            ("max bytes", max_bytes),
            ("distinct files", distinct_files),
            ("stored per file", stored_per_file),
            ("stored in path order", stored_in_path_order),
            ("stored sorted", stored_sorted),
            ("stored linked", stored_linked),
        ]
    }

    /// Measures the layers in a timeline's directory.
    pub(super) fn measure(timeline_dir: &Path) -> Self {
        let by_path: Vec<Vec<u8>> = layers(timeline_dir).into_values().collect();
        // The sort is stable: within a size the order of names stays.
        let mut sorted: Vec<&Vec<u8>> = by_path.iter().collect();
        sorted.sort_by_key(|content| content.len());
        let mut seen = HashSet::new();
        let distinct: Vec<&Vec<u8>> =
            sorted.iter().copied().filter(|content| seen.insert(blake3::hash(content))).collect();
        let sizes: Vec<usize> = sorted.iter().map(|content| content.len()).collect();
        Self {
            files: sizes.len(),
            empty_files: sizes.iter().filter(|size| **size == 0).count(),
            one_page_files: sizes.iter().filter(|size| **size == 8192).count(),
            bytes: sizes.iter().sum(),
            median_bytes: sizes[sizes.len() / 2],
            p90_bytes: sizes[sizes.len() * 9 / 10],
            max_bytes: sizes[sizes.len() - 1],
            distinct_files: distinct.len(),
            stored_per_file: by_path.iter().map(|content| stored(content)).sum(),
            stored_in_path_order: stored(&by_path.concat()),
            stored_sorted: stored_in_frames(&sorted),
            stored_linked: stored_in_frames(&distinct),
        }
    }
}

/// The layers of a timeline's directory by name.
pub(super) fn layers(timeline_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = all_files(timeline_dir);
    assert!(files.remove("metadata").is_some(), "no metadata in {}", timeline_dir.display());
    files
}

/// All files of a directory by name.
pub(super) fn all_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn stored(content: &[u8]) -> usize {
    zstd::bulk::compress(content, LEVEL).unwrap().len()
}

fn stored_in_frames(contents: &[&Vec<u8>]) -> usize {
    let all: Vec<u8> = contents.iter().flat_map(|content| content.iter().copied()).collect();
    all.chunks(FRAME_BYTES).map(stored).sum()
}
