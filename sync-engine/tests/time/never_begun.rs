//! Branch points of branches that never began: deletion ends them, and whoever was about to begin is fenced.

use std::collections::BTreeSet;

use layer_archive::{Ancestor, BranchPoint, BundleWriter, Lsn, Seq};
use sync_engine::{
    BranchChange, Deletion, Draft, Error, Store, TakeOver, TimelineWriter, change_branch_point,
    execute_delete, plan_delete, without_deleted,
};

use crate::family::{Family, Place, at_lsn, id, open, points, tenant};
use crate::killed_at;
use crate::spy::Fate;
use crate::support::writer_options;

/// A root and its branch 2, and a branch 9 that left at 50 and has no record.
async fn with_point() -> Family {
    let family = Family::new().await;
    let home = family.home();
    family.write(home, 1, at_lsn(70), &["10-a"]).await;
    family.branch(home, 2, (1, 60), 65, &["61-b"]).await;
    tell(&family.store, 9, 50).await;
    family
}

async fn tell(store: &Store, branch: u32, lsn: u64) {
    let point = BranchPoint { tenant: tenant(1), timeline: id(branch), lsn: Lsn(lsn) };
    let options = writer_options("begins");
    change_branch_point(store, (&tenant(1), &id(1)), point, BranchChange::Begins, options).await.unwrap();
}

async fn delete(store: &Store, timeline: u32, take_over: TakeOver) -> Result<Deletion, Error> {
    let plan = plan_delete(store, open(Place { store, tenant: 1 }, timeline).await).await?;
    execute_delete(store, plan, take_over, writer_options("delete")).await
}

#[tokio::test]
async fn a_branch_that_never_began_is_deleted_and_its_ancestor_keeps_nothing_for_it() {
    let family = with_point().await;
    let home = family.home();
    let plan = plan_delete(&family.store, open(home, 9).await).await.unwrap();
    assert!(plan.never_began() && !plan.is_deleted);
    assert_eq!(plan.ancestors, [Ancestor { timeline: id(1), lsn: Lsn(50) }]);
    assert_eq!(open(home, 9).await.state.seq(), Seq(0), "a plan writes nothing");
    let deletion = execute_delete(&family.store, plan, TakeOver::No, writer_options("delete")).await.unwrap();
    assert_eq!((deletion.seq, deletion.branch_point_left), (Seq(2), None));
    assert!(open(home, 9).await.state.is_deleted());
    assert_eq!(points(home, 1).await, [(id(2), 60)]);
    // What nobody knows of is not there.
    let unknown = delete(&family.store, 8, TakeOver::No).await.unwrap_err();
    assert!(matches!(unknown, Error::TimelineNotFound { .. }), "{unknown}");
    // Its own kind is none of another tenant.
    let elsewhere = open(Place { store: &family.store, tenant: 2 }, 9).await;
    assert!(matches!(plan_delete(&family.store, elsewhere).await, Err(Error::TimelineNotFound { .. })));
}

#[tokio::test]
async fn of_a_beginning_and_a_deletion_one_is_fenced() {
    // The branch was told of and about to be claimed.
    let family = with_point().await;
    let about_to = open(family.home(), 9).await;
    delete(&family.store, 9, TakeOver::No).await.unwrap();
    let fenced = TimelineWriter::claim(&family.store, about_to, writer_options("late")).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. } | Error::TimelineDeleted { .. }), "{fenced}");
    // The branch began between the plan and the claim: it and its point stay.
    let family = with_point().await;
    let plan = plan_delete(&family.store, open(family.home(), 9).await).await.unwrap();
    let ancestor = Some(Ancestor { timeline: id(1), lsn: Lsn(50) });
    family.write(family.home(), 9, Draft { ancestor, ..at_lsn(55) }, &["52-x"]).await;
    let late =
        execute_delete(&family.store, plan, TakeOver::Yes, writer_options("delete")).await.unwrap_err();
    assert!(matches!(late, Error::Fenced { .. }), "{late}");
    assert!(!open(family.home(), 9).await.state.is_deleted());
    assert_eq!(points(family.home(), 1).await, [(id(2), 60), (id(9), 50)]);
}

#[tokio::test]
async fn a_branch_with_claims_alone_is_deleted_with_its_point() {
    let family = with_point().await;
    TimelineWriter::claim(&family.store, open(family.home(), 9).await, writer_options("killed"))
        .await
        .unwrap();
    let held = delete(&family.store, 9, TakeOver::No).await.unwrap_err();
    assert!(matches!(held, Error::Held { .. }), "{held}");
    delete(&family.store, 9, TakeOver::Yes).await.unwrap();
    assert_eq!(points(family.home(), 1).await, [(id(2), 60)]);
}

#[tokio::test]
async fn a_held_ancestor_keeps_the_point_until_the_deletion_is_run_again() {
    let family = with_point().await;
    let mut held = TimelineWriter::claim(&family.store, open(family.home(), 1).await, writer_options("runs"))
        .await
        .unwrap();
    let deletion = delete(&family.store, 9, TakeOver::No).await.unwrap();
    assert!(deletion.branch_point_left.unwrap().contains("held"));
    assert_eq!(points(family.home(), 1).await.len(), 2);
    // Neither does a point that was written when the tombstone was there already.
    held.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    assert_eq!(delete(&family.store, 9, TakeOver::No).await.unwrap().branch_point_left, None);
    assert_eq!(points(family.home(), 1).await, [(id(2), 60)]);
    tell(&family.store, 9, 45).await;
    delete(&family.store, 9, TakeOver::No).await.unwrap();
    assert_eq!(points(family.home(), 1).await, [(id(2), 60)]);
}

#[tokio::test]
async fn killed_at_any_request_the_point_ends_only_behind_the_tombstone_and_the_next_run_ends_it() {
    for fate in [Fate::Lost, Fate::AnswerLost] {
        for request in 0.. {
            let family = with_point().await;
            let killed = match Store::open(
                killed_at(&family.test.objects(), request, fate.clone()),
                "through",
            )
            .await
            {
                Ok(store) => match plan_delete(&store, open(family.home(), 9).await).await {
                    Ok(plan) => execute_delete(&store, plan, TakeOver::No, writer_options("delete")).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            let known: BTreeSet<_> = points(family.home(), 1).await.into_iter().collect();
            assert!(known.contains(&(id(9), 50)) || open(family.home(), 9).await.state.is_deleted());
            delete(&family.store, 9, TakeOver::Yes).await.unwrap();
            assert_eq!(points(family.home(), 1).await, [(id(2), 60)]);
            if killed.is_ok_and(|deletion| deletion.branch_point_left.is_none()) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn of_branches_those_that_are_deleted_are_told_of_no_more() {
    let family = with_point().await;
    let home = family.home();
    delete(&family.store, 2, TakeOver::No).await.unwrap();
    let all: Vec<BranchPoint> = [(2, 60), (3, 30), (9, 50)]
        .map(|(branch, lsn)| BranchPoint { tenant: tenant(1), timeline: id(branch), lsn: Lsn(lsn) })
        .into();
    let state = open(home, 1).await.state;
    let before = family.test.counts();
    assert_eq!(without_deleted(&family.store, &state, &all).await.unwrap(), all[1..]);
    // The deleted one and the new one are looked up, and not the one that is known.
    assert_eq!(family.test.counts().since(&before).list, 2);
}
