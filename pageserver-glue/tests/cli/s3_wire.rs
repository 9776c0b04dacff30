//! The program on a wire that is counted and breaks: what it says it cost is what it cost, and what breaks is made good.

use std::collections::BTreeMap;

use layerpack_tests::{Fault, RequestKind, Rule, WireProxy, WireRequest};
use serde_json::Value;
use xtask::image::{ImageOptions, Installation, Source, create};

use crate::support::{Bench, Kind};

const BACKUP: &str = "backup --json --workdir {a} --remote {url}";
const RESTORE: &str = "restore --json --workdir {b} --remote {url}";

/// A bench on the remote under test, with a proxy before it.
fn bench(name: &str, layers: u32) -> Option<(Bench, WireProxy)> {
    let mut bench = Bench::with_layers(Kind::S3, layers);
    let proxy = bench.proxied();
    if proxy.is_none() {
        xtask::skip(name, "the remote's URL has no endpoint to put a proxy before");
    }
    Some((bench, proxy?))
}

/// Checks that `json` says what went over the wire since `before` requests had.
#[track_caller]
fn assert_counted(json: &Value, proxy: &WireProxy, before: usize) -> Vec<WireRequest> {
    let log = proxy.log().split_off(before);
    let mut counts: BTreeMap<String, u64> =
        ["put", "get", "list", "head", "delete", "copy", "multipart"].map(|kind| (kind.into(), 0)).into();
    for request in &log {
        *counts.entry(format!("{:?}", request.kind).to_lowercase()).or_default() += 1;
    }
    assert_eq!(json["requests"], serde_json::json!(counts));
    assert_eq!(json["bytes_sent"], log.iter().map(|request| request.bytes_up).sum::<u64>());
    let read = log.iter().filter(|request| request.kind == RequestKind::Get && request.status < Some(300));
    assert_eq!(json["bytes_received"], read.map(|request| request.bytes_down).sum::<u64>());
    log
}

#[test]
fn the_image_costs_what_the_program_says() {
    let Some((bench, proxy)) = bench("s3_image", 0) else { return };
    std::fs::remove_dir_all(bench.path("a")).unwrap();
    let source = match Installation::find() {
        Ok(_) => Source::Postgres { pgbench_scale: None },
        Err(_) => Source::Synthetic,
    };
    let image = create(&ImageOptions { source, seed: 3, progress: |_| {} }, &bench.path("a")).unwrap();
    let new = assert_counted(&bench.run(BACKUP).expect(0).json(), &proxy, 0);
    assert!(new.len() <= 9, "{new:?}");

    let before = proxy.log().len();
    let again = assert_counted(&bench.run(BACKUP).expect(0).json(), &proxy, before);
    assert!(again.len() <= 3 && again.iter().all(|request| request.kind != RequestKind::Put), "{again:?}");

    let before = proxy.log().len();
    let restored = assert_counted(&bench.run(RESTORE).expect(0).json(), &proxy, before);
    assert!(restored.len() <= 4, "{restored:?}");
    bench.assert_restored();

    let before = proxy.log().len();
    let stored = bench.run("verify --stored --json --remote {url}").expect(0).json();
    assert_counted(&stored, &proxy, before);
    println!(
        "{}: {} layers, {} bytes; requests {} backup, {} again, {} restore",
        image.source,
        image.layers,
        image.bytes,
        new.len(),
        again.len(),
        restored.len()
    );
}

#[test]
fn a_put_whose_answer_is_cut_off_is_stored_once() {
    let Some((bench, proxy)) = bench("s3_lost_answers", 20) else { return };
    for place in
        ["layerpack.probe", "layerpack.store", "/log/0000000000000001", "/log/0000000000000002", "/manifest/"]
    {
        proxy.inject(Rule::new(Fault::ResetAfter).of(RequestKind::Put).containing(place));
    }
    let json = bench.run(BACKUP).expect(0).json();
    assert_eq!(proxy.broken().len(), 5);
    assert_eq!(
        (&json["store_created"], &json["layers"], &json["seq"]),
        (&true.into(), &20.into(), &2.into())
    );
    assert_counted(&json, &proxy, 0);
    // The marker, the probe, the claim, the record, the manifest.
    assert_eq!(bench.stored().len(), 5);
    bench.run("verify --deep --remote {url}").expect(0);
    bench.run(RESTORE).expect(0);
    bench.assert_restored();
}

#[test]
fn a_get_that_is_reset_in_the_middle_is_resumed() {
    let Some((bench, proxy)) = bench("s3_resets", 3) else { return };
    bench.put_layer(30, 4 << 20);
    bench.run(BACKUP).expect(0);
    let record = bench.largest("log/").1.len() as u64;
    let before = proxy.log().len();
    let cut =
        Rule::new(Fault::ResetInBody(record / 2)).of(RequestKind::Get).containing("/log/0000000000000002");
    proxy.inject(cut);
    let json = bench.run(RESTORE).expect(0).json();
    bench.assert_restored();
    assert_eq!(proxy.broken().len(), 1);
    let log = proxy.log().split_off(before);
    let reads: Vec<_> = log.iter().filter(|request| request.path.contains("/log/0000000000000002")).collect();
    assert_eq!(reads.len(), 2, "{reads:?}");
    let (first, second) = (reads[0].bytes_down, reads[1].bytes_down);
    assert!(first > 0 && first + second < record + record / 2, "restarted: {first} and {second} of {record}");
    assert_eq!(
        json["requests"]["get"],
        log.iter().filter(|request| request.kind == RequestKind::Get).count()
    );
}

#[test]
fn a_byte_that_is_corrupted_on_the_way_down_is_read_again() {
    let Some((bench, proxy)) = bench("s3_corruption", 40) else { return };
    bench.run(BACKUP).expect(0);
    for place in ["/log/0000000000000002", "/manifest/"] {
        proxy.inject(Rule::new(Fault::FlipInAnswer(900)).of(RequestKind::Get).containing(place));
        bench.run(RESTORE).expect(0);
        bench.assert_restored();
        std::fs::remove_dir_all(bench.path("b")).unwrap();
    }
    assert_eq!(proxy.broken().len(), 2);
    // On the way up the store refuses it, and it is sent again.
    bench.put_layer(99, 10_000);
    proxy.inject(Rule::new(Fault::FlipInRequest(900)).of(RequestKind::Put).containing("/log/"));
    bench.run(BACKUP).expect(0);
    assert_eq!(proxy.broken().len(), 3);
    bench.run("verify --deep --remote {url}").expect(0);
}
