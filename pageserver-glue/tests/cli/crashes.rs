//! The program killed at every change that it makes to a file system, one after the other: what it had acknowledged is
//! there, nothing half-written is visible, and the next run ends right.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use storage_api::CRASH_AT_VARIABLE;

use crate::support::{Bench, Kind, assert_same, files, layer_name, metadata, noise, put};

/// Files by their paths.
type Files = BTreeMap<String, Vec<u8>>;

/// A program that makes more changes than this does not end.
const CHANGES_MAX: u64 = 2_000;

/// Bundles so small that a backup has payload objects too.
const CONFIG: &str = "bundle_bytes_target = 65536\n";

const BACKUP: &str = "backup --mirror --config {config} --workdir {a} --remote {url}";

/// Runs `arguments` and kills it at its change number `at`. Returns whether it came so far; else it ended with `code`.
fn is_killed(bench: &Bench, arguments: &str, code: i32, at: u64) -> bool {
    let output = bench.command(arguments).env(CRASH_AT_VARIABLE, at.to_string()).output().unwrap();
    match output.status.signal() {
        Some(_) => true,
        None => {
            assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
            false
        }
    }
}

/// Kills `arguments` at every change, each time after `prepare` and before `check`. Returns how many there were.
fn kill_at_every_change(bench: &Bench, arguments: &str, prepare: impl Fn(), check: impl Fn(u64)) -> u64 {
    kill_at_every_change_of(bench, (arguments, 0), prepare, check)
}

/// The same of a command that ends with another code than 0.
fn kill_at_every_change_of(
    bench: &Bench,
    (arguments, code): (&str, i32),
    prepare: impl Fn(),
    check: impl Fn(u64),
) -> u64 {
    for at in 1..CHANGES_MAX {
        prepare();
        if !is_killed(bench, arguments, code, at) {
            return at - 1;
        }
        check(at);
    }
    panic!("more than {CHANGES_MAX} changes");
}

fn copy_tree(from: &Path, to: &Path) {
    remove_tree(to);
    fs::create_dir_all(to).unwrap();
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, &bytes);
    }
}

/// The files below a directory that may not be there yet.
fn found(dir: &Path) -> Files {
    if dir.try_exists().unwrap() { files(dir) } else { Files::new() }
}

fn remove_tree(dir: &Path) {
    if dir.try_exists().unwrap() {
        fs::remove_dir_all(dir).unwrap();
    }
}

/// The work directory before and after a checkpoint that adds layers, removes one and replaces the metadata.
fn scene() -> (Bench, Files, Files) {
    let bench = Bench::with_layers(Kind::Directory, 3);
    put(&bench.path("config"), CONFIG.as_bytes());
    bench.run(BACKUP).expect(0);
    copy_tree(&bench.path("store"), &bench.path("store-before"));
    let before = files(&bench.path("a"));
    for (number, bytes) in [(10, 60_000), (11, 70_000), (12, 300_000), (13, 10)] {
        bench.put("a", layer_name(number), &noise(number, bytes));
    }
    fs::remove_file(bench.timeline_dir("a", crate::support::TIMELINE).join(layer_name(1))).unwrap();
    bench.put("a", "metadata", &metadata(0x0160_0000));
    let after = files(&bench.path("a"));
    (bench, before, after)
}

/// Restores into an empty directory.
fn restored(bench: &Bench) -> Files {
    remove_tree(&bench.path("b"));
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    files(&bench.path("b"))
}

/// What the next run must make of what a killed backup has left.
fn assert_goes_on(bench: &Bench, after: &Files) {
    bench.run(BACKUP).expect(0);
    bench.run("verify --deep --remote {url}").expect(0);
    assert_same(after, &restored(bench));
}

#[test]
fn a_backup_killed_at_any_change_loses_nothing_and_shows_nothing_half() {
    let (bench, before, after) = scene();
    let prepare = || copy_tree(&bench.path("store-before"), &bench.path("store"));
    let changes = kill_at_every_change(&bench, BACKUP, prepare, |at| {
        // What was acknowledged is there; what was not is there as a whole or not at all.
        let there = restored(&bench);
        assert!(there == before || there == after, "killed at change {at}: a mixture is restored");
        assert_goes_on(&bench, &after);
    });
    assert!(changes > 30, "only {changes} changes");
    println!("a backup makes {changes} changes");
}

#[test]
fn a_backup_into_a_new_store_may_be_killed_at_any_change() {
    let (bench, _, after) = scene();
    let changes = kill_at_every_change(
        &bench,
        BACKUP,
        || remove_tree(&bench.path("store")),
        |_| assert_goes_on(&bench, &after),
    );
    assert!(changes > 40, "only {changes} changes");
    println!("a backup into a new store makes {changes} changes");
}

#[test]
fn a_restore_killed_at_any_change_shows_nothing_half_and_is_resumed() {
    let (bench, _, after) = scene();
    bench.run(BACKUP).expect(0);
    let restore = "restore --workdir {b} --remote {url}";
    let changes = kill_at_every_change(
        &bench,
        restore,
        || remove_tree(&bench.path("b")),
        |at| {
            let there = found(&bench.path("b"));
            let is_temporary = |name: &&String| name.rsplit('/').next().unwrap().starts_with(".layerpack-");
            for name in there.keys().filter(|name| !is_temporary(name)) {
                assert!(after.get(name) == there.get(name), "killed at change {at}: {name} is half-written");
            }
            // Whoever finds the metadata may rely on the layers.
            if there.keys().any(|name| name.ends_with("/metadata")) {
                assert!(
                    after.keys().all(|name| there.contains_key(name)),
                    "killed at change {at}: too early"
                );
            }
            bench.run(restore).expect(0);
            assert_same(&after, &files(&bench.path("b")));
        },
    );
    assert!(changes > 30, "only {changes} changes");
    println!("a restore makes {changes} changes");
}

const OTHER: &str = "99999999999999999999999999999999";

/// A store from which most of what was backed up was removed again, and a copy of it. Returns what lives.
fn mostly_dead() -> (Bench, Files) {
    let bench = Bench::with_layers(Kind::Directory, 0);
    (0..30).for_each(|number| bench.put_layer(number, 20_000 + 100 * number as usize));
    put(&bench.path("config"), CONFIG.as_bytes());
    bench.run(BACKUP).expect(0);
    let dir = bench.timeline_dir("a", crate::support::TIMELINE);
    (0..30).filter(|number| number % 6 > 0).for_each(|number| {
        fs::remove_file(dir.join(layer_name(number))).unwrap();
    });
    bench.run(&format!("{BACKUP} --force")).expect(0);
    copy_tree(&bench.path("store"), &bench.path("store-before"));
    let live = files(&bench.path("a"));
    (bench, live)
}

#[test]
fn a_collection_killed_at_any_change_loses_nothing_and_the_next_ends_the_work() {
    let (bench, live) = mostly_dead();
    let gc = "gc --json --execute --retention 0s --take-over --remote {url}";
    let stored = || files(&bench.path("store")).values().map(|bytes| bytes.len() as u64).sum::<u64>();
    let full = stored();
    let prepare = || copy_tree(&bench.path("store-before"), &bench.path("store"));
    let changes = kill_at_every_change(&bench, gc, prepare, |at| {
        assert_same(&live, &restored(&bench));
        bench.run(gc).expect(0);
        bench.run("verify --deep --remote {url}").expect(0);
        assert_same(&live, &restored(&bench));
        assert!(stored() * 2 < full, "killed at change {at}: {} of {full} are left", stored());
    });
    assert!(changes > 30, "only {changes} changes");
    println!("a collection makes {changes} changes");
}

#[test]
fn a_copy_killed_at_any_change_is_whole_or_nothing_and_is_made_by_the_next() {
    let (bench, live) = mostly_dead();
    let copy =
        format!("copy --take-over --remote {{url}} --from {{tenant}}/{{timeline}} --to {{tenant}}/{OTHER}");
    let copy =
        copy.replace("{tenant}", crate::support::TENANT).replace("{timeline}", crate::support::TIMELINE);
    let restored = || {
        remove_tree(&bench.path("b"));
        let run = bench
            .run(&format!("restore --workdir {{b}} --remote {{url}} --tenant {{tenant}} --timeline {OTHER}"));
        let there = found(&bench.path("b").join("tenants"));
        (
            run.code,
            there.into_iter().map(|(name, bytes)| (name.replace(OTHER, crate::support::TIMELINE), bytes)),
        )
    };
    let live: Files = live
        .into_iter()
        .filter_map(|(name, bytes)| Some((name.strip_prefix("tenants/")?.to_owned(), bytes)))
        .collect();
    let prepare = || copy_tree(&bench.path("store-before"), &bench.path("store"));
    let changes = kill_at_every_change(&bench, &copy, prepare, |at| {
        let (code, there) = restored();
        if code == Some(0) {
            assert_same(&live, &there.collect());
        } else {
            assert_eq!((code, there.count()), (Some(4), 0), "killed at change {at}");
            bench.run(&copy).expect(0);
        }
        assert_same(&live, &restored().1.collect());
        bench.run("verify --deep --remote {url}").expect(0);
    });
    assert!(changes > 20, "only {changes} changes");
    println!("a copy makes {changes} changes");
}

#[test]
fn a_deletion_killed_at_any_change_is_made_or_not_and_is_ended_by_the_next() {
    let (bench, live) = mostly_dead();
    let delete = "delete --execute --take-over --remote {url} --tenant {tenant} --timeline {timeline}";
    let restore = "restore --workdir {b} --remote {url} --tenant {tenant} --timeline {timeline}";
    let prepare = || copy_tree(&bench.path("store-before"), &bench.path("store"));
    let changes = kill_at_every_change(&bench, delete, prepare, |at| {
        remove_tree(&bench.path("b"));
        let run = bench.run(restore);
        match run.code {
            Some(0) => assert_same(&live, &files(&bench.path("b"))),
            code => assert_eq!(code, Some(4), "killed at change {at}: {run:?}"),
        }
        bench.run(delete).expect(0);
        bench.run(restore).expect(4).says(&["deleted"]);
        bench.run("gc --execute --retention 0s --remote {url}").expect(0);
        bench.run("verify --deep --remote {url}").expect(0);
    });
    assert!(changes > 8, "only {changes} changes");
    println!("a deletion makes {changes} changes");
}

#[test]
fn a_repair_killed_at_any_change_loses_nothing_and_is_ended_by_the_next() {
    let (bench, live) = mostly_dead();
    // One byte of each object that holds layers.
    for (name, mut bytes) in files(&bench.path("store-before")) {
        if (name.contains("/payload/") || name.contains("/log/")) && bytes.len() > 10_000 {
            bytes[5_000] ^= 1;
            put(&bench.path("store-before").join(name), &bytes);
        }
    }
    let repair = "verify --deep --repair --take-over --workdir {a} --remote {url}";
    let prepare = || copy_tree(&bench.path("store-before"), &bench.path("store"));
    prepare();
    bench.run("verify --deep --remote {url}").expect(3);
    let changes = kill_at_every_change_of(&bench, (repair, 3), prepare, |_| {
        // Older points in time are lost with what was damaged, until they are collected.
        bench.run(repair).expect(3);
        assert_same(&live, &restored(&bench));
        bench.run("gc --execute --retention 0s --take-over --remote {url}").expect(0);
        bench.run("verify --deep --remote {url}").expect(0);
        assert_same(&live, &restored(&bench));
    });
    assert!(changes > 20, "only {changes} changes");
    println!("a repair makes {changes} changes");
}
