//! Branches through the program: ancestors before them, what of them is brought back, and what is said of them.

use std::fs;

use layer_archive::{BranchPoint, Crc32c, Lsn, TenantId, TimelineId, WriterInfo};
use pageserver_glue::{Absent, RemoteUrl};
use serde_json::{Value, json};
use storage_api::SystemClock;
use sync_engine::{BranchChange, Store, TimelineView, TimelineWriter, WriterOptions, change_branch_point};

use crate::support::{Bench, Kind, TENANT, assert_same, files, noise, put, requests};

on_both! {
    a_branch_comes_back_whatever_of_its_past_is_there,
    layers_of_ancestors_are_read_and_fetched_by_way_of_the_branch,
    a_branch_without_its_ancestor_in_the_store_is_not_backed_up,
    a_deleted_branch_that_is_on_the_disk_still_is_not_told_of_again,
}

/// The branch comes first by name.
pub(crate) const BRANCH: &str = "11111111111111111111111111111111";
pub(crate) const MIDDLE: &str = "99999999999999999999999999999999";
pub(crate) const MAIN: &str = "55555555555555555555555555555555";

/// A metadata file of the oldest form.
pub(crate) fn metadata(lsn: u64, ancestor: Option<(&str, u64)>) -> Vec<u8> {
    let mut bytes = lsn.to_be_bytes().to_vec();
    bytes.push(0);
    match ancestor {
        Some((timeline, lsn)) => {
            bytes.push(1);
            bytes.extend(u128::from_str_radix(timeline, 16).unwrap().to_be_bytes());
            bytes.extend(lsn.to_be_bytes());
        }
        None => bytes.extend([0; 9]),
    }
    bytes.resize(508, 0);
    let crc32c = Crc32c::of(&bytes).0.to_le_bytes();
    bytes.extend(crc32c);
    bytes
}

/// An image of one key.
pub(crate) fn image(key: u32, lsn: u64) -> String {
    format!("{key:036X}-{:036X}__{lsn:016X}-v1-00000001", key + 1)
}

/// The changes of all keys.
fn delta(lsns: std::ops::Range<u64>) -> String {
    format!("{:036X}-{}__{:016X}-{:016X}-v1-00000001", 0, "F".repeat(36), lsns.start, lsns.end)
}

pub(crate) fn put_in(bench: &Bench, timeline: &str, name: &str, bytes: &[u8]) {
    let dir = bench.timeline_dir("a", timeline);
    fs::create_dir_all(&dir).unwrap();
    put(&dir.join(name), bytes);
}

/// A main timeline, a branch of it at 0/64, and a branch of that at 0/96.
pub(crate) fn family(kind: Kind) -> Bench {
    let bench = Bench::new(kind);
    fs::remove_dir_all(bench.path("a").join("tenants").join(TENANT)).unwrap();
    for (timeline, at, ancestor) in
        [(MAIN, 80, None), (MIDDLE, 120, Some((MAIN, 0x64))), (BRANCH, 180, Some((MIDDLE, 0x96)))]
    {
        let lsn = at + 10;
        for key in 0..4 {
            put_in(&bench, timeline, &image(key, at), &noise(key * 1000 + u32::try_from(at).unwrap(), 4000));
        }
        put_in(&bench, timeline, &delta(at..lsn), &noise(u32::try_from(lsn).unwrap(), 9000));
        put_in(&bench, timeline, "metadata", &metadata(lsn, ancestor));
    }
    bench
}

/// What `status` says of a timeline.
pub(crate) fn status(bench: &Bench, timeline: &str) -> Value {
    let json = bench.run("status --json --remote {url}").expect(0).json();
    let timelines = json["timelines"].as_array().unwrap();
    timelines.iter().find(|json| json["timeline"] == timeline).unwrap().clone()
}

const RESTORE: &str = "restore --json --workdir {b} --remote {url} --tenant {tenant} --timeline";

fn a_branch_comes_back_whatever_of_its_past_is_there(kind: Kind) {
    let bench = family(kind);
    let json = bench.backup();
    let order: Vec<&str> =
        json["timelines"].as_array().unwrap().iter().map(|json| json["timeline"].as_str().unwrap()).collect();
    assert_eq!(order, [MAIN, MIDDLE, BRANCH], "ancestors first");
    assert_eq!(status(&bench, BRANCH)["ancestor"], json!(format!("{MIDDLE}@0/96")));
    assert_eq!(
        status(&bench, MAIN)["branches"],
        json!([{ "tenant": TENANT, "timeline": MIDDLE, "lsn": "0/64" }])
    );
    // Told with its layers: two records each, and two commits at most.
    assert_eq!((&status(&bench, MAIN)["seq"], &status(&bench, MIDDLE)["seq"]), (&json!(2), &json!(2)));
    assert_eq!(bench.backup()["requests"]["put"], json!(0), "nothing is said twice");

    let expected = files(&bench.path("a"));
    let restore = || bench.run(&format!("{RESTORE} {BRANCH}")).expect(0).json();
    let same = || assert_same(&expected, &files(&bench.path("b")));
    // Nothing local.
    let json = restore();
    assert_eq!((json["timelines"].as_array().unwrap().len(), &json["seq"]), (3, &json!(2)));
    assert_eq!(json["timelines"][2]["timeline"], BRANCH, "after its past");
    same();
    // Only its own directory missing.
    fs::remove_dir_all(bench.timeline_dir("b", BRANCH)).unwrap();
    assert_eq!((&restore()["layers"], &restore()["present"]), (&json!(5), &json!(15)));
    same();
    // Only its ancestors missing.
    for gone in [MAIN, MIDDLE] {
        fs::remove_dir_all(bench.timeline_dir("b", gone)).unwrap();
    }
    let dry = bench.run(&format!("{RESTORE} {BRANCH} --dry-run")).expect(0).json();
    assert_eq!((&dry["layers"], dry["timelines"].as_array().unwrap().len()), (&json!(10), 3));
    assert_eq!(restore()["layers"], json!(10));
    same();
    // Everything, each once.
    fs::remove_dir_all(bench.path("b")).unwrap();
    let json = bench.run("restore --json --workdir {b} --remote {url}").expect(0).json();
    assert_eq!((&json["layers"], json["timelines"].as_array().unwrap().len()), (&json!(15), 3));
    assert!(requests(&json) <= 12, "{}", json["requests"]);
    same();
}

fn layers_of_ancestors_are_read_and_fetched_by_way_of_the_branch(kind: Kind) {
    let bench = family(kind);
    // Above where it was left: not of the branch.
    let late = image(7, 0x70);
    put_in(&bench, MAIN, &late, b"late");
    bench.backup();
    let (own, of_main) = (image(1, 180), image(1, 80));
    let at = format!("--remote {{url}} --tenant {{tenant}} --timeline {BRANCH}");
    let bytes = bench.run(&format!("cat {at} {of_main}")).expect(0).stdout;
    assert_eq!(bytes, fs::read(bench.timeline_dir("a", MAIN).join(&of_main)).unwrap());
    bench.run(&format!("cat {at} {late}")).expect(4).says(&[&late, BRANCH]);

    let fetch = format!("fetch --json --workdir {{b}} {at} {own} {of_main}");
    let json = bench.run(&fetch).expect(0).json();
    assert_eq!(json["layers"], json!(2));
    assert_eq!(json["from_ancestors"], json!([{ "timeline": MAIN, "name": of_main }]));
    let there: Vec<String> = files(&bench.path("b")).into_keys().collect();
    let path = |timeline, name| format!("tenants/{TENANT}/timelines/{timeline}/{name}");
    assert_eq!(there, [path(BRANCH, &own), path(MAIN, &of_main)]);
    bench.run(&format!("fetch --workdir {{b}} {at} {own} {late}")).expect(4).says(&[&late]);

    let json = bench.run(&format!("ls --json {at}")).expect(0).json();
    assert_eq!((&json["ancestor"], &json["branches"]), (&json!(format!("{MIDDLE}@0/96")), &json!([])));
    let text = bench.run(&format!("ls --remote {{url}} --tenant {{tenant}} --timeline {MAIN}")).expect(0);
    assert!(String::from_utf8(text.stdout).unwrap().contains(&format!("{MIDDLE} branches off at LSN 0/64")));
}

fn a_branch_without_its_ancestor_in_the_store_is_not_backed_up(kind: Kind) {
    let bench = family(kind);
    let one = |timeline| {
        format!("backup --workdir {{a}} --remote {{url}} --tenant {{tenant}} --timeline {timeline}")
    };
    bench.run(&one(MIDDLE)).expect(4).says(&[MAIN, MIDDLE, "back the ancestor up first"]);
    bench.run(&one(MAIN)).expect(0);
    assert_eq!(status(&bench, MAIN)["branches"], json!([]));
    bench.run(&one(MIDDLE)).expect(0);
    assert_eq!(status(&bench, MAIN)["branches"][0]["timeline"], MIDDLE);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
}

fn a_deleted_branch_that_is_on_the_disk_still_is_not_told_of_again(kind: Kind) {
    let bench = family(kind);
    bench.backup();
    let one = format!("--remote {{url}} --tenant {{tenant}} --timeline {BRANCH}");
    bench.run(&format!("delete {one} --execute")).expect(0);
    assert_eq!(status(&bench, MIDDLE)["branches"], json!([]));
    // Neither with new layers of the ancestor nor without, nor by way of the branch.
    let seq = status(&bench, MIDDLE)["seq"].clone();
    for backup in ["backup", "backup --mirror", "backup --dry-run"] {
        bench
            .run(&format!("{backup} --workdir {{a}} --remote {{url}}"))
            .expect(4)
            .says(&[BRANCH, "was deleted"]);
    }
    bench.run(&format!("backup --workdir {{a}} {one}")).expect(4).says(&["was deleted"]);
    assert_eq!(status(&bench, MIDDLE)["seq"], seq, "something was written");
    put_in(&bench, MIDDLE, &image(9, 125), b"new");
    bench.run("backup --workdir {a} --remote {url}").expect(4);
    assert_eq!(
        (&status(&bench, MIDDLE)["branches"], &status(&bench, MIDDLE)["layers"]),
        (&json!([]), &json!(6))
    );
    // So a mirror keeps nothing for it.
    fs::remove_file(bench.timeline_dir("a", MIDDLE).join(image(2, 120))).unwrap();
    let json = bench.run("backup --json --mirror --workdir {a} --remote {url}").expect(4).json();
    assert_eq!(json["removed"], json!(1));
}

#[test]
fn a_lost_ancestor_holds_the_metadata_of_its_branches_back_and_is_named() {
    let bench = family(Kind::Directory);
    bench.backup();
    let main = bench.timeline_dir("store", MAIN);
    fs::rename(&main, bench.path("away")).unwrap();
    let json = bench.run(&format!("{RESTORE} {BRANCH}")).expect(4).json();
    assert!(json["timelines"][0]["error"].as_str().unwrap().contains(MAIN), "{json}");
    assert_eq!((&json["layers"], &json["metadata_held_back"]), (&json!(10), &json!(true)));
    assert!(!files(&bench.path("b")).keys().any(|name| name.ends_with("metadata")));
    bench.run(&format!("{RESTORE} {BRANCH} --dry-run")).expect(4);
    // When it is there again a second run completes them.
    fs::rename(bench.path("away"), &main).unwrap();
    bench.run(&format!("{RESTORE} {BRANCH}")).expect(0);
    bench.assert_restored();
}

#[test]
fn an_ancestor_that_is_newer_on_the_disk_is_left_alone_unless_it_was_asked_for() {
    let bench = family(Kind::Directory);
    bench.backup();
    // Since then the ancestor has gone on and compacted.
    fs::remove_file(bench.timeline_dir("a", MIDDLE).join(image(0, 120))).unwrap();
    put_in(&bench, MIDDLE, &delta(130..140), b"newer");
    put_in(&bench, MIDDLE, "metadata", &metadata(140, Some((MAIN, 0x64))));
    let expected = files(&bench.path("a"));
    fs::remove_dir_all(bench.timeline_dir("a", BRANCH)).unwrap();
    let restore = format!("restore --workdir {{a}} --remote {{url}} --tenant {{tenant}} --timeline {BRANCH}");
    bench.run(&restore).expect(0).says(&[MIDDLE, "left alone"]);
    assert_same(&expected, &files(&bench.path("a")));
    let asked = format!("restore --workdir {{a}} --remote {{url}} --tenant {{tenant}} --timeline {MIDDLE}");
    bench.run(&asked).expect(1).says(&["metadata", "differs"]);
}

#[test]
fn rm_refuses_a_layer_that_a_branch_needs_and_names_the_branch() {
    let bench = family(Kind::Directory);
    put_in(&bench, MAIN, &image(7, 0x70), b"above where the branch left");
    bench.backup();
    let rm = format!("rm --remote {{url}} --tenant {{tenant}} --timeline {MAIN}");
    let seq = status(&bench, MAIN)["seq"].clone();
    bench.run(&format!("{rm} {} {}", image(7, 0x70), image(2, 80))).expect(1).says(&[MIDDLE, &image(2, 80)]);
    assert_eq!(status(&bench, MAIN)["seq"], seq, "something was written");
    bench.run(&format!("{rm} {}", image(7, 0x70))).expect(0);
}

#[test]
fn a_mirror_keeps_what_a_branch_needs_and_says_which() {
    let bench = family(Kind::Directory);
    bench.backup();
    let dir = bench.timeline_dir("a", MAIN);
    // Compacted: the changes of all keys are in two layers now. Collected: an image is gone.
    let halves = ["7", "F"].map(|end| end.repeat(36));
    let lsns = format!("{:016X}-{:016X}", 80, 90);
    put(&dir.join(format!("{:036X}-{}__{lsns}-v1-00000001", 0, halves[0])), b"left");
    put(&dir.join(format!("{}-{}__{lsns}-v1-00000001", halves[0], halves[1])), b"right");
    fs::remove_file(dir.join(delta(80..90))).unwrap();
    fs::remove_file(dir.join(image(2, 80))).unwrap();
    let mirror = "backup --mirror --workdir {a} --remote {url}";
    let json = bench.run(&format!("{mirror} --json")).expect(0).json();
    assert_eq!(json["removed"], json!(1));
    let kept = json!([{
        "name": image(2, 80),
        "branch": { "tenant": TENANT, "timeline": MIDDLE, "lsn": "0/64" },
    }]);
    assert_eq!(json["timelines"][0]["kept_for_branches"], kept);
    bench.run(mirror).expect(0).says(&[&image(2, 80), MIDDLE]);
    bench.run(&format!("{RESTORE} {BRANCH}")).expect(0);
    assert!(bench.timeline_dir("b", MAIN).join(image(2, 80)).try_exists().unwrap());
}

async fn store(bench: &Bench) -> Store {
    let url: RemoteUrl = bench.url().parse().unwrap();
    Store::open(url.connect(Absent::Refuse).await.unwrap(), url.as_str()).await.unwrap()
}

fn writer() -> WriterOptions {
    let writer = WriterInfo { host: "elsewhere".into(), pid: 7, program: "pageserver 9".into() };
    WriterOptions { writer, generation: None, clock: std::sync::Arc::new(SystemClock) }
}

/// What an ancestor looks like that was rebuilt without its manifests: it does not know its branch any more.
async fn forget(bench: &Bench, ancestor: &str, branch: &str, lsn: u64) {
    let id: (TenantId, TimelineId) = (TENANT.parse().unwrap(), ancestor.parse().unwrap());
    let point = BranchPoint { tenant: id.0.clone(), timeline: branch.parse().unwrap(), lsn: Lsn(lsn) };
    let ends = BranchChange::Ends;
    change_branch_point(&store(bench).await, (&id.0, &id.1), point, ends, writer()).await.unwrap();
}

/// Claims a timeline and does not let go of it.
async fn hold(bench: &Bench, timeline: &str) {
    let store = store(bench).await;
    let id = (TENANT.parse().unwrap(), timeline.parse().unwrap());
    let view = TimelineView::open(&store, &id.0, &id.1, None).await.unwrap();
    TimelineWriter::claim(&store, view, writer()).await.unwrap();
}

#[test]
fn verify_follows_a_branch_to_its_ancestors_and_repair_tells_them_of_it() {
    let bench = family(Kind::Directory);
    bench.backup();
    bench.run("verify --remote {url}").expect(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(forget(&bench, MAIN, MIDDLE, 0x64));
    let one = |timeline| format!("verify --remote {{url}} --tenant {{tenant}} --timeline {timeline}");
    bench.run(&one(MAIN)).expect(0);
    for timeline in [MIDDLE, BRANCH] {
        bench.run(&one(timeline)).expect(3).says(&[MAIN, MIDDLE, "0/64", "verify --repair"]);
    }
    // Its pageserver may be running.
    runtime.block_on(hold(&bench, MAIN));
    let repair = format!("{} --repair", one(MIDDLE));
    bench.run(&repair).expect(5).says(&[MAIN, "pageserver 9", "--take-over"]);
    let run = bench.run(&format!("{repair} --take-over")).expect(0);
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(said.contains(&format!("{MAIN} knows its branch again")), "{said}");
    assert_eq!(status(&bench, MAIN)["branches"][0]["timeline"], MIDDLE);
    bench.run("verify --remote {url}").expect(0);
    // Without its ancestor.
    fs::rename(bench.timeline_dir("store", MAIN), bench.path("away")).unwrap();
    bench.run("verify --remote {url}").expect(3).says(&[MAIN, MIDDLE, "back it up from its work directory"]);
    bench.run(&format!("{repair} --json")).expect(3);
}

#[test]
fn a_damaged_sibling_is_named_where_it_keeps_a_timeline_from_being_deleted() {
    let bench = family(Kind::Directory);
    bench.backup();
    let delete =
        |timeline| format!("delete --remote {{url}} --tenant {{tenant}} --timeline {timeline} --execute");
    // The branch of the branch is damaged, and says all the same whose branch it is.
    let log = bench.timeline_dir("store", BRANCH).join("log");
    let manifest = bench.timeline_dir("store", BRANCH).join("manifest");
    fs::remove_dir_all(manifest).unwrap();
    fs::remove_file(log.join("0000000000000001.tar.zst")).unwrap();
    bench.run(&delete(MIDDLE)).expect(1).says(&[BRANCH, "there are branches of it"]);
    // Without a record that does it may be anybody's.
    put(&log.join("0000000000000002.tar.zst"), b"torn");
    bench.run(&delete(MIDDLE)).expect(3).says(&[BRANCH, "verify --repair"]);
}

#[test]
fn a_timeline_that_is_held_does_not_keep_others_from_being_repaired() {
    let bench = family(Kind::Directory);
    bench.backup();
    for timeline in [BRANCH, MAIN] {
        let path = bench.timeline_dir("store", timeline).join("log/0000000000000002.tar.zst");
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 1;
        put(&path, &bytes);
    }
    // The first by name.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(hold(&bench, BRANCH));
    let verify = "verify --deep --repair --workdir {a} --remote {url}";
    let run = bench.run(verify).expect(3);
    run.says(&[&format!("{BRANCH} was not repaired"), "--take-over", &format!("{BRANCH}/log/")]);
    let json = bench.run(&format!("{verify} --json")).expect(3).json();
    let repairs: Vec<&Value> =
        json["timelines"].as_array().unwrap().iter().map(|json| &json["repair"]["wrote"]).collect();
    assert_eq!(repairs, [&json!(null), &json!(false), &json!(false)], "mended by the first run");
    let json = bench.run(&format!("{verify} --take-over --json")).expect(3).json();
    assert_eq!(json["timelines"][0]["repair"]["mended"].as_array().unwrap().len(), 5);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    assert_same(&files(&bench.path("a")), &files(&bench.path("b")));
}

#[test]
fn a_circle_of_ancestors_is_said_to_be_one_and_keeps_nobody_else_from_being_backed_up() {
    let bench = family(Kind::Directory);
    put_in(&bench, MAIN, "metadata", &metadata(90, Some((BRANCH, 0x50))));
    let other = "22222222222222222222222222222222";
    put_in(&bench, other, &image(1, 80), b"other");
    let backup = bench.run("backup --json --workdir {a} --remote {url}").expect(3);
    let json = backup.json();
    let stored: Vec<&Value> = json["timelines"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|json| json["error"].is_null())
        .map(|json| &json["timeline"])
        .collect();
    assert_eq!(stored, [&json!(other)]);
    bench.run("backup --workdir {a} --remote {url}").expect(3).says(&["go in a circle", MAIN, "--ancestor"]);
    bench.run("backup --dry-run --workdir {a} --remote {url}").expect(3).says(&["go in a circle"]);
    // By way of what the store has, too.
    put_in(&bench, MAIN, "metadata", &metadata(90, None));
    bench.backup();
    put_in(&bench, MAIN, "metadata", &metadata(95, Some((BRANCH, 0x50))));
    let one = format!("backup --workdir {{a}} --remote {{url}} --tenant {{tenant}} --timeline {MAIN}");
    bench.run(&one).expect(3).says(&["go in a circle"]);
    bench.run("verify --remote {url}").expect(0);
}
