//! Branches in the service: who tells whose ancestor, and removals that a branch forbids.

use layer_archive::{Ancestor, BranchPoint, BundleWriter, Lsn, RemovalReason, Removed, Seq, TimelineId};
use storage_api::simulated::check_seeds;
use sync_engine::service::{Attach, Change, Phase, Stopped};
use sync_engine::{At, Draft, Error, TakeOver, TimelineView, TimelineWriter, execute_delete, plan_delete};

use crate::support::{Bench, MINUTE, SECOND, contents, name, tenant, timeline};

fn branch() -> TimelineId {
    "0000000000000000000000000000000c".parse().unwrap()
}

fn ancestor() -> Option<Ancestor> {
    Some(Ancestor { timeline: timeline(), lsn: Lsn(50) })
}

/// Where [`branch`] leaves the timeline.
fn point() -> BranchPoint {
    BranchPoint { tenant: tenant(), timeline: branch(), lsn: Lsn(50) }
}

async fn points(bench: &Bench) -> Vec<BranchPoint> {
    bench.view().await.state.branch_points().cloned().collect()
}

#[test]
fn an_ancestor_in_the_same_service_says_so_itself_ahead_of_layers_that_wait() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let main = process.attach_open(&bench).await;
        // What cannot be read holds the cut of the ancestor back.
        let lost = bench.layer("lost", &contents(1, 3000));
        std::fs::remove_file(bench.path("lost")).unwrap();
        main.hand_over(Change { layers: vec![lost], ..Change::default() }).unwrap();
        let handle = process.service.attach(&tenant(), &branch(), Attach::default()).unwrap();
        let change = Change { ancestor: ancestor(), ..bench.checkpoint(&["own"], 60) };
        handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
        assert_eq!(points(&bench).await, [point()]);
        let view = TimelineView::open(&bench.store().await, &tenant(), &branch(), None).await.unwrap();
        assert_eq!(view.state.ancestor(), ancestor().as_ref());
        // Neither was fenced.
        assert!(main.status().written.retries == 0 && handle.status().written.retries == 0);
        main.begin_branch(point()).await.unwrap();
    });
}

#[test]
fn an_ancestor_that_nobody_looks_after_is_told_and_one_that_is_not_there_is_waited_for() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let handle = process.service.attach(&tenant(), &branch(), Attach::default()).unwrap();
        let change = Change { ancestor: ancestor(), ..bench.checkpoint(&["own"], 60) };
        let ticket = handle.hand_over(change).unwrap();
        let clock = bench.clock();
        while handle.status().written.retries == 0 {
            clock.sleep(SECOND).await;
        }
        let store = bench.store().await;
        let view = TimelineView::open(&store, &tenant(), &branch(), None).await.unwrap();
        assert_eq!(view.state.seq().0, 0, "the branch came before its ancestor");
        // Somebody backs the ancestor up.
        let options =
            sync_engine::WriterOptions { writer: Default::default(), generation: None, clock: bench.clock() };
        let mut writer = TimelineWriter::claim(&store, bench.view().await, options).await.unwrap();
        let stored = Draft { disk_consistent_lsn: Some(Lsn(60)), released: true, ..Draft::default() };
        writer.append(stored, BundleWriter::new()).await.unwrap();
        handle.wait(ticket).await.unwrap();
        assert_eq!(points(&bench).await, [point()]);
    });
}

#[test]
fn a_removal_that_a_branch_forbids_is_left_out_and_holds_nothing_up() {
    check_seeds(0..1, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let main = process.attach_open(&bench).await;
        main.begin_branch(point()).await.unwrap();
        let removed = |reason| vec![Removed { name: name("first"), reason }];
        let change =
            Change { removed: removed(RemovalReason::Collected), ..bench.checkpoint(&["second"], 70) };
        main.wait(main.hand_over(change).unwrap()).await.unwrap();
        assert_eq!(bench.stored().await, ["first", "second"]);
        let change = Change { removed: removed(RemovalReason::Compacted), ..Change::default() };
        main.wait(main.hand_over(change).unwrap()).await.unwrap();
        assert_eq!(bench.stored().await, ["second"]);
    });
}

#[test]
fn a_branch_is_deleted_by_its_service_and_its_ancestor_says_so_itself() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let main = process.attach_open(&bench).await;
        let handle = process.service.attach(&tenant(), &branch(), Attach::default()).unwrap();
        let change = Change { ancestor: ancestor(), ..bench.checkpoint(&["own"], 60) };
        handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
        // Not while there is a branch: nothing is done, and the timeline goes on.
        let refused = process.service.delete(&tenant(), &timeline(), MINUTE).await.unwrap_err();
        assert!(matches!(refused, Error::HasBranches { .. }), "{refused}");
        main.wait(main.hand_over(bench.checkpoint(&["more"], 70)).unwrap()).await.unwrap();
        // What was handed over last is a state that can be restored as long as retention lasts.
        handle.hand_over(bench.checkpoint(&["last"], 80)).unwrap();
        let deletion = process.service.delete(&tenant(), &branch(), MINUTE).await.unwrap();
        assert_eq!(deletion.branch_point_left, None);
        assert!(matches!(handle.status().phase, Phase::Detached));
        assert_eq!((points(&bench).await, main.branch_points()), (vec![], vec![]));
        let (store, id) = (bench.store().await, (tenant(), branch()));
        let view = TimelineView::open(&store, &id.0, &id.1, None).await.unwrap();
        assert!(view.state.is_deleted());
        let before = At::Seq(Seq(deletion.seq.0 - 2));
        let past = TimelineView::open_at(&store, (&id.0, &id.1), before, None).await.unwrap();
        assert!(past.state.layers().contains_key(&name("last")));
        // Its ancestor was not fenced, and can be deleted now; the id stays taken.
        main.wait(main.hand_over(bench.checkpoint(&["goes on"], 90)).unwrap()).await.unwrap();
        process.service.delete(&tenant(), &timeline(), MINUTE).await.unwrap();
        let again = process.service.attach(&tenant(), &branch(), Attach::default()).unwrap();
        assert!(matches!(again.opened().await, Err(Stopped::Stopped(_))));
    });
}

#[test]
fn a_branch_that_was_deleted_stops_and_its_ancestor_is_not_told_again() {
    for opened in ["before", "after"] {
        check_seeds(0..1, async |simulation| {
            let bench = Bench::new(&simulation);
            let process = bench.process("pageserver").await;
            let main = process.attach_open(&bench).await;
            main.begin_branch(point()).await.unwrap();
            main.detach(SECOND).await;
            let (store, clock) = (bench.store().await, bench.clock());
            let attach = || process.service.attach(&tenant(), &branch(), Attach::default()).unwrap();
            let early = (opened == "before").then(attach);
            clock.sleep(SECOND).await;
            let options = sync_engine::WriterOptions {
                writer: Default::default(),
                generation: None,
                clock: bench.clock(),
            };
            let view = TimelineView::open(&store, &tenant(), &branch(), None).await.unwrap();
            let plan = plan_delete(&store, view).await.unwrap();
            execute_delete(&store, plan, TakeOver::No, options).await.unwrap();
            assert_eq!(points(&bench).await, []);
            let seq = bench.view().await.state.seq();
            let handle = early.unwrap_or_else(attach);
            let change = Change { ancestor: ancestor(), ..bench.checkpoint(&["own"], 60) };
            // Who attached when it was deleted may know by now.
            if let Ok(ticket) = handle.hand_over(change) {
                let stopped = handle.wait(ticket).await.unwrap_err();
                assert!(
                    matches!(&stopped, Stopped::Stopped(why) if matches!(**why, Error::TimelineDeleted { .. })),
                    "{stopped:?}"
                );
            }
            assert_eq!(bench.view().await.state.seq(), seq, "the ancestor was told");
        });
    }
}

#[test]
fn of_what_is_said_of_a_branch_the_last_word_counts() {
    check_seeds(0..3, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let main = process.attach_open(&bench).await;
        main.begin_branch(point()).await.unwrap();
        // Whoever said that it has ended does not wait for it.
        let mut ended = Box::pin(main.end_branch(point()));
        assert!(futures::poll!(&mut ended).is_pending());
        drop(ended);
        main.begin_branch(point()).await.unwrap();
        bench.clock().sleep(MINUTE).await;
        assert_eq!((points(&bench).await, main.branch_points()), (vec![point()], vec![point()]));
        let other = BranchPoint { lsn: Lsn(40), ..point() };
        let mut begun = Box::pin(main.begin_branch(other.clone()));
        assert!(futures::poll!(&mut begun).is_pending());
        drop(begun);
        main.end_branch(other).await.unwrap();
        bench.clock().sleep(MINUTE).await;
        assert_eq!(points(&bench).await, [point()]);
    });
}

#[test]
fn timelines_that_name_each_other_as_ancestors_wait_for_a_person_and_go_on_when_one_is_corrected() {
    check_seeds(0..2, async |simulation| {
        let bench = Bench::new(&simulation);
        let process = bench.process("pageserver").await;
        let attach =
            |timeline: &TimelineId| process.service.attach(&tenant(), timeline, Attach::default()).unwrap();
        let ids: Vec<TimelineId> = (1..=3).map(|number| format!("{number:032x}").parse().unwrap()).collect();
        let handles: Vec<_> = ids.iter().map(attach).collect();
        let leaves = |of: usize, layer: &str, lsn: u64| Change {
            ancestor: Some(Ancestor { timeline: ids[of].clone(), lsn: Lsn(50) }),
            ..bench.checkpoint(&[layer], lsn)
        };
        // 1 of 2 of 3 of 1.
        let tickets: Vec<_> = [(0, 1, "a"), (1, 2, "b"), (2, 0, "c")]
            .map(|(of, from, layer)| handles[of].hand_over(leaves(from, layer, 60)).unwrap())
            .to_vec();
        let clock = bench.clock();
        clock.sleep(MINUTE * 2).await;
        let circles = handles.iter().filter(|handle| {
            let Phase::Waiting { error, .. } = handle.status().phase else { return false };
            matches!(*error, Error::AncestorCycle { .. })
        });
        assert!(circles.count() > 0, "{handles:?}");
        assert!(handles.iter().zip(&tickets).all(|(handle, ticket)| !handle.is_settled(*ticket)));
        // The third was branched off a timeline that is there.
        let main = process.attach_open(&bench).await;
        let change = Change { ancestor: ancestor(), ..bench.checkpoint(&["d"], 70) };
        let last = handles[2].hand_over(change).unwrap();
        handles[2].wait(last).await.unwrap();
        for (handle, ticket) in handles.iter().zip(tickets) {
            handle.wait(ticket).await.unwrap();
        }
        let points: Vec<TimelineId> = main.branch_points().into_iter().map(|point| point.timeline).collect();
        assert_eq!(points, ids[2..]);
    });
}
