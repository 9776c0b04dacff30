//! Points in time, copies, deletion and repair, with the real program.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bench, Kind, TENANT, TIMELINE, assert_same, files, layer_name, metadata, noise, put};

on_both! {
    a_point_is_restored_and_its_directory_is_not_backed_up,
    a_point_that_is_not_there_is_an_error_that_names_those_that_are,
    a_copy_moves_no_layer_through_the_process_and_goes_on_by_itself,
    a_deleted_timeline_is_gone_and_its_id_with_it,
    a_work_directory_is_compared_with_the_store,
}

const ONE: &str = "--remote {url} --tenant {tenant} --timeline {timeline}";
const OTHER_TENANT: &str = "000000000000000000000000000000cc";
const OTHER: &str = "000000000000000000000000000000dd";

/// Two backups: of five layers, and of what they have become. Returns the files of the first.
fn two_points(bench: &Bench) -> std::collections::BTreeMap<String, Vec<u8>> {
    bench.backup();
    let first = files(&bench.path("a").join("tenants"));
    fs::remove_file(bench.timeline_dir("a", TIMELINE).join(layer_name(1))).unwrap();
    bench.put_layer(7, 4000);
    bench.put("a", "metadata", &metadata(0x0250_0000));
    bench.run("backup --mirror --workdir {a} --remote {url}").expect(0);
    first
}

fn a_point_is_restored_and_its_directory_is_not_backed_up(kind: Kind) {
    let bench = Bench::with_layers(kind, 5);
    let first = two_points(&bench);
    let status = bench.run(&format!("status --json {ONE}")).expect(0).json();
    let points = status["timelines"][0]["points"]["list"].as_array().unwrap();
    assert_eq!(status["timelines"][0]["points"]["count"], points.len());
    let lsns: Vec<&Value> = points.iter().map(|point| &point["lsn"]).collect();
    assert_eq!(lsns, [&json!("0/1500708"), &json!("0/1500708"), &json!("0/2500000")]);
    let time = points[1]["time"].as_str().unwrap();
    let text = String::from_utf8(bench.run(&format!("status {ONE}")).expect(0).stdout).unwrap();
    assert!(text.contains("3 points in time, records 2 ("), "{text}");
    assert!(text.contains(&format!("seq:3 of {time}, LSN 0/1500708")), "{text}");
    for (number, at) in
        ["seq:2", "lsn:0/1500708", "lsn:0/24FFFFF", &format!("time:{time}")].into_iter().enumerate()
    {
        let restore = format!("restore --json --workdir {{b{number}}} {ONE} --at {at}");
        let json = bench.run(&restore).expect(0).json();
        assert_eq!(json["layers"], 5, "{at}: {json}");
        let dir = bench.path(&format!("b{number}"));
        assert_same(&first, &files(&dir.join("tenants")));
        // Once more is no error: it may have been interrupted.
        assert_eq!(bench.run(&restore).expect(0).json()["present"], 5);
        let before = bench.run(&format!("status --json {ONE}")).expect(0).json();
        for backup in ["backup", "backup --mirror", "backup --dry-run"] {
            let refused = bench.run(&format!("{backup} --workdir {{b{number}}} --remote {{url}}")).expect(1);
            refused.says(&["older point in time", "copy --at"]);
        }
        let after = bench.run(&format!("status --json {ONE}")).expect(0).json();
        assert_eq!(before["timelines"][0]["seq"], after["timelines"][0]["seq"]);
    }
    // Neither the newest nor another point goes over it, nor a point over a directory in use.
    bench.run(&format!("restore --workdir {{b0}} {ONE}")).expect(1).says(&["older point in time"]);
    bench.run(&format!("restore --workdir {{b0}} {ONE} --at seq:3")).expect(1).says(&["empty directory"]);
    bench.run(&format!("restore --workdir {{a}} {ONE} --at seq:2")).expect(1).says(&["empty directory"]);
    bench.run("backup --workdir {a} --remote {url}").expect(0);
    // Emptied, it takes the newest state, and is a work directory again.
    fs::remove_dir_all(bench.path("b0").join("tenants")).unwrap();
    bench.run(&format!("restore --workdir {{b0}} {ONE}")).expect(0);
    bench.run("backup --workdir {b0} --remote {url}").expect(0);
    // The newest point is restored as without --at.
    bench.run(&format!("restore --workdir {{b}} {ONE} --at lsn:FF/0")).expect(0);
    bench.assert_restored();
    bench.run("backup --workdir {b} --remote {url}").expect(0);
    // An older one is continued as a new timeline.
    let to = format!("{TENANT}/{OTHER}");
    bench.run(&format!("copy --remote {{url}} --from {TENANT}/{TIMELINE} --to {to} --at seq:2")).expect(0);
    let select = format!("--tenant {TENANT} --timeline {OTHER}");
    bench.run(&format!("restore --workdir {{c}} --remote {{url}} {select}")).expect(0);
    let renamed = first.iter().map(|(path, bytes)| (path.replace(TIMELINE, OTHER), bytes.clone())).collect();
    assert_same(
        &renamed,
        &files(&bench.path("c"))
            .into_iter()
            .map(|(path, bytes)| (path.replacen("tenants/", "", 1), bytes))
            .collect(),
    );
    put(&bench.timeline_dir("c", OTHER).join(layer_name(9)), &noise(9, 3000));
    let json = bench.run("backup --json --workdir {c} --remote {url}").expect(0).json();
    assert_eq!(json["layers"], 1);
}

fn a_point_that_is_not_there_is_an_error_that_names_those_that_are(kind: Kind) {
    let bench = Bench::with_layers(kind, 2);
    two_points(&bench);
    for at in ["seq:77", "lsn:0/1", "time:2001-01-01T00:00:00Z"] {
        let restore = bench.run(&format!("restore --workdir {{b}} {ONE} --at {at}")).expect(4);
        restore.says(&["record 2 of 20", "record 4 of 20", "at LSN 0/2500000"]);
    }
    // What was only claimed by then is no empty timeline.
    for command in ["restore --workdir {b}", "restore --dry-run --workdir {b}"] {
        bench.run(&format!("{command} {ONE} --at seq:1")).expect(4).says(&["as of record 1", "later"]);
    }
    for (at, utc) in [
        ("2001-01-01T00:00:00+02:30", "2000-12-31T21:30:00"),
        ("2001-01-01T00:00:00-05:00", "2001-01-01T05:00:00"),
    ] {
        bench.run(&format!("restore --workdir {{b}} {ONE} --at time:{at}")).expect(4).says(&[utc]);
    }
    for at in [
        "77",
        "time:2001-01-01T00:00:00+99:00",
        "time:1970-01-01T00:00:00+01:00",
        "seq:x",
        "lsn:12",
        "time:yesterday",
        "day:1",
    ] {
        bench.run(&format!("restore --workdir {{b}} {ONE} --at {at}")).expect(2);
    }
    bench.run("restore --workdir {b} --remote {url} --at seq:2").expect(2).says(&["--timeline"]);
    assert!(!bench.timeline_dir("b", TIMELINE).try_exists().unwrap());
}

#[test]
fn a_directory_is_marked_before_anything_else_is_in_it() {
    let bench = Bench::with_layers(Kind::Directory, 5);
    two_points(&bench);
    fs::remove_file(bench.objects().join("log/0000000000000002.tar.zst")).unwrap();
    bench.run(&format!("restore --workdir {{b}} {ONE} --at seq:3")).expect(3);
    bench.put("b", layer_name(1), &noise(1, 4000));
    bench.run("backup --workdir {b} --remote {url}").expect(1).says(&["older point in time"]);
}

fn a_copy_moves_no_layer_through_the_process_and_goes_on_by_itself(kind: Kind) {
    let bench = Bench::with_layers(kind, 30);
    bench.backup();
    let copy = format!("copy --json --remote {{url}} --from {TENANT}/{TIMELINE} --to {OTHER_TENANT}/{OTHER}");
    let json = bench.run(&copy).expect(0).json();
    let stored = json["stored_bytes"].as_u64().unwrap();
    assert_eq!((&json["layers"], &json["requests"]["copy"]), (&json!(30), &json["bundles"]));
    assert!(json["bytes_received"].as_u64().unwrap() < stored / 10, "{json}");
    assert!(json["bytes_sent"].as_u64().unwrap() < stored / 10, "{json}");
    bench.run(&copy.replace("--json ", "")).expect(1).says(&["exists already"]);
    // The source lets go of everything, and is collected.
    let names: Vec<String> = (0..30).map(layer_name).collect();
    put(&bench.path("names"), names.join("\n").as_bytes());
    bench.run(&format!("rm {ONE} --from-file {{names}}")).expect(0);
    bench.run("gc --remote {url} --execute --retention 0s").expect(0);
    bench.run("verify --deep --remote {url}").expect(0);
    let select = format!("--tenant {OTHER_TENANT} --timeline {OTHER}");
    bench.run(&format!("restore --workdir {{b}} --remote {{url}} {select}")).expect(0);
    let copied = files(&bench.path("b").join("tenants").join(OTHER_TENANT).join("timelines").join(OTHER));
    assert_same(&files(&bench.timeline_dir("a", TIMELINE)), &copied);
}

#[test]
fn a_copy_to_another_store_needs_that_store_to_be_there() {
    let bench = Bench::with_layers(Kind::Directory, 3);
    bench.backup();
    let second = format!("file://{}", bench.path("second").display());
    let copy = format!(
        "copy --json --remote {{url}} --from {TENANT}/{TIMELINE} --to {TENANT}/{OTHER} --to-remote {second}"
    );
    bench.run(&copy).expect(6);
    bench.run(&format!("backup --workdir {{a}} --remote {second}")).expect(0);
    let json = bench.run(&copy).expect(0).json();
    assert_eq!((&json["layers"], &json["requests"]["copy"]), (&json!(3), &json!(0)));
    bench.run(&format!("verify --deep --remote {second}")).expect(0);
    bench
        .run(&format!("restore --workdir {{b}} --remote {second} --tenant {TENANT} --timeline {OTHER}"))
        .expect(0);
    assert_same(&files(&bench.timeline_dir("a", TIMELINE)), &files(&bench.timeline_dir("b", OTHER)));
}

fn a_deleted_timeline_is_gone_and_its_id_with_it(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    bench.backup();
    let dry = bench.run(&format!("delete {ONE}")).expect(0);
    assert!(String::from_utf8(dry.stdout).unwrap().contains("--execute"));
    bench.run(&format!("ls {ONE}")).expect(0);
    let json = bench.run(&format!("delete --json {ONE} --execute")).expect(0).json();
    assert_eq!((&json["layers"], &json["deleted_before"]), (&json!(3), &json!(false)));
    bench.run(&format!("ls {ONE}")).expect(4).says(&["was deleted"]);
    bench.run("backup --workdir {a} --remote {url}").expect(4).says(&["never used again"]);
    let copy = format!("copy --remote {{url}} --from {TENANT}/{TIMELINE} --to {TENANT}/{TIMELINE}");
    bench.run(&format!("{copy} --at seq:2")).expect(4).says(&["never used again"]);
    // Who deleted the wrong one finds it until it is collected.
    bench.run(&format!("restore --workdir {{b}} {ONE} --at seq:2")).expect(0);
    assert_same(&files(&bench.path("a").join("tenants")), &files(&bench.path("b").join("tenants")));
    bench.run("gc --remote {url} --execute --retention 0s").expect(0);
    bench.run(&format!("restore --workdir {{c}} {ONE} --at seq:2")).expect(4);
    let json = bench.run(&format!("status --json {ONE}")).expect(0).json();
    let timeline = &json["timelines"][0];
    assert_eq!(timeline["deleted"], true);
    assert!(timeline["stored_bytes"].as_u64().unwrap() < 4000, "{json}");
    bench.run("verify --deep --remote {url}").expect(0);
    assert_eq!(bench.run(&format!("delete --json {ONE} --execute")).expect(0).json()["deleted_before"], true);
    bench.run(&format!("delete --remote {{url}} --tenant {{tenant}} --timeline {OTHER}")).expect(4);
}

fn a_work_directory_is_compared_with_the_store(kind: Kind) {
    let bench = Bench::with_layers(kind, 4);
    bench.backup();
    let verify = "verify --json --workdir {a} --remote {url}";
    let compared = |json: &Value| json["timelines"][0]["workdir"].clone();
    assert_eq!(compared(&bench.run(verify).expect(0).json())["equal"], 4);
    bench.put_layer(8, 100);
    fs::remove_file(bench.timeline_dir("a", TIMELINE).join(layer_name(0))).unwrap();
    let json = compared(&bench.run(verify).expect(0).json());
    assert_eq!(
        (&json["not_in_store"], &json["not_in_workdir"]),
        (&json!([layer_name(8)]), &json!([layer_name(0)]))
    );
    let mut flipped = noise(2, 7000);
    flipped[3000] ^= 4;
    bench.put("a", layer_name(2), &flipped);
    let run = bench.run("verify --workdir {a} --remote {url}").expect(3);
    run.says(&[&layer_name(2), "other contents"]);
    assert_eq!(compared(&bench.run(verify).expect(3).json())["different"], json!([layer_name(2)]));
}

#[test]
fn damage_is_repaired_from_the_work_directory() {
    let bench = Bench::with_layers(Kind::Directory, 6);
    bench.backup();
    let record = bench.objects().join("log/0000000000000002.tar.zst");
    let mut bytes = fs::read(&record).unwrap();
    bytes[700] ^= 1;
    put(&record, &bytes);
    bench.run("verify --deep --remote {url}").expect(3).says(&["0000000000000002.tar.zst"]);
    // One layer is only in the store, and in the damaged frame.
    let gone = bench.timeline_dir("a", TIMELINE).join(layer_name(0));
    let contents = fs::read(&gone).unwrap();
    fs::remove_file(&gone).unwrap();
    let repair = "verify --deep --repair --json --workdir {a} --remote {url}";
    let json = bench.run(repair).expect(3).json();
    let repaired = &json["timelines"][0]["repair"];
    assert_eq!(
        (&repaired["wrote"], repaired["lost"][0]["name"].as_str()),
        (&json!(true), Some(&*layer_name(0))),
        "{json}"
    );
    assert_eq!(repaired["mended"].as_array().unwrap().len(), 5);
    // What is left restores, and is not said to be whole.
    let json = bench.run("restore --json --workdir {c} --remote {url}").expect(3).json();
    assert_eq!((&json["layers"], json["failed"].as_array().unwrap().len()), (&json!(5), 1), "{json}");
    // The layer turns up. All of them are stored anew; the points before that are lost with the old object.
    put(&gone, &contents);
    let json = bench.run(repair).expect(3).json();
    assert_eq!(json["timelines"][0]["repair"]["mended"], json!([layer_name(0)]));
    let [finding] = &json["findings"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!((&finding["layers"], &finding["points"]), (&json!([]), &json!({ "oldest": 2, "newest": 6 })));
    let run = bench.run("verify --deep --remote {url}").expect(3);
    assert!(String::from_utf8_lossy(&run.stdout).contains("older points in time DAMAGED"), "{run:?}");
    run.says(&["as of records 2 to 6", "--at", "`layerpack gc`"]);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    assert_same(&files(&bench.path("a").join("tenants")), &files(&bench.path("b").join("tenants")));
    bench.run("gc --remote {url} --execute --retention 0s").expect(0);
    let json = bench.run("verify --deep --repair --json --remote {url}").expect(0).json();
    assert_eq!(json["timelines"][0]["repair"]["wrote"], false);
}

#[test]
fn what_only_older_points_need_is_damage_and_what_nobody_needs_is_a_note() {
    let flip = |path: &std::path::Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        put(path, &bytes);
    };
    // A claim below the manifest that is not the newest.
    let bench = Bench::with_layers(Kind::Directory, 5);
    two_points(&bench);
    flip(&bench.objects().join("log/0000000000000001.tar.zst"));
    let run = bench.run("verify --deep --remote {url}").expect(0);
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(
        said.contains("fine;") && said.contains("1 damaged object that no point in time needs"),
        "{said}"
    );
    assert!(said.contains("log/0000000000000001.tar.zst"), "{said}");
    let json = bench.run("verify --deep --json --remote {url}").expect(0).json();
    let notes = json["timelines"][0]["unneeded"].as_array().unwrap();
    assert_eq!((&json["unneeded"], &json["findings"], notes.len()), (&json!(1), &json!([]), 1));
    assert!(notes[0]["object"].as_str().unwrap().ends_with("log/0000000000000001.tar.zst"));
    // The newest one is what fences whoever slept through it, and can be claimed anew.
    let newest = bench.objects().join("log/0000000000000003.tar.zst");
    let whole = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    bench.run("verify --remote {url}").expect(3).says(&["log/0000000000000003.tar.zst"]);
    put(&newest, &whole);
    // A layer that was removed since. Of the newest state nothing is lost, and there is nothing to be stored anew.
    let bench = Bench::with_layers(Kind::Directory, 0);
    put(&bench.path("config"), b"bundle_bytes_target = 65536\n");
    (0..2).for_each(|number| bench.put_layer(number, 900_000));
    bench.run("backup --workdir {a} --remote {url} --config {config}").expect(0);
    bench.run(&format!("rm {ONE} {}", layer_name(0))).expect(0);
    let payloads = fs::read_dir(bench.objects().join("payload")).unwrap();
    let lost = payloads.map(|entry| entry.unwrap().path()).min().unwrap();
    fs::remove_file(&lost).unwrap();
    let run = bench.run("verify --remote {url}").expect(3);
    run.says(&[&lost.file_name().unwrap().to_string_lossy(), "points in time", "--at"]);
    bench.run(&format!("restore --workdir {{b}} {ONE}")).expect(0);
}
