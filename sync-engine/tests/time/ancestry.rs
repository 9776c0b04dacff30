//! Branches and ancestors that are lost, deleted, damaged or have forgotten each other.

use std::collections::BTreeMap;

use layer_archive::{Ancestor, BranchPoint, BundleWriter, Lsn, RemovalReason, Removed, Seq, TimelineId};
use storage_api::{Body, KeyPrefix, PutMode};
use sync_engine::gc::GcPolicy;
use sync_engine::{
    BranchChange, Draft, Error, Finding, RepairOptions, RepairReport, TakeOver, TimelineKeys, TimelineView,
    TimelineWriter, VerifyDepth, change_branch_point, plan_delete, rebuild_timeline, repair_timeline,
    verify_timeline,
};

use crate::bench::{Bench, NONE};
use crate::support::{name, options, tenant, timeline as main, writer_options};
use crate::{churned, lived};

fn branch() -> TimelineId {
    "000000000000000000000000000000bb".parse().unwrap()
}

/// A branch of [`branch`].
fn twig() -> TimelineId {
    "000000000000000000000000000000cc".parse().unwrap()
}

fn point(timeline: TimelineId, lsn: u64) -> BranchPoint {
    BranchPoint { tenant: tenant(), timeline, lsn: Lsn(lsn) }
}

async fn open(bench: &Bench, timeline: &TimelineId) -> TimelineView {
    TimelineView::open(&bench.store, &tenant(), timeline, None).await.unwrap()
}

/// Commits and releases, without a manifest.
async fn append(bench: &Bench, timeline: &TimelineId, draft: Draft) {
    let view = open(bench, timeline).await;
    let mut writer = TimelineWriter::claim(&bench.store, view, writer_options("family")).await.unwrap();
    writer.append(Draft { released: true, ..draft }, BundleWriter::new()).await.unwrap();
}

async fn leave(bench: &Bench, timeline: &TimelineId, ancestor: TimelineId, lsn: u64) {
    let id = (tenant(), ancestor.clone());
    let begins = BranchChange::Begins;
    let options = writer_options("family");
    change_branch_point(&bench.store, (&id.0, &id.1), point(timeline.clone(), lsn), begins, options)
        .await
        .unwrap();
    let ancestor = Some(Ancestor { timeline: ancestor, lsn: Lsn(lsn) });
    append(bench, timeline, Draft { ancestor, ..Draft::default() }).await;
}

/// A timeline, a branch of it, and a branch of that.
async fn family() -> Bench {
    let bench = lived().await;
    leave(&bench, &branch(), main(), 70).await;
    leave(&bench, &twig(), branch(), 60).await;
    bench
}

async fn findings(bench: &Bench, timeline: &TimelineId) -> Vec<Finding> {
    let view = open(bench, timeline).await;
    verify_timeline(&bench.store, &view, VerifyDepth::Deep).await.unwrap().findings
}

/// It is said of the branch, and of the branch of the branch, with both timelines' names.
async fn assert_broken(bench: &Bench, between: [&TimelineId; 2], remedy: &str) {
    for timeline in [branch(), twig()] {
        let findings = findings(bench, &timeline).await;
        assert_eq!(findings.len(), 1, "{findings:?}");
        let Finding { object, problem, layers, points } = &findings[0];
        assert!(object.contains(between[0].as_str()), "{object}");
        assert!(between.iter().all(|name| problem.contains(name.as_str())), "{problem}");
        assert!(problem.contains(remedy), "{problem}");
        assert_eq!((layers.len(), points), (0, &None));
    }
}

async fn forget(bench: &Bench, ancestor: &TimelineId, branch: TimelineId, lsn: u64) {
    let (ends, options) = (BranchChange::Ends, writer_options("forgets"));
    change_branch_point(&bench.store, (&tenant(), ancestor), point(branch, lsn), ends, options)
        .await
        .unwrap();
}

async fn objects(bench: &Bench, timeline: &TimelineId) -> Vec<storage_api::ObjectInfo> {
    let prefix: KeyPrefix = TimelineKeys::new(&tenant(), timeline).unwrap().prefix().clone();
    storage_api::ObjectStoreExt::list_all(&*bench.objects, &prefix).await.unwrap()
}

async fn repair(bench: &Bench, timeline: &TimelineId, take_over: TakeOver) -> Result<RepairReport, Error> {
    let scratch = tempfile::TempDir::new().unwrap();
    let (depth, scratch) = (VerifyDepth::Deep, scratch.path().to_owned());
    let options = RepairOptions { backup: options(), take_over, depth, scratch };
    repair_timeline(&bench.store, (&tenant(), timeline), &BTreeMap::new(), &options).await
}

#[tokio::test]
async fn whatever_is_wrong_on_the_way_to_the_ancestors_is_said_of_the_branch() {
    let bench = family().await;
    for timeline in [main(), branch(), twig()] {
        assert_eq!(findings(&bench, &timeline).await, []);
    }
    // Lost.
    for info in objects(&bench, &main()).await {
        bench.delete(info.key).await;
    }
    assert_broken(&bench, [&branch(), &main()], "back it up from its work directory").await;
    // Deleted.
    let bench = family().await;
    append(&bench, &main(), Draft { deleted: true, ..Draft::default() }).await;
    assert_broken(&bench, [&branch(), &main()], "`backup --ancestor`").await;
    // In a circle.
    let bench = family().await;
    let ancestor = Some(Ancestor { timeline: branch(), lsn: Lsn(5) });
    append(&bench, &main(), Draft { ancestor, ..Draft::default() }).await;
    let said = findings(&bench, &branch()).await;
    assert!(said.iter().any(|finding| finding.problem.contains("circle")), "{said:?}");
    // Damaged.
    let bench = family().await;
    let ancestor = open(&bench, &main()).await;
    bench.delete(ancestor.keys.record(ancestor.state.claim()).unwrap()).await;
    assert_broken(&bench, [&branch(), &main()], "`layerpack verify --repair` of the ancestor").await;
    // Forgotten; the branch of the branch is not safe then either.
    let bench = family().await;
    forget(&bench, &main(), branch(), 70).await;
    assert_broken(&bench, [&branch(), &main()], "`layerpack verify --repair` of the branch").await;
    // Known at another LSN.
    let begins = BranchChange::Begins;
    change_branch_point(
        &bench.store,
        (&tenant(), &main()),
        point(branch(), 69),
        begins,
        writer_options("lower"),
    )
    .await
    .unwrap();
    assert_broken(&bench, [&branch(), &main()], "at LSN 0/46").await;
}

#[tokio::test]
async fn a_forgotten_branch_point_is_told_again_by_a_repair_of_the_branch() {
    let bench = family().await;
    forget(&bench, &main(), branch(), 70).await;
    // Somebody holds the ancestor.
    let holder =
        TimelineWriter::claim(&bench.store, open(&bench, &main()).await, writer_options("holder")).await;
    drop(holder.unwrap());
    let before = bench.objects().await;
    let refused = repair(&bench, &branch(), TakeOver::No).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Held { timeline, by, .. } if *timeline == main() && by.program == "holder"),
        "{refused}"
    );
    assert_eq!(bench.objects().await, before);
    let report = repair(&bench, &branch(), TakeOver::Yes).await.unwrap();
    assert_eq!((report.told, report.wrote, report.findings.len()), (vec![main()], false, 1));
    assert_eq!(open(&bench, &main()).await.state.branch_points().collect::<Vec<_>>(), [&point(branch(), 70)]);
    for timeline in [main(), branch(), twig()] {
        assert_eq!(findings(&bench, &timeline).await, []);
    }
    assert_eq!(repair(&bench, &branch(), TakeOver::No).await.unwrap().told, []);
    // From further down the way, where nobody holds it.
    forget(&bench, &main(), branch(), 70).await;
    assert_eq!(repair(&bench, &twig(), TakeOver::No).await.unwrap().told, [main()]);
    assert_eq!(findings(&bench, &branch()).await, []);
}

/// Collects the records that tell of the branches, and loses all manifests.
async fn lose_manifests(bench: &mut Bench) {
    churned(bench).await;
    let policy = GcPolicy { live_percent_min: 0, small_bundles_min: usize::MAX, ..NONE };
    for _ in 0..2 {
        assert_eq!(bench.gc(&policy, TakeOver::No).await.damage, []);
    }
    for info in objects(bench, &main()).await {
        if info.key.as_str().contains("/manifest/") {
            bench.delete(info.key).await;
        }
    }
}

#[tokio::test]
async fn an_ancestor_without_manifests_learns_its_branches_from_them() {
    let mut bench = family().await;
    // One that was deleted, and one that does not open.
    let [deleted, torn]: [TimelineId; 2] = ["dd", "ee"].map(|end| format!("{end:0>32}").parse().unwrap());
    for timeline in [&deleted, &torn] {
        leave(&bench, timeline, main(), 50).await;
    }
    append(&bench, &deleted, Draft { deleted: true, ..Draft::default() }).await;
    append(&bench, &torn, Draft::default()).await;
    bench.delete(TimelineKeys::new(&tenant(), &torn).unwrap().record(Seq(3)).unwrap()).await;
    lose_manifests(&mut bench).await;
    let rebuilt = rebuild_timeline(&bench.store, &tenant(), &main()).await.unwrap();
    assert_eq!(rebuilt.branch_points, [point(branch(), 70)]);
    assert_eq!(rebuilt.view.state.branch_points().collect::<Vec<_>>(), [&point(branch(), 70)]);
    assert!(rebuilt.view.damage.iter().any(|finding| finding.object.contains(torn.as_str())), "{rebuilt:?}");
    assert!(repair(&bench, &main(), TakeOver::No).await.unwrap().wrote);
    let view = open(&bench, &main()).await;
    assert_eq!(view.state.branch_points().collect::<Vec<_>>(), [&point(branch(), 70)]);
    assert_eq!(findings(&bench, &branch()).await, []);
    // It protects its branch.
    let removed = [Removed { name: name("2-2"), reason: RemovalReason::Collected }];
    assert!(matches!(view.state.check_removals(&removed, &[]), Err(Error::NeededByBranch { .. })));
    // The other one tells of itself when it is repaired.
    assert_eq!(repair(&bench, &torn, TakeOver::No).await.unwrap().told, [main()]);
    let points = open(&bench, &main()).await.state.branch_points().cloned().collect::<Vec<_>>();
    assert_eq!(points, [point(branch(), 70), point(torn.clone(), 50)]);
    // It is in its log now, whatever becomes of the manifests and the branches.
    for timeline in [main(), branch(), torn] {
        for info in objects(&bench, &timeline).await {
            if timeline != main() || info.key.as_str().contains("/manifest/") {
                bench.delete(info.key).await;
            }
        }
    }
    let rebuilt = rebuild_timeline(&bench.store, &tenant(), &main()).await.unwrap();
    assert_eq!(rebuilt.view.state.branch_points().cloned().collect::<Vec<_>>(), points);
}

#[tokio::test]
async fn a_damaged_sibling_keeps_nothing_from_being_deleted_unless_it_may_be_a_branch() {
    let plan = |bench: Bench| async move {
        let view = open(&bench, &main()).await;
        plan_delete(&bench.store, view).await.map(|plan| plan.layers)
    };
    let sibling: TimelineId = "000000000000000000000000000000ff".parse().unwrap();
    let keys = TimelineKeys::new(&tenant(), &sibling).unwrap();
    // The records: a claim, the ancestor if there is one, a claim, nothing.
    let damaged = |ancestor: Option<TimelineId>, lost: u64| {
        let (sibling, keys) = (&sibling, &keys);
        async move {
            let bench = lived().await;
            let ancestor = ancestor.map(|timeline| Ancestor { timeline, lsn: Lsn(70) });
            append(&bench, sibling, Draft { ancestor, ..Draft::default() }).await;
            append(&bench, sibling, Draft::default()).await;
            bench.delete(keys.record(Seq(lost)).unwrap()).await;
            let opened = TimelineView::open(&bench.store, &tenant(), sibling, None).await;
            assert!(matches!(opened, Err(Error::Gap { .. })), "{opened:?}");
            bench
        }
    };
    let is_named = |refused: &Error| refused.to_string().contains(sibling.as_str());
    // A branch of another timeline; a branch of this one; one that does not say what it is.
    assert!(plan(damaged(Some(branch()), 3).await).await.is_ok());
    let refused = plan(damaged(Some(main()), 3).await).await.unwrap_err();
    assert!(matches!(refused, Error::HasBranches { .. }) && is_named(&refused), "{refused}");
    for ancestor in [None, Some(main())] {
        let refused = plan(damaged(ancestor, 2).await).await.unwrap_err();
        assert!(matches!(refused, Error::SiblingDamaged { .. }) && is_named(&refused), "{refused}");
        assert!(refused.to_string().contains("verify --repair"), "{refused}");
    }
    // One that cannot be rebuilt either.
    let bench = damaged(Some(main()), 3).await;
    let stray = keys.record(Seq(u64::MAX)).unwrap();
    bench.objects.put(&stray, Body::new("stray"), PutMode::Create).await.unwrap();
    let refused = plan(bench).await.unwrap_err();
    assert!(matches!(refused, Error::SiblingDamaged { .. }) && is_named(&refused), "{refused}");
    // A branch that the timeline knows of, and that was deleted before it was damaged.
    let bench = family().await;
    append(&bench, &branch(), Draft { deleted: true, ..Draft::default() }).await;
    let keys = TimelineKeys::new(&tenant(), &branch()).unwrap();
    bench.delete(keys.record(Seq(3)).unwrap()).await;
    assert!(plan(bench).await.is_ok());
}
