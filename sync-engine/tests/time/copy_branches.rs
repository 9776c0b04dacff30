//! Copies of branches: only to where their ancestors have what they need.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use layer_archive::{Ancestor, BranchPoint, BundleWriter, LayerName, Lsn, RemovalReason, Seq};
use storage_api::ObjectStore;
use sync_engine::gc::{GcOptions, GcPolicy, KnownRecords, execute_gc, plan_gc, survey_timeline};
use sync_engine::{
    Ancestry, At, BranchChange, CopyTarget, Draft, Error, Store, TakeOver, TimelineView, TimelineWriter,
    change_branch_point, copy_timeline, execute_delete, find_layers, plan_delete,
};

use crate::bench::NONE;
use crate::family::{Family, Place, at_lsn, id, layers, open, points, tenant, without};
use crate::killed_at;
use crate::spy::{Fate, Spy};
use crate::support::{TestStore, name, writer_options};

/// Checks that a branch was not copied because an ancestor lacks `missing` layers, the first of which is `layer`; and
/// that nothing is left of the attempt.
async fn assert_lacks(
    family: &Family,
    branch: u32,
    to: Place<'_>,
    (ancestor, layer, missing): (u32, &str, usize),
) {
    let known = points(to, 1).await;
    let refused = family.copy(branch, to, At::Newest).await.unwrap_err();
    let expected = (&id(ancestor), &name(layer), missing, &id(branch));
    assert!(
        matches!(&refused, Error::AncestorLacks { ancestor, layer, missing, timeline, .. }
            if (ancestor, layer, *missing, timeline) == expected),
        "{refused}"
    );
    assert!(refused.to_string().contains("copy the ancestor again"), "{refused}");
    assert_eq!(open(to, branch).await.state.seq(), Seq(0));
    assert_eq!(points(to, 1).await, known, "the branch point was ended again");
}

#[tokio::test]
async fn what_an_ancestor_let_go_of_before_it_knew_of_a_branch_keeps_the_branch_away() {
    for reason in [RemovalReason::Collected, RemovalReason::Compacted] {
        for between in [false, true] {
            let family = Family::lived().await;
            let second = TestStore::memory().create().await;
            let store = if between { &second } else { &family.store };
            let to = Place { store, tenant: 2 };
            family.copy(1, to, At::Newest).await.unwrap();
            // Above where the branch leaves: no harm.
            family.write(to, 1, without("60-late", reason), &[]).await;
            family.write(to, 1, without("10-a", reason), &["12-compacted"]).await;
            family.write(to, 1, without("opaque", reason), &[]).await;
            assert_lacks(&family, 2, to, (1, "10-a", 2)).await;
            // Under its name with other contents it is not there either.
            family.write(to, 1, Draft::default(), &["opaque"]).await;
            assert_lacks(&family, 2, to, (1, "10-a", 1)).await;
            // As the error says.
            let elsewhere = Place { tenant: 3, ..to };
            family.copy(1, elsewhere, At::Newest).await.unwrap();
            family.copy(2, elsewhere, At::Newest).await.unwrap();
            assert_eq!(points(elsewhere, 1).await, [(id(2), 50)]);
        }
    }
}

#[tokio::test]
async fn other_contents_under_the_name_of_a_layer_are_not_the_layer() {
    let family = Family::lived().await;
    let to = Place { store: &family.store, tenant: 2 };
    family.copy(1, to, At::Newest).await.unwrap();
    family.write(to, 1, without("45-b", RemovalReason::Collected), &[]).await;
    let mut writer =
        TimelineWriter::claim(to.store, open(to, 1).await, writer_options("other")).await.unwrap();
    let other = [("45-b".to_owned(), layer_archive::RawDigest::of(b"other"), b"other".to_vec())];
    let draft = Draft { released: true, ..Draft::default() };
    writer.append(draft, crate::support::pack(other.into_iter())).await.unwrap();
    assert_lacks(&family, 2, to, (1, "45-b", 1)).await;
}

#[tokio::test]
async fn the_whole_way_up_is_looked_at_at_the_lowest_lsn_on_it() {
    let family = Family::lived().await;
    let to = Place { store: &family.store, tenant: 2 };
    for timeline in [1, 2] {
        family.copy(timeline, to, At::Newest).await.unwrap();
    }
    // What is compacted the branch that is known finds in other layers; of others nothing is known.
    family.write(to, 1, without("45-b", RemovalReason::Compacted), &["44-compacted"]).await;
    assert_lacks(&family, 3, to, (1, "45-b", 1)).await;
    assert_eq!(points(to, 2).await, []);
    // 4 has left at 40, below that.
    family.copy(4, to, At::Newest).await.unwrap();
    assert_eq!(points(to, 2).await, [(id(4), 40)]);
    family.write(to, 1, without("10-a", RemovalReason::Compacted), &["9-compacted"]).await;
    assert_lacks(&family, 3, to, (1, "10-a", 2)).await;
}

#[tokio::test]
async fn an_ancestor_that_has_another_past_there_lacks_all_of_its_own() {
    for past in [None, Some(Ancestor { timeline: id(1), lsn: Lsn(49) })] {
        let family = Family::lived().await;
        let to = Place { store: &family.store, tenant: 2 };
        family.copy(1, to, At::Newest).await.unwrap();
        family.write(to, 2, Draft { ancestor: past, ..at_lsn(65) }, &["55-c", "58-d"]).await;
        assert_lacks(&family, 3, to, (1, "10-a", 3)).await;
        // Up to 40 it is the same.
        assert_eq!(family.copy(4, to, At::Newest).await.is_ok(), points(to, 2).await == [(id(4), 40)]);
    }
}

#[tokio::test]
async fn an_ancestor_must_be_as_far_there_as_the_branch_needs_or_as_it_is_itself() {
    for (source_lsn, goes) in [(70, false), (40, true)] {
        let family = Family::new().await;
        family.write(family.home(), 1, at_lsn(40), &["10-a"]).await;
        family.branch(family.home(), 2, (1, 50), 65, &["55-c"]).await;
        let to = Place { store: &family.store, tenant: 2 };
        family.copy(1, to, At::Newest).await.unwrap();
        family.write(family.home(), 1, at_lsn(source_lsn), &[]).await;
        let copied = family.copy(2, to, At::Newest).await;
        assert_eq!(copied.is_ok(), goes);
        if let Err(error) = copied {
            assert!(
                matches!(&error, Error::AncestorMissing { ancestor, .. } if ancestor.lsn == Lsn(50)),
                "{error}"
            );
            assert_eq!(points(to, 1).await, []);
        }
    }
}

#[tokio::test]
async fn where_the_ancestors_are_whole_a_branch_goes_and_reads_all_of_its_past() {
    let family = Family::lived().await;
    let second = TestStore::memory().create().await;
    for store in [&family.store, &second] {
        let to = Place { store, tenant: 2 };
        for timeline in [1, 2, 3, 4] {
            family.copy(timeline, to, At::Newest).await.unwrap();
        }
        assert_eq!(
            (points(to, 1).await, points(to, 2).await),
            (vec![(id(2), 50)], vec![(id(3), 60), (id(4), 40)])
        );
        let past = ["10-a", "45-b", "opaque", "55-c", "58-d", "61-e"].map(name);
        let found = find_layers(store, open(to, 3).await, &BTreeSet::from(past)).await.unwrap();
        assert_eq!(found.len(), 3);
    }
    // Beside its source, under the same ancestor, it needs nothing that the source does not.
    family.write(family.home(), 1, without("10-a", RemovalReason::Compacted), &["9-compacted"]).await;
    let from = open(family.home(), 2).await;
    let (tenant, timeline) = (tenant(1), id(9));
    let target = CopyTarget { store: &family.store, tenant: &tenant, timeline: &timeline };
    copy_timeline(&family.store, &from, target, family.copy_options(At::Newest)).await.unwrap();
}

#[tokio::test]
async fn an_older_state_goes_to_ancestors_of_the_same_time_or_of_now() {
    let family = Family::lived().await;
    let time = At::Time(open(family.home(), 4).await.state.time());
    family.write(family.home(), 1, without("10-a", RemovalReason::Compacted), &["9-compacted"]).await;
    for (tenant, ancestor_at, branch_at, goes) in [
        (2, time, time, true),
        (3, At::Newest, time, true),
        (4, At::Newest, At::Newest, true),
        (5, time, At::Newest, false),
    ] {
        let to = Place { store: &family.store, tenant };
        family.copy(1, to, ancestor_at).await.unwrap();
        assert_eq!(family.copy(2, to, branch_at).await.is_ok(), goes, "{tenant}");
    }
}

/// Collects a layer of the root of tenant 2, if nothing forbids it. Memory answers at once, so nothing waits here.
fn collect(objects: &Arc<dyn ObjectStore>) {
    let collected = async {
        let store = Store::open(Arc::clone(objects), "collector").await?;
        let view = open(Place { store: &store, tenant: 2 }, 1).await;
        let mut writer = TimelineWriter::claim(&store, view, writer_options("collector")).await?;
        let draft = Draft { released: true, ..without("10-a", RemovalReason::Collected) };
        if writer.append(draft, BundleWriter::new()).await.is_err() {
            writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await?;
        }
        Ok::<_, Error>(())
    };
    collected.now_or_never().unwrap().unwrap();
}

#[tokio::test]
async fn collected_at_any_request_a_branch_that_is_there_has_its_past() {
    let (mut copied, mut refused) = (0, 0);
    for request in 0.. {
        let family = Family::lived().await;
        let to = Place { store: &family.store, tenant: 2 };
        family.copy(1, to, At::Newest).await.unwrap();
        let (objects, mut number) = (family.test.objects(), 0);
        let (collector, collected) = (Arc::clone(&objects), Arc::new(AtomicBool::new(false)));
        let collects = Arc::clone(&collected);
        let spy = Spy::new(&objects, move |_, _| {
            number += 1;
            if number - 1 == request {
                collect(&collector);
                collects.store(true, Ordering::Relaxed);
            }
            Fate::Done
        });
        let through = Store::open(spy, "through").await.unwrap();
        let done = family.copy(2, Place { store: &through, tenant: 2 }, At::Newest).await;
        if open(to, 2).await.state.layers().is_empty() {
            assert!(done.is_err());
            refused += 1;
        } else {
            assert!(layers(to, 1).await.contains("10-a"), "collected before request {request}");
            copied += 1;
        }
        if !collected.load(Ordering::Relaxed) {
            break;
        }
    }
    assert!(copied > 5 && refused > 5, "{copied} {refused}");
}

#[tokio::test]
async fn killed_at_any_request_the_next_run_copies_the_branch_and_its_point_is_there_once() {
    for fate in [Fate::Lost, Fate::AnswerLost] {
        for request in 0.. {
            let family = Family::lived().await;
            let to = Place { store: &family.store, tenant: 2 };
            family.copy(1, to, At::Newest).await.unwrap();
            let spy = killed_at(&family.test.objects(), request, fate.clone());
            let killed = match Store::open(spy, "through").await {
                Ok(store) => family.copy(2, Place { store: &store, tenant: 2 }, At::Newest).await,
                Err(error) => Err(error),
            };
            let there = open(to, 2).await.state;
            assert!(
                there.seq() == Seq(0) || points(to, 1).await == [(id(2), 50)],
                "a branch before its point"
            );
            if killed.is_ok() {
                break;
            }
            if there.layers().is_empty() {
                let from = open(family.home(), 2).await;
                let (tenant, timeline) = (tenant(2), id(2));
                let target = CopyTarget { store: &family.store, tenant: &tenant, timeline: &timeline };
                let mut options = family.copy_options(At::Newest);
                options.take_over = TakeOver::Yes;
                copy_timeline(&family.store, &from, target, options).await.unwrap();
            }
            assert_eq!(points(to, 1).await, [(id(2), 50)]);
        }
    }
}

#[tokio::test]
async fn a_branch_that_was_deleted_is_brought_back_only_where_its_past_is_there_still() {
    let family = Family::lived().await;
    let home = family.home();
    let before = open(home, 3).await.state.seq();
    let back = |to: u32| {
        let family = &family;
        async move {
            let from =
                TimelineView::open_at(&family.store, (&tenant(1), &id(3)), At::Seq(before), None).await?;
            let (tenant, timeline) = (tenant(1), id(to));
            let target = CopyTarget { store: &family.store, tenant: &tenant, timeline: &timeline };
            copy_timeline(&family.store, &from, target, family.copy_options(At::Seq(before))).await
        }
    };
    let view = open(home, 3).await;
    let plan = plan_delete(&family.store, view).await.unwrap();
    execute_delete(&family.store, plan, TakeOver::No, family.writer_options("delete")).await.unwrap();
    assert!(points(home, 2).await.iter().all(|(timeline, _)| *timeline != id(3)));
    back(30).await.unwrap();
    assert!(points(home, 2).await.contains(&(id(30), 60)));
    // That copy goes too, and with it the reason to keep what it needs.
    let plan = plan_delete(&family.store, open(home, 30).await).await.unwrap();
    execute_delete(&family.store, plan, TakeOver::No, family.writer_options("delete")).await.unwrap();
    family.write(home, 2, without("55-c", RemovalReason::Collected), &[]).await;
    let lacks = back(31).await.unwrap_err();
    assert!(matches!(&lacks, Error::AncestorLacks { layer, .. } if layer.as_str() == "55-c"), "{lacks}");
    assert!(points(home, 2).await.iter().all(|(timeline, _)| *timeline != id(31)));
    assert_eq!(open(home, 31).await.state.seq(), Seq(0));
}

#[tokio::test]
async fn an_unfinished_backup_or_copy_is_no_ancestor() {
    let family = Family::lived().await;
    let second = TestStore::memory().create().await;
    let to = Place { store: &second, tenant: 2 };
    let claim = TimelineWriter::claim(&second, open(to, 1).await, family.writer_options("killed")).await;
    drop(claim.unwrap());
    let before = open(to, 1).await.state;
    let refused = family.copy(2, to, At::Newest).await.unwrap_err();
    assert!(matches!(refused, Error::AncestorMissing { .. }), "{refused}");
    let point = BranchPoint { tenant: tenant(2), timeline: id(2), lsn: Lsn(50) };
    let (of, options) = ((&tenant(2), &id(1)), family.writer_options("backup"));
    let refused = change_branch_point(&second, of, point, BranchChange::Begins, options).await.unwrap_err();
    assert!(matches!(refused, Error::NothingCommitted { .. }), "{refused}");
    assert_eq!(open(to, 1).await.state, before);
}

#[tokio::test]
async fn what_was_compacted_since_a_branch_was_deleted_keeps_it_from_nothing() {
    let collect = |layer| without(layer, RemovalReason::Collected);
    for (then, is_spared) in [
        (None, true),
        (Some(collect("63-above")), true),
        (Some(collect("54-compacted")), false),
        (Some(collect("58-d")), false),
    ] {
        let family = Family::lived().await;
        let home = family.home();
        family.write(home, 2, Draft::default(), &["63-above"]).await;
        let view = open(home, 3).await;
        let plan = plan_delete(home.store, view.clone()).await.unwrap();
        execute_delete(home.store, plan, TakeOver::No, family.writer_options("delete")).await.unwrap();
        let counted = open(home, 2).await.state.seq();
        family.write(home, 2, without("55-c", RemovalReason::Compacted), &["54-compacted"]).await;
        if let Some(draft) = then {
            family.write(home, 2, draft, &[]).await;
        }
        let (tenant, at) = (tenant(1), At::Seq(view.state.seq()));
        let from = TimelineView::open_at(home.store, (&tenant, &id(3)), at, None).await.unwrap();
        // What a restore brings: the ancestor as it is, or as it was before it was told of the deletion.
        let mut ancestry = Ancestry::of(home.store, &from.state);
        let second = ancestry.next_sparing().await.unwrap().unwrap().view;
        assert_eq!(second.is_newest(), is_spared);
        assert!(is_spared || second.state.seq() < counted && layers_of(&second).contains("55-c"));
        assert!(ancestry.next_sparing().await.unwrap().unwrap().view.is_newest(), "1 counts 2");
        let timeline = id(30);
        let target = CopyTarget { store: home.store, tenant: &tenant, timeline: &timeline };
        match copy_timeline(home.store, &from, target, family.copy_options(at)).await {
            Ok(_) => assert!(is_spared && points(home, 2).await.contains(&(id(30), 60))),
            Err(lacks) => {
                assert!(matches!(&lacks, Error::AncestorLacks { .. }), "{lacks}");
                assert!(!is_spared && open(home, 30).await.state.seq() == Seq(0));
            }
        }
    }
}

/// The ancestor's log has been collected, and begins with a manifest of before the branch; the branch began and ended behind
/// it, with no manifest in between.
#[tokio::test]
async fn a_state_that_counted_a_branch_is_found_between_manifests_too() {
    let family = Family::new().await;
    let home = family.home();
    family.write(home, 1, at_lsn(70), &["10-a", "20-b"]).await;
    family.write(home, 1, Draft::default(), &["30-dead", "31-dead"]).await;
    for dead in ["30-dead", "31-dead"] {
        family.write(home, 1, without(dead, RemovalReason::Collected), &[]).await;
    }
    let policy = GcPolicy { checkpoint_bytes_min: 1, ..NONE };
    for _ in 0..2 {
        let id = (tenant(1), id(1));
        let known = KnownRecords::default();
        let survey = survey_timeline(home.store, (&id.0, &id.1), None, &policy, None, known).await.unwrap();
        let plan = plan_gc(&survey, &policy, 32 << 20);
        let writer = family.writer_options("gc");
        let options = GcOptions { policy, bundle_bytes_target: 32 << 20, writer, take_over: TakeOver::No };
        execute_gc(home.store, survey, plan, &options).await.unwrap();
    }
    let listing = open(home, 1).await.listing;
    let manifests = listing.manifests.len();
    assert!(!listing.records.contains_key(&Seq(4)), "{listing:?}");
    family.branch(home, 2, (1, 50), 65, &["55-c"]).await;
    let branch = open(home, 2).await.state;
    let plan = plan_delete(home.store, open(home, 2).await).await.unwrap();
    execute_delete(home.store, plan, TakeOver::No, family.writer_options("delete")).await.unwrap();
    family.write(home, 1, without("20-b", RemovalReason::Collected), &[]).await;
    assert_eq!(open(home, 1).await.listing.manifests.len(), manifests);
    let found = Ancestry::of(home.store, &branch).next_sparing().await.unwrap().unwrap().view;
    assert!(layers_of(&found).contains("20-b") && found.state.branch_points().count() == 1);
}

fn layers_of(view: &TimelineView) -> BTreeSet<&str> {
    view.state.layers().keys().map(LayerName::as_str).collect()
}
