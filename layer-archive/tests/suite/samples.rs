//! Values with everything in them, whose bytes the golden files and the damage sweeps are made of.

use layer_archive::{
    Ancestor, BranchPoint, BundleEntry, BundleId, Commit, CommitFlags, Crc32c, Digest, Epoch, Generation,
    LayerEntry, LayerName, Location, Lsn, LsnRange, Manifest, Moved, Origin, PayloadId, PayloadRef, Place,
    RawDigest, RemovalReason, Removed, Seq, Term, TimelineMetadata, UnixMillis, WriterInfo,
};

use crate::pack::{Layer, Packed, pack};

pub(crate) const TENANT: &str = "1f8ae1ef8989d5601e73fd13ae3dcd26-0102";
pub(crate) const TIMELINE: &str = "2f8ae1ef8989d5601e73fd13ae3dcd26";
pub(crate) const PARENT: &str = "3f8ae1ef8989d5601e73fd13ae3dcd26";

pub(crate) const PAYLOAD: PayloadId =
    PayloadId { claim: Seq(3), term: Term(0x0102_0304_0506_0708), number: 0x2a };

pub(crate) fn name(name: &str) -> LayerName {
    LayerName::new(name).unwrap()
}

pub(crate) fn range(start: u64, end: u64) -> Option<LsnRange> {
    LsnRange::new(Lsn(start), Lsn(end))
}

pub(crate) fn origin(bundle: BundleId) -> Origin {
    Origin { tenant: TENANT.parse().unwrap(), timeline: TIMELINE.parse().unwrap(), bundle }
}

pub(crate) fn layer(name: &str, lsn_range: Option<LsnRange>, bytes: impl Into<Vec<u8>>) -> Layer {
    Layer { name: self::name(name), lsn_range, bytes: bytes.into() }
}

/// Bytes that look like pages: little in them, and no two pages equal.
pub(crate) fn pages(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| match at % 8192 {
            0 => seed,
            1 => (at / 8192) as u8,
            place if place % 512 == 7 => (place / 512) as u8 ^ seed,
            _ => 0,
        })
        .collect()
}

/// Layers of every kind: empty, tiny, small, equal to another, with names of up to 255 bytes, and one in two slices.
pub(crate) fn layers() -> Vec<Layer> {
    let key = "000000067F00000005000040140000000100-000000067F000000050000403B0100000000";
    vec![
        layer("empty", None, []),
        layer("also-empty", range(1, 2), []),
        layer("tiny", None, *b"seven b"),
        layer(&"n".repeat(100), range(0x16_0000_0000, 0x16_B374_D848), pages(600, 1)),
        layer(&"m".repeat(101), None, pages(8192, 2)),
        layer(&format!("{key}__00000000066AFE41-v1-00000002"), range(0x66A_FE41, 0x66A_FE42), pages(8192, 3)),
        layer("copy-of-a-layer", range(7, 9), pages(8192, 3)),
        layer(&format!("{}ä", "z".repeat(253)), None, pages(8192, 3)),
        layer("\u{442}\u{435}\u{441}\u{442}", None, pages(512, 4)),
        layer("sliced", range(5, u64::MAX), pages((256 << 10) + 8192, 5)),
        layer("sliced-copy", None, pages((256 << 10) + 8192, 5)),
    ]
}

fn location(start: u64, stored_len: u64, offset: u32) -> Location {
    Location { start, stored_len, crc32c: Crc32c(0xDEAD_0000 + offset), offset }
}

pub(crate) fn entry(name: &str, bundle: BundleId, start: u64) -> LayerEntry {
    LayerEntry {
        name: self::name(name),
        lsn_range: range(0x10, 0x20),
        raw: RawDigest { size: 8192, crc32c: Crc32c(0x0BAD_CAFE), blake3: Digest::of(name.as_bytes()) },
        place: Place { bundle, location: location(start, 1000, 1536) },
        stored_bytes: 250,
    }
}

/// A commit in which every field says something.
pub(crate) fn commit() -> Commit {
    Commit {
        seq: Seq(9),
        parent: Digest::of(b"the records before"),
        flags: CommitFlags { claim: false, released: true, deleted: true },
        term: Term(0xFEDC_BA98_7654_3210),
        epoch: Epoch(4),
        generation: Some(Generation(0x1_0000)),
        writer: WriterInfo { host: "pageserver-1".into(), pid: 4242, program: "layerpack 0.1.0".into() },
        time: UnixMillis(1_700_000_000_123),
        metadata: Some(TimelineMetadata { file_name: name("metadata"), bytes: pages(512, 9) }),
        disk_consistent_lsn: Some(Lsn(0x16_B374_D848)),
        ancestor: Some(Ancestor { timeline: PARENT.parse().unwrap(), lsn: Lsn(0x1500) }),
        branch_points_added: vec![branch_point('4')],
        branch_points_removed: vec![branch_point('5'), branch_point('6')],
        payloads: vec![PayloadRef { id: PAYLOAD, stored_bytes: 33_554_432, tail_len: 13_758 }],
        added: vec![entry("in-a-payload", BundleId::Payload(PAYLOAD), 4096)],
        moved: vec![Moved {
            name: name("moved"),
            from: Place { bundle: BundleId::Record(Seq(2)), location: location(0, 77, 512) },
            to: Place { bundle: BundleId::Payload(PAYLOAD), location: location(300, 78, 1024) },
            stored_bytes: 39,
        }],
        removed: vec![
            Removed { name: name("compacted"), reason: RemovalReason::Compacted },
            Removed { name: name("collected"), reason: RemovalReason::Collected },
        ],
    }
}

pub(crate) fn branch_point(digit: char) -> BranchPoint {
    let id = digit.to_string().repeat(32);
    BranchPoint { tenant: id.parse().unwrap(), timeline: id.parse().unwrap(), lsn: Lsn(0x99) }
}

/// A commit that changes nothing.
pub(crate) fn plain_commit(seq: u64) -> Commit {
    Commit {
        seq: Seq(seq),
        parent: Digest::default(),
        flags: CommitFlags::default(),
        term: Term(1),
        epoch: Epoch(1),
        generation: None,
        writer: WriterInfo::default(),
        time: UnixMillis(0),
        metadata: None,
        disk_consistent_lsn: None,
        ancestor: None,
        branch_points_added: Vec::new(),
        branch_points_removed: Vec::new(),
        payloads: Vec::new(),
        added: Vec::new(),
        moved: Vec::new(),
        removed: Vec::new(),
    }
}

pub(crate) fn claim() -> Commit {
    let flags = CommitFlags { claim: true, ..CommitFlags::default() };
    Commit { flags, ..plain_commit(3) }
}

/// A record with every kind of section, frame and link.
pub(crate) fn record() -> Packed {
    pack(&origin(BundleId::Record(Seq(9))), &layers(), Some(&commit())).unwrap()
}

pub(crate) fn payload() -> Packed {
    pack(&origin(BundleId::Payload(PAYLOAD)), &layers()[..6], None).unwrap()
}

pub(crate) fn claim_record() -> Packed {
    pack(&origin(BundleId::Record(Seq(3))), &[], Some(&claim())).unwrap()
}

/// A manifest in which every field says something.
pub(crate) fn manifest() -> Manifest {
    let (in_record, in_payload) = (BundleId::Record(Seq(8)), BundleId::Payload(PAYLOAD));
    let sliced = LayerEntry { stored_bytes: 1000, ..entry("f-whole-extent", in_record, 1000) };
    Manifest {
        tenant: TENANT.parse().unwrap(),
        timeline: TIMELINE.parse().unwrap(),
        seq: Seq(9),
        history: Digest::of(b"all records"),
        claim: Seq(3),
        term: Term(0xFEDC_BA98_7654_3210),
        epoch: Epoch(4),
        generation: Some(Generation(7)),
        writer: WriterInfo { host: "pageserver-1".into(), pid: 4242, program: "layerpack 0.1.0".into() },
        time: UnixMillis(1_700_000_000_123),
        released: true,
        deleted: true,
        metadata: Some(TimelineMetadata { file_name: name("metadata"), bytes: b"opaque".to_vec() }),
        disk_consistent_lsn: Some(Lsn(0x16_B374_D848)),
        ancestor: Some(Ancestor { timeline: PARENT.parse().unwrap(), lsn: Lsn(0x1500) }),
        branch_points: vec![branch_point('4'), branch_point('5')],
        bundles: vec![
            bundle(in_record, 8, 5000),
            bundle(BundleId::Record(Seq(9)), 9, 700),
            bundle(in_payload, 9, 1 << 33),
        ],
        layers: vec![
            LayerEntry { lsn_range: None, ..entry("a-layer", in_record, 0) },
            entry("a-layer-that-shares-its-frame", in_record, 0),
            sliced,
            entry("payload", in_payload, 1 << 32),
            entry("payload-ä", in_payload, (1 << 32) + 1000),
        ],
    }
}

pub(crate) fn empty_manifest() -> Manifest {
    Manifest {
        generation: None,
        writer: WriterInfo::default(),
        released: false,
        deleted: false,
        metadata: None,
        disk_consistent_lsn: None,
        ancestor: None,
        branch_points: Vec::new(),
        bundles: Vec::new(),
        layers: Vec::new(),
        ..manifest()
    }
}

fn bundle(id: BundleId, named_by: u64, stored_bytes: u64) -> BundleEntry {
    BundleEntry { id, named_by: Seq(named_by), stored_bytes, live_bytes: stored_bytes - 600, tail_len: 555 }
}

/// A bundle that has a section `tag`, as small as can be.
pub(crate) fn claim_or_record(tag: u16) -> Packed {
    match tag {
        1 | 2 => claim_record(),
        3 => payload(),
        _ => record(),
    }
}
