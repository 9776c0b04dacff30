//! Detaching and shutting down.

use layer_archive::Lsn;
use storage_api::ErrorKind;
use storage_api::simulated::{Fault, Rule, check_seeds};
use sync_engine::service::{Attach, AttachError, HandOverError, Phase, Stopped};

use crate::support::{Bench, MINUTE, SECOND, tenant, timeline};

#[test]
fn a_clean_detach_stores_what_is_queued_says_released_in_the_same_record_and_leaves_a_manifest() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        assert!(!bench.view().await.state.is_released());
        handle.hand_over(bench.checkpoint(&["a", "b"], 2)).unwrap();
        let before = process.counts();
        let report = process.service.detach(&tenant(), &timeline(), MINUTE).await.unwrap();
        assert!(report.is_complete() && report.released && report.error.is_none(), "{report:?}");
        assert_eq!(process.counts().since(&before).put, 2, "the record and the manifest");
        let view = bench.view().await;
        assert!(view.state.is_released());
        assert_eq!((view.replayed, view.state.layers().len()), (0, 3));
        let refused = handle.hand_over(bench.checkpoint(&["late"], 3));
        assert!(matches!(refused, Err(HandOverError::Detached)), "{refused:?}");
        assert!(matches!(handle.wait_durable(Lsn(3)).await, Err(Stopped::Detached)));
        // It can be attached again.
        let handle = process.attach();
        handle.wait(handle.hand_over(bench.checkpoint(&["later"], 3)).unwrap()).await.unwrap();
    });
}

#[test]
fn a_timeline_in_which_nothing_was_written_is_left_without_a_request() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach();
        handle.opened().await.unwrap();
        let before = process.counts();
        assert!(handle.detach(MINUTE).await.is_complete());
        assert_eq!(process.counts().since(&before).requests(), 0);
    });
}

#[test]
fn what_is_left_at_the_deadline_is_reported() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        simulation.add_rule(Rule::new(Fault::RequestLost));
        handle.hand_over(bench.checkpoint(&["a", "b"], 2)).unwrap();
        bench.clock().sleep(MINUTE).await;
        let start = bench.clock().now();
        let reports = process.service.shutdown(10 * SECOND).await;
        assert_eq!(bench.clock().now().duration_since(start).unwrap(), 10 * SECOND);
        let [(_, report)] = &*reports else { panic!("{reports:?}") };
        assert_eq!((report.left.changes, report.left.layers, report.released), (1, 2, false));
        assert!(report.error.is_some(), "and why");
        let attach = process.service.attach(&tenant(), &timeline(), Attach::default());
        assert!(matches!(attach, Err(AttachError::ShuttingDown)));
        assert!(matches!(handle.status().phase, Phase::Detached));
    });
}

#[test]
fn a_layer_that_cannot_be_read_does_not_keep_the_rest_from_being_left_in_order() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let change = bench.checkpoint(&["lost", "there"], 2);
        std::fs::remove_file(bench.path("lost")).unwrap();
        handle.hand_over(change).unwrap();
        let start = bench.clock().now();
        let report = handle.detach(MINUTE).await;
        assert!(bench.clock().now().duration_since(start).unwrap() < SECOND);
        assert_eq!((report.left.changes, report.left.layers, report.failed.len()), (1, 1, 1));
        assert!(report.released);
        assert_eq!(bench.stored().await, ["first", "there"]);
        assert_eq!(bench.view().await.state.disk_consistent_lsn(), Some(Lsn(1)), "the metadata is held back");
    });
}

#[test]
fn whoever_leaves_while_it_waits_to_retry_tries_at_once() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        simulation.add_rule(Rule::new(Fault::Refused(ErrorKind::PermissionDenied)));
        handle.hand_over(bench.checkpoint(&["a"], 2)).unwrap();
        bench.clock().sleep(10 * SECOND).await;
        assert!(matches!(handle.status().phase, Phase::Waiting { .. }));
        simulation.clear_rules();
        let report = handle.detach(10 * SECOND).await;
        assert!(report.is_complete() && report.released, "{report:?}");
    });
}
