//! Whatever is packed comes back: by entries alone, page by page, and through the tar stream.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use layer_archive::{
    BundleId, BundleIndex, Commit, FormatError, FrameDecoder, IndexedLayer, LayerDecoder, LayerEntry, Lsn,
    LsnRange, Seq, TailParse, TimelineMetadata, limits,
};
use proptest::prelude::*;

use crate::damage::read_everything;
use crate::pack::{Layer, pack};
use crate::samples;

/// Names as real timelines have them and as tar finds them hard: of all lengths around its limit, and of 255 bytes.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9_.~ -]{3,40}",
        "[0-9A-F]{91}",
        "[0-9A-F]{99,102}",
        "[0-9A-F-]{103,255}",
        "[äß語🦀]{3,60}",
        "[äß語]{32,36}",
    ]
}

fn lsn_range() -> impl Strategy<Value = Option<LsnRange>> {
    (any::<u64>(), any::<u64>()).prop_map(|(a, b)| LsnRange::new(Lsn(a), Lsn(b)))
}

/// Contents: few distinct ones, so that layers are equal; of sizes around every boundary.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![
        4 => Just(0usize), 4 => 1usize..600, 4 => Just(8192usize), 2 => Just(512usize), 2 => 8000usize..90_000,
        1 => Just(256usize << 10), 1 => (256usize << 10) + 1..(256usize << 10) + 700,
        1 => (700usize << 10)..(800usize << 10),
    ];
    (size, 0u8..3).prop_map(|(size, seed)| samples::pages(size, seed))
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    prop::collection::btree_map(name(), (lsn_range(), contents()), 0..24).prop_map(|layers| {
        layers.into_iter().map(|(name, (range, bytes))| samples::layer(&name, range, bytes)).collect()
    })
}

/// A commit without or with metadata, or none for a payload object.
fn commit() -> impl Strategy<Value = Option<Commit>> {
    let metadata = prop::option::of(prop::collection::vec(any::<u8>(), 0..2000));
    prop::option::of(metadata.prop_map(|metadata| Commit {
        metadata: metadata.map(|bytes| TimelineMetadata { file_name: samples::name("m"), bytes }),
        ..samples::plain_commit(5)
    }))
}

/// Finds the index as a reader does, that begins with the last `first` bytes.
fn open(object: &[u8], first: u64) -> BundleIndex {
    let mut want = first.min(object.len() as u64);
    for _ in 0..4 {
        let tail = &object[object.len() - want as usize..];
        match BundleIndex::parse_tail(tail, object.len() as u64).unwrap() {
            TailParse::Complete(index) => return *index,
            TailParse::NeedMore(needed) => want = needed,
        }
    }
    panic!("no index after four reads");
}

/// The layer's bytes, its stored bytes handed over in pieces of the sizes `pieces`, over and over.
fn decode_in_pieces(entry: &LayerEntry, object: &[u8], pieces: &[usize]) -> Vec<u8> {
    let location = entry.place.location;
    let mut rest = &object[location.start as usize..location.end() as usize];
    let (mut decoder, mut bytes) = (LayerDecoder::new(entry), Vec::new());
    for piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        decoder
            .push(now, |raw| {
                bytes.extend_from_slice(raw);
                Ok::<_, FormatError>(())
            })
            .unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    decoder.finish().unwrap();
    bytes
}

/// The raw bytes `range` of a layer, by the frames that cover it.
fn read_range(index: &BundleIndex, layer: &IndexedLayer, range: Range<u64>, object: &[u8]) -> Vec<u8> {
    let frames = index.frames_covering(layer, range.clone());
    let before = &index.frames()[layer.frame as usize..frames.start];
    let skipped: u64 = before.iter().map(|frame| u64::from(frame.plain_len)).sum();
    let mut plain = Vec::new();
    for frame in &index.frames()[frames] {
        let stored = frame.stored_range();
        let stored = &object[stored.start as usize..stored.end as usize];
        plain.extend(FrameDecoder::new().decode(stored, u64::from(frame.plain_len)).unwrap());
    }
    let start = (u64::from(layer.offset) + range.start - skipped) as usize;
    plain[start..start + (range.end - range.start) as usize].to_vec()
}

/// The frames that hold any byte of the range, found by looking at each.
fn frames_by_looking(index: &BundleIndex, layer: &IndexedLayer, range: Range<u64>) -> Range<usize> {
    let mut start = 0u64;
    let before = &index.frames()[..layer.frame as usize];
    let layer_start =
        before.iter().map(|frame| u64::from(frame.plain_len)).sum::<u64>() + u64::from(layer.offset);
    let mut holding = Vec::new();
    for (number, frame) in index.frames().iter().enumerate() {
        let end = start + u64::from(frame.plain_len);
        if (range.start..range.end).any(|byte| (start..end).contains(&(layer_start + byte))) {
            holding.push(number);
        }
        start = end;
    }
    holding[0]..holding[holding.len() - 1] + 1
}

/// A member of a tar stream: its contents, or the name it is a link to.
#[derive(Debug, PartialEq, Eq)]
enum Member {
    File(Vec<u8>),
    Link(String),
}

/// The members of a bundle by readers that know nothing of Layerpack: the `zstd` and `tar` crates.
fn members(object: &[u8]) -> Vec<(String, Member)> {
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(object).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry: tar::Entry<'_, _> = entry.unwrap();
        let header = entry.header();
        assert!(header.as_gnu().is_some(), "not a GNU header");
        assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o600, 0));
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert!(entry.pax_extensions().unwrap().is_none(), "a pax header");
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        if header_is_link(&entry) {
            let target = entry.link_name().unwrap().unwrap();
            return (name, Member::Link(target.to_str().unwrap().to_owned()));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, Member::File(bytes))
    };
    archive.entries().unwrap().map(read).collect()
}

fn header_is_link<R: Read>(entry: &tar::Entry<'_, R>) -> bool {
    match entry.header().entry_type() {
        tar::EntryType::Regular => false,
        tar::EntryType::Link => true,
        other => panic!("a member of type {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_comes_back(
        layers in layers(),
        commit in commit(),
        pieces in prop::collection::vec(1usize..40_000, 1..5),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), 0u64..1_000_000, 1u64..9000), 8),
        first in prop_oneof![Just(limits::TAIL_READ_BYTES), 0u64..3000],
    ) {
        let bundle = match &commit {
            Some(commit) => BundleId::Record(commit.seq),
            None => BundleId::Payload(samples::PAYLOAD),
        };
        let origin = samples::origin(bundle);
        let packed = pack(&origin, &layers, commit.as_ref()).unwrap();
        let object = &packed.object;
        let index = open(object, first);
        prop_assert_eq!(index.origin(), &origin);
        prop_assert_eq!(index.commit(), commit.as_ref());
        prop_assert_eq!(index.object_len(), object.len() as u64);
        read_everything(object).unwrap();

        // By entries alone.
        let elsewhere = BundleId::Record(Seq(77));
        let entries: BTreeMap<String, LayerEntry> =
            index.entries(elsewhere).into_iter().map(|entry| (entry.name.to_string(), entry)).collect();
        prop_assert_eq!(entries.len(), layers.len());
        for layer in &layers {
            let entry = &entries[layer.name.as_str()];
            prop_assert_eq!(entry.lsn_range, layer.lsn_range);
            prop_assert_eq!(entry.place.bundle, elsewhere);
            prop_assert!(entry.stored_bytes <= entry.place.location.stored_len);
            prop_assert_eq!(&decode_in_pieces(entry, object, &pieces), &layer.bytes);
        }

        // Page by page.
        for (which, start, len) in ranges {
            if index.layers().is_empty() {
                break;
            }
            let layer = which.get(index.layers());
            let start = start.min(layer.raw.size.saturating_sub(1));
            let range = start..(start + len).min(layer.raw.size);
            let expected = layers.iter().find(|given| given.name == layer.name).unwrap();
            let expected = &expected.bytes[range.start as usize..range.end as usize];
            prop_assert_eq!(read_range(&index, layer, range.clone(), object), expected);
            if !range.is_empty() {
                let found = index.frames_covering(layer, range.clone());
                prop_assert_eq!(found, frames_by_looking(&index, layer, range));
            }
        }

        // As a tar stream: members in order, links behind what they link to, metadata last.
        let mut members = members(object);
        if let Some(metadata) = commit.and_then(|commit| commit.metadata) {
            prop_assert_eq!(members.pop(), Some(("m".to_owned(), Member::File(metadata.bytes))));
        }
        let mut restored: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, member) in members {
            let bytes = match member {
                Member::File(bytes) => bytes,
                Member::Link(target) => {
                    let bytes = restored[&target].clone();
                    prop_assert!(!bytes.is_empty(), "an empty file is a link");
                    bytes
                }
            };
            prop_assert!(restored.insert(name, bytes).is_none());
        }
        let given: BTreeMap<String, Vec<u8>> =
            layers.into_iter().map(|layer| (layer.name.to_string(), layer.bytes)).collect();
        prop_assert_eq!(restored, given);
    }

    #[test]
    fn the_order_of_layers_makes_no_difference(
        (layers, shuffled) in layers().prop_flat_map(|layers| (Just(layers.clone()), Just(layers).prop_shuffle())),
    ) {
        let origin = samples::origin(BundleId::Payload(samples::PAYLOAD));
        prop_assert_eq!(
            pack(&origin, &layers, None).unwrap().object,
            pack(&origin, &shuffled, None).unwrap().object
        );
    }
}

#[test]
fn ranges_at_the_ends_of_frames_are_covered_by_no_frame_too_many() {
    let size = (512 << 10) + 5000;
    let layers = [samples::layer("a", None, samples::pages(size, 1)), samples::layer("b", None, [])];
    let index = pack(&samples::origin(BundleId::Payload(samples::PAYLOAD)), &layers, None).unwrap().index;
    let (empty, layer) = (&index.layers()[0], &index.layers()[1]);
    for boundary in [0u64, 256 << 10, 512 << 10, size as u64] {
        for start in boundary.saturating_sub(2)..boundary + 2 {
            for len in [1, 2, 3, 512] {
                let range = start..(start + len).min(size as u64);
                if !range.is_empty() {
                    let found = index.frames_covering(layer, range.clone());
                    assert_eq!(found, frames_by_looking(&index, layer, range.clone()), "{range:?}");
                }
            }
            assert_eq!(index.frames_covering(layer, start..start).len(), 1);
        }
    }
    assert_eq!(index.frames_of(layer), 1..4);
    assert_eq!(index.frames_of(empty), 0..1);
}

#[test]
fn a_writer_returns_the_index_that_a_reader_finds() {
    let packed = samples::record();
    let index = open(&packed.object, limits::TAIL_READ_BYTES);
    assert_eq!(index.layers(), packed.index.layers());
    assert_eq!(index.links(), packed.index.links());
    assert_eq!(index.frames(), packed.index.frames());
    assert_eq!(index.record_id(), packed.index.record_id());
    assert_eq!(index.commit(), Some(&samples::commit()));
}

#[test]
fn links_have_the_place_and_the_contents_of_what_they_link_to() {
    let packed = samples::record();
    let entries = packed.index.entries(packed.index.origin().bundle);
    let entry = |name: &str| entries.iter().find(|entry| entry.name.as_str() == name).unwrap();
    assert_eq!(packed.index.links().len(), 3);
    assert_eq!(entry("sliced").place, entry("sliced-copy").place);
    assert_eq!(entry("sliced").raw, entry("sliced-copy").raw);
    assert_eq!(entry("sliced-copy").stored_bytes, entry("sliced-copy").place.location.stored_len);
}
