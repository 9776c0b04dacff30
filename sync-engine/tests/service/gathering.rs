//! When records are made, and of what.

use layer_archive::Lsn;
use storage_api::simulated::check_seeds;
use sync_engine::service::{Change, HandOverError, Phase};

use crate::support::{Bench, MINUTE, SECOND, contents, metadata, name};

#[test]
fn a_checkpoint_of_three_small_layers_on_an_open_timeline_is_one_request() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let before = process.counts();
        let ticket = handle.hand_over(bench.checkpoint(&["a", "b", "c"], 2)).unwrap();
        handle.wait(ticket).await.unwrap();
        let counts = process.counts().since(&before);
        assert_eq!((counts.requests(), counts.put), (1, 1));
        assert_eq!(bench.stored().await, ["a", "b", "c", "first"]);
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(2)));
    });
}

#[test]
fn what_comes_within_the_linger_shares_a_record_and_who_waits_does_not_linger() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let clock = bench.clock();
        let start = clock.now();
        handle.hand_over(bench.checkpoint(&["a"], 2)).unwrap();
        clock.sleep(SECOND / 2).await;
        let last = handle.hand_over(bench.checkpoint(&["b"], 3)).unwrap();
        clock.sleep(SECOND / 4).await;
        assert!(!handle.is_settled(last), "it lingers");
        assert_eq!(handle.status().lag.layers, 2);
        clock.sleep(SECOND / 2).await;
        assert!(handle.is_settled(last));
        assert_eq!(process.committed(), [(2, 1, Some(1)), (3, 2, Some(3))]);
        assert!(clock.now().duration_since(start).unwrap() < 2 * SECOND);

        let start = clock.now();
        let last = handle.hand_over(bench.checkpoint(&["c"], 4)).unwrap();
        handle.wait(last).await.unwrap();
        assert!(clock.now().duration_since(start).unwrap() < SECOND / 10);
    });
}

#[test]
fn what_fills_a_bundle_does_not_linger() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let layers = vec![bench.layer("large", &contents(1, 40_000))];
        let last = handle.hand_over(Change { layers, ..Change::default() }).unwrap();
        bench.clock().sleep(SECOND / 10).await;
        assert!(handle.is_settled(last));
    });
}

#[test]
fn new_metadata_without_new_layers_is_stored() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        handle.hand_over(Change { metadata: metadata("alone", 7), ..Change::default() }).unwrap();
        handle.wait_durable(Lsn(7)).await.unwrap();
        let state = bench.view().await.state;
        assert_eq!(
            (&*state.metadata().unwrap().bytes, state.disk_consistent_lsn()),
            (&b"alone"[..], Some(Lsn(7)))
        );
        // The same once more is nothing to write.
        let before = process.counts();
        let again = Change { metadata: metadata("alone", 7), ..Change::default() };
        handle.wait(handle.hand_over(again).unwrap()).await.unwrap();
        assert_eq!(process.counts().since(&before).requests(), 0);
    });
}

#[test]
fn two_checkpoints_at_the_same_lsn_are_two() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let first = handle.hand_over(bench.checkpoint(&["a"], 5)).unwrap();
        let compacted = Change {
            layers: vec![bench.layer("b", b"compacted")],
            metadata: metadata("after compaction", 5),
            ..Change::default()
        };
        let second = handle.hand_over(compacted).unwrap();
        assert_ne!(first, second);
        handle.flush().await.unwrap();
        let state = bench.view().await.state;
        assert_eq!(bench.stored().await, ["a", "b", "first"]);
        assert_eq!(state.metadata().unwrap().bytes, b"after compaction");
    });
}

#[test]
fn an_older_checkpoint_is_refused_and_older_than_the_store_is_held_back() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        handle.hand_over(Change { metadata: metadata("new", 9), ..Change::default() }).unwrap();
        let older = handle.hand_over(Change { metadata: metadata("old", 8), ..Change::default() });
        assert!(matches!(older, Err(HandOverError::MetadataOlder(Lsn(9)))));
        let report = handle.detach(MINUTE).await;
        assert!(report.is_complete() && report.released, "{report:?}");

        // An old copy of the timeline: its layers are stored, its metadata turns nothing back.
        let handle = process.attach();
        let stale = handle.hand_over(bench.checkpoint(&["stale"], 3)).unwrap();
        bench.clock().sleep(MINUTE).await;
        let status = handle.status();
        assert!(!handle.is_settled(stale) && matches!(status.phase, Phase::Idle));
        assert!(status.held_back.unwrap().to_string().contains("LSN 0/3"), "said why");
        let state = bench.view().await.state;
        assert!(state.layers().contains_key(&name("stale")));
        assert_eq!(state.disk_consistent_lsn(), Some(Lsn(9)));
        // Newer metadata takes its place.
        handle.hand_over(Change { metadata: metadata("newest", 10), ..Change::default() }).unwrap();
        handle.flush().await.unwrap();
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(10)));
        assert!(handle.status().held_back.is_none());
    });
}
