//! Three states of a real pageserver's work directory, taken one after the other, mirrored into one store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer_archive::Seq;
use pageserver_glue::{Past, WorkDir, restore_past, restore_timeline};
use sync_engine::{At, Mirror, Store, TimelineView};

use crate::bench::Bench;
use crate::support::{TimelinePath, assert_same, layer_files, timelines};

/// The environment variable that names the directory which holds `1/workdir`, `2/workdir` and `3/workdir`.
const STATES: &str = "LAYERPACK_REAL_STATES";

#[tokio::test(flavor = "multi_thread")]
async fn real_states_are_mirrored_and_come_back() {
    let Some(states) = std::env::var_os(STATES).map(PathBuf::from) else {
        return xtask::skip("real_states", &format!("{STATES} names no states of a work directory"));
    };
    let bench = Bench::default();
    println!("state  files  raw bytes  added  removed  bundles  sent bytes  objects  stored bytes  up  down");
    let mut points = Vec::new();
    for state in ["1", "2", "3"] {
        let workdir = states.join(state).join("workdir");
        let expected = layer_files(&workdir);
        let (reports, up) = bench.backup(&workdir, Mirror::Guarded).await;
        let seqs = reports.iter().map(|report| report.seq);
        points.push((
            workdir.clone(),
            timelines(&WorkDir::open(&workdir).unwrap()).into_iter().zip(seqs).collect(),
        ));
        let back = tempfile::tempdir().unwrap();
        let (_, down) = bench.restore(back.path()).await;
        assert_same(&expected, &layer_files(back.path()));
        let objects = bench.objects();
        let sum = |of: fn(&sync_engine::BackupReport) -> usize| reports.iter().map(of).sum::<usize>();
        println!(
            "{state:>5}  {:>5}  {:>9}  {:>5}  {:>7}  {:>7}  {:>10}  {:>7}  {:>12}  {:>2}  {:>4}",
            expected.len(),
            expected.values().map(Vec::len).sum::<usize>(),
            sum(|report| report.layers),
            sum(|report| report.removed),
            sum(|report| report.bundles),
            up.bytes_sent,
            objects.len(),
            objects.values().sum::<u64>(),
            up.requests(),
            down.requests(),
        );
        // One object per layer: each file a PUT and a GET, and an index beside them.
        let one_each = expected.len() as u64;
        assert!(up.requests() < one_each / 10, "{up:?} for {one_each} files");
        assert!(down.requests() < one_each / 10, "{down:?} for {one_each} files");
    }
    // Each of them is still there, as a point in time.
    let store = bench.open().await.store;
    for (workdir, points) in points {
        let back = tempfile::tempdir().unwrap();
        restore_points(&store, back.path(), points).await;
        assert_same(&layer_files(&workdir), &layer_files(back.path()));
    }
}

/// Restores timelines as they were after these records, and requires that each is complete.
async fn restore_points(store: &Store, workdir: &Path, points: Vec<(TimelinePath, Seq)>) {
    let workdir = WorkDir::create(workdir).unwrap();
    for ((tenant, timeline), seq) in points {
        let view = TimelineView::open_at(store, (&tenant, &timeline), At::Seq(seq), None).await.unwrap();
        let progress = Arc::default();
        let restored = match view.is_newest() {
            true => restore_timeline(store, &workdir, &view, &progress).await.unwrap(),
            false => restore_past(store, &workdir, &view, Past::Whole, &progress).await.unwrap(),
        };
        assert!(restored.report.is_complete() && restored.seq == seq, "{:?}", restored.report);
    }
}
