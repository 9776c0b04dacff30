//! The bytes of a manifest, field by field.

use super::column::{Column, from_deltas, to_deltas};
use super::*;
use crate::{LayerName, Location, LsnRange, PayloadId, Place, RawDigest};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bundle(id: BundleId, named_by: u64) -> BundleEntry {
    BundleEntry { id, named_by: Seq(named_by), stored_bytes: 1000, live_bytes: 900, tail_len: 300 }
}

fn layer(name: &str, lsn_range: Option<LsnRange>, location: Location) -> LayerEntry {
    LayerEntry {
        name: LayerName::new(name).unwrap(),
        lsn_range,
        raw: RawDigest { size: 8192, crc32c: Crc32c(0x0102_0304), blake3: Digest([0xb3; 16]) },
        place: Place { bundle: BundleId::Record(Seq(5)), location },
        stored_bytes: location.stored_len,
    }
}

fn full() -> Manifest {
    let timeline = "2".repeat(32);
    let payload = PayloadId { claim: Seq(3), term: Term(0x11), number: 4 };
    let shared = Location { start: 0, stored_len: 10, crc32c: Crc32c(0x0a0b_0c0d), offset: 512 };
    let own = Location { start: 13, stored_len: 20, ..shared };
    Manifest {
        tenant: "1".repeat(32).parse().unwrap(),
        timeline: timeline.parse().unwrap(),
        seq: Seq(300),
        history: Digest([0xaa; 16]),
        claim: Seq(3),
        term: Term(0xfedc_ba98_7654_3210),
        epoch: Epoch(2),
        generation: None,
        writer: WriterInfo { host: "h".into(), pid: 128, program: "p".into() },
        time: UnixMillis(1000),
        released: true,
        deleted: true,
        metadata: Some(TimelineMetadata { file_name: LayerName::new("m").unwrap(), bytes: vec![7, 8] }),
        disk_consistent_lsn: Some(Lsn(16)),
        ancestor: Some(Ancestor { timeline: timeline.parse().unwrap(), lsn: Lsn(17) }),
        branch_points: Vec::new(),
        bundles: vec![
            bundle(BundleId::Record(Seq(5)), 5),
            bundle(BundleId::Record(Seq(6)), 7),
            bundle(BundleId::Payload(payload), 6),
        ],
        layers: vec![
            LayerEntry { stored_bytes: 4, ..layer("abc", LsnRange::new(Lsn(1), Lsn(9)), shared) },
            layer("abd", None, Location { offset: 1024, ..shared }),
            layer("b", LsnRange::at(Lsn(0)), own),
        ],
    }
}

#[test]
fn every_field_has_its_place() {
    let (tenant, timeline) = (format!("20{}", "31".repeat(32)), format!("20{}", "32".repeat(32)));
    let expected = [
        &tenant,
        &timeline,
        "ac02",                                                          // seq
        &"aa".repeat(16),                                                // history
        "03",                                                            // claim
        "1032547698badcfe",                                              // term
        "02",                                                            // epoch
        "00",                                                            // generation
        "0168 8001 0170",                                                // writer
        "e807",                                                          // time
        "03",                                                            // flags: released, deleted
        "01 016d 020708",                                                // metadata
        "01 10",                                                         // disk_consistent_lsn
        &format!("01 {timeline} 11"),                                    // ancestor
        "00",                                                            // branch points
        "03",                                                            // three bundles
        "04 01 000001",                                                  // kind
        "19 08 0501fd 0000ff 0000ff 0000ff 0000ff 0000ff 0000ff 0000ff", // seq: 5, +1, -3
        "04 01 000011",                                                  // term
        "04 01 000004",                                                  // number
        "04 01 000103",                                                  // named_by
        "07 02 e8e8e8 030303",                                           // stored_bytes
        "04 01 646464",                                                  // not_live
        "07 02 2c2c2c 010101",                                           // tail_len
        "02 02 03",             // two extents, two LSN ranges, three layers
        "01 00",                // extent_bundle
        "03 01 0003",           // extent_gap
        "03 01 0a14",           // extent_len
        "08 0d0c0b0a 0d0c0b0a", // extent_crc32c
        "03 01 0001",           // lsn_start
        "03 01 0108",           // lsn_len
        "04 01 000200",         // name_shared
        "04 01 030101",         // name_rest_len
        "05 616263 64 62",      // name_rest
        "04 01 020001",         // lsn
        "07 02 000000 202020",  // raw_size
        "04 01 000001",         // extent
        "07 02 000000 020402",  // offset
        "04 01 050000",         // share
        &format!("0c {}", "04030201".repeat(3)),
        &format!("30 {}", "b3".repeat(48)),
    ];
    let plain = codec::encode("manifest", &wire::ManifestV1::try_from(&full()).unwrap()).unwrap();
    assert_eq!(hex(&plain), expected.concat().replace(' ', ""));
}

#[test]
fn the_header_is_64_bytes() {
    let object = full().encode().unwrap();
    let (header, body) = object.split_at(64);
    let plain = codec::decompress("manifest", body, 10_000).unwrap();
    let expected = [
        hex(b"LPMANIF\n"),
        "0100 0100 00000000".into(), // version, oldest reader, features
        hex(&(body.len() as u64).to_le_bytes()),
        hex(&(plain.len() as u64).to_le_bytes()),
        hex(&Crc32c::of(body).0.to_le_bytes()),
        "00".repeat(24),
        hex(&Crc32c::of(&header[..60]).0.to_le_bytes()),
    ];
    assert_eq!(hex(header), expected.concat().replace(' ', ""));
}

#[test]
fn columns_of_every_width_come_back() {
    for value in [0, 1, 255, 256, 0xffff_ffff, 1 << 32, u64::MAX] {
        let values = [value, 0, value / 3];
        let column = Column::encode(&values);
        assert_eq!(column.decode("test", 3).unwrap(), values);
        if value > 0 {
            assert!(column.decode("test", 2).is_err() && column.decode("test", 4).is_err());
        }
        assert_eq!(from_deltas(to_deltas(values)), values);
    }
    assert!(Column::default().decode("test", 0).is_err());
    assert!(Column::encode(&[]).decode("test", usize::MAX).is_err());
}
