//! 80 % of 1,000 small layers removed: the space comes back, in few requests, and not before its time.

use std::collections::BTreeSet;

use layer_archive::{RemovalReason, Seq};
use sync_engine::gc::{Checkpoint, Points};
use sync_engine::{Mirror, TakeOver, remove_layers};

use crate::bench::{Bench, DAY, NONE, keeping, live_ratio};
use crate::support::{WorkDir, assert_restores, backup, contents, files, name, open, writer_options};

/// A thousand layers, backed up, and 800 of them removed by hand. Returns the requests that the removal took.
async fn removed(bench: &mut Bench, work: &WorkDir) -> u64 {
    for number in 0..1000u64 {
        // As long as the names of a pageserver's layers.
        let layer = format!("{number:036X}-{:036X}__00000000014FED58-v1-00000001", number + 1);
        work.put(&layer, &contents(number, 4096 + usize::try_from(number).unwrap() % 9000));
    }
    backup(&bench.store, work, Mirror::Off).await.unwrap();
    bench.layers = files(work.path());
    let gone: BTreeSet<_> =
        bench.layers.keys().filter(|layer| !layer.contains("7-")).take(800).cloned().collect();
    for layer in &gone {
        work.remove(layer);
        bench.layers.remove(layer);
    }
    let before = bench.counts().requests();
    let gone = gone.iter().map(|layer| name(layer)).collect();
    let view = open(&bench.store).await;
    let options = writer_options("rm");
    remove_layers(&bench.store, view, &gone, RemovalReason::Collected, TakeOver::No, options).await.unwrap();
    bench.counts().requests() - before
}

#[tokio::test]
async fn without_retention_the_space_is_back_within_thirty_requests() {
    let mut bench = Bench::new().await;
    let work = WorkDir::new();
    let removal = removed(&mut bench, &work).await;
    let full = bench.stored_bytes().await;
    assert!(live_ratio(&open(&bench.store).await) < 0.3);
    let policy = NONE;
    let plan = bench.plan(&policy).await;
    assert_eq!(plan.points.unwrap(), Points { oldest: Seq(1), newest: Seq(4) });
    assert_eq!(plan.points_left.unwrap(), Points { oldest: Seq(4), newest: Seq(4) });
    let before = bench.counts();
    let report = bench.gc(&policy, TakeOver::No).await;
    let requests = bench.counts().requests() - before.requests();
    assert!(report.collected.failed.is_empty() && report.damage.is_empty(), "{report:?}");
    assert_eq!((report.repacked.layers, report.repacked.bundles), (200, 1));
    // And the two that open the store, in a program of their own.
    assert!(removal + requests + 2 <= 30, "{removal} and {requests} requests");
    let view = open(&bench.store).await;
    assert!(live_ratio(&view) > 0.9, "{}", live_ratio(&view));
    assert!(view.state.is_released());
    let stored = bench.stored_bytes().await;
    assert!(stored * 4 < full, "{stored} of {full}");
    // One object holds it all; the claims, two manifests and a record are the rest.
    let listing = bench.listing().await;
    assert_eq!((listing.payloads.len(), listing.manifests.len(), listing.records.len()), (1, 2, 4));
    assert_restores(&bench.store, &bench.layers).await;
    bench.assert_whole().await;
    // Again there is nothing to do.
    let plan = bench.plan(&policy).await;
    assert!(plan.is_empty(), "{plan:?}");
}

#[tokio::test]
async fn with_retention_it_is_back_when_the_clock_has_passed_it_and_not_before() {
    let mut bench = Bench::new().await;
    let work = WorkDir::new();
    removed(&mut bench, &work).await;
    let full = bench.stored_bytes().await;
    let policy = keeping(DAY * 7);
    let report = bench.gc(&policy, TakeOver::No).await;
    assert!(
        report.checkpoint && report.repacked.layers == 200 && report.collected.objects == 0,
        "{report:?}"
    );
    for _ in 0..6 {
        bench.clock.advance(DAY);
        let report = bench.gc(&policy, TakeOver::No).await;
        assert_eq!((report.collected.objects, report.checkpoint, report.repacked.layers), (0, false, 0));
    }
    // A second less than the retention, by the store's clock.
    bench.clock.advance(DAY - std::time::Duration::from_secs(1));
    assert!(bench.plan(&policy).await.is_empty());
    assert!(bench.stored_bytes().await > full);
    bench.clock.advance(std::time::Duration::from_secs(1));
    let plan = bench.plan(&policy).await;
    assert_eq!(plan.checkpoint, Checkpoint::No);
    let report = bench.gc(&policy, TakeOver::No).await;
    assert!(report.collected.objects > 0);
    assert!(bench.stored_bytes().await * 4 < full);
    assert!(live_ratio(&open(&bench.store).await) > 0.9);
    bench.assert_whole().await;
}
