//! Backup and restore with the real program: what comes back, what it costs, what is left alone.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{
    Bench, Kind, Run, TENANT, TIMELINE, assert_same, files, layer_name, metadata, noise, put, requests,
};

on_both! {
    a_work_directory_comes_back_and_the_requests_are_few,
    a_new_timeline_in_an_old_store_costs_six_requests,
    several_timelines_share_one_list_until_one_of_them_is_written,
    what_is_not_layer_data_is_listed_and_does_not_fail_a_backup,
    a_file_that_could_be_a_layer_and_cannot_be_stored_makes_a_backup_incomplete,
    what_has_a_layer_s_name_and_is_no_file_makes_a_backup_incomplete,
    an_older_state_of_a_timeline_turns_nothing_back,
    a_mirror_of_a_restore_that_was_not_finished_is_refused,
    many_conflicts_are_a_few_lines,
    a_layer_with_other_contents_is_a_conflict_and_neither_side_changes,
    a_mirror_removes_what_is_gone_but_not_more_than_half_without_force,
    a_file_that_grows_while_it_is_read_is_stored_whole_or_not_at_all,
    two_backups_at_once_lose_nothing,
}

/// Who may do the least.
const NOBODY: u32 = 65534;
const OTHER: &str = "4b0e97c3b3b77d9d7627f78e7668db78";

fn a_work_directory_comes_back_and_the_requests_are_few(kind: Kind) {
    let bench = Bench::with_layers(kind, 40);
    let first = bench.backup();
    assert_eq!(first["store_created"], true);
    assert_eq!((first["layers"].as_u64(), first["seq"].as_u64()), (Some(40), Some(2)));
    assert_eq!(first["raw_bytes"].as_u64(), Some((0..40).map(|n| 1000 + 3000 * n).sum()));
    assert_eq!(requests(&first), 9, "{first}");

    let before = bench.stored();
    let second = bench.backup();
    assert_eq!((second["layers"].as_u64(), second["store_created"].as_bool()), (Some(0), Some(false)));
    assert_eq!(second["requests"]["put"], 0);
    assert_same(&before, &bench.stored());

    for (target, which) in
        [("b", ""), ("c", "--tenant {tenant}"), ("d", "--tenant {tenant} --timeline {timeline}")]
    {
        let arguments = format!("restore --json --workdir {{{target}}} --remote {{url}} {which}");
        let restored = bench.run(&arguments).expect(0).json();
        assert_eq!(requests(&restored), 4, "{restored}");
        assert_same(&files(&bench.path("a")), &files(&bench.path(target)));
    }
    // What is there already is verified and kept.
    let again = bench.run("restore --json --workdir {b} --remote {url}").expect(0).json();
    assert_eq!((again["layers"].as_u64(), again["timelines"][0]["present"].as_u64()), (Some(0), Some(40)));
}

fn a_new_timeline_in_an_old_store_costs_six_requests(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    bench.backup();
    let other = bench.timeline_dir("a", OTHER);
    fs::create_dir_all(&other).unwrap();
    put(&other.join(layer_name(7)), &noise(7, 5000));
    let arguments =
        format!("backup --json --workdir {{a}} --remote {{url}} --tenant {{tenant}} --timeline {OTHER}");
    let json = bench.run(&arguments).expect(0).json();
    assert_eq!(requests(&json), 6, "{json}");
    assert_eq!(json["timelines"].as_array().unwrap().len(), 1);
}

fn several_timelines_share_one_list_until_one_of_them_is_written(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    let other = bench.timeline_dir("a", OTHER);
    fs::create_dir_all(&other).unwrap();
    put(&other.join(layer_name(7)), &noise(7, 5000));
    let json = bench.backup();
    // One of the store, one after each claim, and one of the second timeline: the first list may be old by then.
    assert_eq!(json["requests"]["list"], 4, "{json}");
    assert!(requests(&json) <= 16, "{json}");
    assert_eq!(bench.backup()["requests"]["list"], 1);
    assert_eq!(json["seq"], serde_json::Value::Null);
    let restored = bench.run("restore --json --workdir {b} --remote {url}").expect(0).json();
    assert_eq!(restored["requests"]["list"], 1, "{restored}");
    bench.assert_restored();
}

fn what_is_not_layer_data_is_listed_and_does_not_fail_a_backup(kind: Kind) {
    let bench = Bench::with_layers(kind, 2);
    let dir = bench.timeline_dir("a", TIMELINE);
    for name in ["x.___temp", "ephemeral-7", "y.tmp"] {
        put(&dir.join(name), b"unfinished");
    }
    put(&bench.path("a").join("tenants").join(TENANT).join("config-v1"), b"config");
    symlink("nowhere", dir.join("dangling")).unwrap();
    symlink(layer_name(0), dir.join("link")).unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    let json = bench.backup();
    let mut skipped: Vec<&str> =
        json["skipped"].as_array().unwrap().iter().map(|skipped| skipped["path"].as_str().unwrap()).collect();
    skipped = skipped.into_iter().map(|path| path.rsplit('/').next().unwrap()).collect();
    skipped.sort_unstable();
    assert_eq!(skipped, ["config-v1", "dangling", "directory", "ephemeral-7", "link", "x.___temp", "y.tmp"]);
    assert_eq!(json["layers"], 2);
    let restored = bench.run("restore --json --workdir {b} --remote {url}").expect(0).json();
    assert_eq!(restored["layers"], 2);
}

fn a_file_that_could_be_a_layer_and_cannot_be_stored_makes_a_backup_incomplete(kind: Kind) {
    let bench = Bench::with_layers(kind, 2);
    bench.put("a", OsStr::from_bytes(b"not-\xff-utf-8"), b"layer");
    bench.put("a", "back\\slash", b"layer");
    let run = bench.run("backup --workdir {a} --remote {url}").expect(1);
    run.says(&["error: could not back up", "not UTF-8", "back\\slash", "rename it"]);
    let restored = bench.run("restore --json --workdir {b} --remote {url}").expect(0).json();
    assert_eq!(restored["layers"], 2);
}

fn what_has_a_layer_s_name_and_is_no_file_makes_a_backup_incomplete(kind: Kind) {
    let bench = Bench::with_layers(kind, 6);
    bench.put("a", "opaque", b"a layer of another time");
    bench.backup();
    let dir = bench.timeline_dir("a", TIMELINE);
    let replace = |name: &str| {
        fs::rename(dir.join(name), bench.path(name)).unwrap();
        symlink(bench.path(name), dir.join(name)).unwrap();
    };
    // Gone from the directory is not what it is, and nothing says that it must be a layer.
    replace("opaque");
    let json = bench.run("backup --json --mirror --workdir {a} --remote {url}").expect(0).json();
    assert_eq!(json["removed"], 0, "{json}");
    replace(&layer_name(1));
    let run = bench.run("backup --mirror --force --workdir {a} --remote {url}").expect(1);
    run.says(&["error: could not back up", &layer_name(1), "symbolic link", "put the file itself there"]);
    fs::remove_file(dir.join(layer_name(1))).unwrap();
    fs::create_dir(dir.join(layer_name(1))).unwrap();
    // What replaces a layer that is gone may be what could not be backed up.
    fs::rename(dir.join(layer_name(2)), bench.path(&layer_name(2))).unwrap();
    let run = bench.run("backup --mirror --workdir {a} --remote {url}").expect(1);
    run.says(&["error: could not back up", &layer_name(1), "a directory", "warning: 1 layer that"]);
    let json = bench.run("backup --json --mirror --workdir {a} --remote {url}").expect(1).json();
    assert_eq!((&json["removed"], &json["removals_held_back"]), (&0.into(), &1.into()));
    fs::rename(bench.path(&layer_name(2)), dir.join(layer_name(2))).unwrap();
    fs::remove_dir(dir.join(layer_name(1))).unwrap();
    fs::rename(bench.path(&layer_name(1)), dir.join(layer_name(1))).unwrap();
    replace("metadata");
    bench.run("backup --workdir {a} --remote {url}").expect(1).says(&["/metadata: a symbolic link"]);
    let json = bench.run("restore --json --workdir {b} --remote {url}").expect(0).json();
    assert_eq!((&json["layers"], &json["timelines"][0]["metadata"]), (&7.into(), &"written".into()));
}

fn an_older_state_of_a_timeline_turns_nothing_back(kind: Kind) {
    let bench = Bench::with_layers(kind, 6);
    bench.backup();
    bench.put("a", "metadata", &metadata(0x0100_0000));
    fs::remove_file(bench.timeline_dir("a", TIMELINE).join(layer_name(0))).unwrap();
    let run = bench.run("backup --mirror --workdir {a} --remote {url}").expect(1);
    run.says(&["error:", TIMELINE, "at LSN 0/1500708", "the older 0/1000000", "nothing was turned back"]);
    let json = bench.run("backup --json --mirror --workdir {a} --remote {url}").expect(1).json();
    let conflict = serde_json::json!({"local": "0/1000000", "stored": "0/1500708"});
    for part in [&json, &json["timelines"][0]] {
        assert_eq!(
            (&part["metadata_conflict"], &part["removals_held_back"]),
            (&conflict, &0.into()),
            "{json}"
        );
    }
    assert_eq!(json["removed"], 0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    let restored = files(&bench.timeline_dir("b", TIMELINE));
    assert!(restored["metadata"] == metadata(0x0150_0708) && restored.contains_key(&layer_name(0)));
}

fn a_mirror_of_a_restore_that_was_not_finished_is_refused(kind: Kind) {
    let bench = Bench::with_layers(kind, 6);
    bench.backup();
    for name in ["metadata".to_owned(), layer_name(5)] {
        fs::remove_file(bench.timeline_dir("a", TIMELINE).join(name)).unwrap();
    }
    let before = bench.stored();
    bench.run("backup --mirror --workdir {a} --remote {url}").expect(1).says(&["error:", TIMELINE]);
    assert_same(&before, &bench.stored());
}

fn many_conflicts_are_a_few_lines(kind: Kind) {
    let bench = Bench::with_layers(kind, 8);
    bench.backup();
    for number in 0..8 {
        bench.put("a", layer_name(number), b"something else");
    }
    let run = bench.run("backup --workdir {a} --remote {url}").expect(1).says(&["and 3 more layers"]);
    assert_eq!(run.stderr.matches("neither was changed").count(), 5, "{}", run.stderr);
    let json = bench.run("backup --json --workdir {a} --remote {url}").expect(1).json();
    assert_eq!(json["conflicts"].as_array().unwrap().len(), 8);
}

/// Backs `a` up into a new store, as somebody who may not read everything.
///
/// Root may: then it runs as nobody, who needs a copy of the program and a place for the store.
fn backup_without_rights(bench: &Bench) -> Run {
    let program = bench.path("layerpack");
    // Copied by another process: a child that this one starts meanwhile would hold the copy open for writing, and what
    // is being written cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_layerpack")).arg(&program).status().unwrap();
    assert!(copied.success());
    fs::create_dir(bench.path("store")).unwrap();
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        chown(bench.path("store"), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command.args(bench.expand("backup --json --workdir {a} --remote {url}"));
    command.output().unwrap().into()
}

#[test]
fn a_tenant_that_may_not_be_read_is_listed_and_the_others_are_backed_up() {
    let bench = Bench::with_layers(Kind::Directory, 4);
    let secret = bench.path("a").join("tenants").join(OTHER);
    fs::create_dir_all(secret.join("timelines")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let json = backup_without_rights(&bench).expect(1).json();
    // What may not be read can be removed by whoever made it.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!((&json["layers"], &json["metadata_held_back"]), (&4.into(), &false.into()));
    assert_eq!(json["skipped"][0]["path"], format!("tenants/{OTHER}"));
    let reason = json["skipped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("Permission denied") && reason.contains("who may use it"), "{json}");
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

#[test]
fn a_file_that_may_not_be_read_fails_alone_and_holds_the_metadata_back() {
    let bench = Bench::with_layers(Kind::Directory, 4);
    let secret = bench.timeline_dir("a", TIMELINE).join(layer_name(2));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let json = backup_without_rights(&bench).expect(1).json();
    assert_eq!((&json["layers"], &json["metadata_held_back"]), (&3.into(), &true.into()));
    assert_eq!(json["failed"][0]["name"], layer_name(2).as_str());
    assert!(json["failed"][0]["error"].as_str().unwrap().contains("Permission denied"), "{json}");

    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    bench.run("backup --workdir {a} --remote {url}").expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

fn a_layer_with_other_contents_is_a_conflict_and_neither_side_changes(kind: Kind) {
    let bench = Bench::with_layers(kind, 5);
    bench.backup();
    let before = bench.stored();
    bench.put("a", layer_name(1), &noise(99, 4000));
    bench.put("a", "metadata", &metadata(0x0200_0000));
    let run = bench.run("backup --workdir {a} --remote {url}").expect(1);
    run.says(&[&layer_name(1), "neither was changed"]);
    assert_same(&before, &bench.stored());

    // Restored over, the file of the work directory stays, and newer metadata is not put beside it.
    fs::remove_file(bench.timeline_dir("a", TIMELINE).join(layer_name(2))).unwrap();
    let json = bench.run("restore --json --workdir {a} --remote {url}").expect(1).json();
    assert_eq!(json["conflicts"][0]["name"], layer_name(1).as_str());
    assert_eq!(json["conflicts"][0]["local"]["raw_bytes"], 4000);
    assert_eq!((json["layers"].as_u64(), json["metadata_held_back"].as_bool()), (Some(1), Some(true)));
    let a = files(&bench.timeline_dir("a", TIMELINE));
    assert!(a[&layer_name(1)] == noise(99, 4000) && a[&layer_name(2)] == noise(2, 7000));
    assert!(a["metadata"] == metadata(0x0200_0000));
}

fn a_mirror_removes_what_is_gone_but_not_more_than_half_without_force(kind: Kind) {
    let bench = Bench::with_layers(kind, 10);
    bench.backup();
    let dir = bench.timeline_dir("a", TIMELINE);
    for number in 0..3 {
        fs::remove_file(dir.join(layer_name(number))).unwrap();
    }
    // Without --mirror nothing goes.
    assert_eq!(bench.backup()["removed"], 0);
    let json = bench.run("backup --json --mirror --workdir {a} --remote {url}").expect(0).json();
    assert_eq!(json["removed"], 3);
    for number in 3..8 {
        fs::remove_file(dir.join(layer_name(number))).unwrap();
    }
    let before = bench.stored();
    bench.run("backup --mirror --workdir {a} --remote {url}").expect(1).says(&["5 of 7 layers", "--force"]);
    assert_same(&before, &bench.stored());
    let json = bench.run("backup --json --mirror --force --workdir {a} --remote {url}").expect(0).json();
    assert_eq!(json["removed"], 5);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

fn a_file_that_grows_while_it_is_read_is_stored_whole_or_not_at_all(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    let growing = bench.timeline_dir("a", TIMELINE).join(layer_name(50));
    put(&growing, &noise(50, 4 << 20));
    let stop = AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&growing).unwrap();
            // At most 64 MB, whatever happens to the backup.
            for _ in 0..16_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all(&[b'+'; 4096]).unwrap();
            }
        });
        let run = bench.run("backup --json --workdir {a} --remote {url}");
        stop.store(true, Ordering::Relaxed);
        run
    });
    let json = run.json();
    bench.run("verify --deep --remote {url}").expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    let restored = files(&bench.timeline_dir("b", TIMELINE));
    let grown = fs::read(&growing).unwrap();
    match run.code {
        // Some state of it: a beginning of what it has become.
        Some(0) => assert!(grown.starts_with(&restored[&layer_name(50)])),
        code => {
            assert_eq!(code, Some(1), "{json}");
            assert_eq!(json["failed"][0]["name"], layer_name(50).as_str());
            assert!(json["failed"][0]["error"].as_str().unwrap().contains("changed while it was read"));
            assert_eq!(json["metadata_held_back"], true);
            assert!(!restored.contains_key(&layer_name(50)) && !restored.contains_key("metadata"));
        }
    }
    for number in 0..3 {
        assert!(restored[&layer_name(number)] == noise(number, 1000 + 3000 * number as usize));
    }
}

fn two_backups_at_once_lose_nothing(kind: Kind) {
    let bench = Bench::with_layers(kind, 30);
    bench.run("backup --workdir {a} --remote {url}").expect(0);
    for round in 0..5 {
        bench.put_layer(100 + round, 20_000);
        let start = || {
            let mut command = bench.command("backup --json --workdir {a} --remote {url}");
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let both = [start(), start()].map(|child| Run::from(child.wait_with_output().unwrap()));
        let codes = both.each_ref().map(|run| run.code.unwrap());
        assert!(codes.contains(&0) && codes.iter().all(|code| [0, 5].contains(code)), "{both:?}");
    }
    bench.run("verify --deep --remote {url}").expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}
