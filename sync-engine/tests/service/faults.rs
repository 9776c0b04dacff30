//! What goes wrong with the store or the disk, and that nothing is lost by it.

use std::sync::Arc;

use layer_archive::{Lsn, Seq};
use storage_api::simulated::{Delay, Fault, Rule, check_seeds};
use storage_api::{ErrorKind, MemoryStore, ObjectStore, Operation};
use sync_engine::Error;
use sync_engine::service::{Attach, Change, CreateStore, Event, Phase, ServiceOptions, UploadService};

use crate::support::{
    Bench, LARGE, MINUTE, SECOND, bundles_of_two, contents, metadata, removal, tenant, timeline,
};

#[test]
fn an_upload_that_fails_for_hours_is_tried_again_and_nothing_is_dropped() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        simulation.add_rule(Rule::new(Fault::RequestLost));
        for n in 2..30 {
            handle.hand_over(bench.checkpoint(&[&format!("layer-{n}")], n)).unwrap();
            bench.clock().sleep(10 * MINUTE).await;
        }
        let status = handle.status();
        let Phase::Waiting { since, until, error } = status.phase else { panic!("{status:?}") };
        assert!(until.duration_since(bench.clock().now()).unwrap_or_default() <= MINUTE, "it keeps trying");
        assert!(bench.clock().now().duration_since(since).unwrap() > 250 * MINUTE);
        assert!(matches!(*error, Error::UnknownOutcome { .. }), "{error}");
        assert_eq!((status.lag.changes, status.lag.layers), (28, 28));
        assert!(bench.clock().now().duration_since(status.lag.oldest.unwrap()).unwrap() >= 280 * MINUTE);
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(1)));
        simulation.clear_rules();
        handle.flush().await.unwrap();
        assert_eq!(bench.stored().await.len(), 29);
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(29)));
        assert_eq!(handle.status().lag.changes, 0);
    });
}

#[test]
fn what_needs_a_person_is_tried_every_five_minutes_and_seen() {
    for kind in [
        ErrorKind::PermissionDenied,
        ErrorKind::Unauthenticated,
        ErrorKind::StoreMissing,
        ErrorKind::StorageFull,
    ] {
        check_seeds(0..1, async |simulation| {
            let bench = Bench::new(&simulation);
            let process = bench.process("pageserver").await;
            let handle = process.attach_open(&bench).await;
            simulation.add_rule(Rule::new(Fault::Refused(kind)));
            let before = process.counts();
            handle.hand_over(bench.checkpoint(&["a"], 2)).unwrap();
            bench.clock().sleep(21 * MINUTE).await;
            assert_eq!(process.counts().since(&before).requests(), 5, "at 0, 5, 10, 15 and 20 minutes");
            let status = handle.status();
            let Phase::Waiting { error, .. } = status.phase else { panic!("{status:?}") };
            assert!(matches!(&*error, Error::Storage(error) if error.kind() == kind), "{error}");
            simulation.clear_rules();
            bench.clock().sleep(5 * MINUTE).await;
            assert_eq!(handle.status().lag.changes, 0);
        });
    }
}

#[test]
fn the_bytes_of_a_record_stay_what_they_are_until_it_is_known_what_became_of_them() {
    check_seeds(0..5, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        // The first put takes effect after two hours; until then nothing else gets through.
        simulation.add_rule(
            Rule::new(Fault::Late(Delay::For(120 * MINUTE..121 * MINUTE))).on([Operation::PutCreate]).nth(1),
        );
        simulation.add_rule(Rule::new(Fault::RequestLost).on([Operation::PutCreate]));
        let first = handle.hand_over(bench.checkpoint(&["a"], 2)).unwrap();
        bench.clock().sleep(10 * SECOND).await;
        // What comes meanwhile changes nothing of it.
        handle.hand_over(Change { metadata: metadata("m3", 3), ..removal(&["a"]) }).unwrap();
        handle.hand_over(bench.checkpoint(&["b"], 4)).unwrap();
        bench.clock().sleep(60 * MINUTE).await;
        assert!(!handle.is_settled(first));
        assert_eq!((bench.view().await.state.seq(), bench.stored().await.len()), (Seq(2), 1));
        bench.clock().sleep(63 * MINUTE).await;
        // It is found to be ours by its id, though every put was lost.
        assert!(handle.is_settled(first));
        assert_eq!(bench.stored().await, ["a", "first"]);
        simulation.clear_rules();
        handle.flush().await.unwrap();
        assert_eq!(bench.stored().await, ["b", "first"]);
        assert_eq!(bench.view().await.state.seq(), Seq(4), "one copy of each");
    });
}

#[test]
fn a_claim_whose_answer_is_lost_does_not_fence_its_own_writer() {
    let faults = [Fault::AnswerLost, Fault::RequestLost, Fault::Late(Delay::For(SECOND..10 * MINUTE))];
    for fault in faults {
        check_seeds(0..10, async |simulation| {
            let bench = Bench::new(&simulation);
            let process = bench.process("pageserver").await;
            let handle = process.attach();
            handle.opened().await.unwrap();
            // Neither the put nor what would tell its outcome comes through for a while.
            simulation.add_rule(Rule::new(fault.clone()).on([Operation::PutCreate]).nth(1));
            simulation.add_rule(
                Rule::new(Fault::RequestLost).on([Operation::Get, Operation::PutCreate]).numbers(1..12),
            );
            handle.hand_over(bench.checkpoint(&["a"], 2)).unwrap();
            handle.flush().await.unwrap();
            simulation.settle().await;
            let view = bench.view().await;
            assert_eq!((view.state.epoch().0, view.state.seq()), (1, Seq(2)));
        });
    }
}

#[test]
fn an_upload_of_a_vanished_or_changed_file_is_no_success_and_the_others_go_on() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let change = bench.checkpoint(&["changed", "there", "vanished"], 2);
        std::fs::remove_file(bench.path("vanished")).unwrap();
        bench.layer("changed", b"of another length");
        let first = handle.hand_over(change).unwrap();
        handle.hand_over(removal(&["first"])).unwrap();
        handle.hand_over(bench.checkpoint(&["later"], 3)).unwrap();
        bench.clock().sleep(MINUTE).await;
        // The others are stored; metadata and removals, which may need the missing ones, are not.
        assert_eq!(bench.stored().await, ["first", "later", "there"]);
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(1)));
        assert!(!handle.is_settled(first));
        let failed = handle.status().failed;
        let named: Vec<_> =
            failed.iter().map(|failed| (failed.name.as_str(), failed.error.to_string())).collect();
        assert!(
            matches!(&*named, [("changed", changed), ("vanished", vanished)]
            if changed.contains("changed while") && vanished.contains("vanished")),
            "{named:?}"
        );
        let events = process.events.lock().unwrap().clone();
        let told = events.iter().filter(|event| matches!(event, Event::LayerFailed(_))).count();
        assert_eq!(told, 2);
        // One comes back, the other was compacted away: the next try finds all in order.
        bench.checkpoint(&["vanished"], 2);
        handle.hand_over(removal(&["changed"])).unwrap();
        bench.clock().sleep(6 * MINUTE).await;
        assert_eq!(handle.status().lag.changes, 0);
        assert_eq!(bench.stored().await, ["later", "there", "vanished"]);
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(3)));
    });
}

#[test]
fn the_link_to_a_layer_that_cannot_be_read_goes_by_itself() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        // Two large layers of the same contents: one is to be a link to the other.
        let same = contents(7, 300_000);
        let layers = vec![bench.layer("one", &same), bench.layer("two", &same)];
        let change = Change { layers, metadata: metadata("m2", 2), ..Change::default() };
        // After the hashing, which needs both: while the first bytes are packed.
        handle.hand_over(change).unwrap();
        std::fs::remove_file(bench.path("one")).unwrap();
        bench.clock().sleep(MINUTE).await;
        assert_eq!(bench.stored().await, ["first", "two"]);
        handle.hand_over(removal(&["one"])).unwrap();
        handle.flush().await.unwrap();
        assert_eq!(handle.remote_consistent_lsn(), Some(Lsn(2)));
    });
}

#[test]
fn bursts_of_throttling_timeouts_and_500s_have_no_duplicate_effect() {
    check_seeds(0..20, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.attach_open(&bench).await;
        let throttled = Fault::Throttled { lasting: 5 * SECOND, retry_after: 2 * SECOND };
        let late = Fault::Late(Delay::For(SECOND..MINUTE));
        for fault in
            [throttled, late, Fault::AnswerLost, Fault::RequestLost, Fault::Refused(ErrorKind::Unexpected)]
        {
            simulation.add_rule(Rule::new(fault).with_chance(0.15));
        }
        for n in 2..12 {
            handle.hand_over(bench.checkpoint(&[&format!("layer-{n}")], n)).unwrap();
            bench.clock().sleep(2 * SECOND).await;
        }
        handle.flush().await.unwrap();
        simulation.clear_rules();
        simulation.settle().await;
        let view = bench.view().await;
        assert_eq!(view.state.layers().len(), 11);
        assert_eq!(view.state.epoch().0, 1, "one reign");
        assert_eq!(view.state.seq().0 - 1, handle.status().written.records, "each record once");
    });
}

#[test]
fn a_store_that_cannot_be_reached_at_the_start_is_waited_for() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        simulation.add_rule(Rule::new(Fault::RequestLost));
        let handle = process.attach();
        handle.hand_over(bench.checkpoint(&["a"], 2)).unwrap();
        bench.clock().sleep(60 * MINUTE).await;
        assert!(matches!(handle.status().phase, Phase::Waiting { .. }));
        simulation.clear_rules();
        handle.flush().await.unwrap();
        assert_eq!(bench.stored().await, ["a"]);
        // Where there is no store it is waited for, or created if the configuration says so.
        let elsewhere: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let service = |create| {
            let writer = layer_archive::WriterInfo::default();
            let options = ServiceOptions::new(writer, bench.clock());
            let service = UploadService::new(Arc::clone(&elsewhere), "elsewhere", create, options);
            service.attach(&tenant(), &timeline(), Attach::default()).unwrap()
        };
        let handle = service(CreateStore::Never);
        bench.clock().sleep(MINUTE).await;
        let Phase::Waiting { error, .. } = handle.status().phase else { panic!("{handle:?}") };
        assert!(matches!(*error, Error::NoStore { .. }), "{error}");
        service(CreateStore::IfMissing).opened().await.unwrap();
        bench.clock().sleep(5 * MINUTE).await;
        handle.opened().await.unwrap();
    });
}

#[test]
fn payload_objects_that_arrived_are_not_sent_again() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", bundles_of_two).await;
        let handle = process.attach_open(&bench).await;
        simulation.add_rule(Rule::new(Fault::Refused(ErrorKind::Unexpected)).on_key("/payload/").nth(2));
        let layers = (0..8).map(|n| bench.layer(&format!("layer-{n}"), &contents(n, LARGE))).collect();
        handle.wait(handle.hand_over(Change { layers, ..Change::default() }).unwrap()).await.unwrap();
        let view = bench.view().await;
        assert_eq!(view.state.layers().len(), 9);
        let named: usize = view.state.bundles().len() - 2;
        assert_eq!(
            view.listing.payloads.len(),
            named,
            "none is an orphan: {:?}",
            view.listing.payloads.keys()
        );
        assert_eq!(handle.status().written.retries, 1);
    });
}
