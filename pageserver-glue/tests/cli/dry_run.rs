//! Plans that are shown and not carried out; ancestors that the command line names; how far a store is behind.

use serde_json::json;

use crate::support::{Bench, Kind, files, requests};

on_both! {
    a_dry_mirror_says_what_it_would_remove_and_refuses_what_a_mirror_refuses,
    a_dry_restore_says_what_would_be_written_and_makes_not_even_a_directory,
    an_ancestor_can_be_named_where_no_file_names_it,
    status_says_how_far_the_store_is_behind_the_work_directory,
}

const ANCESTOR: &str = "4b0e97c3b3b77d9d7627f78e7668db78@0/169C348";

#[test]
fn a_dry_backup_says_what_would_be_stored_and_writes_nothing() {
    let bench = Bench::with_layers(Kind::Directory, 4);
    let dry = "backup --dry-run --json --workdir {a} --remote {url}";
    let json = bench.run(dry).expect(0).json();
    assert_eq!((&json["dry_run"], &json["store_exists"]), (&json!(true), &json!(false)));
    assert_eq!((&json["layers"], &json["raw_bytes"]), (&json!(4), &json!(4 * 1000 + 6 * 3000)));
    assert!(!bench.path("store").try_exists().unwrap(), "it made the store");

    bench.backup();
    let before = files(&bench.path("store"));
    bench.put_layer(9, 5000);
    let json = bench.run(dry).expect(0).json();
    let timeline = &json["timelines"][0];
    assert_eq!((&json["store_exists"], &timeline["layers"]), (&json!(true), &json!(1)));
    assert_eq!((&timeline["raw_bytes"], &timeline["unchanged"]), (&json!(5000), &json!(4)));
    assert_eq!((&timeline["metadata"], &timeline["removed"]), (&json!(false), &json!(0)));
    assert_eq!(json["requests"]["put"], json!(0));
    assert_eq!(files(&bench.path("store")), before);
    let text = bench.run("backup --dry-run --workdir {a} --remote {url}").expect(0);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("would store 1 layer") && text.contains("nothing was written"), "{text}");
}

fn a_dry_mirror_says_what_it_would_remove_and_refuses_what_a_mirror_refuses(kind: Kind) {
    let bench = Bench::with_layers(kind, 4);
    bench.backup();
    let dir = bench.timeline_dir("a", crate::support::TIMELINE);
    let remove = |number| std::fs::remove_file(dir.join(crate::support::layer_name(number))).unwrap();
    remove(0);
    let dry = "backup --mirror --dry-run --json --workdir {a} --remote {url}";
    assert_eq!(bench.run(dry).expect(0).json()["timelines"][0]["removed"], json!(1));
    remove(1);
    remove(2);
    bench.run("backup --mirror --dry-run --workdir {a} --remote {url}").expect(1).says(&["more than half"]);
}

fn a_dry_restore_says_what_would_be_written_and_makes_not_even_a_directory(kind: Kind) {
    let bench = Bench::with_layers(kind, 4);
    bench.backup();
    let dry = "restore --dry-run --json --workdir {b} --remote {url}";
    let json = bench.run(dry).expect(0).json();
    let timeline = &json["timelines"][0];
    assert_eq!((&timeline["layers"], &timeline["reads"]), (&json!(4), &json!(1)));
    assert_eq!((&timeline["seq"], &timeline["metadata"]), (&json!(2), &json!(true)));
    assert!(timeline["stored_bytes"].as_u64().unwrap() > 1000);
    assert_eq!(requests(&json), 3, "the marker, a list, a manifest");
    assert!(!bench.path("b").try_exists().unwrap());

    bench.run("restore --workdir {b} --remote {url}").expect(0);
    let json = bench.run(dry).expect(0).json();
    let timeline = &json["timelines"][0];
    assert_eq!((&timeline["layers"], &timeline["unchanged"]), (&json!(0), &json!(4)));
    bench.put("b", crate::support::layer_name(2), b"something else");
    let json = bench.run(dry).expect(1).json();
    assert_eq!(json["conflicts"].as_array().unwrap().len(), 1);
    bench
        .run("restore --dry-run --workdir {b} --remote {url} --tenant 1f8ae1ef8989d5601e73fd13ae3dcd27")
        .expect(4);
}

fn an_ancestor_can_be_named_where_no_file_names_it(kind: Kind) {
    let bench = Bench::new(kind);
    bench.put_layer(1, 100);
    let backup = "backup --workdir {a} --remote {url} --tenant {tenant} --timeline {timeline} --ancestor";
    bench.run(&format!("{backup} 4b0e97c3b3b77d9d7627f78e7668db78")).expect(2).says(&["@", "LSN"]);
    bench.run(&format!("{backup} x@0/1")).expect(2).says(&["32 lower-case"]);
    let (ancestor, _) = ANCESTOR.split_once('@').unwrap();
    bench.run(&format!("{backup} {ANCESTOR}")).expect(4).says(&[ancestor, "back the ancestor up first"]);
    let dir = bench.timeline_dir("a", ancestor);
    std::fs::create_dir_all(&dir).unwrap();
    crate::support::put(&dir.join(crate::support::layer_name(2)), b"of the ancestor");
    bench
        .run(&format!("backup --workdir {{a}} --remote {{url}} --tenant {{tenant}} --timeline {ancestor}"))
        .expect(0);
    bench.run(&format!("{backup} {ANCESTOR}")).expect(0);
    let status = bench.run("status --json --remote {url}").expect(0).json();
    assert_eq!(status["timelines"][1]["ancestor"], json!(ANCESTOR));
    assert_eq!(status["timelines"][0]["branches"][0]["timeline"], status["timelines"][1]["timeline"]);
    // Of which timeline it is said must be said too.
    bench.run(&format!("backup --workdir {{a}} --remote {{url}} --ancestor {ANCESTOR}")).expect(2);
}

fn status_says_how_far_the_store_is_behind_the_work_directory(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    bench.backup();
    let status = "status --json --remote {url} --workdir {a}";
    let local = bench.run(status).expect(0).json()["timelines"][0]["local"].clone();
    assert_eq!((&local["lag_bytes"], &local["not_in_store"]), (&json!(0), &json!([])));
    bench.put_layer(7, 700);
    bench.put_layer(8, 800);
    let local = bench.run(status).expect(0).json()["timelines"][0]["local"].clone();
    assert_eq!((&local["lag_bytes"], local["not_in_store"].as_array().unwrap().len()), (&json!(1500), 2));
}
