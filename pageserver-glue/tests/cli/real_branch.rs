//! The three states of a real pageserver's work directory, the branch with its ancestor, replayed as that pageserver made
//! them: what it added and removed between them, mirrored.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use layer_archive::LayerName;
use pageserver_glue::{KeyRange, LayerMap, ReadPart};

use crate::support::{Bench, Kind, TENANT, TIMELINE, assert_same, files};

/// The environment variable that names the directory which holds `1/workdir`, `2/workdir` and `3/workdir`.
const STATES: &str = "LAYERPACK_REAL_STATES";
const BRANCH: &str = "4b0e97c3b3b77d9d7627f78e7668db78";
/// Where the pageserver's own index says that it was branched off.
const BRANCHED_AT: &str = "0/4012A48";

#[test]
fn real_states_with_their_branch_come_back_whatever_of_its_past_is_there() {
    let Some(states) = std::env::var_os(STATES).map(PathBuf::from) else {
        return xtask::skip("real_states", &format!("{STATES} names no states of a work directory"));
    };
    let bench = Bench::new(Kind::Directory);
    println!("state  main layers  removed  kept  branch layers  removed");
    for state in ["1", "2", "3"] {
        let workdir = states.join(state).join("workdir");
        let backup = |more: &str| {
            let backup =
                format!("backup --json --mirror --remote {{url}} --tenant {{tenant}} {more} --workdir");
            bench.run_with(&backup, &[workdir.as_os_str()]).expect(0).json()
        };
        let main = backup("--timeline {timeline}");
        let kept = main["timelines"][0]["kept_for_branches"].as_array().unwrap().len();
        let branch = (state != "1")
            .then(|| backup(&format!("--timeline {BRANCH} --ancestor {TIMELINE}@{BRANCHED_AT}")));
        let (layers, removed) = branch.map_or_else(Default::default, |branch| {
            (branch["layers"].to_string(), branch["removed"].to_string())
        });
        println!(
            "{state:>5}  {:>11}  {:>7}  {kept:>4}  {layers:>13}  {removed:>7}",
            main["layers"], main["removed"]
        );
        if state != "1" {
            comes_back(&bench, &workdir);
        }
    }
}

/// Checks that the branch comes back as it is in `workdir`, in every case of what is missing, and is read without it.
fn comes_back(bench: &Bench, workdir: &Path) {
    let layers = |workdir: &Path| -> BTreeMap<String, Vec<u8>> {
        files(workdir).into_iter().filter(|(path, _)| path.contains("/timelines/")).collect()
    };
    let expected = layers(workdir);
    let back = bench.path("b");
    let restore = || {
        let restore = format!(
            "restore --json --workdir {{b}} --remote {{url}} --tenant {{tenant}} --timeline {BRANCH}"
        );
        let json = bench.run(&restore).expect(0).json();
        assert_same(&expected, &layers(&back));
        json["layers"].as_u64().unwrap()
    };
    let of = |timeline: &str| expected.keys().filter(|path| path.contains(timeline)).count() as u64;
    assert_eq!(restore(), expected.len() as u64, "nothing was there");
    for missing in [BRANCH, TIMELINE] {
        fs::remove_dir_all(bench.timeline_dir("b", missing)).unwrap();
        reads(bench, &expected);
        assert_eq!(restore(), of(missing), "only {missing} was missing");
    }
    fs::remove_dir_all(&back).unwrap();
    reads(bench, &expected);
}

/// Checks pages of layers that a read at the branch point needs, of the branch and by way of it of its ancestor.
fn reads(bench: &Bench, expected: &BTreeMap<String, Vec<u8>>) {
    let prefix = format!("tenants/{TENANT}/timelines/{TIMELINE}/");
    let names: Vec<LayerName> =
        expected.keys().filter_map(|path| path.strip_prefix(&prefix)?.parse().ok()).collect();
    let map = LayerMap::new(&names);
    assert_eq!(map.opaque().count(), 0);
    let parts = map.read_range(KeyRange::ALL, BRANCHED_AT.parse().unwrap());
    let needed = |part: &ReadPart<'_>| -> Vec<String> {
        let layers = part.layers.image.into_iter().chain(part.layers.deltas.iter().copied());
        layers.map(|name| format!("{prefix}{name}")).collect()
    };
    let mut paths: BTreeSet<String> = parts.iter().flat_map(needed).collect();
    assert!(!paths.is_empty());
    let step = paths.len().div_ceil(4);
    paths = paths.into_iter().step_by(step).collect();
    paths.extend(expected.keys().filter(|path| path.contains(BRANCH)).step_by(40).cloned());
    for path in paths {
        let (_, name) = path.rsplit_once('/').unwrap();
        let cat = format!("cat --remote {{url}} --tenant {{tenant}} --timeline {BRANCH} --length 8192");
        let page = bench.run_with(&cat, &[OsStr::new(name)]).expect(0).stdout;
        assert!(page == expected[&path][..page.len()] && !page.is_empty(), "{path}");
    }
}
