//! Damage, missing objects, full disks and kills, with the real program: clear ends, nothing lost, nothing half-written.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Bench, Kind, Run, TIMELINE, files, layer_name, noise, put};
use rustix::process::{Pid, Signal, kill_process};

on_both! {
    a_damaged_frame_costs_its_layers_and_no_other,
    a_missing_bundle_is_damage_that_names_it,
    a_damaged_manifest_is_replaced_by_the_log_and_a_damaged_log_is_reported,
    every_command_reports_the_damage_that_it_works_around,
    a_killed_backup_is_finished_by_the_next_one,
    a_killed_restore_leaves_whole_layers_and_is_finished_by_the_next_one,
    signals_end_it_with_their_codes_and_it_can_be_run_again,
    a_disk_that_fills_up_during_a_restore_leaves_nothing_half_written,
}

/// A work directory of many bundles: a megabyte a layer, and a configuration with small bundles.
fn large(kind: Kind) -> Bench {
    let bench = Bench::with_layers(kind, 2);
    for number in 10..70 {
        bench.put_layer(number, 1 << 20);
    }
    put(&bench.path("config"), b"bundle_bytes_target = 1048576\n");
    bench
}

fn start(bench: &Bench, arguments: &str) -> Child {
    bench.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits, at most a minute, until `seen` or the child has ended.
fn wait_until(child: &mut Child, mut seen: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if seen() || child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nothing happened");
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Changes a bit of an object.
fn flip(bench: &Bench, key: &str, at: usize) {
    let mut bytes = bench.stored()[key].clone();
    bytes[at] ^= 0x10;
    bench.put_object(key, &bytes);
}

/// The last part of an object's key.
fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap()
}

/// Whatever has a layer's name holds that layer whole, and metadata is there only beside all layers.
fn assert_nothing_half_written(bench: &Bench, workdir: &str) {
    let source = files(&bench.timeline_dir("a", TIMELINE));
    let there = files(&bench.timeline_dir(workdir, TIMELINE));
    for (name, bytes) in there.iter().filter(|(name, _)| !name.ends_with(".temp")) {
        assert!(source.get(name) == Some(bytes), "{name} is half-written");
    }
    assert!(!there.contains_key("metadata") || source.keys().all(|name| there.contains_key(name)));
}

fn a_damaged_frame_costs_its_layers_and_no_other(kind: Kind) {
    let bench = large(kind);
    bench.run("backup --config {config} --workdir {a} --remote {url}").expect(0);
    let (damaged, bytes) = bench.largest("payload/");
    // In the middle are slices of one large layer.
    let middle = bytes.len() / 2;
    flip(&bench, &damaged, middle);
    let name = name_of(&damaged);
    let run = bench.run("restore --workdir {b} --remote {url}").expect(3);
    let run = run.says(&["error: could not restore", name, "is damaged", "verify --deep", "metadata"]);
    assert!(run.stderr.contains("1 layer ("), "{}", run.stderr);
    assert_nothing_half_written(&bench, "b");
    assert_eq!(count(&bench.timeline_dir("b", TIMELINE)), 61, "the other layers");

    bench.run("verify --remote {url}").expect(0);
    let json = bench.run("verify --json --deep --remote {url}").expect(3).json();
    assert!(json["findings"][0]["object"].as_str().unwrap().ends_with(name), "{json}");
    assert_eq!(json["findings"][0]["layers"].as_array().unwrap().len(), 1, "{json}");

    flip(&bench, &damaged, middle);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
    bench.run("verify --deep --remote {url}").expect(0);
}

fn a_missing_bundle_is_damage_that_names_it(kind: Kind) {
    let bench = large(kind);
    bench.run("backup --config {config} --workdir {a} --remote {url}").expect(0);
    let (gone, _) = bench.largest("payload/");
    bench.delete_object(&gone);
    bench.run("restore --workdir {b} --remote {url}").expect(3).says(&[
        name_of(&gone),
        "not found",
        "another copy",
    ]);
    assert_nothing_half_written(&bench, "b");
    assert!(count(&bench.timeline_dir("b", TIMELINE)) > 50);
    let json = bench.run("verify --json --remote {url}").expect(3).json();
    assert_eq!(json["findings"][0]["problem"], "it is missing");
}

fn a_damaged_manifest_is_replaced_by_the_log_and_a_damaged_log_is_reported(kind: Kind) {
    let bench = Bench::with_layers(kind, 10);
    bench.backup();
    let (manifest, _) = bench.largest("manifest/");
    flip(&bench, &manifest, 60);
    bench.run("restore --workdir {b} --remote {url}").expect(3).says(&[
        "error:",
        "manifest",
        "damage in the store",
    ]);
    bench.assert_restored();
    bench.run("verify --remote {url}").expect(3).says(&[name_of(&manifest)]);
    let (record, bytes) = bench.largest("log/");
    flip(&bench, &record, bytes.len() - 3);
    let error = bench.run("restore --workdir {c} --remote {url}").expect(3);
    error.says(&[name_of(&record), "damaged"]);
    bench.delete_object(&bench.key("log/0000000000000001.tar.zst"));
    bench.run("restore --workdir {c} --remote {url}").expect(3).says(&["record 1 is missing"]);
}

fn every_command_reports_the_damage_that_it_works_around(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    bench.backup();
    let (manifest, _) = bench.largest("manifest/");
    flip(&bench, &manifest, 60);
    let key = manifest;
    let one = "--json --remote {url} --tenant {tenant} --timeline {timeline}";
    let layer = layer_name(1);
    let json_of = |command: &str| bench.run(command).expect(3).json();
    let status = json_of("status --json --remote {url}");
    let ls = json_of(&format!("ls {one}"));
    let fetch = json_of(&format!("fetch {one} --workdir {{fetched}} {layer}"));
    let restore = json_of("restore --json --workdir {b} --remote {url}");
    let cat = bench.run(&format!("cat {one} {layer}")).expect(3);
    assert!(cat.stdout == noise(1, 4000));
    let cat = serde_json::from_str(&cat.stderr).unwrap();
    bench.run(&format!("ls {}", one.replace("--json ", ""))).expect(3).says(&["error:", &key]);
    // Nothing to write, and then something: that comes with a new manifest.
    let idle = json_of("backup --json --workdir {a} --remote {url}");
    bench.put_layer(8, 100);
    let backup = json_of("backup --json --workdir {a} --remote {url}");
    assert_eq!(
        (&status["timelines"][0]["layers"], &fetch["layers"], &backup["layers"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert_eq!(ls["layers"].as_array().unwrap().len(), 3);
    for json in [&status, &ls, &fetch, &restore, &cat, &idle, &backup] {
        let damage = json["damage"].as_array().unwrap();
        assert_eq!(damage.len(), 1, "{json}");
        assert_eq!((&damage[0]["object"], &json["exit_code"]), (&key.as_str().into(), &3.into()), "{json}");
        assert!(damage[0]["problem"].is_string() && damage[0]["layers"].is_array(), "{json}");
    }
}

/// Sets a file's time back by two hours.
fn age(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - Duration::from_secs(7200)).unwrap();
}

#[test]
fn a_backup_sweeps_what_killed_writers_left_in_the_store() {
    let bench = Bench::with_layers(Kind::Directory, 1);
    bench.backup();
    let old = bench.objects().join("log").join(".layerpack-stage-1f-0");
    let young = bench.objects().join(".layerpack-stage-1f-1");
    for path in [&old, &young] {
        put(path, b"half a bundle");
    }
    age(&old);
    bench.backup();
    assert!(!old.try_exists().unwrap() && young.try_exists().unwrap());
}

#[test]
fn fetch_sweeps_what_killed_runs_left_in_the_directory() {
    let bench = Bench::with_layers(Kind::Directory, 1);
    bench.backup();
    let [dead, alive] = [".layerpack-00000000000000ab.temp", ".layerpack-00000000000000cd.temp"];
    for name in [dead, alive] {
        bench.put("b", name, b"half a layer");
    }
    // Who writes one holds its lock.
    let written = fs::File::open(bench.timeline_dir("b", TIMELINE).join(alive)).unwrap();
    written.lock().unwrap();
    let one = "--remote {url} --tenant {tenant} --timeline {timeline}";
    bench.run(&format!("fetch --workdir {{b}} {one} {}", layer_name(0))).expect(0);
    let there = files(&bench.timeline_dir("b", TIMELINE));
    assert_eq!(there.keys().collect::<Vec<_>>(), [alive, &layer_name(0)]);
}

fn a_killed_backup_is_finished_by_the_next_one(kind: Kind) {
    let bench = large(kind);
    let mut child = start(&bench, "backup --config {config} --workdir {a} --remote {url}");
    wait_until(&mut child, || bench.count("payload/") >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // A reader sees a timeline without the layers that were not committed.
    bench.run("verify --deep --remote {url}").expect(0);
    let early = bench.run("restore --json --workdir {early} --remote {url}").expect(0).json();
    assert!([0, 62].contains(&early["layers"].as_u64().unwrap()), "{early}");
    bench.run("backup --config {config} --workdir {a} --remote {url}").expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
    bench.run("verify --deep --remote {url}").expect(0);
}

fn a_killed_restore_leaves_whole_layers_and_is_finished_by_the_next_one(kind: Kind) {
    let bench = large(kind);
    bench.run("backup --config {config} --workdir {a} --remote {url}").expect(0);
    let dir = bench.timeline_dir("b", TIMELINE);
    let mut child = start(&bench, "restore --workdir {b} --remote {url}");
    wait_until(&mut child, || count(&dir) >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_nothing_half_written(&bench, "b");
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

fn signals_end_it_with_their_codes_and_it_can_be_run_again(kind: Kind) {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let bench = large(kind);
        let mut child = start(&bench, "backup --config {config} --workdir {a} --remote {url}");
        wait_until(&mut child, || bench.count("payload/") >= 1);
        kill_process(Pid::from_child(&child), signal).unwrap();
        Run::from(child.wait_with_output().unwrap()).expect(code).says(&["run it again"]);
        bench.run("backup --config {config} --workdir {a} --remote {url}").expect(0);
        bench.run("restore --workdir {b} --remote {url}").expect(0);
        bench.assert_restored();
    }
}

/// The program in a shell that lets no file grow beyond `blocks`, each 512 or 1024 bytes.
fn run_limited(bench: &Bench, blocks: u32, arguments: &str) -> Run {
    let mut command = Command::new("sh");
    bench.give_environment(&mut command);
    command.arg("-c").arg(format!("ulimit -f {blocks}; exec \"$@\"")).arg("sh");
    command.arg(env!("CARGO_BIN_EXE_layerpack")).args(bench.expand(arguments));
    command.stdin(Stdio::null()).output().unwrap().into()
}

fn a_disk_that_fills_up_during_a_restore_leaves_nothing_half_written(kind: Kind) {
    let bench = Bench::with_layers(kind, 20);
    bench.put_layer(30, 2 << 20);
    bench.put_layer(31, 3 << 20);
    bench.backup();
    let run = run_limited(&bench, 1000, "restore --workdir {b} --remote {url}").expect(1);
    // One cause, one line.
    let both = format!("could not restore 2 layers ({}, {}):", layer_name(30), layer_name(31));
    let run = run.says(&[&both, "metadata", "run it again"]);
    assert_eq!(run.stderr.matches("could not restore").count(), 1, "{}", run.stderr);
    assert_nothing_half_written(&bench, "b");
    let there = files(&bench.timeline_dir("b", TIMELINE));
    assert_eq!(there.len(), 20, "the small layers, and no temporary file");
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

#[test]
fn a_restore_fetches_nothing_more_for_a_disk_that_is_full() {
    // A file system of 8 MiB that only this shell sees, and what the program leaves in it.
    const IN_A_SMALL_FILE_SYSTEM: &str = r#"
        mount -t tmpfs -o size=8m none "$1" || exit 99
        saved=$2; b=$1; shift 2
        "$@"; ended=$?
        cp -a "$b" "$saved"
        exit $ended"#;
    let bench = large(Kind::Directory);
    bench.run("backup --config {config} --workdir {a} --remote {url}").expect(0);
    fs::create_dir(bench.path("small")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", IN_A_SMALL_FILE_SYSTEM, "sh"]);
    command.args([bench.path("small"), bench.path("b")]).arg(env!("CARGO_BIN_EXE_layerpack"));
    command.args(bench.expand("restore --json --workdir {small} --remote {url}"));
    let run: Run = match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.code() == Some(99) || output.stderr.starts_with(b"unshare:") => {
            return xtask::skip("a_full_file_system", "no file system can be mounted here");
        }
        Ok(output) => output.into(),
        Err(error) => return xtask::skip("a_full_file_system", &format!("unshare: {error}")),
    };
    let json = run.expect(1).json();
    let (layers, failed) = (json["layers"].as_u64().unwrap(), json["failed"].as_array().unwrap());
    assert_eq!((layers + failed.len() as u64, &json["metadata_held_back"]), (62, &true.into()));
    assert!(failed.iter().all(|layer| layer["error"].as_str().unwrap().contains("No space left")));
    // Seven layers fit, and a few ranges were on their way when the eighth did not; all are 60 ranges.
    let gets = json["requests"]["get"].as_u64().unwrap();
    assert!(layers < 10 && gets < 20, "{layers} layers, {gets} GETs");
    assert_nothing_half_written(&bench, "b");
    assert_eq!(count(&bench.timeline_dir("b", TIMELINE)) as u64, layers, "a temporary file stayed");
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

#[test]
fn a_disk_that_fills_up_during_a_backup_leaves_nothing_half_written() {
    let bench = Bench::with_layers(Kind::Directory, 2);
    bench.put_layer(30, 4 << 20);
    run_limited(&bench, 1000, "backup --workdir {a} --remote {url}").expect(6).says(&["error:", "tar.zst"]);
    bench.run("verify --deep --remote {url}").expect(0);
    bench.backup();
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
    assert!(files(&bench.timeline_dir("b", TIMELINE))[&layer_name(30)] == noise(30, 4 << 20));
}
