//! The bytes of a commit, field by field.

use super::*;
use crate::{
    BundleId, Crc32c, Location, LsnRange, RawDigest,
    codec::{decode, encode},
};

fn name(name: &str) -> LayerName {
    LayerName::new(name).unwrap()
}

fn payload() -> PayloadId {
    PayloadId { claim: Seq(3), term: Term(0x0102_0304_0506_0708), number: 4 }
}

fn place(bundle: BundleId) -> Place {
    let location = Location { start: 300, stored_len: 5, crc32c: Crc32c(0x0a0b_0c0d), offset: 512 };
    Place { bundle, location }
}

fn full() -> Commit {
    let timeline = "2".repeat(32);
    let branch = |lsn| BranchPoint {
        tenant: "1".repeat(32).parse().unwrap(),
        timeline: timeline.parse().unwrap(),
        lsn: Lsn(lsn),
    };
    let raw = RawDigest { size: 8192, crc32c: Crc32c(0x0102_0304), blake3: Digest([0xb3; 16]) };
    Commit {
        seq: Seq(300),
        parent: Digest([0xaa; 16]),
        flags: CommitFlags { claim: false, released: true, deleted: true },
        term: Term(0xfedc_ba98_7654_3210),
        epoch: Epoch(2),
        generation: Some(Generation(1)),
        writer: WriterInfo { host: "h".into(), pid: 128, program: "p".into() },
        time: UnixMillis(1000),
        metadata: Some(TimelineMetadata { file_name: name("m"), bytes: vec![7, 8] }),
        disk_consistent_lsn: Some(Lsn(16)),
        ancestor: Some(Ancestor { timeline: timeline.parse().unwrap(), lsn: Lsn(17) }),
        branch_points_added: vec![branch(18)],
        branch_points_removed: vec![branch(19)],
        payloads: vec![PayloadRef { id: payload(), stored_bytes: 1000, tail_len: 20 }],
        added: vec![LayerEntry {
            name: name("a"),
            lsn_range: LsnRange::at(Lsn(1)),
            raw,
            place: place(BundleId::Payload(payload())),
            stored_bytes: 6,
        }],
        moved: vec![Moved {
            name: name("b"),
            from: place(BundleId::Record(Seq(9))),
            to: place(BundleId::Payload(payload())),
            stored_bytes: 7,
        }],
        removed: vec![
            Removed { name: name("c"), reason: RemovalReason::Compacted },
            Removed { name: name("d"), reason: RemovalReason::Collected },
        ],
    }
}

#[test]
fn every_field_has_its_place() {
    let (tenant, timeline) = (format!("20{}", "31".repeat(32)), format!("20{}", "32".repeat(32)));
    let location = "ac02 05 0d0c0b0a 8004";
    let in_payload = format!("01 03 0807060504030201 04 {location}");
    let in_record = format!("00 09 0000000000000000 00 {location}");
    let expected = [
        "ac02",                                          // seq
        &"aa".repeat(16),                                // parent
        "06",                                            // flags: released, deleted
        "1032547698badcfe",                              // term
        "02",                                            // epoch
        "01 01",                                         // generation
        "0168 8001 0170",                                // writer
        "e807",                                          // time
        "01 016d 020708",                                // metadata
        "01 10",                                         // disk_consistent_lsn
        &format!("01 {timeline} 11"),                    // ancestor
        &format!("01 {tenant} {timeline} 12"),           // branch points added
        &format!("01 {tenant} {timeline} 13"),           // branch points removed
        "01 03 0807060504030201 04 e807 14",             // payloads
        "01 0161 01 01 02 8040 04030201",                // added: name, LSNs, raw size, raw CRC32C,
        &"b3".repeat(16),                                // raw BLAKE3,
        &format!("{in_payload} 06"),                     // place, stored bytes
        &format!("01 0162 {in_record} {in_payload} 07"), // moved
        "02 0163 00 0164 01",                            // removed
    ];
    let bytes = encode("commit", &CommitV1::from(&full())).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected.concat().replace(' ', ""));
    assert_eq!(Commit::try_from(decode::<CommitV1>("commit", &bytes).unwrap()).unwrap(), full());
}

#[test]
fn what_is_absent_takes_a_byte() {
    let commit = Commit {
        seq: Seq(1),
        flags: CommitFlags { claim: true, released: false, deleted: false },
        generation: None,
        writer: WriterInfo::default(),
        metadata: None,
        disk_consistent_lsn: None,
        ancestor: None,
        branch_points_added: Vec::new(),
        branch_points_removed: Vec::new(),
        payloads: Vec::new(),
        added: Vec::new(),
        moved: Vec::new(),
        removed: Vec::new(),
        ..full()
    };
    let expected = [
        "01",
        &"aa".repeat(16),
        "01",
        "1032547698badcfe",
        "02",
        "00",
        "000000",
        "e807",
        "000000",
        "000000000000",
    ];
    let bytes = encode("commit", &CommitV1::from(&commit)).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected.concat());
}
