//! Garbage is collected and bundles are repacked in the background, and uploads go on.

use std::collections::BTreeMap;
use std::time::Duration;

use layer_archive::{Ancestor, BranchPoint, BundleId, Lsn, Seq, TimelineId};
use storage_api::simulated::{Event as Traced, Fault, Rule, check_seeds};
use storage_api::{ErrorKind, Operation};
use sync_engine::gc::GcPolicy;
use sync_engine::service::{Attach, BackgroundGc, Change, Event, Phase, ServiceOptions};
use sync_engine::{
    TakeOver, TimelineListing, TimelineView, VerifyDepth, WriterOptions, execute_delete, plan_delete,
    verify_timeline,
};

use crate::support::{Bench, MINUTE, Process, SECOND, bundles_of_two, contents, removal, tenant, timeline};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A collection every ten minutes that keeps the past for so long.
fn keeping(retention: Duration) -> impl FnOnce(&mut ServiceOptions) {
    move |options| {
        let policy = GcPolicy { retention, ..GcPolicy::default() };
        options.gc = Some(BackgroundGc { policy, every: 10 * MINUTE });
    }
}

/// Forty layers that come one by one, of which every second goes again. Returns what stays.
async fn churn(bench: &Bench, process: &Process) -> BTreeMap<String, Vec<u8>> {
    let handle = process.attach();
    let mut live = BTreeMap::new();
    for n in 0..40u64 {
        let (layer, bytes) = (format!("layer-{n:02}"), contents(n, 9_000));
        let mut change = Change { layers: vec![bench.layer(&layer, &bytes)], ..Change::default() };
        if n % 2 == 1 {
            let gone = format!("layer-{:02}", n - 1);
            change.removed = removal(&[&gone]).removed;
            live.remove(&gone);
        }
        live.insert(layer, bytes);
        handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
        bench.clock().sleep(SECOND).await;
    }
    live
}

async fn listing(bench: &Bench) -> TimelineListing {
    let view = bench.view().await;
    TimelineListing::read_whole(&**bench.store().await.objects(), &view.keys).await.unwrap()
}

async fn assert_sound(bench: &Bench) {
    let view = bench.view().await;
    let report = verify_timeline(&bench.store().await, &view, VerifyDepth::Deep).await.unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn an_idle_writer_repacks_and_deletes_when_retention_has_passed_and_not_before_and_then_rests() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", keeping(DAY)).await;
        let live = churn(&bench, &process).await;
        let handle = process.service.timeline(&tenant(), &timeline()).unwrap();
        bench.clock().sleep(DAY / 2).await;
        let early = (listing(&bench).await, handle.status());
        assert!(early.1.written.repacked >= 6 && early.1.written.deleted == 0, "{:?}", early.1);
        assert!(early.0.records.len() >= 40);
        bench.clock().sleep(DAY).await;
        let late = (listing(&bench).await, handle.status());
        assert!(late.0.records.len() < 20, "{:?}", late.0.records.keys());
        let (stored, live_bytes) = (late.0.stored_bytes(), live_bytes(&bench).await);
        assert!(
            stored < early.0.stored_bytes() / 2 && stored < live_bytes * 3 / 2,
            "{stored} for {live_bytes}"
        );
        // Nothing more happens where there is nothing to do, though it is looked for.
        let before = (process.counts(), late.1.seq);
        bench.clock().sleep(DAY).await;
        let (now, seq) = (process.counts(), handle.status().seq);
        assert_eq!(seq, before.1);
        // The store's clock is asked, with one put.
        assert_eq!((now.put - before.0.put) / 100, (now.list - before.0.list) / 100);
        assert!(now.delete == before.0.delete && now.list > before.0.list);
        let status = handle.status();
        assert!(matches!(status.phase, Phase::Idle), "{status:?}");
        assert!(status.last_gc.unwrap().outcome.unwrap().damage.is_empty());
        assert_sound(&bench).await;
        bench.assert_holds(&live).await;
        assert!(handle.detach(MINUTE).await.released);
    });
}

async fn live_bytes(bench: &Bench) -> u64 {
    bench.view().await.state.bundles().iter().map(|bundle| bundle.live_bytes).sum()
}

#[test]
fn uploads_have_their_turn_between_two_steps_of_a_repacking() {
    check_seeds(0..3, async |simulation| {
        simulation.set_latency(Duration::from_millis(20)..Duration::from_millis(60));
        let bench = Bench::new(&simulation);
        let configure = |options: &mut ServiceOptions| {
            bundles_of_two(options);
            keeping(DAY)(options);
            options.linger = SECOND / 100;
        };
        let process = bench.process_with("pageserver", configure).await;
        let handle = process.attach();
        // Small changes come all the time: many small bundles, of which a step takes some dozens.
        let mut changes = 0;
        while handle.status().last_gc.is_none() {
            changes += 1;
            assert!(changes < 20_000);
            let layer = bench.layer(&format!("small-{changes:05}"), &contents(changes, 100));
            handle.hand_over(Change { layers: vec![layer], ..Change::default() }).unwrap();
            bench.clock().sleep(SECOND / 20).await;
        }
        handle.flush().await.unwrap();
        let repacked = handle.status().last_gc.unwrap().outcome.unwrap().repacked.clone();
        assert!(repacked.layers >= 100, "{repacked:?}");
        // Which records moved layers, and which brought some.
        let (view, store) = (bench.view().await, bench.store().await);
        let mut moved = Vec::new();
        for seq in (1..=view.state.seq().0).map(Seq) {
            let key = view.keys.record(seq).unwrap();
            let read = storage_api::ObjectStoreExt::get_bytes(
                &**store.objects(),
                &key,
                storage_api::GetRange::Full,
                1 << 24,
            );
            let record = layer_archive::BundleIndex::parse_object(&read.await.unwrap().1).unwrap();
            let commit = record.commit().unwrap();
            assert!(commit.moved.is_empty() || record.layers().is_empty() && commit.added.is_empty());
            moved.push(!commit.moved.is_empty());
        }
        let steps: Vec<usize> = (0..moved.len()).filter(|seq| moved[*seq]).collect();
        assert!(steps.len() >= 3, "{steps:?}");
        assert!(steps.windows(2).all(|pair| pair[1] > pair[0] + 1), "two steps in a row: {steps:?}");
        assert_sound(&bench).await;
    });
}

#[test]
fn what_was_never_claimed_is_collected_and_not_claimed() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let before = bench.process("before").await;
        let live = churn(&bench, &before).await;
        let handle = before.service.timeline(&tenant(), &timeline()).unwrap();
        assert!(handle.detach(MINUTE).await.released);
        let epoch = bench.view().await.state.epoch();
        let process = bench.process_with("after", keeping(HOUR)).await;
        let handle = process.attach();
        bench.clock().sleep(DAY).await;
        let state = bench.view().await.state;
        assert_eq!((state.epoch(), state.is_released()), (epoch, true));
        assert_eq!(state.writer().program, "before");
        let status = handle.status();
        assert!(status.written.repacked == 0 && status.last_gc.unwrap().outcome.is_ok());
        bench.assert_holds(&live).await;
        // Once it has written it is the writer, and repacks.
        handle.wait(handle.hand_over(bench.checkpoint(&["own"], 7)).unwrap()).await.unwrap();
        bench.clock().sleep(DAY).await;
        assert!(handle.status().written.repacked >= 6, "{:?}", handle.status());
        assert_sound(&bench).await;
    });
}

#[test]
fn damage_and_failures_stop_the_collections_and_not_the_uploads() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", keeping(Duration::ZERO)).await;
        let refused = Rule::new(Fault::Refused(ErrorKind::PermissionDenied)).on([Operation::Delete]);
        simulation.add_rule(refused);
        let live = churn(&bench, &process).await;
        let handle = process.service.timeline(&tenant(), &timeline()).unwrap();
        bench.clock().sleep(HOUR).await;
        let failed = handle.status();
        let is_failure = failed.last_gc.as_ref().is_some_and(|last| match &last.outcome {
            Ok(report) => !report.collected.failed.is_empty(),
            Err(error) => error.to_string().contains("delete"),
        });
        assert!(is_failure && failed.written.deleted == 0, "{failed:?}");
        handle.wait(handle.hand_over(bench.checkpoint(&["later"], 8)).unwrap()).await.unwrap();
        simulation.clear_rules();
        bench.clock().sleep(HOUR).await;
        let deleted = handle.status().written.deleted;
        assert!(deleted > 20, "{:?}", handle.status());
        bench.assert_holds(&live.clone().into_iter().chain([later(8)]).collect()).await;
        // A live bundle is gone: nothing is deleted any more.
        let view = bench.view().await;
        let mut bundles = view.state.layers().values().map(|layer| layer.place.bundle);
        let lost = bundles.find(|bundle| matches!(bundle, BundleId::Payload(_))).unwrap();
        bench.store().await.objects().delete(&[view.keys.bundle(lost).unwrap()]).await.unwrap();
        for n in 0..30 {
            let change = bench.checkpoint(&[&format!("after-{n}")], 100 + n);
            handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
            handle.wait(handle.hand_over(removal(&[&format!("after-{n}")])).unwrap()).await.unwrap();
        }
        bench.clock().sleep(HOUR).await;
        let status = handle.status();
        let report = status.last_gc.unwrap().outcome.unwrap();
        assert!(report.damage.iter().any(|finding| finding.problem == "it is missing"), "{report:?}");
        assert_eq!(status.written.deleted, deleted);
        assert!(process.events.lock().unwrap().iter().any(|event| matches!(event, Event::Collected(_))));
    });
}

fn later(lsn: u64) -> (String, Vec<u8>) {
    ("later".into(), contents("later".len() as u64 + lsn, 3_000))
}

#[test]
fn surveys_are_made_one_after_the_other() {
    check_seeds(0..3, async |simulation| {
        simulation.set_latency(Duration::from_millis(20)..Duration::from_millis(60));
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", keeping(DAY)).await;
        for n in 1..=12u64 {
            let id: TimelineId = format!("{n:032x}").parse().unwrap();
            let handle = process.service.attach(&tenant(), &id, Attach::default()).unwrap();
            let layer = bench.layer(&format!("layer-{n}"), &contents(n, 3_000));
            handle.hand_over(Change { layers: vec![layer], ..Change::default() }).unwrap();
        }
        bench.clock().sleep(MINUTE).await;
        let calm = simulation.trace().len();
        bench.clock().sleep(HOUR).await;
        assert!(process.service.timelines().iter().all(|timeline| timeline.status().last_gc.is_some()));
        let (mut now, mut most) = (0_i32, 0);
        for entry in &simulation.trace()[calm..] {
            match entry.event {
                Traced::Sent(_) => now += 1,
                Traced::Answered(_) => now -= 1,
                _ => {}
            }
            most = most.max(now);
        }
        // The tails of three records at the same time, and no two timelines'.
        assert!((1..=3).contains(&most), "{most} requests at the same time");
    });
}

#[test]
fn the_end_of_a_branch_is_said_by_the_caller_or_found_by_a_collection() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", keeping(DAY)).await;
        let main = process.attach_open(&bench).await;
        let points: Vec<BranchPoint> = [0xc1_u8, 0xc2]
            .map(|n| BranchPoint {
                tenant: tenant(),
                timeline: format!("{n:032x}").parse().unwrap(),
                lsn: Lsn(1),
            })
            .to_vec();
        for point in &points {
            main.begin_branch(point.clone()).await.unwrap();
            let attached = process.service.attach(&tenant(), &point.timeline, Attach::default()).unwrap();
            let ancestor = Some(Ancestor { timeline: timeline(), lsn: point.lsn });
            let change = Change { ancestor, ..bench.checkpoint(&[point.timeline.as_str()], 60) };
            let ticket = attached.hand_over(change).unwrap();
            attached.wait(ticket).await.unwrap();
            process.service.detach(&tenant(), &point.timeline, MINUTE).await.unwrap();
        }
        assert_eq!(main.branch_points(), points);
        main.end_branch(points[0].clone()).await.unwrap();
        assert_eq!(main.branch_points(), points[1..]);
        assert_eq!(bench.view().await.state.branch_points().cloned().collect::<Vec<_>>(), points[1..]);
        // Somebody deletes the other; its ancestor is held, so it is not told.
        let store = bench.store().await;
        let view = TimelineView::open(&store, &tenant(), &points[1].timeline, None).await.unwrap();
        let plan = plan_delete(&store, view).await.unwrap();
        let options = WriterOptions { writer: Default::default(), generation: None, clock: bench.clock() };
        let deletion = execute_delete(&store, plan, TakeOver::No, options).await.unwrap();
        assert!(deletion.branch_point_left.is_some());
        bench.clock().sleep(HOUR).await;
        assert_eq!(main.branch_points(), []);
        assert_eq!(bench.view().await.state.branch_points().count(), 0);
        assert!(matches!(main.status().phase, Phase::Idle));
    });
}

#[test]
fn a_full_store_that_does_not_say_what_time_it_is_is_collected_all_the_same() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", keeping(Duration::ZERO)).await;
        let full = Rule::new(Fault::Refused(ErrorKind::StorageFull)).on([Operation::PutOverwrite]);
        simulation.add_rule(full);
        let live = churn(&bench, &process).await;
        let handle = process.service.timeline(&tenant(), &timeline()).unwrap();
        bench.clock().sleep(HOUR).await;
        let status = handle.status();
        assert!(
            status.last_gc.unwrap().outcome.is_ok() && status.written.deleted > 20,
            "{:?}",
            status.written
        );
        bench.assert_holds(&live).await;
    });
}
