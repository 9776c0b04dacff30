//! Several writers of one timeline.

use layer_archive::{BundleWriter, WriterInfo};
use storage_api::Operation;
use storage_api::simulated::{Delay, Fault, Gate, Rule, check_seeds};
use sync_engine::service::{Event, HandOverError, Phase, Stopped};
use sync_engine::{Draft, Error, TimelineWriter, WriterOptions};

use crate::support::{Bench, MINUTE, SECOND, contents, metadata};

#[test]
fn a_fenced_service_stops_for_good_keeps_its_files_and_says_so() {
    check_seeds(0..5, async |simulation| {
        let bench = Bench::new(&simulation);
        let (old, new) = (bench.process("old").await, bench.process("new").await);
        let zombie = old.attach_open(&bench).await;
        let handle = new.attach();
        handle.wait(handle.hand_over(bench.checkpoint(&["new"], 2)).unwrap()).await.unwrap();

        let lost = zombie.hand_over(bench.checkpoint(&["lost"], 2)).unwrap();
        let stopped = zombie.wait(lost).await.unwrap_err();
        let Stopped::Stopped(error) = stopped else { panic!("{stopped:?}") };
        assert!(matches!(&*error, Error::Fenced { by, .. } if by.program == "new"), "{error}");
        assert!(matches!(zombie.status().phase, Phase::Stopped(_)));
        assert_eq!(zombie.status().lag.layers, 1, "what is left can be seen");
        assert!(bench.path("lost").try_exists().unwrap());
        let refused = zombie.hand_over(bench.checkpoint(&["more"], 3));
        assert!(matches!(refused, Err(HandOverError::Stopped(_))), "{refused:?}");
        assert!(matches!(old.events.lock().unwrap().last(), Some(Event::Stopped(_))));
        // It goes on asking for nothing.
        let before = old.counts();
        bench.clock().sleep(60 * MINUTE).await;
        assert_eq!(old.counts().since(&before).requests(), 0);
        handle.wait(handle.hand_over(bench.checkpoint(&["goes-on"], 3)).unwrap()).await.unwrap();
        assert_eq!(bench.stored().await, ["first", "goes-on", "new"]);
    });
}

#[test]
fn of_two_services_that_back_up_one_timeline_exactly_one_is_fenced_and_nothing_acknowledged_is_lost() {
    check_seeds(0..40, async |simulation| {
        simulation.set_latency(SECOND / 100..SECOND / 4);
        let bench = Bench::new(&simulation);
        let processes = [bench.process("a").await, bench.process("b").await];
        let handles = processes.each_ref().map(super::support::Process::attach);
        let mut random = simulation.random("steps");
        let mut acknowledged = Vec::new();
        for n in 1..20 {
            for (handle, who) in handles.iter().zip(["a", "b"]) {
                let layer = format!("{who}-{n:02}");
                if let Ok(ticket) = handle.hand_over(bench.checkpoint(&[&layer], n)) {
                    acknowledged.push((handle, ticket, layer));
                }
            }
            bench.clock().sleep(random.duration(&(SECOND / 10..3 * SECOND))).await;
        }
        bench.clock().sleep(MINUTE).await;
        let fenced =
            handles.iter().filter(|handle| matches!(handle.status().phase, Phase::Stopped(_))).count();
        assert_eq!(fenced, 1);
        let stored = bench.stored().await;
        for (handle, ticket, layer) in acknowledged {
            assert!(!handle.is_settled(ticket) || stored.contains(&layer), "{layer} was acknowledged");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_outcome_is_not_known_is_resumed_with_the_same_bytes_and_nothing_goes_before_it() {
    let simulation = storage_api::simulated::Simulation::new(3);
    let bench = Bench::new(&simulation);
    let view = bench.view().await;
    let client = simulation.client("writer");
    let store = sync_engine::Store::open(client, "simulated").await.unwrap();
    let writer = WriterInfo { host: "test".into(), pid: 1, program: "writer".into() };
    let options = WriterOptions { writer, generation: None, clock: simulation.clock() };
    let mut writer = TimelineWriter::claim(&store, view, options).await.unwrap();
    let draft =
        |text: &str| Draft { metadata: metadata(text, 1).map(|(metadata, _)| metadata), ..Draft::default() };

    let gate = Gate::new();
    simulation.add_rule(Rule::new(Fault::Late(Delay::Until(gate.clone()))).on([Operation::PutCreate]).nth(1));
    simulation.add_rule(Rule::new(Fault::RequestLost).on([Operation::PutCreate]));
    let unknown = writer.append(draft("one"), BundleWriter::new()).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownOutcome { .. }), "{unknown}");
    assert!(writer.is_pending());
    let refused = writer.append(draft("two"), BundleWriter::new()).await.unwrap_err();
    assert!(matches!(refused, Error::RecordPending { .. }), "{refused}");
    assert!(matches!(writer.resume().await, Err(Error::UnknownOutcome { .. })));
    // A definite answer to a later attempt says nothing of the first.
    simulation.clear_rules();
    simulation.add_rule(
        Rule::new(Fault::Refused(storage_api::ErrorKind::PermissionDenied)).on([Operation::PutCreate]),
    );
    assert!(matches!(writer.resume().await, Err(Error::UnknownOutcome { .. })));
    assert!(writer.is_pending());
    gate.open();
    simulation.settle().await;
    simulation.clear_rules();
    let record = writer.resume().await.unwrap().unwrap();
    assert_eq!(record.commit().unwrap().metadata.as_ref().unwrap().bytes, b"one");
    assert!(writer.resume().await.unwrap().is_none());
    writer.append(draft("two"), BundleWriter::new()).await.unwrap();
    let state = bench.view().await.state;
    assert_eq!((state.seq().0, &*state.metadata().unwrap().bytes), (3, &b"two"[..]));

    // What was refused for certain is not pending: the next record may be another.
    simulation.add_rule(
        Rule::new(Fault::Refused(storage_api::ErrorKind::PermissionDenied)).on([Operation::PutCreate]),
    );
    assert!(matches!(writer.append(draft("no"), BundleWriter::new()).await, Err(Error::Storage(_))));
    simulation.clear_rules();
    writer.append(draft("three"), BundleWriter::new()).await.unwrap();
    assert_eq!(bench.view().await.state.metadata().unwrap().bytes, b"three");
}

#[test]
fn a_tool_that_visits_an_idle_timeline_does_not_stop_its_service_and_one_that_stays_does() {
    for stays in [false, true] {
        check_seeds(0..3, async |simulation| {
            let bench = Bench::new(&simulation);
            let first = bench.process("first").await;
            let handle = first.attach();
            handle.wait(handle.hand_over(bench.checkpoint(&["old"], 1)).unwrap()).await.unwrap();
            handle.detach(MINUTE).await;
            // Attached again, and nothing to write: the log still says that nobody does.
            let service = bench.process("service").await;
            let old = bench.layer("old", &contents(4, 3_000));
            let handle = service.attach_with(Some(bench.local(&[&old], 1)));
            assert_eq!(handle.opened().await.unwrap().unwrap().unchanged, 1);
            let tool = WriterOptions {
                writer: WriterInfo { host: "test".into(), pid: 2, program: "tool".into() },
                generation: None,
                clock: bench.clock(),
            };
            let mut writer =
                TimelineWriter::claim(&bench.store().await, bench.view().await, tool).await.unwrap();
            let released = Draft { released: !stays, ..Draft::default() };
            writer.append(released, BundleWriter::new()).await.unwrap();

            // Evicted meanwhile: the store has it.
            std::fs::remove_file(bench.path("old")).unwrap();
            let ticket = handle.hand_over(bench.checkpoint(&["new"], 2)).unwrap();
            match handle.wait(ticket).await {
                Ok(()) => {
                    assert_eq!((stays, bench.stored().await), (false, vec!["new".into(), "old".into()]))
                }
                Err(stopped) => assert!(stays && matches!(stopped, Stopped::Stopped(_)), "{stopped:?}"),
            }
        });
    }
}
