//! Copies of whole tenants, through the program.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::branches::{BRANCH, MAIN, MIDDLE, family, image, put_in, status};
use crate::support::{Bench, Kind, TENANT, assert_same, files, noise};

on_both! {
    a_tenant_is_copied_with_all_its_branches_and_once,
    what_cannot_be_copied_is_listed_and_keeps_its_branches_back,
    a_branch_is_not_copied_onto_an_ancestor_that_has_let_go_of_its_layers,
}

const OTHER_TENANT: &str = "000000000000000000000000000000cc";

/// What became of each timeline.
fn outcomes(json: &Value) -> Vec<(&str, &str)> {
    let timelines = json["timelines"].as_array().unwrap().iter();
    let words = timelines.map(|json| (json["timeline"].as_str().unwrap(), json["outcome"].as_str().unwrap()));
    words.collect()
}

/// The files of a work directory, as if they were the other tenant's.
fn renamed(bench: &Bench, dir: &str) -> BTreeMap<String, Vec<u8>> {
    files(&bench.path(dir))
        .into_iter()
        .map(|(path, bytes)| (path.replace(TENANT, OTHER_TENANT), bytes))
        .collect()
}

fn a_tenant_is_copied_with_all_its_branches_and_once(kind: Kind) {
    let bench = family(kind);
    bench.backup();
    let copy = format!("copy --remote {{url}} --from {TENANT} --to {OTHER_TENANT}");
    let json = bench.run(&format!("{copy} --json")).expect(0).json();
    assert_eq!(outcomes(&json), [(MAIN, "copied"), (MIDDLE, "copied"), (BRANCH, "copied")]);
    assert_eq!((&json["from"], &json["to"]), (&json!(TENANT), &json!(OTHER_TENANT)));
    assert_eq!(
        [&json["copied"], &json["present"], &json["failed"], &json["left_out"], &json["layers"]],
        [&json!(3), &json!(0), &json!(0), &json!(0), &json!(15)]
    );
    assert_eq!(json["timelines"][1]["layers"], json!(5));
    assert_eq!((&json["requests"]["copy"], &json["bundles"]), (&json!(3), &json!(3)));
    assert!(json["stored_bytes"].as_u64() > Some(30_000), "{json}");
    // Again nothing is written, and every timeline has its line.
    let json = bench.run(&format!("{copy} --json")).expect(0).json();
    assert_eq!(outcomes(&json), [(MAIN, "present"), (MIDDLE, "present"), (BRANCH, "present")]);
    assert_eq!((&json["requests"]["put"], &json["layers"]), (&json!(0), &json!(0)));
    let text = String::from_utf8(bench.run(&copy).expect(0).stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].contains(MAIN) && lines[0].contains("copied before"), "{text}");
    // It restores by itself, when the source is gone.
    for timeline in [BRANCH, MIDDLE, MAIN] {
        let delete = format!("delete --remote {{url}} --tenant {{tenant}} --timeline {timeline} --execute");
        bench.run(&delete).expect(0);
    }
    bench.run("gc --remote {url} --execute --retention 0s").expect(0);
    bench.run(&format!("restore --workdir {{b}} --remote {{url}} --tenant {OTHER_TENANT}")).expect(0);
    assert_same(&renamed(&bench, "a"), &files(&bench.path("b")));
    bench.run("verify --deep --remote {url}").expect(0);
    // What is deleted does not come along, and all of this tenant is.
    let third = "000000000000000000000000000000dd";
    let copy = format!("copy --json --remote {{url}} --from {TENANT} --to {third}");
    assert_eq!(bench.run(&copy).expect(0).json()["timelines"], json!([]));
}

fn what_cannot_be_copied_is_listed_and_keeps_its_branches_back(kind: Kind) {
    let bench = family(kind);
    bench.backup();
    // Something else is there under the id of the middle one.
    let copy = |from: &str, to: &str| format!("copy --json --remote {{url}} --from {from} --to {to}");
    bench.run(&copy(&format!("{TENANT}/{MAIN}"), &format!("{OTHER_TENANT}/{MIDDLE}"))).expect(0);
    let run = bench.run(&copy(TENANT, OTHER_TENANT)).expect(1);
    let json = run.json();
    assert_eq!(outcomes(&json), [(MAIN, "copied"), (MIDDLE, "failed"), (BRANCH, "failed")]);
    assert_eq!((&json["copied"], &json["failed"], &json["exit_code"]), (&json!(1), &json!(2), &json!(1)));
    let reason = |number: usize| json["timelines"][number]["reason"].as_str().unwrap();
    assert!(reason(1).contains("other contents") && reason(2).contains(MIDDLE), "{json}");
    let text = bench.run(&copy(TENANT, OTHER_TENANT).replace("--json ", "")).expect(1);
    text.says(&[MIDDLE, "exists with other contents", BRANCH, "its ancestor"]);
}

fn a_branch_is_not_copied_onto_an_ancestor_that_has_let_go_of_its_layers(kind: Kind) {
    let bench = family(kind);
    bench.backup();
    let copy = |timeline: &str, tenant: &str| {
        bench.run(&format!("copy --remote {{url}} --from {TENANT}/{timeline} --to {tenant}/{timeline}"))
    };
    copy(MAIN, OTHER_TENANT).expect(0);
    let rm = format!("rm --remote {{url}} --tenant {OTHER_TENANT} --timeline {MAIN}");
    bench.run(&format!("{rm} {}", image(2, 80))).expect(0);
    copy(MIDDLE, OTHER_TENANT).expect(4).says(&[
        MAIN,
        MIDDLE,
        &image(2, 80),
        "lacks 1",
        "copy the ancestor again",
    ]);
    // So another layer may go as well: the branch point is no more.
    bench.run(&format!("{rm} {}", image(3, 80))).expect(0);
    let third = "000000000000000000000000000000dd";
    copy(MAIN, third).expect(0);
    copy(MIDDLE, third).expect(0);
}

#[test]
fn damage_keeps_one_timeline_and_its_branches_from_another_store() {
    let bench = family(Kind::Directory);
    bench.backup();
    let second = format!("file://{}", bench.path("second").display());
    let copy = format!("copy --json --remote {{url}} --from {TENANT} --to {TENANT} --to-remote {second}");
    bench.run(&copy).expect(6);
    fs::create_dir_all(bench.path("c").join("tenants")).unwrap();
    bench.run(&format!("backup --workdir {{c}} --remote {second}")).expect(0);
    let record = bench.timeline_dir("store", MIDDLE).join("log/0000000000000002.tar.zst");
    let away = bench.path("away");
    fs::rename(&record, &away).unwrap();
    let json = bench.run(&copy).expect(3).json();
    assert_eq!(outcomes(&json), [(MAIN, "copied"), (MIDDLE, "failed"), (BRANCH, "failed")]);
    // When it is there again the rest follows.
    fs::rename(&away, &record).unwrap();
    let json = bench.run(&copy).expect(0).json();
    assert_eq!(outcomes(&json), [(MAIN, "present"), (MIDDLE, "copied"), (BRANCH, "copied")]);
    assert_eq!(json["requests"]["copy"], json!(0));
    bench.run(&format!("restore --workdir {{b}} --remote {second}")).expect(0);
    bench.assert_restored();
}

#[test]
fn as_of_a_time_what_was_not_there_yet_is_left_out_and_listed() {
    let bench = family(Kind::Directory);
    bench.backup();
    let one = |timeline: &str| format!("--json --remote {{url}} --tenant {{tenant}} --timeline {timeline}");
    let json = bench.run(&format!("status {}", one(MIDDLE))).expect(0).json();
    let time = json["timelines"][0]["points"]["list"][0]["time"].as_str().unwrap().to_owned();
    // A second later there is more of the middle one, and another timeline.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let late = "22222222222222222222222222222222";
    put_in(&bench, MIDDLE, &image(9, 125), &noise(9, 2000));
    put_in(&bench, late, &image(9, 125), &noise(9, 2000));
    bench.backup();
    let copy = format!("copy --json --remote {{url}} --from {TENANT} --to {OTHER_TENANT} --at time:{time}");
    let json = bench.run(&copy).expect(0).json();
    let found: BTreeMap<&str, &str> = outcomes(&json).into_iter().collect();
    assert_eq!((found[MAIN], found[MIDDLE], found[late]), ("copied", "copied", "left out"), "{json}");
    assert_eq!(json["timelines"][1]["layers"], json!(5));
    bench.run(&copy.replace("--json ", "")).expect(0).says(&[late, "left out", "no state by then"]);
}

#[test]
fn a_tenant_and_a_timeline_do_not_go_together() {
    let bench = family(Kind::Directory);
    bench.backup();
    let copy = |rest: &str| bench.run(&format!("copy --remote {{url}} {rest}"));
    let one = format!("{TENANT}/{MAIN}");
    copy(&format!("--from {one} --to {OTHER_TENANT}")).expect(2).says(&["TENANT/TIMELINE"]);
    copy(&format!("--from {TENANT} --to {OTHER_TENANT}/{MAIN}")).expect(2).says(&["TENANT/TIMELINE"]);
    copy(&format!("--from {TENANT} --to {OTHER_TENANT} --at seq:2"))
        .expect(2)
        .says(&["numbered by timeline"]);
    copy(&format!("--from {TENANT} --to {TENANT}")).expect(2).says(&["onto itself"]);
    copy(&format!("--from {TENANT} --to {TENANT} --to-remote {}", bench.url()))
        .expect(2)
        .says(&["onto itself"]);
    copy(&format!("--from {TENANT}/ --to {OTHER_TENANT}/{MAIN}")).expect(2);
    copy(&format!("--from {OTHER_TENANT} --to {TENANT}")).expect(4).says(&[OTHER_TENANT]);
    assert_eq!(status(&bench, MAIN)["seq"], json!(2), "nothing was written");
}
