//! Bytes that somebody made up, checksums right: refused with a typed error, never a panic.

use layer_archive::{
    BundleId, BundleIndex, FormatError, FrameDecoder, LayerDecoder, LayerEntry, Manifest, TailParse,
};
use proptest::prelude::*;

use crate::damage::{decode, read_everything};
use crate::dissect::{
    COMPRESSED, CRITICAL, Dissected, DissectedManifest, FrameRow, LayerRow, LinkRow, Section, compress,
};
use crate::samples;

const ORIGIN: u16 = 1;
const FRAMES: u16 = 2;
const LAYERS: u16 = 3;
const LINKS: u16 = 4;
const COMMIT: u16 = 5;

/// The sample record with `edit` made to it, checksums right, must be refused with an error that says `why`.
#[track_caller]
fn refused(why: &str, edit: impl FnOnce(&mut Dissected)) {
    let mut dissected = Dissected::read(&samples::record().object).unwrap();
    edit(&mut dissected);
    refused_bytes(why, &dissected.write());
}

#[track_caller]
fn refused_bytes(why: &str, object: &[u8]) {
    let error = read_everything(object).err().unwrap_or_else(|| panic!("accepted, not refused with {why:?}"));
    assert!(error.to_string().contains(why), "{error} does not say {why:?}");
}

#[test]
fn a_bundle_that_was_taken_apart_and_put_together_is_read() {
    let object = samples::record().object;
    let dissected = Dissected::read(&object).unwrap();
    let again = dissected.write();
    assert_eq!(read_everything(&again).unwrap().commit(), Some(&samples::commit()));
    assert_eq!(Dissected::read(&again).unwrap().sections, dissected.sections);
}

#[test]
fn names_that_are_no_single_components_are_refused() {
    let long = [b'x'; 300];
    let bad: [&[u8]; 11] =
        [b"", b".", b"..", b"../x", b"/x", b"a/b", b"a\\b", b"a\0b", &long, b"\xff\xfe", b"also-empty"];
    for name in bad {
        refused("", |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[1].0 = name.to_vec()));
        refused("", |bundle| bundle.edit(LINKS, |rows: &mut Vec<LinkRow>| rows[1].0 = name.to_vec()));
    }
    let mut unchanged = Dissected::read(&samples::record().object).unwrap();
    unchanged.edit(LAYERS, |_: &mut Vec<LayerRow>| ());
    unchanged.edit(LINKS, |_: &mut Vec<LinkRow>| ());
    read_everything(&unchanged.write()).unwrap();
}

#[test]
fn layers_that_are_elsewhere_than_they_must_be_are_refused() {
    let why = "is not where it should be";
    refused(why, |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].4 += 512));
    refused(why, |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].3 += 1));
    refused(why, |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].3 = u32::MAX));
    refused(why, |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows.swap(0, 3)));
    refused(why, |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[3].2 += 512));
    refused("a tar stream of", |bundle| {
        bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows.last_mut().unwrap().2 += 512);
    });
    refused("a tar stream of", |bundle| {
        bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows.last_mut().unwrap().2 -= 8192);
    });
    for size in [u64::MAX, u64::MAX - 511, 1 << 34] {
        refused("at most 8589934592", |bundle| {
            bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[0].2 = size);
        });
    }
    refused("link to nothing", |bundle| bundle.edit(LINKS, |rows: &mut Vec<LinkRow>| rows[0].2 = u32::MAX));
    refused("a header is not", |bundle| bundle.edit(LINKS, |rows: &mut Vec<LinkRow>| rows[2].2 = 2));
    refused("it is empty", |bundle| {
        bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[0].1 = Some((5, 5)));
    });
}

#[test]
fn contents_that_are_not_what_the_index_says_are_refused() {
    refused("crc32c", |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].5[0] ^= 1));
    refused("blake3", |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].6[15] ^= 1));
    refused("a header is not", |bundle| bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].2 += 1));
    refused("a header is not", |bundle| {
        bundle.edit(LAYERS, |rows: &mut Vec<LayerRow>| rows[2].0 = b"yniT".to_vec());
    });
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    let frames = |why: &str, edit: &dyn Fn(&mut Vec<FrameRow>)| {
        refused(why, |bundle| bundle.edit(FRAMES, |rows: &mut Vec<FrameRow>| edit(rows)));
    };
    frames("do not fill the object", &|rows| rows[0].0 += 1);
    frames("does not list the frames", &|rows| {
        rows[0].0 += 1;
        rows[1].0 -= 1;
    });
    frames("does not list the frames", &|rows| rows[0].1 += 512);
    frames("impossible length", &|rows| rows[0].1 += 1);
    frames("impossible length", &|rows| rows[0].1 = 0);
    frames("impossible length", &|rows| rows[3].0 = 0);
    frames("at most 8388608", &|rows| rows[0].1 = u32::MAX);
    frames("stored frame", &|rows| rows[5].0 = u32::MAX);
    frames("as many frames", &|rows| rows.push(rows[0]));
    frames("as many frames", &|rows| rows.clear());
    frames("checksum mismatch of frame", &|rows| rows[0].2[0] ^= 1);
    refused("does not list the frames", |bundle| bundle.seek[0].1 += 512);
    refused("does not list the frames", |bundle| bundle.seek[6].1 = 512);
    refused("as many layers", |bundle| bundle.layers += 1);
    refused("as many frames", |bundle| bundle.frames += 1);
    refused("not the end of the tar stream", |bundle| {
        bundle.edit(FRAMES, |rows: &mut Vec<FrameRow>| rows.last_mut().unwrap().1 = 512);
    });
}

/// A frame that is followed by another one inside its stored bytes restores what no index speaks of.
#[test]
fn two_frames_in_the_place_of_one_are_refused() {
    refused("it is not one whole frame", |bundle| {
        let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &[4, 0, 0, 0], b"more"].concat();
        bundle.data.extend_from_slice(&skippable);
        let end = bundle.frames as usize - 1;
        bundle.seek[end].0 += 12;
        let data = bundle.data.clone();
        bundle.edit(FRAMES, |rows: &mut Vec<FrameRow>| {
            rows[end].0 += 12;
            let stored = &data[data.len() - rows[end].0 as usize..];
            rows[end].2 = layer_archive::Crc32c::of(stored).0.to_le_bytes();
        });
    });
}

#[test]
fn sections_that_are_missing_doubled_or_unknown_are_refused() {
    for (tag, why) in [
        (ORIGIN, "no origin section"),
        (FRAMES, "no frames"),
        (LAYERS, "no layers"),
        (LINKS, "as many layers"),
        (COMMIT, "a record without a commit"),
    ] {
        refused(why, |bundle| bundle.sections.retain(|section| section.tag != tag));
        refused("two sections", |bundle| {
            let twice = bundle.section(tag).clone();
            bundle.sections.push(twice);
        });
        refused(&format!("unknown required section {tag:#06x} of version 2"), |bundle| {
            bundle.section(tag).version = 2 | CRITICAL;
        });
        refused("", |bundle| bundle.section(tag).plain.push(0));
        refused("", |bundle| {
            bundle.section(tag).plain.pop();
        });
        refused("", |bundle| bundle.section(tag).plain.clear());
    }
    let unknown = |version| Section { tag: 0x7f01, version, plain: b"?".to_vec() };
    refused("unknown required section 0x7f01 of version 3", |bundle| {
        bundle.sections.push(unknown(3 | CRITICAL));
    });
    refused("too many sections", |bundle| {
        bundle.sections.extend((0..64).map(|tag| Section { tag: 100 + tag, ..unknown(1) }));
    });
    let mut optional = Dissected::read(&samples::record().object).unwrap();
    optional.sections.insert(0, unknown(3));
    read_everything(&optional.write()).unwrap();
}

#[test]
fn sections_that_lie_about_their_lengths_are_refused() {
    let bundle = Dissected::read(&samples::record().object).unwrap();
    let mut body = bundle.body();
    body[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    refused_bytes("truncated: section", &bundle.write_with_body(&body, |_| ()));
    refused_bytes("truncated: section", &bundle.write_with_body(&[0; 5], |_| ()));
    refused_bytes("no frames", &bundle.write_with_body(&[], |_| ()));
    let mut flipped = bundle.body();
    flipped[20] ^= 1;
    refused_bytes("checksum mismatch of section", &bundle.write_with_body(&flipped, |_| ()));
}

#[test]
fn footers_that_lie_are_refused() {
    let bundle = Dissected::read(&samples::record().object).unwrap();
    let edited = |why: &str, at: usize, bytes: &[u8]| {
        let edit = |footer: &mut [u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
        refused_bytes(why, &bundle.write_with_body(&bundle.body(), edit));
    };
    let needed = "bundle needs a reader of format version 2, this program reads up to 1";
    edited("wrong magic", 0, b"LPBNDL2\n");
    edited(needed, 10, &2u16.to_le_bytes());
    edited("unknown flags 0x1", 12, &1u32.to_le_bytes());
    edited("index is 4294967295, at most", 16, &u32::MAX.to_le_bytes());
    edited("contradict", 16, &1u32.to_le_bytes());
    edited("checksum mismatch of index", 20, &[0; 4]);
    edited("contradict", 24, &u64::MAX.to_le_bytes());
    edited("truncated: bundle needs 18446744073709551615", 32, &u64::MAX.to_le_bytes());
    edited("checksum mismatch of frames", 40, &[0; 4]);
    edited("contradict", 52, &u32::MAX.to_le_bytes());
}

#[test]
fn commits_that_cannot_be_are_refused() {
    // The plain text begins with the record's number, 16 bytes of digest and the flags.
    refused("unknown flags 0x8", |bundle| bundle.section(COMMIT).plain[17] = 8);
    refused("a claim that changes layers", |bundle| bundle.section(COMMIT).plain[17] = 1);
    refused("of another record", |bundle| bundle.section(COMMIT).plain[0] = 8);
    refused("count from 1", |bundle| bundle.section(COMMIT).plain[0] = 0);
    // And it ends with a removed layer's reason.
    refused("unknown reason", |bundle| *bundle.section(COMMIT).plain.last_mut().unwrap() = 2);
}

#[test]
fn an_origin_that_is_no_key_is_refused() {
    type OriginRow = (String, String, String);
    for object in ["log/9", "log/000000000000000G", "payload/", "../log/0000000000000009", ""] {
        refused("malformed", |bundle| {
            bundle.edit(ORIGIN, |origin: &mut OriginRow| origin.2 = object.to_owned());
        });
    }
    refused("invalid tenant id", |bundle| {
        bundle.edit(ORIGIN, |origin: &mut OriginRow| origin.0 = "../etc".to_owned());
    });
}

#[test]
fn an_object_shorter_than_what_came_of_it_is_refused() {
    let object = samples::record().object;
    for len in 0..200 {
        assert!(BundleIndex::parse_tail(&object, len).is_err());
    }
}

#[track_caller]
fn refused_manifest(why: &str, object: &[u8]) {
    let error = Manifest::decode(object).err().unwrap_or_else(|| panic!("accepted, not {why:?}"));
    assert!(error.to_string().contains(why), "{error} does not say {why:?}");
}

#[test]
fn manifests_that_lie_are_refused() {
    let good = DissectedManifest::read(&samples::manifest().encode().unwrap()).unwrap();
    assert_eq!(Manifest::decode(&good.write()).unwrap(), samples::manifest());
    let needed = "manifest needs a reader of format version 9, this program reads up to 1";
    refused_manifest(needed, &DissectedManifest { min_reader: 9, ..good.clone() }.write());
    refused_manifest("unknown features 0x80", &DissectedManifest { features: 128, ..good.clone() }.write());
    let longer = [&*good.plain, &[0]].concat();
    refused_manifest("bytes too many", &DissectedManifest { plain: longer, ..good.clone() }.write());
    let body = compress(&good.plain);
    refused_manifest("as long as it says", &good.write_with_body(&body, 5));
    refused_manifest("one whole zstd frame", &good.write_with_body(&[&*body, &body].concat(), 5));
    refused_manifest("does not say its length", &good.write_with_body(b"no frame", 5));
    refused_manifest("at most 134217728", &good.write_with_body(&compress(&vec![0; 129 << 20]), 5));
}

#[test]
fn a_bomb_in_a_section_is_refused() {
    let bomb = compress(&vec![0; 129 << 20]);
    let bundle = Dissected::read(&samples::record().object).unwrap();
    let mut body = Vec::new();
    body.extend(LAYERS.to_le_bytes());
    body.extend((1 | CRITICAL | COMPRESSED).to_le_bytes());
    body.extend((bomb.len() as u32).to_le_bytes());
    body.extend(layer_archive::Crc32c::of(&bomb).0.to_le_bytes());
    body.extend(bomb);
    refused_bytes("at most 134217728", &bundle.write_with_body(&body, |_| ()));
}

/// A change to bytes: an overwritten, inserted or removed byte.
#[derive(Clone, Debug)]
enum Edit {
    Set(u8),
    Insert(u8),
    Remove,
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, Edit)>> {
    let byte = || prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff)];
    let edit = prop_oneof![4 => byte().prop_map(Edit::Set), 1 => byte().prop_map(Edit::Insert), 1 => Just(Edit::Remove)];
    prop::collection::vec((any::<prop::sample::Index>(), edit), 1..4)
}

fn apply(edits: &[(prop::sample::Index, Edit)], bytes: &mut Vec<u8>) {
    for (at, edit) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        match edit {
            Edit::Set(byte) => bytes[at] = *byte,
            Edit::Insert(byte) => bytes.insert(at, *byte),
            Edit::Remove => drop(bytes.remove(at)),
        }
    }
}

/// Asks an index that was accepted for everything it can say.
fn use_index(index: &BundleIndex, object: &[u8]) {
    for entry in index.entries(index.origin().bundle) {
        let _ = decode(&entry, object);
    }
    for layer in index.layers() {
        for range in [0..1, 5..5, u64::MAX - 1..u64::MAX, 0..u64::MAX] {
            let frames = index.frames_covering(layer, range);
            assert!(!frames.is_empty() && frames.end <= index.frames().len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn edited_sections_never_panic(tag in 1u16..6, edits in edits()) {
        let mut bundle = Dissected::read(&samples::claim_or_record(tag).object).unwrap();
        apply(&edits, &mut bundle.section(tag).plain);
        let object = bundle.write();
        if let Ok(index) = BundleIndex::parse_object(&object) {
            use_index(&index, &object);
        }
        let _ = read_everything(&object);
    }

    #[test]
    fn edited_tails_never_panic(edits in edits()) {
        let packed = samples::claim_record();
        let mut object = packed.object;
        apply(&edits, &mut object);
        let _ = BundleIndex::parse_object(&object);
    }

    #[test]
    fn edited_manifests_never_panic(edits in edits()) {
        let mut manifest = DissectedManifest::read(&samples::manifest().encode().unwrap()).unwrap();
        apply(&edits, &mut manifest.plain);
        if let Ok(manifest) = Manifest::decode(&manifest.write()) {
            // What was accepted can be written, and is the same then.
            let again = Manifest::decode(&manifest.encode().unwrap()).unwrap();
            prop_assert_eq!(again, manifest);
        }
    }

    #[test]
    fn edited_frames_never_panic(edits in edits(), which in any::<prop::sample::Index>()) {
        let packed = samples::payload();
        let entries = packed.index.entries(BundleId::Payload(samples::PAYLOAD));
        let entry: &LayerEntry = which.get(&entries);
        let range = entry.place.location.start as usize..entry.place.location.end() as usize;
        let mut stored = packed.object[range].to_vec();
        apply(&edits, &mut stored);
        let mut decoder = LayerDecoder::new(entry);
        let _ = decoder.push(&stored, |_| Ok::<_, FormatError>(())).and_then(|()| decoder.finish());
        let _ = FrameDecoder::new().decode(&stored, 8192);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
        prop_assert!(BundleIndex::parse_object(&bytes).is_err());
        prop_assert!(Manifest::decode(&bytes).is_err());
        let seekable = [&*bytes, &[3, 0, 0, 0, 0, 0xb1, 0xea, 0x92, 0x8f]].concat();
        if let Ok(TailParse::NeedMore(needed)) = BundleIndex::parse_tail(&seekable, len) {
            prop_assert!(needed > seekable.len() as u64 && needed <= len);
        }
        let _ = FrameDecoder::new().decode(&bytes, len);
    }
}
