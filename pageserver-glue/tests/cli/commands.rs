//! The commands that read, wrong calls and wrong remotes, with the real program.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use crate::support::{Bench, Kind, TENANT, TIMELINE, assert_same, files, layer_name, noise, put};

on_both! {
    a_store_of_a_newer_format_is_left_alone,
    what_is_not_in_the_store_ends_with_4,
    a_store_without_timelines_has_nothing_to_restore_or_verify,
    layers_are_listed_fetched_and_written_to_stdout,
    status_tells_the_store_from_the_work_directory,
    an_object_is_inspected_from_a_file_and_from_a_store,
    a_reader_that_goes_away_is_no_panic,
    a_configuration_gives_defaults_and_nothing_unknown,
    torn_metadata_does_not_replace_what_the_store_has,
}

const ONE: &str = "--remote {url} --tenant {tenant} --timeline {timeline}";

#[test]
fn wrong_remotes_end_with_6_and_say_what_to_do() {
    let bench = Bench::with_layers(Kind::Directory, 1);
    for command in ["restore --workdir {b}", "status", "verify"] {
        bench.run(&format!("{command} --remote {{url}}")).expect(6).says(&["store", "check"]);
    }
    assert!(!bench.path("store").try_exists().unwrap() && !bench.path("b").try_exists().unwrap());
    // A directory that is no store.
    fs::create_dir(bench.path("store")).unwrap();
    bench
        .run("restore --workdir {b} --remote {url}")
        .expect(6)
        .says(&["no Layerpack store", "check the URL"]);
    assert!(!bench.path("b").try_exists().unwrap());
    // A file.
    fs::remove_dir(bench.path("store")).unwrap();
    put(&bench.path("store"), b"a file");
    bench.run("backup --workdir {a} --remote {url}").expect(6).says(&["cannot use file://"]);
    for wrong in ["ftp://host/x", "dir", "file://dir", "file:s", "file:tmp/x"] {
        bench.run(&format!("status --remote {wrong}")).expect(2).says(&["file:///dir"]);
    }
}

fn a_store_of_a_newer_format_is_left_alone(kind: Kind) {
    let bench = Bench::with_layers(kind, 1);
    bench.backup();
    let marker = r#"{"magic":"layerpack store","version":9,"min_reader":9,"new":true}"#;
    bench.put_object("layerpack.store", marker.as_bytes());
    let before = bench.stored();
    for command in ["backup --workdir {a}", "restore --workdir {b}", "status", "verify"] {
        bench.run(&format!("{command} --remote {{url}}")).expect(6).says(&["version 9", "upgrade"]);
    }
    assert_same(&before, &bench.stored());
    bench.put_object("layerpack.store", b"{\"magic\":");
    bench.run("status --remote {url}").expect(3).says(&["layerpack.store", "damaged"]);
}

#[test]
fn wrong_calls_end_with_2() {
    let bench = Bench::new(Kind::Directory);
    for wrong in [
        "",
        "nonsense",
        "backup --workdir {a}",
        "backup --remote {url}",
        "restore --workdir {b} --remote {url} --timeline {timeline}",
        "restore --workdir {b} --remote {url} --tenant ../etc",
        "backup --workdir {a} --remote {url} --force",
        "status --remote {url} --tenant 1F8AE1EF8989D5601E73FD13AE3DCD26",
        "inspect ftp://host/x",
    ] {
        bench.run(wrong).expect(2);
    }
    let json = bench.run("status --json --remote nonsense").expect(2).json();
    assert_eq!(json["exit_code"], 2);
    assert!(json["error"].as_str().unwrap().contains("nonsense"), "{json}");
    let json = bench.run("ls --json --remote {url}").expect(2).json();
    assert!(json["error"].as_str().unwrap().contains("--tenant <TENANT>"), "{json}");
    let cat = bench.run("cat --json --remote {url} ../x").expect(2);
    assert!(cat.stdout.is_empty() && cat.stderr.contains("\"error\":"), "{cat:?}");
    bench.run("--help").expect(0);
    bench.run("--version").expect(0);
    assert!(!bench.path("store").try_exists().unwrap());
    // What had been asked for by then is counted.
    bench.put_layer(0, 100);
    bench.backup();
    let unknown = "restore --json --workdir {b} --remote {url} --tenant 1f8ae1ef8989d5601e73fd13ae3dcd27";
    let json = bench.run(unknown).expect(4).json();
    assert_eq!((&json["requests"]["get"], &json["requests"]["list"]), (&1.into(), &1.into()), "{json}");
    assert!(json["seconds"].as_f64().is_some() && json["bytes_received"].as_u64() > Some(0), "{json}");
}

#[test]
fn names_that_try_to_escape_are_refused_before_anything_is_read() {
    let bench = Bench::with_layers(Kind::Directory, 2);
    bench.backup();
    let long = "x".repeat(300);
    let names: [&[u8]; 8] = [b"../x", b"/x", b"a/b", b"a\\b", b".", b"..", b"\xff\xfe", long.as_bytes()];
    for name in names {
        let name = [OsStr::from_bytes(name)];
        bench.run_with(&format!("fetch --workdir {{b}} {ONE}"), &name).expect(2);
        bench.run_with(&format!("cat {ONE}"), &name).expect(2);
    }
    assert!(!bench.path("b").try_exists().unwrap());
    bench.run("backup --workdir {nowhere} --remote {url}").expect(1).says(&["nowhere", "tenants"]);
}

fn what_is_not_in_the_store_ends_with_4(kind: Kind) {
    let bench = Bench::with_layers(kind, 2);
    bench.backup();
    let stranger = "00000000000000000000000000000000";
    for (arguments, named) in [
        (format!("restore --workdir {{b}} --remote {{url}} --tenant {stranger}"), stranger),
        (
            format!("restore --workdir {{b}} --remote {{url}} --tenant {{tenant}} --timeline {stranger}"),
            stranger,
        ),
        (format!("status --remote {{url}} --tenant {stranger}"), stranger),
        (format!("ls --remote {{url}} --tenant {{tenant}} --timeline {stranger}"), stranger),
        (format!("cat {ONE} no-such-layer"), "no-such-layer"),
        (format!("fetch --workdir {{b}} {ONE} {} no-such-layer", layer_name(0)), "no-such-layer"),
    ] {
        bench.run(&arguments).expect(4).says(&["error:", named]);
    }
    assert!(!bench.path("b").try_exists().unwrap());
    let json = bench.run(&format!("cat --json {ONE} no-such-layer")).expect(4);
    assert!(json.stdout.is_empty() && json.stderr.contains("\"error\":"), "{json:?}");
}

fn a_store_without_timelines_has_nothing_to_restore_or_verify(kind: Kind) {
    let bench = Bench::new(kind);
    assert_eq!(bench.backup()["store_created"], true);
    for command in ["verify", "verify --deep", "restore --workdir {b}"] {
        bench
            .run(&format!("{command} --remote {{url}}"))
            .expect(4)
            .says(&["holds no timelines", "check the URL"]);
    }
    assert!(!bench.path("b").try_exists().unwrap());
    let status = bench.run("status --remote {url}").expect(0);
    assert!(String::from_utf8(status.stdout).unwrap().contains("no timelines"));
}

fn layers_are_listed_fetched_and_written_to_stdout(kind: Kind) {
    let bench = Bench::with_layers(kind, 4);
    bench.put_layer(9, 3 << 20);
    bench.backup();
    let listed = bench.run(&format!("ls --json {ONE}")).expect(0).json();
    let names: Vec<_> =
        listed["layers"].as_array().unwrap().iter().map(|layer| layer["name"].clone()).collect();
    assert_eq!(names, [0, 1, 2, 3, 9].map(layer_name));
    let text = bench.run(&format!("ls {ONE}")).expect(0).stdout;
    assert_eq!(String::from_utf8(text).unwrap().lines().count(), 6);

    let fetch = format!("fetch --json --workdir {{b}} {ONE} {0} {1} {0}", layer_name(3), layer_name(9));
    let fetched = bench.run(&fetch).expect(0).json();
    assert_eq!((fetched["layers"].as_u64(), fetched["present"].as_u64()), (Some(2), Some(0)));
    // The marker, the manifest, and one ranged read a layer.
    assert_eq!((&fetched["requests"]["get"], &fetched["requests"]["list"]), (&4.into(), &1.into()));
    let there = files(&bench.timeline_dir("b", TIMELINE));
    assert!(there.len() == 2 && there[&layer_name(9)] == noise(9, 3 << 20));
    assert_eq!(bench.run(&fetch).expect(0).json()["present"], 2);
    bench.put("b", layer_name(3), b"mine");
    assert_eq!(bench.run(&fetch).expect(1).json()["conflicts"][0]["name"], layer_name(3).as_str());
    assert_eq!(files(&bench.timeline_dir("b", TIMELINE))[&layer_name(3)], b"mine");

    let whole = noise(9, 3 << 20);
    for (options, range) in [
        ("", 0..3 << 20),
        ("--offset 1000000 --length 8192", 1_000_000..1_008_192),
        ("--offset 3145727", 3_145_727..3 << 20),
        ("--offset 9999999", 0..0),
    ] {
        let run = bench.run(&format!("cat {ONE} {} {options}", layer_name(9))).expect(0);
        assert!(run.stdout == whole[range], "{options}");
    }
    let json = bench.run(&format!("cat --json {ONE} {} --length 5", layer_name(9))).expect(0);
    assert_eq!(json.stdout, whole[..5]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.stderr).unwrap()["length"], 5);
}

fn status_tells_the_store_from_the_work_directory(kind: Kind) {
    let bench = Bench::with_layers(kind, 4);
    bench.backup();
    fs::remove_file(bench.timeline_dir("a", TIMELINE).join(layer_name(0))).unwrap();
    bench.put_layer(8, 10);
    bench.put_layer(9, 10);
    let json = bench.run("status --json --remote {url} --workdir {a}").expect(0).json();
    let timeline = &json["timelines"][0];
    assert_eq!((&timeline["tenant"], &timeline["timeline"]), (&TENANT.into(), &TIMELINE.into()));
    assert_eq!(
        (&timeline["layers"], &timeline["seq"], &timeline["manifest_seq"]),
        (&4.into(), &2.into(), &2.into())
    );
    assert_eq!((&timeline["objects"], &timeline["released"]), (&3.into(), &true.into()));
    assert_eq!(timeline["disk_consistent_lsn"], "0/1500708");
    let of_timeline =
        |(key, bytes): (&String, &Vec<u8>)| key.starts_with("tenants/").then_some(bytes.len() as u64);
    let stored: u64 = bench.stored().iter().filter_map(of_timeline).sum();
    assert_eq!(timeline["stored_bytes"], stored);
    assert_eq!(timeline["local"]["not_in_store"], serde_json::json!([layer_name(8), layer_name(9)]));
    assert_eq!(timeline["local"]["not_in_workdir"], serde_json::json!([layer_name(0)]));
    let text = String::from_utf8(bench.run("status --remote {url} --workdir {a}").expect(0).stdout).unwrap();
    for part in [TIMELINE, "record 2", "released", "2 not in the store"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

fn an_object_is_inspected_from_a_file_and_from_a_store(kind: Kind) {
    let bench = Bench::with_layers(kind, 4);
    bench.backup();
    let (key, mut bytes) = bench.largest("log/");
    let record = bench.path("record");
    put(&record, &bytes);
    let by_file = bench.run(&format!("inspect --json --check {}", record.display())).expect(0).json();
    let by_url = bench.run(&format!("inspect --json --check {}", bench.object_url(&key))).expect(0).json();
    for json in [&by_file, &by_url] {
        assert_eq!((&json["kind"], &json["problems"]), (&"bundle".into(), &serde_json::json!([])));
        assert_eq!(json["layers"].as_array().unwrap().len(), 4);
    }
    let (manifest, _) = bench.largest("manifest/");
    let json = bench.run(&format!("inspect --json {}", bench.object_url(&manifest))).expect(0).json();
    assert_eq!((&json["kind"], &json["seq"]), (&"manifest".into(), &2.into()));
    let svg = bench.path("picture.svg");
    bench.run(&format!("inspect {} --svg {}", record.display(), svg.display())).expect(0);
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg"));

    bytes[100] ^= 1;
    put(&record, &bytes);
    bench.run(&format!("inspect --check {}", record.display())).expect(3).says(&["error:", "checksum"]);
    put(&record, b"short");
    bench.run(&format!("inspect {}", record.display())).expect(3).says(&["damaged"]);
    bench.run("inspect {nothing}").expect(1).says(&["nothing"]);
}

fn a_reader_that_goes_away_is_no_panic(kind: Kind) {
    let bench = Bench::with_layers(kind, 60);
    bench.backup();
    for command in
        [format!("ls {ONE}"), format!("cat {ONE} {}", layer_name(59)), "status --remote {url}".into()]
    {
        let mut child =
            bench.command(&command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let run = crate::support::Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}

fn a_configuration_gives_defaults_and_nothing_unknown(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    let config = bench.path("config");
    let text = format!(
        "remote = {:?}\nworkdir = {:?}\nbundle_bytes_target = 65536\n",
        bench.url(),
        bench.path("a").display().to_string()
    );
    put(&config, text.as_bytes());
    let json = bench.run("backup --json --config {config}").expect(0).json();
    assert_eq!(json["layers"], 3);
    bench.run("restore --config {config} --workdir {b}").expect(0);
    bench.assert_restored();
    for (wrong, named) in [("remot = 1", "remot"), ("bundle_bytes_target = 1\n", "bundle_bytes_target")] {
        put(&config, wrong.as_bytes());
        bench.run("backup --config {config} --workdir {a} --remote {url}").expect(2).says(&[named]);
    }
    put(&config, b"create_store = false\n");
    let elsewhere =
        format!("backup --config {{config}} --workdir {{a}} --remote file://{}", bench.path("new").display());
    bench.run(&elsewhere).expect(6);
    assert!(!bench.path("new").try_exists().unwrap());
}

#[test]
fn a_store_among_the_layers_it_is_a_copy_of_is_refused() {
    let bench = Bench::with_layers(Kind::Directory, 2);
    let before = files(&bench.path("a"));
    std::os::unix::fs::symlink(bench.path("a"), bench.path("link")).unwrap();
    for inside in ["a", "a/tenants", "a/tenants/x/y", "link", "link/tenants/z"] {
        let url = format!("file://{}", bench.path(inside).display());
        let run = bench.run(&format!("backup --workdir {{a}} --remote {url}"));
        run.expect(2).says(&["inside the work directory", "keep the store elsewhere"]);
    }
    assert_same(&before, &files(&bench.path("a")));
}

#[test]
fn a_link_in_place_of_a_timeline_makes_the_backup_incomplete() {
    let bench = Bench::with_layers(Kind::Directory, 2);
    bench.backup();
    let timeline = bench.timeline_dir("a", TIMELINE);
    fs::rename(&timeline, bench.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bench.path("elsewhere"), &timeline).unwrap();
    bench.run("backup --workdir {a} --remote {url}").expect(1).says(&[TIMELINE, "symbolic link"]);
}

fn torn_metadata_does_not_replace_what_the_store_has(kind: Kind) {
    let bench = Bench::with_layers(kind, 2);
    bench.backup();
    let whole = files(&bench.path("a"));
    for torn in [&b""[..], &[7; 300]] {
        bench.put("a", "metadata", torn);
        bench.run("backup --workdir {a} --remote {url}").expect(1).says(&["metadata was held back"]);
    }
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    assert_same(&whole, &files(&bench.path("b")));
}
