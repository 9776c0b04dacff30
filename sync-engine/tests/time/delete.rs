//! Deletion: nothing comes back, nothing that is needed goes.

use std::collections::BTreeMap;

use layer_archive::{Ancestor, BranchPoint, BundleWriter, Lsn, PayloadId, Seq, Term, TimelineId};
use storage_api::{Body, PutMode};
use sync_engine::{
    At, Deletion, Draft, Error, Mirror, Store, TakeOver, TimelineView, TimelineWriter, execute_delete,
    plan_delete,
};

use crate::bench::{Bench, DAY, NONE, append, contents, keeping};
use crate::repair::{Damage, damage, repair};
use crate::spy::Fate;
use crate::support::{WorkDir, backup, open, tenant, timeline, writer_options};
use crate::{killed_at, lived};

async fn delete(store: &Store, take_over: TakeOver) -> Result<Deletion, Error> {
    let view = TimelineView::open(store, &tenant(), &timeline(), None).await?;
    let plan = plan_delete(store, view).await?;
    execute_delete(store, plan, take_over, writer_options("delete")).await
}

fn branch() -> TimelineId {
    "000000000000000000000000000000bb".parse().unwrap()
}

#[tokio::test]
async fn a_deleted_id_is_never_used_again_and_its_states_are_there_until_they_are_collected() {
    let bench = lived().await;
    let (layers, before) = (bench.layers.clone(), open(&bench.store).await.state.seq());
    let deletion = delete(&bench.store, TakeOver::No).await.unwrap();
    assert_eq!((deletion.seq, deletion.branch_point_left), (Seq(before.0 + 2), None));
    let deleted = TimelineView::open_existing(&bench.store, &tenant(), &timeline(), None).await;
    assert!(matches!(deleted, Err(Error::TimelineDeleted { .. })));
    let claim = TimelineWriter::claim(&bench.store, open(&bench.store).await, writer_options("again")).await;
    assert!(matches!(claim, Err(Error::TimelineDeleted { .. })));
    let work = WorkDir::new();
    work.put("anew", b"anew");
    assert!(matches!(backup(&bench.store, &work, Mirror::Off).await, Err(Error::TimelineDeleted { .. })));
    // A day later it is all there still for whoever deleted the wrong one.
    bench.clock.advance(DAY);
    bench.gc(&keeping(DAY * 2), TakeOver::No).await;
    let id = (tenant(), timeline());
    let past = TimelineView::open_at(&bench.store, (&id.0, &id.1), At::Seq(before), None).await.unwrap();
    assert_eq!(contents(&bench.store, &past.state).await, layers);
    let tombstone = TimelineView::open_at(&bench.store, (&id.0, &id.1), At::Seq(deletion.seq), None).await;
    assert!(matches!(tombstone, Err(Error::PointNotFound { .. })));
    // After retention the claims and the tombstone are left.
    bench.gc(&keeping(DAY / 2), TakeOver::No).await;
    let listing = bench.listing().await;
    assert_eq!(
        listing.records.keys().copied().collect::<Vec<_>>(),
        [Seq(1), deletion.seq, Seq(before.0 + 1)]
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert_eq!((listing.manifests.len(), listing.payloads.len()), (1, 0));
    assert!(open(&bench.store).await.state.is_deleted());
    // Once more is no error, and changes nothing.
    assert_eq!(delete(&bench.store, TakeOver::No).await.unwrap().seq, deletion.seq);
}

#[tokio::test]
async fn what_is_in_flight_does_not_bring_it_back_and_is_collected_again() {
    let mut bench = Bench::new().await;
    let mut running = bench.writer("running").await;
    bench.commit(&mut running, &[("a", &[1; 900])], &[]).await;
    assert!(matches!(delete(&bench.store, TakeOver::No).await, Err(Error::Held { .. })));
    assert!(!open(&bench.store).await.state.is_deleted());
    delete(&bench.store, TakeOver::Yes).await.unwrap();
    // The record that was on its way, and a payload object.
    let late = append(&mut running, &[("b", &[2; 900])], &[]).await.unwrap_err();
    assert!(matches!(late, Error::Fenced { .. }), "{late}");
    bench.gc(&NONE, TakeOver::No).await;
    let view = open(&bench.store).await;
    let id = PayloadId { claim: Seq(1), term: Term(running.view().state.term().0), number: 0 };
    let payload = view.keys.bundle(layer_archive::BundleId::Payload(id)).unwrap();
    // Into the slot that gc has freed, as a sleeper's put would land.
    let record = view.keys.record(Seq(2)).unwrap();
    let (_, claim) = storage_api::ObjectStoreExt::get_bytes(
        &*bench.objects,
        &view.keys.record(Seq(3)).unwrap(),
        storage_api::GetRange::Full,
        1 << 20,
    )
    .await
    .unwrap();
    for (key, bytes) in [(&payload, vec![0; 500]), (&record, claim.to_vec())] {
        bench.objects.put(key, Body::new(bytes), PutMode::Create).await.unwrap();
    }
    let view = open(&bench.store).await;
    assert!(view.state.is_deleted());
    assert!(matches!(
        TimelineView::open_existing(&bench.store, &tenant(), &timeline(), None).await,
        Err(Error::TimelineDeleted { .. })
    ));
    assert!(bench.objects.head(&payload).await.is_ok());
    bench.gc(&NONE, TakeOver::No).await;
    assert!(bench.objects.head(&payload).await.unwrap_err().is_not_found());
    assert!(open(&bench.store).await.state.is_deleted());
}

#[tokio::test]
async fn a_timeline_with_branches_stays_until_they_are_gone() {
    for known_by in ["branch point", "ancestor"] {
        let bench = lived().await;
        if known_by == "branch point" {
            let mut writer = bench.writer("parent").await;
            let point = BranchPoint { tenant: tenant(), timeline: branch(), lsn: Lsn(70) };
            let draft = Draft { branch_points_added: vec![point], released: true, ..Draft::default() };
            writer.append(draft, BundleWriter::new()).await.unwrap();
            // The branch has no record yet: it is being made.
            let refused = delete(&bench.store, TakeOver::Yes).await.unwrap_err();
            assert!(refused.to_string().contains(branch().as_str()), "{refused}");
        }
        let view = TimelineView::open(&bench.store, &tenant(), &branch(), None).await.unwrap();
        let mut writer = TimelineWriter::claim(&bench.store, view, writer_options("child")).await.unwrap();
        let ancestor = Some(Ancestor { timeline: timeline(), lsn: Lsn(70) });
        writer
            .append(Draft { ancestor, released: true, ..Draft::default() }, BundleWriter::new())
            .await
            .unwrap();
        let refused = delete(&bench.store, TakeOver::Yes).await.unwrap_err();
        assert!(matches!(&refused, Error::HasBranches { .. }), "{refused}");
        assert!(refused.to_string().contains(branch().as_str()), "{refused}");
        bench.assert_whole().await;
        let child = TimelineView::open(&bench.store, &tenant(), &branch(), None).await.unwrap();
        let plan = plan_delete(&bench.store, child).await.unwrap();
        execute_delete(&bench.store, plan, TakeOver::No, writer_options("delete")).await.unwrap();
        assert_eq!(open(&bench.store).await.state.branch_points().count(), 0, "{known_by}");
        delete(&bench.store, TakeOver::No).await.unwrap();
    }
}

#[tokio::test]
async fn killed_at_any_request_it_is_whole_or_deleted_and_the_next_run_ends_it() {
    let mut kills = 0;
    for fate in [Fate::Lost, Fate::AnswerLost] {
        for request in 0.. {
            let bench = lived().await;
            let deleted = match bench.through(killed_at(&bench.objects, request, fate.clone())).await {
                Ok(store) => delete(&store, TakeOver::No).await.map(drop),
                Err(error) => Err(error),
            };
            if !open(&bench.store).await.state.is_deleted() {
                assert!(deleted.is_err());
                bench.assert_whole().await;
            }
            kills += usize::from(deleted.is_err());
            let deletion = delete(&bench.store, TakeOver::Yes).await.unwrap();
            // Its manifest is there, without which gc would have no floor.
            assert!(bench.listing().await.manifests.contains_key(&deletion.seq));
            bench.gc(&NONE, TakeOver::No).await;
            assert_eq!(bench.listing().await.payloads.len(), 0);
            if deleted.is_ok() {
                break;
            }
        }
    }
    assert!(kills > 12, "{kills}");
}

#[tokio::test]
async fn a_deletion_that_was_killed_before_its_manifest_is_ended_by_gc() {
    let bench = lived().await;
    let mut writer = bench.writer("delete").await;
    let draft = Draft { deleted: true, released: true, ..Draft::default() };
    writer.append(draft, BundleWriter::new()).await.unwrap();
    let tombstone = writer.view().state.seq();
    let has_manifest = async || bench.listing().await.manifests.contains_key(&tombstone);
    let policy = keeping(DAY);
    assert!(matches!(bench.plan(&policy).await.checkpoint, sync_engine::gc::Checkpoint::Frees(1..)));
    assert!(bench.gc(&policy, TakeOver::No).await.checkpoint && has_manifest().await);
    assert!(!bench.plan(&policy).await.writes());
    // Then it is as if it had ended itself: retention begins with the manifest.
    bench.clock.advance(DAY / 2);
    assert_eq!(bench.gc(&policy, TakeOver::No).await.collected.objects, 0);
    bench.clock.advance(DAY);
    assert!(bench.gc(&policy, TakeOver::No).await.collected.objects > 4);
    assert_eq!(bench.listing().await.payloads.len(), 0);
    assert!(open(&bench.store).await.state.is_deleted());
}

#[tokio::test]
async fn a_tombstone_whose_manifest_does_not_read_is_collected_after_a_repair() {
    let bench = lived().await;
    let deletion = delete(&bench.store, TakeOver::No).await.unwrap();
    let manifest = open(&bench.store).await.keys.manifest(deletion.seq).unwrap();
    damage(&bench, &manifest, Damage::FlippedAt(60)).await;
    assert!(open(&bench.store).await.state.is_deleted(), "by its log");
    let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
    assert_eq!((report.manifests, report.wrote), (vec![deletion.seq], false));
    bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(bench.listing().await.payloads.len(), 0);
}

#[tokio::test]
async fn a_tombstone_without_its_manifest_is_one_when_all_else_is_collected() {
    for lost in [Damage::Deleted, Damage::FlippedAt(60)] {
        let bench = lived().await;
        // Which is a branch of another.
        let parent = TimelineView::open(&bench.store, &tenant(), &branch(), None).await.unwrap();
        let mut writer = TimelineWriter::claim(&bench.store, parent, writer_options("parent")).await.unwrap();
        append(&mut writer, &[("own", b"own")], &[]).await.unwrap();
        writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
        let deletion = delete(&bench.store, TakeOver::No).await.unwrap();
        bench.gc(&NONE, TakeOver::No).await;
        let manifest = open(&bench.store).await.keys.manifest(deletion.seq).unwrap();
        damage(&bench, &manifest, lost).await;
        let opened = TimelineView::open(&bench.store, &tenant(), &timeline(), None).await;
        assert!(matches!(opened, Err(Error::Gap { .. })), "{opened:?}");
        // It keeps nobody from being deleted.
        let parent = TimelineView::open(&bench.store, &tenant(), &branch(), None).await.unwrap();
        plan_delete(&bench.store, parent).await.unwrap();
        let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
        assert_eq!((report.manifests.clone(), report.wrote), (vec![deletion.seq], false));
        assert!(report.is_whole());
        assert!(open(&bench.store).await.state.is_deleted());
        bench.gc(&NONE, TakeOver::No).await;
        assert_eq!(delete(&bench.store, TakeOver::No).await.unwrap().seq, deletion.seq);
        assert_eq!(repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap().manifests, []);
    }
}
