//! What a writer refuses, and that it writes the same for the same.

use layer_archive::{
    BundleId, BundleWriter, EncodedFrame, FormatError, FrameCompressor, Level, PackedLayer, RawDigest, Seq,
    TimelineMetadata, limits, member_header, padding_len,
};

use crate::pack::pack;
use crate::samples;

fn packed(name: &str, bytes: &[u8]) -> PackedLayer {
    PackedLayer { name: samples::name(name), lsn_range: None, raw: RawDigest::of(bytes) }
}

fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut plain = member_header(&samples::name(name), bytes.len() as u64).unwrap();
    plain.extend_from_slice(bytes);
    plain.resize(plain.len() + padding_len(bytes.len() as u64), 0);
    plain
}

fn frame(plain: &[u8]) -> EncodedFrame {
    FrameCompressor::new().unwrap().compress(plain, Level::IMAGE).unwrap()
}

fn finish(writer: BundleWriter) -> Result<Vec<u8>, FormatError> {
    let origin = samples::origin(BundleId::Payload(samples::PAYLOAD));
    writer.finish(&origin, None, &mut FrameCompressor::new().unwrap()).map(|finished| finished.bytes)
}

fn refused<T>(result: Result<T, FormatError>, why: &str) {
    let error = result.err().unwrap_or_else(|| panic!("accepted, not refused with {why:?}")).to_string();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
}

#[test]
fn frames_without_layers_and_layers_without_frames_are_refused() {
    let mut writer = BundleWriter::new();
    writer.push_frame(&frame(&member("a", b"x"))).unwrap();
    refused(finish(writer), "hold more than the layers named");

    let mut writer = BundleWriter::new();
    refused(writer.push_layer(packed("a", b"x")), "not in the frames so far");
    writer.push_frame(&frame(&member("a", b"x"))).unwrap();
    writer.push_layer(packed("a", b"x")).unwrap();
    refused(writer.push_layer(packed("b", b"")), "not in the frames so far");
    finish(writer).unwrap();
}

#[test]
fn names_that_occur_twice_are_refused() {
    let plain = [member("a", b"x"), member("a", b"x")].concat();
    let mut writer = BundleWriter::new();
    writer.push_frame(&frame(&plain)).unwrap();
    writer.push_layer(packed("a", b"x")).unwrap();
    writer.push_layer(packed("a", b"x")).unwrap();
    refused(finish(writer), "\"a\" occurs twice");

    let layers = [samples::layer("metadata", None, *b"a layer")];
    let origin = samples::origin(BundleId::Record(Seq(9)));
    refused(pack(&origin, &layers, Some(&samples::commit())), "\"metadata\" occurs twice");
}

#[test]
fn links_to_nothing_are_refused() {
    let mut writer = BundleWriter::new();
    writer.push_link(samples::name("a"), None, 0);
    refused(finish(writer), "link to nothing");
}

#[test]
fn layers_larger_than_readers_accept_are_refused() {
    for size in [limits::LAYER_RAW_BYTES_MAX + 1, u64::MAX] {
        let raw = RawDigest { size, ..RawDigest::default() };
        let layer = PackedLayer { name: samples::name("a"), lsn_range: None, raw };
        refused(BundleWriter::new().push_layer(layer), "at most 8589934592 are accepted");
    }
}

#[test]
fn a_commit_must_be_of_the_record_it_is_in() {
    let record = samples::origin(BundleId::Record(Seq(8)));
    let payload = samples::origin(BundleId::Payload(samples::PAYLOAD));
    refused(pack(&record, &[], Some(&samples::commit())), "another record");
    refused(pack(&record, &[], None), "without a commit");
    refused(pack(&payload, &[], Some(&samples::commit())), "with a commit");
}

#[test]
fn claims_change_no_layers() {
    let origin = samples::origin(BundleId::Record(Seq(3)));
    let claim = samples::claim();
    pack(&origin, &[], Some(&claim)).unwrap();
    refused(pack(&origin, &samples::layers(), Some(&claim)), "a claim that adds layers");
    let adds = layer_archive::Commit { added: samples::commit().added, ..claim.clone() };
    refused(pack(&origin, &[], Some(&adds)), "a claim that changes layers");
    let removes = layer_archive::Commit { removed: samples::commit().removed, ..claim };
    refused(pack(&origin, &[], Some(&removes)), "a claim that changes layers");
}

#[test]
fn metadata_over_its_limit_is_refused() {
    let metadata = |len| layer_archive::Commit {
        metadata: Some(TimelineMetadata { file_name: samples::name("metadata"), bytes: vec![1; len] }),
        ..samples::plain_commit(3)
    };
    let origin = samples::origin(BundleId::Record(Seq(3)));
    pack(&origin, &[], Some(&metadata(limits::METADATA_BYTES_MAX))).unwrap();
    refused(pack(&origin, &[], Some(&metadata(limits::METADATA_BYTES_MAX + 1))), "at most 65536");
}

/// Frames cut anywhere between blocks, between a header and its layer too, make bundles that are read alike.
#[test]
fn frames_may_be_cut_between_any_two_blocks() {
    let (a, long, b) = (samples::pages(1200, 1), "l".repeat(255), samples::pages(700, 2));
    let layers = [("a", &*a), ("empty", b""), (&*long, &*b), ("last", b"")];
    let plain: Vec<u8> = layers.iter().flat_map(|(name, bytes)| member(name, bytes)).collect();
    for first in (512..plain.len()).step_by(512) {
        for second in (first + 512..=plain.len()).step_by(512) {
            let mut writer = BundleWriter::new();
            for part in [&plain[..first], &plain[first..second], &plain[second..]] {
                if !part.is_empty() {
                    writer.push_frame(&frame(part)).unwrap();
                }
            }
            for (name, bytes) in layers {
                writer.push_layer(packed(name, bytes)).unwrap();
            }
            let object = finish(writer).unwrap();
            let index = crate::damage::read_everything(&object).unwrap();
            for (entry, (name, bytes)) in index.entries(index.origin().bundle).iter().zip(layers) {
                assert_eq!(crate::damage::decode(entry, &object).unwrap(), bytes, "{name} {first} {second}");
                assert_eq!(entry.name.as_str(), name);
            }
        }
    }
}

#[test]
fn taken_parts_and_the_rest_are_the_bundle() {
    let plain = member("a", &samples::pages(9000, 1));
    let build = |take: bool| {
        let mut writer = BundleWriter::new();
        writer.push_frame(&frame(&plain)).unwrap();
        let mut bytes = Vec::new();
        while take && let Some(part) = writer.take_part(100) {
            assert_eq!(part.len(), 100);
            bytes.extend(part);
        }
        writer.push_layer(packed("a", &samples::pages(9000, 1))).unwrap();
        bytes.extend(finish(writer).unwrap());
        bytes
    };
    let whole = build(false);
    assert_eq!(build(true), whole);
    // Every reader that has the index knows the checksum of the object.
    let index = layer_archive::BundleIndex::parse_object(&whole).unwrap();
    assert_eq!(index.object_crc32c().0, crc32c::crc32c(&whole));
}
