//! A backup is readable without this program: with `tar` and with independent libraries.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Command;

use crate::support::{Bench, Kind, TIMELINE, assert_same, files, put};

/// A store whose one record holds layers, links to equal ones, an empty layer and the metadata.
fn backed_up() -> Bench {
    let bench = Bench::with_layers(Kind::Directory, 50);
    bench.put("a", "copy-of-1", &crate::support::noise(1, 4000));
    bench.put("a", "empty", b"");
    bench.put_layer(60, 900_000);
    bench.backup();
    bench
}

#[test]
fn tar_extracts_a_record() {
    let works =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|run| run.status.success());
    for program in ["tar", "zstd"] {
        if !works(program) {
            return xtask::skip("tar_extracts_a_record", &format!("there is no {program} here"));
        }
    }
    let bench = backed_up();
    let record = bench.path("record.tar.zst");
    put(&record, &bench.largest("log/").1);
    let out = bench.path("extracted");
    fs::create_dir(&out).unwrap();
    let tar = Command::new("tar").arg("--zstd").arg("-xf").arg(&record).arg("-C").arg(&out).output().unwrap();
    assert!(tar.status.success(), "{tar:?}");
    assert_same(&files(&bench.timeline_dir("a", TIMELINE)), &files(&out));
}

#[test]
fn independent_libraries_read_a_record() {
    let bench = backed_up();
    let (_, record) = bench.largest("log/");
    let mut archive = tar::Archive::new(zstd::Decoder::new(&*record).unwrap());
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let bytes = match entry.link_name().unwrap() {
            Some(target) => found[&target.display().to_string()].clone(),
            None => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                bytes
            }
        };
        assert!(found.insert(name, bytes).is_none());
    }
    assert_same(&files(&bench.timeline_dir("a", TIMELINE)), &found);
}
