//! Timelines that never came to be: what a killed backup or copy leaves, through the program.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bench, Kind, TENANT, TIMELINE, files, put};

const OTHER: &str = "000000000000000000000000000000dd";

/// A store with two timelines, of one of which there is only the claim of a backup that was killed.
fn with_unfinished() -> Bench {
    let bench = Bench::with_layers(Kind::Directory, 3);
    let other = bench.timeline_dir("a", OTHER);
    fs::create_dir_all(&other).unwrap();
    put(&other.join("metadata"), &crate::support::metadata(7));
    bench.backup();
    let objects = bench.timeline_dir("store", OTHER);
    fs::remove_dir_all(objects.join("manifest")).unwrap();
    fs::remove_file(objects.join("log/0000000000000002.tar.zst")).unwrap();
    bench
}

fn status(bench: &Bench, timeline: &str) -> Value {
    let json = bench.run("status --json --remote {url}").expect(0).json();
    let timelines = json["timelines"].as_array().unwrap();
    timelines.iter().find(|json| json["timeline"] == timeline).unwrap().clone()
}

#[test]
fn an_unfinished_backup_is_not_read_as_an_empty_timeline() {
    let bench = with_unfinished();
    let one = format!("--remote {{url}} --tenant {{tenant}} --timeline {OTHER}");
    let words = ["nothing was committed", OTHER, "run that again, or delete"];
    for command in [
        format!("restore --workdir {{b}} {one}"),
        format!("restore --dry-run --workdir {{b}} {one}"),
        format!("fetch --workdir {{b}} {one} layer"),
        format!("cat {one} layer"),
        format!("ls {one}"),
        format!("copy --remote {{url}} --from {TENANT}/{OTHER} --to {TENANT}/{OTHER}"),
    ] {
        bench.run(&command).expect(4).says(&words);
    }
    assert!(!bench.timeline_dir("b", OTHER).try_exists().unwrap());
    assert_eq!(status(&bench, OTHER)["nothing_committed"], json!(true));
    assert_eq!(status(&bench, TIMELINE)["nothing_committed"], json!(false));
    let text = bench.run("status --remote {url}").expect(0).stdout;
    assert_eq!(String::from_utf8(text).unwrap().matches("nothing committed").count(), 1);
    bench.run("verify --remote {url}").expect(0);
}

#[test]
fn a_restore_of_everything_leaves_an_unfinished_backup_out_and_says_so() {
    let bench = with_unfinished();
    for (selection, dir) in [("", "b"), ("--tenant {tenant}", "c")] {
        let restore = format!("restore --workdir {{{dir}}} --remote {{url}} {selection}");
        bench.run(&format!("{restore} --dry-run")).expect(0).says(&["nothing was committed", OTHER]);
        bench.run(&restore).expect(0).says(&["nothing was committed", OTHER]);
        assert!(!bench.timeline_dir(dir, OTHER).try_exists().unwrap());
        assert_eq!(files(&bench.timeline_dir(dir, TIMELINE)), files(&bench.timeline_dir("a", TIMELINE)));
    }
    // The backup that is run again makes it whole.
    bench.backup();
    assert_eq!(status(&bench, OTHER)["nothing_committed"], json!(false));
    fs::remove_dir_all(bench.path("b")).unwrap();
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}
