//! Programs and libraries that know nothing of Layerpack read its bundles.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::{pack, samples};

/// Prints that a check did not run, and records it for whoever runs the tests.
fn skipped(name: &str, reason: &str) {
    println!("SKIPPED {name}: {reason}");
    if let Some(path) = std::env::var_os("LAYERPACK_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, format!("{name}: {reason}\n").as_bytes()).unwrap();
    }
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

#[test]
fn tar_restores_layers_links_and_metadata() {
    for program in ["tar", "zstd"] {
        if !runs(program) {
            return skipped("stock tar", &format!("there is no {program} here"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (bundle, out) = (dir.path().join("record.tar.zst"), dir.path().join("out"));
    write(&bundle, &samples::record().object);
    fs::create_dir(&out).unwrap();
    let tar = Command::new("tar").arg("--zstd").arg("-xf").arg(&bundle).arg("-C").arg(&out).output().unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    for layer in samples::layers() {
        let restored = fs::read(out.join(layer.name.as_str())).unwrap();
        assert!(restored == layer.bytes, "{} was restored otherwise", layer.name);
    }
    assert_eq!(fs::read(out.join("metadata")).unwrap(), samples::commit().metadata.unwrap().bytes);
    assert_eq!(fs::read_dir(&out).unwrap().count(), samples::layers().len() + 1);

    let test = Command::new("zstd").arg("-tq").arg(&bundle).output().unwrap();
    assert!(test.status.success(), "{test:?}");
}

#[test]
fn a_reader_of_the_seekable_format_finds_every_byte() {
    let layers = [
        samples::layer("a", None, samples::pages(1 << 20, 1)),
        samples::layer("b", None, samples::pages(100_000, 2)),
        samples::layer("c", None, []),
    ];
    let origin = samples::origin(layer_archive::BundleId::Payload(samples::PAYLOAD));
    let object = pack::pack(&origin, &layers, None).unwrap().object;
    let stream = zstd::stream::decode_all(&*object).unwrap();
    let mut decoder = zeekstd::Decoder::new(std::io::Cursor::new(&object)).unwrap();
    for start in (0..stream.len()).step_by(77_777).chain([stream.len() - 1]) {
        let end = (start + 8192).min(stream.len());
        decoder.set_offset(start as u64).unwrap();
        decoder.set_offset_limit(end as u64).unwrap();
        let mut read = Vec::new();
        decoder.read_to_end(&mut read).unwrap();
        assert!(read == stream[start..end], "bytes {start}..{end}");
    }
}
