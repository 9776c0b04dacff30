//! Images: what they hold, that they resemble real ones, that they can be made again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::skip;

mod figures;
use figures::{Figures, all_files, layers};

/// An image of `initdb` of PostgreSQL 15.18 (Debian 12, x86-64), measured by [`Figures::measure`] with zstd 1.5.7.
const RECORDED: Figures = Figures {
    files: 955,
    empty_files: 168,
    one_page_files: 393,
    bytes: 22_956_120,
    median_bytes: 8_192,
    p90_bytes: 32_768,
    max_bytes: 786_432,
    distinct_files: 293,
    stored_per_file: 2_800_960,
    stored_in_path_order: 2_717_474,
    stored_sorted: 1_669_315,
    stored_linked: 915_036,
};

/// How far a figure may be from a real one.
const PERCENT_OFF_MAX: usize = 15;

fn make(source: Source, seed: u64) -> (TempDir, ImageSummary) {
    let dir = tempfile::tempdir().unwrap();
    let summary = create(&ImageOptions { source, seed, progress: |_| () }, dir.path()).unwrap();
    (dir, summary)
}

fn names(list: NameList) -> Source {
    Source::Names { list, scale: DEFAULT_SIZE_SCALE }
}

fn write_file(path: &Path, text: &str) {
    File::create_new(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A file that holds `text`, in a directory of its own.
fn list_file(text: &str) -> (TempDir, NameList) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("names.txt");
    write_file(&path, text);
    (dir, NameList::File(path))
}

/// The message of the error with which an image of `source` in `dir` is refused.
fn refusal(source: Source, dir: &Path) -> String {
    format!("{:#}", create(&ImageOptions { source, seed: 1, progress: |_| () }, dir).unwrap_err())
}

fn assert_resembles(synthetic: &Figures, real: &Figures) {
    for ((name, got), (_, expected)) in synthetic.named().into_iter().zip(real.named()) {
        let off = got.abs_diff(expected) * 100;
        assert!(off <= expected * PERCENT_OFF_MAX, "{name}: {got} is not like {expected}\n{synthetic:#?}");
    }
}

#[test]
fn synthetic_resembles_the_recorded_cluster_whatever_the_seed() {
    for seed in [0, 1, 12_345] {
        let (_dir, summary) = make(Source::Synthetic, seed);
        assert_resembles(&Figures::measure(&summary.timeline_dir), &RECORDED);
    }
}

#[test]
fn synthetic_resembles_this_machines_postgres() {
    if let Err(error) = Installation::find() {
        skip("image_synthetic_resembles_postgres", &format!("{error}"));
        return;
    }
    let (_real_dir, real) = make(Source::Postgres { pgbench_scale: None }, 1);
    let (_synthetic_dir, synthetic) = make(Source::Synthetic, 1);
    let (real_figures, figures) =
        (Figures::measure(&real.timeline_dir), Figures::measure(&synthetic.timeline_dir));
    // Other versions have other catalogs: the sizes must be alike only where the version is the recorded one.
    if real.postgres_version.as_deref().is_some_and(|version| version.starts_with("PostgreSQL 15.")) {
        assert_resembles(&real_figures, &RECORDED);
        assert_resembles(&figures, &real_figures);
    } else {
        assert!((500..2_000).contains(&real_figures.files), "{real_figures:#?}");
    }
}

#[test]
fn a_postgres_image_has_every_kind_of_layer() {
    if let Err(error) = Installation::find() {
        skip("image_postgres", &format!("{error}"));
        return;
    }
    let (_dir, summary) = make(Source::Postgres { pgbench_scale: Some(1) }, 3);
    let layers = layers(&summary.timeline_dir);
    assert_eq!(layers.len() as u64, summary.layers);
    assert!(
        layers.keys().all(|name| name.ends_with(&format!("_{}", summary.lsn))),
        "the LSN is the checkpoint's"
    );
    let prefix = |prefix: &str| layers.keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(prefix("pg_filenodemap_1663_"), 3);
    for one in ["pg_filenodemap_1664_0_0_", "pg_xact_0000_0_", "pg_multixact_offsets_0000_0_"] {
        assert_eq!(prefix(one), 1, "{one}");
    }
    assert_eq!(prefix("pg_multixact_members_0000_0_"), 1);
    let control = &layers[&format!("pg_control_0_{}", summary.lsn)];
    let checkpoint = &layers[&format!("pg_control_checkpoint_0_{}", summary.lsn)];
    // The control file says where the checkpoint is, and the checkpoint where its redo starts: after a clean stop, there.
    let lsn = u64::from_str_radix(&summary.lsn, 16).unwrap().to_le_bytes();
    assert_eq!((&control[32..40], &checkpoint[..8]), (&lsn[..], &lsn[..]));
    // `pgbench_accounts` at scale 1 is 1,640 pages: one segment of 1,280 and the rest.
    let segments: Vec<usize> =
        layers.iter().filter(|(name, _)| name.contains("_0_1_")).map(|(_, l)| l.len()).collect();
    assert_eq!(segments, [(1_640 - 1_280) * 8_192]);
    let full = layers.values().filter(|layer| layer.len() == 1_280 * 8_192).count();
    assert_eq!(full, 1, "every segment but the last is full");
}

#[test]
fn equal_seeds_make_equal_bytes() {
    for source in [Source::Synthetic, names(NameList::Generated(300))] {
        let image = |seed| {
            let (_dir, summary) = make(source.clone(), seed);
            (summary.tenant, summary.timeline, summary.lsn, all_files(&summary.timeline_dir))
        };
        let first = image(7);
        assert!(first == image(7), "{source:?}");
        let other = image(8);
        assert!(first.0 != other.0 && first.1 != other.1 && first.3 != other.3, "{source:?}");
    }
}

/// Images are compared across versions of this program, so their bytes are fixed.
#[test]
fn the_bytes_of_a_seed_never_change() {
    let digest = |source| {
        let (_dir, summary) = make(source, 1);
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in all_files(&summary.timeline_dir) {
            hasher.update(name.as_bytes()).update(&bytes);
        }
        (summary.tenant, hasher.finalize().to_hex()[..16].to_owned())
    };
    let expected = |hex: &str| ("8178dddcbdc92a12e66efa59d969fbc6".to_owned(), hex.to_owned());
    assert_eq!(digest(Source::Synthetic), expected("ce59557a8f2ee17e"));
    assert_eq!(digest(names(NameList::Generated(50))), expected("36542c23544ed0bf"));
}

#[test]
fn the_metadata_is_of_the_oldest_form() {
    let (_dir, summary) = make(Source::Synthetic, 1);
    let metadata = std::fs::read(summary.timeline_dir.join("metadata")).unwrap();
    let mut expected = [0; 512];
    expected[..8].copy_from_slice(&[0, 0, 0, 0, 0x01, 0x50, 0x07, 0x08]);
    assert_eq!(metadata[..508], expected[..508]);
    // Bit by bit, the Castagnoli polynomial reflected.
    let crc = !metadata[..508].iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    });
    assert_eq!(metadata[508..], crc.to_le_bytes());
}

#[test]
fn a_list_of_names_becomes_layers() {
    let image_layer =
        "000000067F00000001000004DF0000000006-000000067F00000001000004DF0000000009__00000000014FED58";
    let delta = format!("{image_layer}-000000000154C481-v1-00000001");
    let (_list_dir, list) = list_file(&format!("# comment\n\n  {image_layer}\n{delta}\nödd name\n"));
    let (_dir, summary) = make(Source::Names { list, scale: 1.0 / 16.0 }, 5);
    let layers = layers(&summary.timeline_dir);
    assert_eq!(layers.keys().map(String::as_str).collect::<Vec<_>>(), [image_layer, &delta, "ödd name"]);
    assert_eq!(summary.lsn, "000000000154C481");
    assert_eq!(summary.bytes, layers.values().map(|layer| layer.len() as u64).sum::<u64>());
    let ratio =
        |name: &str| layers[name].len() as f64 / zstd::bulk::compress(&layers[name], 1).unwrap().len() as f64;
    // Real image layers of compressed pages gain 1.3 times, real delta layers 5.1 times.
    assert!((1.1..1.6).contains(&ratio(image_layer)), "{}", ratio(image_layer));
    assert!((4.0..6.2).contains(&ratio(&delta)), "{}", ratio(&delta));
}

#[test]
fn names_that_are_no_single_component_are_refused_with_their_line() {
    let long = "x".repeat(256);
    for bad in
        ["../escape", "/absolute", "a/b", "..", ".", "a\\b", "nul\0", "metadata", &long, "twice\ntwice"]
    {
        let (_list_dir, list) = list_file(&format!("# first line\n{bad}\n"));
        let dir = tempfile::tempdir().unwrap();
        let message = refusal(names(list), dir.path());
        let line = 1 + bad.lines().count();
        assert!(message.contains(&format!("names.txt, line {line}:")), "{message}");
    }
}

#[test]
fn a_directory_in_use_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    write_file(&dir.path().join("mine"), "text");
    let message = refusal(Source::Synthetic, dir.path());
    assert!(
        message.contains("is not empty") && message.contains(&dir.path().display().to_string()),
        "{message}"
    );
    assert_eq!(all_files(dir.path()), BTreeMap::from([("mine".to_owned(), b"text".to_vec())]));
    let message = refusal(Source::Synthetic, &dir.path().join("mine"));
    assert!(message.contains("looking into"), "{message}");
}

#[test]
fn an_absent_directory_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let options = ImageOptions { source: names(NameList::Generated(3)), seed: 1, progress: |_| () };
    let summary = create(&options, &dir.path().join("a").join("b")).unwrap();
    assert_eq!(layers(&summary.timeline_dir).len(), 3);
    let expected = format!("a/b/tenants/{}/timelines/{}", summary.tenant, summary.timeline);
    assert!(summary.timeline_dir.ends_with(expected));
}

#[test]
fn a_scale_that_makes_no_sense_is_refused() {
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let dir = tempfile::tempdir().unwrap();
        let message = refusal(Source::Names { list: NameList::Generated(1), scale }, dir.path());
        assert!(message.contains("give a number above 0"), "{message}");
    }
}
