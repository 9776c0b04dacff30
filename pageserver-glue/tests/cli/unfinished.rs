//! Timelines that never came to be: what a killed backup or copy leaves, through the program.

use std::fs;

use serde_json::{Value, json};

use crate::branches::{BRANCH, MIDDLE, family, status};
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

/// What `status` says of the branches of the middle timeline, in both forms.
fn branches_of_middle(bench: &Bench) -> (Value, String) {
    let text = String::from_utf8(bench.run("status --remote {url}").expect(0).stdout).unwrap();
    let line = text.lines().find(|line| line.contains(BRANCH) && line.contains("branch  "));
    (status(bench, MIDDLE)["branches"].clone(), line.unwrap_or_default().trim().to_owned())
}

#[test]
fn a_branch_that_never_began_is_named_and_deleted() {
    let bench = family(Kind::Directory);
    bench.backup();
    let (json, line) = branches_of_middle(&bench);
    assert_eq!((json[0].get("gone"), &*line), (None, &*format!("branch    {BRANCH} at LSN 0/96")));
    // As a backup leaves it that is killed before the branch's first record.
    fs::remove_dir_all(bench.timeline_dir("store", BRANCH)).unwrap();
    let (json, line) = branches_of_middle(&bench);
    assert_eq!(json[0]["gone"], json!("never begun"));
    assert_eq!(line, format!("branch    {BRANCH} at LSN 0/96 (never begun: ends with layerpack delete)"));
    // Of one timeline nothing is known of the others.
    let one = format!("--remote {{url}} --tenant {{tenant}} --timeline {MIDDLE}");
    let json = bench.run(&format!("status --json {one}")).expect(0).json();
    assert_eq!(json["timelines"][0]["branches"][0].get("gone"), None);
    let delete = format!("delete --remote {{url}} --tenant {{tenant}} --timeline {BRANCH}");
    let text = String::from_utf8(bench.run(&delete).expect(0).stdout).unwrap();
    assert!(text.contains("would delete") && text.contains(&format!("{MIDDLE}@0/96")), "{text}");
    assert!(!bench.timeline_dir("store", BRANCH).try_exists().unwrap());
    let json = bench.run(&format!("{delete} --json --execute")).expect(0).json();
    assert_eq!(
        (&json["never_begun"], &json["ancestors"], &json["seq"]),
        (&json!(true), &json!([format!("{MIDDLE}@0/96")]), &json!(2))
    );
    assert_eq!(status(&bench, MIDDLE)["branches"], json!([]));
    assert_eq!(status(&bench, BRANCH)["deleted"], json!(true));
    bench.run("backup --workdir {a} --remote {url}").expect(4).says(&[BRANCH, "was deleted"]);
    // What nobody knows of stays unknown.
    bench.run(&format!("delete --remote {{url}} --tenant {{tenant}} --timeline {OTHER}")).expect(4);
}

#[test]
fn the_branch_point_of_a_deleted_branch_is_named() {
    let bench = family(Kind::Directory);
    bench.backup();
    // As a deletion leaves it that cannot write to the ancestor.
    let middle = bench.timeline_dir("store", MIDDLE);
    let delete = format!("delete --remote {{url}} --tenant {{tenant}} --timeline {BRANCH} --execute");
    let before = files(&middle);
    bench.run(&delete).expect(0);
    fs::remove_dir_all(&middle).unwrap();
    for (path, bytes) in &before {
        let path = middle.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, bytes);
    }
    let (json, line) = branches_of_middle(&bench);
    assert_eq!(json[0]["gone"], json!("deleted"));
    assert!(line.ends_with("(deleted: ends with layerpack delete)"), "{line}");
    bench.run(&delete).expect(0);
    assert_eq!(status(&bench, MIDDLE)["branches"], json!([]));
}
