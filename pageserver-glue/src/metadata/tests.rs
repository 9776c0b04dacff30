//! Metadata files of every form, byte by byte.

use layer_archive::{Lsn, TimelineId};
use proptest::prelude::*;

use super::*;

const ANCESTOR: &str = "88a4e0f55d55008138697fa10e7d97d3";

/// The first bytes of a file and its last four; what is between them is zeros.
struct Fixture {
    head: &'static str,
    trailer: &'static str,
}

const OLDEST: Fixture =
    Fixture { head: "000000000169c348 01 000000000169c310 00 0000000000000000", trailer: "ee7cb074" };

const TRAILER: Fixture = Fixture {
    head: "00000000014fed58 01 00000000014fed20 01 88a4e0f55d55008138697fa10e7d97d3 0000000004012a48
           0000000001500708 0000000001500700",
    trailer: "9b22ede1",
};

const V3: Fixture = Fixture {
    head: "98f1d262 003a 0003 0000000104012a48 00 01 88a4e0f55d55008138697fa10e7d97d3 0000000004012a48
           0000000001500708 0000000001500708",
    trailer: "00000000",
};

const V4: Fixture = Fixture {
    head: "e956d5c2 003e 0004 0000000104012a48 00 01 88a4e0f55d55008138697fa10e7d97d3 0000000004012a48
           0000000001500708 0000000001500708 0000000f",
    trailer: "00000000",
};

impl Fixture {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = hex(self.head);
        bytes.resize(508, 0);
        bytes.extend(hex(self.trailer));
        bytes
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|char| char.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// CRC32C as its definition has it, a bit at a time, so that the fixtures do not rest on the code's own checksum.
fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}

fn ancestor() -> Option<(TimelineId, Lsn)> {
    Some((ANCESTOR.parse().unwrap(), Lsn(0x0401_2A48)))
}

#[test]
fn fixture_checksums_are_right() {
    assert_eq!(bitwise_crc32c(b"123456789"), 0xE306_9283);
    for fixture in [OLDEST, TRAILER] {
        let bytes = fixture.bytes();
        assert_eq!(bitwise_crc32c(&bytes[..508]).to_le_bytes(), bytes[508..]);
    }
    for (fixture, size) in [(V3, 58), (V4, 62)] {
        let bytes = fixture.bytes();
        assert_eq!(bitwise_crc32c(&bytes[8..size]).to_be_bytes(), bytes[..4]);
    }
}

#[test]
fn oldest_form_has_no_gc_cutoff() {
    let expected = ParsedMetadata {
        disk_consistent_lsn: Lsn(0x0169_C348),
        prev_record_lsn: Some(Lsn(0x0169_C310)),
        ancestor: None,
        latest_gc_cutoff: Lsn(0),
        initdb_lsn: Lsn(0),
        pg_version: None,
        form: MetadataForm::Trailer,
    };
    assert_eq!(ParsedMetadata::parse(&OLDEST.bytes()), Ok(expected));
}

#[test]
fn trailer_form_of_a_branch() {
    let expected = ParsedMetadata {
        disk_consistent_lsn: Lsn(0x014F_ED58),
        prev_record_lsn: Some(Lsn(0x014F_ED20)),
        ancestor: ancestor(),
        latest_gc_cutoff: Lsn(0x0150_0708),
        initdb_lsn: Lsn(0x0150_0700),
        pg_version: None,
        form: MetadataForm::Trailer,
    };
    assert_eq!(ParsedMetadata::parse(&TRAILER.bytes()), Ok(expected));
}

#[test]
fn header_forms_of_a_branch() {
    let v3 = ParsedMetadata {
        disk_consistent_lsn: Lsn(0x1_0401_2A48),
        prev_record_lsn: None,
        ancestor: ancestor(),
        latest_gc_cutoff: Lsn(0x0150_0708),
        initdb_lsn: Lsn(0x0150_0708),
        pg_version: None,
        form: MetadataForm::HeaderV3,
    };
    let v4 = ParsedMetadata { pg_version: Some(15), form: MetadataForm::HeaderV4, ..v3.clone() };
    assert_eq!(ParsedMetadata::parse(&V3.bytes()), Ok(v3));
    assert_eq!(ParsedMetadata::parse(&V4.bytes()), Ok(v4));
}

/// The LSN 0/80003 reads as a header: checksum 0, which is that of nothing, size 8, version 3.
#[test]
fn an_old_file_that_begins_like_a_header_is_old() {
    let file = trailer_of(&0x8_0003_u64.to_be_bytes());
    let parsed = ParsedMetadata::parse(&file).unwrap();
    assert_eq!((parsed.form, parsed.disk_consistent_lsn), (MetadataForm::Trailer, Lsn(0x8_0003)));
}

#[test]
fn every_flipped_bit_is_refused() {
    for fixture in [OLDEST, TRAILER, V3, V4] {
        let good = fixture.bytes();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ParsedMetadata::parse(&bad).is_err(), "bit {bit} of {} was missed", fixture.head);
        }
    }
}

#[test]
fn other_lengths_are_refused() {
    let good = V4.bytes();
    for len in 0..512 {
        assert_eq!(ParsedMetadata::parse(&good[..len]), Err(MetadataError::Length(len)));
    }
    assert_eq!(ParsedMetadata::parse(&[good.as_slice(), &[0]].concat()), Err(MetadataError::Length(513)));
}

#[test]
fn right_checksum_over_a_wrong_body_is_refused() {
    // An option's tag that is neither 0 nor 1.
    assert_eq!(
        ParsedMetadata::parse(&trailer_of(b"\0\0\0\0\0\0\0\x01\x02")),
        Err(MetadataError::Body { at: 8 })
    );
    // A header whose size ends inside the last field, and one whose size is larger than the file.
    let v3 = V3.bytes();
    assert_eq!(ParsedMetadata::parse(&with_header(&v3, 57)), Err(MetadataError::Body { at: 50 }));
    let mut larger = v3.clone();
    larger[4..6].copy_from_slice(&513_u16.to_be_bytes());
    assert_eq!(ParsedMetadata::parse(&larger), Err(MetadataError::Checksum));
    // Something after the last field, inside the declared size and after it.
    let mut extra = v3.clone();
    extra[60] = 1;
    assert_eq!(ParsedMetadata::parse(&extra), Err(MetadataError::Body { at: 60 }));
    assert_eq!(ParsedMetadata::parse(&with_header(&extra, 61)), Err(MetadataError::Body { at: 60 }));
    // A version from the future.
    let mut v5 = v3;
    v5[7] = 5;
    assert_eq!(ParsedMetadata::parse(&v5), Err(MetadataError::Checksum));
}

fn trailer_of(body: &[u8]) -> Vec<u8> {
    let mut file = body.to_vec();
    file.resize(508, 0);
    file.extend(bitwise_crc32c(&file).to_le_bytes());
    file
}

fn with_header(file: &[u8], size: u16) -> Vec<u8> {
    let mut file = file.to_vec();
    file[4..6].copy_from_slice(&size.to_be_bytes());
    let checksum = bitwise_crc32c(&file[8..usize::from(size)]);
    file[..4].copy_from_slice(&checksum.to_be_bytes());
    file
}

proptest! {
    #[test]
    fn any_body_with_a_right_checksum_is_an_answer_or_an_error(body in proptest::collection::vec(0..3_u8, 508), size in 8..=512_u16) {
        let _ = ParsedMetadata::parse(&trailer_of(&body));
        let file = [&[0, 0, 0, 0, 0, 0, 0, 3], &body[..504]].concat();
        let _ = ParsedMetadata::parse(&with_header(&file, size));
    }
}
