//! What is pure of the benchmark, and one run of it.

use super::arguments::latency;
use super::report::{Spread, spread};
use super::*;

#[test]
fn the_median_is_in_the_middle() {
    assert_eq!(spread(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
    assert_eq!(spread(vec![4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    assert_eq!(spread(Vec::new()), None);
}

#[test]
fn latencies_have_a_unit() {
    assert_eq!(latency("20ms"), Ok(Duration::from_millis(20)));
    assert_eq!(latency("0"), Ok(Duration::ZERO));
    for wrong in ["20", "ms", "-1s", "1h", "61000000ms"] {
        assert!(latency(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_restore_the_image_and_their_requests_are_counted() {
    let image = tempfile::tempdir().unwrap();
    let options = ImageOptions { source: Source::Synthetic, seed: 3, progress: |_| {} };
    let made = image::create(&options, &image.path().join("workdir")).unwrap();
    let options = BenchOptions {
        image: Some(image.path().join("workdir")),
        on: On::InProcess,
        latencies: vec![Duration::ZERO],
        runs: 1,
    };
    let report = run(&Repository::here(), &options, |_| {}).await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    let comparison = &json["comparisons"][0];
    // The metadata file is an object too.
    let files = made.layers as u64 + 1;
    for what in ["backup", "restore"] {
        assert_eq!(comparison[what]["one_object_per_layer"]["requests"], files, "{what}");
    }
    assert_eq!(comparison["backup"]["packed"]["requests"], 9);
    assert_eq!(comparison["restore"]["packed"]["requests"], 4);
    assert_eq!(json["image"]["files"], files);
    assert!(report.to_string().contains("times as fast"));
}

#[test]
fn another_byte_or_another_file_is_not_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let timeline = "tenants/1f8ae1ef8989d5601e73fd13ae3dcd26/timelines/88a4e0f55d55008138697fa10e7d97d3";
    let put = |workdir: &str, name: &str, byte: u8| {
        let timeline = dir.path().join(workdir).join(timeline);
        std::fs::create_dir_all(&timeline).unwrap();
        std::io::Write::write_all(&mut std::fs::File::create(timeline.join(name)).unwrap(), &[byte; 9])
            .unwrap();
    };
    for workdir in ["one", "two"] {
        put(workdir, "layer-1", 1);
        put(workdir, "layer-2", 2);
    }
    let files = ways::files(&dir.path().join("one")).unwrap();
    assert_eq!(files.len(), 2);
    let two = dir.path().join("two");
    ways::require_same(&files, &two).unwrap();
    put("two", "layer-2", 3);
    assert!(ways::require_same(&files, &two).unwrap_err().to_string().contains("layer-2"));
    put("two", "layer-2", 2);
    put("two", "layer-3", 3);
    assert!(ways::require_same(&files, &two).is_err());
}
