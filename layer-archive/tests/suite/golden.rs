//! Files that an earlier build wrote: every later one must read them, and write the same again.
//!
//! `LAYERPACK_BLESS=1 cargo test -p layer-archive --test suite bless` writes those that are missing. A file that was
//! once released is never written again.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use layer_archive::{BundleIndex, FormatError, Manifest};

use crate::damage::{decode, read_everything};
use crate::dissect::{CRITICAL, Dissected, DissectedManifest, Section};
use crate::pack::{Layer, Packed};
use crate::samples;

const FRAMES: u16 = 2;

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "testdata", "v1"].iter().collect()
}

fn golden(file: &str) -> Vec<u8> {
    fs::read(directory().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn with_section(version: u16) -> Vec<u8> {
    let mut bundle = Dissected::read(&samples::claim_record().object).unwrap();
    bundle.sections.push(Section { tag: 0x7f01, version, plain: b"from a later version".to_vec() });
    bundle.write()
}

/// Every golden file, and what a build writes for it.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut later = Dissected::read(&samples::claim_record().object).unwrap();
    (later.version, later.min_reader) = (2, 2);
    let mut later_manifest = DissectedManifest::read(&samples::empty_manifest().encode().unwrap()).unwrap();
    (later_manifest.version, later_manifest.min_reader) = (2, 2);
    let mut readable = Dissected::read(&samples::claim_record().object).unwrap();
    readable.version = 2;
    vec![
        ("claim.tar.zst", samples::claim_record().object),
        ("empty.manifest", samples::empty_manifest().encode().unwrap()),
        ("later-version-readable.tar.zst", readable.write()),
        ("later-version.manifest", later_manifest.write()),
        ("later-version.tar.zst", later.write()),
        ("payload.tar.zst", samples::payload().object),
        ("record.tar.zst", samples::record().object),
        ("timeline.manifest", samples::manifest().encode().unwrap()),
        ("unknown-critical-section.tar.zst", with_section(3 | CRITICAL)),
        ("unknown-optional-section.tar.zst", with_section(3)),
    ]
}

#[test]
#[expect(clippy::disallowed_methods, reason = "golden files are committed, not crash-safe")]
fn bless() {
    if std::env::var_os("LAYERPACK_BLESS").is_none() {
        return;
    }
    for (name, bytes) in files() {
        let path = directory().join(name);
        if !path.try_exists().unwrap() {
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn the_golden_files_are_those_that_tests_name() {
    let there: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let named: BTreeSet<String> = files().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(there, named);
}

/// A bundle reads as what it was made of: origin, commit, and every layer's every field.
fn assert_reads_as(file: &str, expected: &Packed, layers: &[Layer]) -> BundleIndex {
    let object = golden(file);
    let index = read_everything(&object).unwrap();
    assert_eq!(index.origin(), expected.index.origin());
    assert_eq!(index.commit(), expected.index.commit());
    assert_eq!(index.layers(), expected.index.layers());
    assert_eq!(index.links(), expected.index.links());
    assert_eq!(index.object_len(), object.len() as u64);
    let lens = |index: &BundleIndex| index.frames().iter().map(|frame| frame.plain_len).collect::<Vec<_>>();
    assert_eq!(lens(&index), lens(&expected.index));
    let entries = index.entries(index.origin().bundle);
    assert_eq!(entries.len(), layers.len());
    for layer in layers {
        let entry = entries.iter().find(|entry| entry.name == layer.name).unwrap();
        assert_eq!(entry.lsn_range, layer.lsn_range);
        assert_eq!(decode(entry, &object).unwrap(), layer.bytes, "{}", layer.name);
    }
    index
}

#[test]
fn bundles_of_earlier_builds_are_read() {
    let record = assert_reads_as("record.tar.zst", &samples::record(), &samples::layers());
    assert_eq!(record.commit(), Some(&samples::commit()));
    let payload = assert_reads_as("payload.tar.zst", &samples::payload(), &samples::layers()[..6]);
    assert_eq!(payload.commit(), None);
    let claim = assert_reads_as("claim.tar.zst", &samples::claim_record(), &[]);
    assert_eq!(claim.commit(), Some(&samples::claim()));
    assert_reads_as("unknown-optional-section.tar.zst", &samples::claim_record(), &[]);
    assert_reads_as("later-version-readable.tar.zst", &samples::claim_record(), &[]);
}

#[test]
fn bundles_of_later_builds_are_refused_by_name() {
    let error = BundleIndex::parse_object(&golden("unknown-critical-section.tar.zst")).unwrap_err();
    assert_eq!(error, FormatError::UnknownSection { tag: 0x7f01, version: 3 });
    let error = BundleIndex::parse_object(&golden("later-version.tar.zst")).unwrap_err();
    assert_eq!(error, FormatError::TooNew { what: "bundle", needed: 2, supported: 1 });
    let error = Manifest::decode(&golden("later-version.manifest")).unwrap_err();
    assert_eq!(error, FormatError::TooNew { what: "manifest", needed: 2, supported: 1 });
}

#[test]
fn manifests_of_earlier_builds_are_read() {
    assert_eq!(Manifest::decode(&golden("timeline.manifest")).unwrap(), samples::manifest());
    assert_eq!(Manifest::decode(&golden("empty.manifest")).unwrap(), samples::empty_manifest());
}

/// The plain texts are pinned, not what zstd makes of them: its output may change between its versions.
#[test]
fn writers_write_what_earlier_builds_wrote() {
    for (name, bytes) in files() {
        if name.ends_with(".manifest") {
            let (then, now) = (DissectedManifest::read(&golden(name)), DissectedManifest::read(&bytes));
            assert!(then.is_some());
            assert_eq!(then, now, "{name}");
            continue;
        }
        let (then, now) = (Dissected::read(&golden(name)).unwrap(), Dissected::read(&bytes).unwrap());
        assert_eq!(then.tar_stream(), now.tar_stream(), "{name}");
        let footer = |bundle: &Dissected| {
            (bundle.version, bundle.min_reader, bundle.flags, bundle.frames, bundle.layers)
        };
        assert_eq!(footer(&then), footer(&now), "{name}");
        let plain_lens = |bundle: &Dissected| bundle.seek.iter().map(|(_, len)| *len).collect::<Vec<_>>();
        assert_eq!(plain_lens(&then), plain_lens(&now), "{name}");
        assert_eq!(then.sections.len(), now.sections.len(), "{name}");
        for (then, now) in then.sections.iter().zip(&now.sections) {
            assert_eq!((then.tag, then.version), (now.tag, now.version), "{name}");
            // The frames section holds stored lengths and checksums.
            if then.tag != FRAMES {
                assert_eq!(then.plain, now.plain, "{name}, section {}", then.tag);
            }
        }
    }
}
