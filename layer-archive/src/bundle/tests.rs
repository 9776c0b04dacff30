//! The bytes of the frozen structs, field by field: what is swapped, inserted or widened shows here.

use super::footer::Footer;
use super::index::{IndexedFrame, IndexedLayer, IndexedLink, Origin};
use super::wire::{FrameV1, LayerV1, LinkV1, OriginV1};
use crate::{BundleId, Crc32c, Digest, LayerName, Lsn, LsnRange, RawDigest, Seq, codec};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(value: &impl serde::Serialize) -> String {
    hex(&codec::encode("test", value).unwrap())
}

fn name(name: &str) -> LayerName {
    LayerName::new(name).unwrap()
}

#[test]
fn the_origin_section_is_three_strings() {
    let timeline = "2f8ae1ef8989d5601e73fd13ae3dcd26";
    let origin = Origin {
        tenant: "1f8ae1ef8989d5601e73fd13ae3dcd26-0102".parse().unwrap(),
        timeline: timeline.parse().unwrap(),
        bundle: BundleId::Record(Seq(9)),
    };
    let expected = [
        format!("25{}", hex(b"1f8ae1ef8989d5601e73fd13ae3dcd26-0102")),
        format!("20{}", hex(timeline.as_bytes())),
        format!("14{}", hex(b"log/0000000000000009")),
    ];
    assert_eq!(encoded(&OriginV1::from(&origin)), expected.concat());
}

#[test]
fn a_row_of_the_frames_section_is_two_lengths_and_a_checksum() {
    let frame = IndexedFrame { start: 77, stored_len: 300, plain_len: 1536, crc32c: Crc32c(0x0102_0304) };
    assert_eq!(encoded(&FrameV1::from(&frame)), ["ac02", "800c", "04030201"].concat());
}

#[test]
fn a_row_of_the_layers_section_is_a_name_and_where_and_what_it_is() {
    let raw = RawDigest { size: 8192, crc32c: Crc32c(0x0102_0304), blake3: Digest([0xb3; 16]) };
    let lsn_range = LsnRange::new(Lsn(1), Lsn(300));
    let layer = IndexedLayer { name: name("ab"), lsn_range, raw, frame: 2, offset: 512 };
    let expected =
        ["026162", "01", "01", "ac02", "8040", "02", "8004", "04030201", &"b3".repeat(16)].concat();
    assert_eq!(encoded(&LayerV1::from(&layer)), expected);
    let layer = IndexedLayer { lsn_range: None, ..layer };
    let expected = ["026162", "00", "8040", "02", "8004", "04030201", &"b3".repeat(16)].concat();
    assert_eq!(encoded(&LayerV1::from(&layer)), expected);
}

#[test]
fn a_row_of_the_links_section_is_a_name_a_range_and_a_number() {
    let link = IndexedLink { name: name("ä"), lsn_range: LsnRange::at(Lsn(5)), target: 128 };
    assert_eq!(encoded(&LinkV1::from(&link)), ["02c3a4", "01", "05", "06", "8001"].concat());
}

#[test]
fn the_footer_is_64_bytes() {
    let footer = Footer {
        body_len: 0x0101,
        body_crc32c: Crc32c(0x0202_0203),
        data_end: 0x0303_0304,
        object_len: 0x0404_0405,
        data_crc32c: Crc32c(0x0505_0506),
        frames: 6,
        layers: 7,
        seek_len: 8,
        seek_crc32c: Crc32c(0x0909_090a),
    };
    let bytes = footer.encode();
    let expected = [
        "4c50424e444c310a", // "LPBNDL1\n"
        "0100",             // version
        "0100",             // oldest reader
        "00000000",         // flags
        "01010000",
        "03020202",
        "0403030300000000",
        "0504040400000000",
        "06050505",
        "06000000",
        "07000000",
        "08000000",
        "0a090909",
    ];
    assert_eq!(hex(&bytes[..60]), expected.concat());
    assert_eq!(hex(&bytes[60..]), hex(&Crc32c::of(&bytes[..60]).0.to_le_bytes()));
    assert_eq!(Footer::decode(&bytes, 0).unwrap(), footer);
}

#[test]
fn the_seek_table_is_that_of_the_seekable_format() {
    let expected = [
        "5e2a4d18", // skippable frame
        "19000000", // 25 bytes
        "0100000002000000",
        "0300000000000000",
        "02000000", // two frames
        "00",       // no checksums
        "b1ea928f",
    ];
    assert_eq!(hex(&crate::seek_table::encode(&[(1, 2), (3, 0)]).unwrap()), expected.concat());
}
