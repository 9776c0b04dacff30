//! The past of branches: what comes with one that was deleted, and a whole family as of a time.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::branches::{BRANCH, MAIN, MIDDLE, family, image, metadata as branch_metadata, put_in};
use crate::support::{Bench, Kind, TENANT, assert_same, files, noise};

on_both! {
    a_deleted_branch_comes_back_with_what_it_needs_of_its_ancestors,
    a_family_comes_back_as_of_a_time_before_and_after_it_was_deleted,
}

const AT: &str = "--remote {url} --tenant {tenant} --timeline";

fn delete(bench: &Bench, timeline: &str) {
    bench.run(&format!("delete {AT} {timeline} --execute")).expect(0);
}

/// Removes a layer, which no branch needs any more.
fn collect(bench: &Bench, timeline: &str, layer: &str) {
    bench.run(&format!("rm {AT} {timeline} {layer}")).expect(0);
}

/// The files below `tenants/` of a work directory.
fn tenants(bench: &Bench, workdir: &str) -> BTreeMap<String, Vec<u8>> {
    files(&bench.path(workdir).join("tenants"))
}

/// The time of the newest point of a timeline, with time enough before what comes next.
fn newest_time(bench: &Bench, timeline: &str) -> String {
    let json = bench.run(&format!("status --json {AT} {timeline}")).expect(0).json();
    let list = json["timelines"][0]["points"]["list"].as_array().unwrap();
    sleep(Duration::from_millis(20));
    list.last().unwrap()["time"].as_str().unwrap().to_owned()
}

/// What became of each timeline: how its metadata fared, or `failed`.
fn metadata(json: &Value) -> BTreeMap<&str, &str> {
    let timelines = json["timelines"].as_array().unwrap().iter();
    let word = |json: &'_ Value| if json["error"].is_null() { None } else { Some("failed") };
    timelines
        .map(|json| {
            let metadata = json["metadata"].as_str().unwrap_or("none");
            (json["timeline"].as_str().unwrap(), word(json).unwrap_or(metadata))
        })
        .collect()
}

fn a_deleted_branch_comes_back_with_what_it_needs_of_its_ancestors(kind: Kind) {
    let bench = family(kind);
    bench.backup();
    let before = tenants(&bench, "a");
    delete(&bench, BRANCH);
    let command = |dir: &str| format!("restore --workdir {{{dir}}} {AT} {BRANCH} --at seq:2");
    let restore = |dir: &str| bench.run(&format!("{} --json", command(dir)));
    // Nothing was collected since: the ancestors come as they are, and go on.
    assert_eq!(restore("b").expect(0).json()["layers"], json!(15));
    assert_same(&before, &tenants(&bench, "b"));
    let one = |dir: &str, timeline: &str| bench.run(&format!("backup --workdir {{{dir}}} {AT} {timeline}"));
    one("b", MIDDLE).expect(0);
    one("b", BRANCH).expect(1).says(&["older point in time"]);

    // The middle one lets go of what only the branch needed: it comes as it was, and is not backed up from there.
    collect(&bench, MIDDLE, &image(1, 120));
    put_in(&bench, MAIN, &image(9, 90), b"more");
    one("a", MAIN).expect(0);
    let json = restore("c").expect(0).json();
    assert_eq!(metadata(&json), [(MAIN, "written"), (MIDDLE, "written"), (BRANCH, "written")].into());
    let mut expected = before.clone();
    expected.insert(format!("{TENANT}/timelines/{MAIN}/{}", image(9, 90)), b"more".to_vec());
    assert_same(&expected, &tenants(&bench, "c"));
    one("c", MIDDLE).expect(1).says(&["older point in time"]);
    one("c", MAIN).expect(0);
    let dry = bench.run(&format!("restore --dry-run --json --workdir {{x}} {AT} {BRANCH} --at seq:2"));
    assert_eq!(dry.expect(0).json()["layers"], json!(16));

    // Where a directory has the newer state, the branch has no past there: its metadata waits.
    bench.run(&format!("restore --workdir {{d}} {AT} {MIDDLE}")).expect(0);
    assert_eq!(metadata(&restore("d").expect(1).json())[BRANCH], "held back");
    bench.run(&command("d")).expect(1).says(&[MIDDLE, "empty directory"]);
    // A newer one that is left alone is no past of it either: it may have let go of more since.
    put_in(&bench, MIDDLE, "metadata", &branch_metadata(0x99, Some((MAIN, 0x64))));
    fs::remove_dir_all(bench.timeline_dir("a", BRANCH)).unwrap();
    let held = restore("a").expect(1).json();
    assert_eq!(metadata(&held), [(MAIN, "present"), (BRANCH, "held back")].into());
    // So it does where gc has given up every state that the branch could need.
    for key in [0, 2, 3] {
        collect(&bench, MIDDLE, &image(key, 120));
    }
    bench.run(&format!("gc {AT} {MIDDLE} --retention 0s --execute")).expect(0);
    let json = restore("e").expect(4).json();
    assert_eq!((metadata(&json)[MIDDLE], metadata(&json)[BRANCH]), ("failed", "held back"));
    bench.run(&command("e")).expect(4).says(&[MIDDLE, &format!("when it counted its branch {BRANCH}")]);
}

fn a_family_comes_back_as_of_a_time_before_and_after_it_was_deleted(kind: Kind) {
    let bench = family(kind);
    bench.backup();
    let before = tenants(&bench, "a");
    let lived = newest_time(&bench, BRANCH);
    delete(&bench, BRANCH);
    let bereft = newest_time(&bench, MIDDLE);
    collect(&bench, MIDDLE, &image(1, 120));
    for timeline in [MIDDLE, MAIN] {
        delete(&bench, timeline);
    }
    sleep(Duration::from_millis(20));
    let restore = |dir: &str, at: &str| {
        bench.run(&format!(
            "restore --json --workdir {{{dir}}} --remote {{url}} --tenant {{tenant}} --at {at}"
        ))
    };
    let json = restore("b", &format!("time:{lived}")).expect(0).json();
    assert_eq!(metadata(&json), [(MAIN, "written"), (MIDDLE, "written"), (BRANCH, "written")].into());
    assert_same(&before, &tenants(&bench, "b"));
    // What was deleted by then does not come back.
    let json = restore("c", &format!("time:{bereft}")).expect(0).json();
    assert_eq!(metadata(&json), [(MAIN, "written"), (MIDDLE, "written")].into());
    let own = format!("timelines/{BRANCH}/");
    let mut without = before.clone();
    without.retain(|path, _| !path.contains(&own));
    assert_same(&without, &tenants(&bench, "c"));
    // What is deleted now has no LSN among others; alone it has.
    assert_eq!(restore("d", "lsn:0/BE").expect(4).json()["timelines"], json!([]));
    // Nor is there anything of a year that was mistyped, which is no success.
    for at in ["time:1999-01-01T00:00:00Z", "lsn:0/0"] {
        assert_eq!(restore("d", at).expect(4).json()["timelines"], json!([]));
    }
    let other = "000000000000000000000000000000cc";
    let copy = format!("copy --remote {{url}} --from {TENANT} --to {other} --at time:1999-01-01T00:00:00Z");
    bench.run(&copy).expect(4).says(&["nothing was copied", MAIN]);
    let alone = format!("restore --workdir {{d}} {AT}");
    let json = bench.run(&format!("{alone} {MAIN} --at lsn:0/BE --json")).expect(0).json();
    assert_eq!(json["layers"], json!(5));
    bench.run(&format!("{alone} {MAIN} --at time:2999-01-01T00:00:00Z")).expect(4).says(&["was deleted"]);
}

#[test]
fn where_an_ancestor_has_no_state_of_a_time_its_branches_wait_and_are_not_copied() {
    let bench = family(Kind::Directory);
    bench.backup();
    let lived = newest_time(&bench, BRANCH);
    put_in(&bench, MAIN, &image(9, 120), &noise(9, 20_000));
    let late = "22222222222222222222222222222222";
    put_in(&bench, late, &image(9, 90), &noise(9, 2000));
    bench.backup();
    collect(&bench, MAIN, &image(9, 120));
    bench.run(&format!("gc {AT} {MAIN} --retention 0s --execute")).expect(0);
    let restore = format!("--remote {{url}} --tenant {{tenant}} --at time:{lived}");
    let held = bench.run(&format!("restore --json --workdir {{b}} {restore}")).expect(4);
    let json = held.json();
    assert_eq!(metadata(&json), [(MAIN, "failed"), (MIDDLE, "held back"), (BRANCH, "held back")].into());
    assert_eq!((&json["layers"], json["timelines"].as_array().unwrap().len()), (&json!(10), 3));
    let left_out = json["skipped"].as_array().unwrap().iter();
    let left_out: Vec<&str> = left_out.map(|skipped| skipped["path"].as_str().unwrap()).collect();
    assert_eq!(left_out, [format!("tenants/{TENANT}/timelines/{late}")]);
    let held = bench.run(&format!("restore --workdir {{b}} {restore}")).expect(4);
    held.says(&[MAIN, "has no state as of", "there is: record"]);
    bench.run(&format!("restore --dry-run --workdir {{b}} {restore}")).expect(4).says(&[MAIN]);
    // What gc has given up is no reason to leave a timeline out of a copy and call that done.
    let other = "000000000000000000000000000000cc";
    let copy =
        bench.run(&format!("copy --json --remote {{url}} --from {TENANT} --to {other} --at time:{lived}"));
    let copy = copy.expect(4);
    let json = copy.json();
    let outcomes: BTreeMap<&str, &str> = json["timelines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|json| (json["timeline"].as_str().unwrap(), json["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [(MAIN, "failed"), (MIDDLE, "failed"), (BRANCH, "failed"), (late, "left out")].into()
    );
    assert!(!fs::exists(bench.path("store").join("tenants").join(other)).unwrap());
}
