//! `rm` and `gc`, with the real program.

use std::fs;

use layer_archive::WriterInfo;
use pageserver_glue::{Absent, RemoteUrl};
use storage_api::SystemClock;
use sync_engine::{Store, TimelineView, TimelineWriter, WriterOptions};

use crate::support::{Bench, Kind, TENANT, TIMELINE, layer_name, put, requests};

on_both! {
    what_is_removed_is_gone_from_the_store_when_retention_lets_go_of_it,
    who_removes_names_layers_that_are_there_or_removes_nothing,
}

const ONE: &str = "--remote {url} --tenant {tenant} --timeline {timeline}";

/// Fifty layers, backed up, of which forty are removed, in the store and the work directory.
fn mostly_removed(kind: Kind) -> Bench {
    let bench = Bench::with_layers(kind, 0);
    (0..50).for_each(|number| bench.put_layer(number, 6000 + 100 * number as usize));
    bench.backup();
    let gone: Vec<String> = (0..40).map(layer_name).collect();
    put(&bench.path("names"), gone.join("\n").as_bytes());
    let json = bench.run(&format!("rm --json {ONE} --from-file {{names}}")).expect(0).json();
    assert_eq!((&json["removed"], &json["seq"]), (&40.into(), &4.into()));
    for name in gone {
        fs::remove_file(bench.timeline_dir("a", TIMELINE).join(name)).unwrap();
    }
    bench
}

fn what_is_removed_is_gone_from_the_store_when_retention_lets_go_of_it(kind: Kind) {
    let bench = mostly_removed(kind);
    let before = bench.stored();
    // A dry run says what would be, and does nothing.
    let plan = bench.run("gc --remote {url} --retention 0s").expect(0);
    let said = String::from_utf8(plan.stdout).unwrap();
    for part in ["1 bundle", "only the newest point is left", "--execute does it"] {
        assert!(said.contains(part), "{said}");
    }
    let json = bench.run("gc --json --remote {url}").expect(0).json();
    assert_eq!((&json["executed"], &json["retention_seconds"]), (&false.into(), &604_800.into()));
    assert_eq!(json["timelines"][0]["plan"]["bytes"], 0);
    assert_eq!(json["timelines"][0]["plan"]["points"]["count"], 4);
    assert_eq!(bench.stored(), before);
    // A week is not over yet, whatever is repacked.
    let stored = |json: &serde_json::Value| json["timelines"][0]["stored_bytes"].as_u64().unwrap();
    let full = stored(&bench.run("status --json --remote {url}").expect(0).json());
    let json = bench.run("gc --json --remote {url} --execute").expect(0).json();
    let result = &json["timelines"][0]["result"];
    assert_eq!((&result["repacked_layers"], &result["deleted"]), (&10.into(), &0.into()));
    let status = bench.run("status --json --remote {url}").expect(0).json();
    assert!(stored(&status) > full);
    assert!(status["timelines"][0]["space"]["held_bytes"].as_u64().unwrap() > full / 2);
    assert!(status["timelines"][0]["points"]["oldest_time"].is_string());
    // Without retention it is.
    let json = bench.run("gc --json --remote {url} --execute --retention 0s").expect(0).json();
    assert!(requests(&json) <= 30, "{json}");
    assert!(json["timelines"][0]["result"]["deleted_bytes"].as_u64().unwrap() > full / 2);
    let status = bench.run("status --json --remote {url}").expect(0).json();
    assert!(stored(&status) * 2 < full, "{status}");
    assert!(status["timelines"][0]["live_ratio"].as_f64().unwrap() > 0.9, "{status}");
    assert_eq!(status["timelines"][0]["released"], true);
    bench.run("verify --deep --remote {url}").expect(0);
    bench.run("restore --workdir {b} --remote {url}").expect(0);
    bench.assert_restored();
}

fn who_removes_names_layers_that_are_there_or_removes_nothing(kind: Kind) {
    let bench = Bench::with_layers(kind, 3);
    bench.backup();
    bench.run(&format!("rm {ONE} {} no-such-layer", layer_name(0))).expect(4).says(&["no-such-layer"]);
    bench.run(&format!("rm {ONE}")).expect(2);
    bench.run(&format!("rm {ONE} --from-file {{nothing}}")).expect(1).says(&["nothing"]);
    put(&bench.path("names"), b"../escape\n");
    bench.run(&format!("rm {ONE} --from-file {{names}}")).expect(2).says(&["../escape"]);
    let json = bench.run(&format!("ls --json {ONE}")).expect(0).json();
    assert_eq!(json["layers"].as_array().unwrap().len(), 3);
    bench.run(&format!("rm {ONE} {}", layer_name(0))).expect(0);
    bench.run(&format!("cat {ONE} {}", layer_name(0))).expect(4);
    // The configuration says how long the past is kept, and the command line wins.
    put(&bench.path("config"), b"retention = \"0s\"\n");
    let json = bench.run("gc --json --remote {url} --config {config}").expect(0).json();
    assert_eq!(json["retention_seconds"], 0);
    let json = bench.run("gc --json --remote {url} --config {config} --retention 2h").expect(0).json();
    assert_eq!(json["retention_seconds"], 7200);
    put(&bench.path("config"), b"retention = \"for ever\"\n");
    bench.run("gc --remote {url} --config {config}").expect(2).says(&["for ever"]);
}

#[test]
fn a_timeline_that_somebody_holds_is_neither_removed_from_nor_repacked() {
    let bench = mostly_removed(Kind::Directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url: RemoteUrl = bench.url().parse().unwrap();
        let store = Store::open(url.connect(Absent::Refuse).await.unwrap(), url.as_str()).await.unwrap();
        let id = (TENANT.parse().unwrap(), TIMELINE.parse().unwrap());
        let view = TimelineView::open(&store, &id.0, &id.1, None).await.unwrap();
        let writer = WriterInfo { host: "elsewhere".into(), pid: 77, program: "pageserver 9".into() };
        let options = WriterOptions { writer, generation: None, clock: std::sync::Arc::new(SystemClock) };
        TimelineWriter::claim(&store, view, options).await.unwrap();
    });
    let named = ["pageserver 9", "pid 77", "elsewhere", "--take-over"];
    bench
        .run(&format!("rm {ONE} {}", layer_name(45)))
        .expect(5)
        .says(&named)
        .says(&["which wrote last at 20"]);
    bench.run("gc --remote {url} --execute --retention 0s").expect(0).says(&named);
    let json = bench.run("gc --json --remote {url} --execute --retention 0s").expect(0).json();
    assert_eq!(json["timelines"][0]["result"]["repacked_layers"], 0);
    bench.run(&format!("rm {ONE} {} --take-over", layer_name(45))).expect(0);
    let json = bench.run("gc --json --remote {url} --execute --retention 0s").expect(0).json();
    assert_eq!(json["timelines"][0]["result"]["repacked_layers"], 9);
}
