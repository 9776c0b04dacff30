//! Copies of whole tenants: order, what is left out, what fails alone, and runs that are repeated.

use std::collections::BTreeSet;
use std::sync::Arc;

use layer_archive::{Lsn, RawDigest, RemovalReason, Seq, TimelineId};
use sync_engine::{
    At, CopyReport, Draft, Error, LeftOut, PlannedCopy, Standing, Store, TakeOver, TenantCopyPlan,
    TimelineCopy, TimelineWriter, VerifyDepth, execute_delete, execute_tenant_copy, find_layers, plan_delete,
    plan_tenant_copy, read_tenant, verify_timeline,
};

use crate::family::{Family, Place, at_lsn, id, layers, open, points, tenant, without};
use crate::killed_at;
use crate::spy::Fate;
use crate::support::{TestStore, name, pack, writer_options};

type Done = Vec<(TimelineId, TimelineCopy)>;

async fn plan(family: &Family, at: At) -> TenantCopyPlan {
    plan_tenant_copy(read_tenant(&family.store, &tenant(1), at).await.unwrap().unwrap())
}

async fn execute(
    family: &Family,
    plan: TenantCopyPlan,
    to: Place<'_>,
    (at, take_over): (At, TakeOver),
) -> Done {
    let mut options = family.copy_options(at);
    options.take_over = take_over;
    let (from, to_tenant) = (tenant(1), tenant(to.tenant));
    execute_tenant_copy((&family.store, &from), plan, (to.store, &to_tenant), options).await
}

/// Copies tenant 1.
async fn copy(family: &Family, to: Place<'_>, at: At) -> Done {
    execute(family, plan(family, at).await, to, (at, TakeOver::No)).await
}

/// What has become of each timeline, in a word.
fn words(done: &Done) -> Vec<(TimelineId, &'static str)> {
    let word = |copy: &TimelineCopy| match copy {
        TimelineCopy::Copied(_) => "copied",
        TimelineCopy::Present(_) => "present",
        TimelineCopy::Differs => "differs",
        TimelineCopy::Failed(_) => "failed",
        TimelineCopy::Blocked { .. } => "blocked",
        TimelineCopy::LeftOut(LeftOut::NotThereYet) => "not there yet",
        TimelineCopy::LeftOut(LeftOut::NothingCommitted) => "nothing committed",
        TimelineCopy::LeftOut(LeftOut::Empty) => "empty",
    };
    done.iter().map(|(timeline, copy)| (timeline.clone(), word(copy))).collect()
}

fn expect(of: &[(u32, &'static str)]) -> Vec<(TimelineId, &'static str)> {
    of.iter().map(|(timeline, word)| (id(*timeline), *word)).collect()
}

/// The timelines of the family that lived, copied.
async fn assert_whole(family: &Family, to: Place<'_>) {
    for timeline in [1, 2, 3, 4] {
        let (source, copied) = (open(family.home(), timeline).await, open(to, timeline).await);
        assert_eq!(copied.state.metadata(), source.state.metadata());
        assert_eq!(copied.state.ancestor(), source.state.ancestor());
        assert_eq!(layers(to, timeline).await, layers(family.home(), timeline).await);
        let report = verify_timeline(to.store, &copied, VerifyDepth::Deep).await.unwrap();
        assert_eq!(report.findings, []);
    }
    assert_eq!(points(to, 1).await, [(id(2), 50)]);
    assert_eq!(points(to, 2).await, [(id(3), 60), (id(4), 40)]);
    let past = ["10-a", "45-b", "opaque", "55-c", "58-d", "61-e"].map(name);
    find_layers(to.store, open(to, 3).await, &BTreeSet::from(past)).await.unwrap();
}

#[test]
fn a_plan_puts_ancestors_first_and_leaves_out_what_has_no_state() {
    let state = |ancestor: Option<u32>| Standing::State { seq: Seq(7), ancestor: ancestor.map(id) };
    let lost = Arc::new(Error::Task("lost".into()));
    let found = vec![
        (id(1), state(Some(4))),
        (id(2), Standing::LeftOut(LeftOut::NothingCommitted)),
        (id(3), state(Some(1))),
        (id(4), state(None)),
        (id(5), Standing::Unreadable(lost)),
        (id(6), state(Some(5))),
        (id(7), Standing::LeftOut(LeftOut::NotThereYet)),
        // In a circle: they come, and fail by themselves.
        (id(8), state(Some(9))),
        (id(9), state(Some(8))),
    ];
    let plan = plan_tenant_copy(found);
    let order: Vec<&TimelineId> = plan.copies.iter().map(|PlannedCopy { timeline, .. }| timeline).collect();
    let place = |timeline: u32| order.iter().position(|there| **there == id(timeline)).unwrap();
    assert!(place(4) < place(1) && place(1) < place(3));
    assert_eq!(order.len(), 6);
    assert_eq!(plan.left_out, [(id(2), LeftOut::NothingCommitted), (id(7), LeftOut::NotThereYet)]);
    assert_eq!(plan.unreadable.len(), 1);
}

#[tokio::test]
async fn every_timeline_that_is_not_deleted_goes_under_its_id_and_the_store_copies_by_itself() {
    let family = Family::lived().await;
    // A root whose id comes first, and that is a branch's ancestor by name only; one deleted, one unfinished, one
    // emptied.
    family.write(family.home(), 5, at_lsn(9), &["5-x"]).await;
    family.write(family.home(), 6, at_lsn(9), &["6-x"]).await;
    let plan_of = plan_delete(&family.store, open(family.home(), 6).await).await.unwrap();
    execute_delete(&family.store, plan_of, TakeOver::No, writer_options("delete")).await.unwrap();
    TimelineWriter::claim(&family.store, open(family.home(), 7).await, writer_options("killed"))
        .await
        .unwrap();
    family.write(family.home(), 8, Draft::default(), &["8-x"]).await;
    family.write(family.home(), 8, without("8-x", RemovalReason::Collected), &[]).await;
    let second = TestStore::memory();
    let second_store = second.create().await;
    for store in [&family.store, &second_store] {
        let to = Place { store, tenant: 2 };
        let before = family.test.counts();
        let done = copy(&family, to, At::Newest).await;
        let expected = [
            (1, "copied"),
            (2, "copied"),
            (3, "copied"),
            (4, "copied"),
            (5, "copied"),
            (7, "nothing committed"),
            (8, "empty"),
        ];
        assert_eq!(words(&done), expect(&expected));
        assert_whole(&family, to).await;
        assert_eq!(open(to, 6).await.state.seq().0, 0);
        let cost = family.test.counts().since(&before);
        let bundles: usize = reports(&done).map(|report| report.bundles).sum();
        assert_eq!(bundles, 5);
        let inside = Arc::ptr_eq(store.objects(), family.store.objects());
        assert_eq!(cost.copy, if inside { 5 } else { 0 });
        // Once more is nothing but looking.
        let (puts, there) =
            (family.test.counts().put + second.counts().put, copy(&family, to, At::Newest).await);
        let again =
            expected.map(|(timeline, word)| (timeline, if word == "copied" { "present" } else { word }));
        assert_eq!(words(&there), expect(&again));
        assert_eq!(family.test.counts().put + second.counts().put, puts);
        let raw_bytes =
            |done| reports(done).map(|report| (report.layers, report.raw_bytes)).collect::<Vec<_>>();
        assert_eq!(raw_bytes(&there), raw_bytes(&done));
    }
    assert!(read_tenant(&family.store, &tenant(9), At::Newest).await.unwrap().is_none());
}

fn reports(done: &Done) -> impl Iterator<Item = &CopyReport> {
    done.iter().filter_map(|(_, copy)| match copy {
        TimelineCopy::Copied(report) | TimelineCopy::Present(report) => Some(report),
        _ => None,
    })
}

#[tokio::test]
async fn killed_at_any_request_the_next_run_goes_on_and_copies_nothing_twice() {
    let (mut kills, mut partly) = (0, 0);
    for fate in [Fate::Lost, Fate::AnswerLost] {
        for request in 0.. {
            let family = Family::lived().await;
            let second = TestStore::memory();
            let store = second.create().await;
            let to = Place { store: &store, tenant: 2 };
            let is_whole =
                match Store::open(killed_at(&second.objects(), request, fate.clone()), "through").await {
                    Ok(through) => {
                        let to = Place { store: &through, tenant: 2 };
                        let planned = plan(&family, At::Newest).await;
                        let done = execute(&family, planned, to, (At::Newest, TakeOver::No)).await;
                        // Whatever happens each has its line, and what was copied is said.
                        assert_eq!(done.len(), 4);
                        done.iter().all(|(_, copy)| matches!(copy, TimelineCopy::Copied(_)))
                    }
                    Err(_) => false,
                };
            let whole = async |timeline| !layers(to, timeline).await.is_empty();
            let there: Vec<bool> = [whole(1).await, whole(2).await, whole(3).await, whole(4).await].into();
            let options = (At::Newest, TakeOver::Yes);
            let done = execute(&family, plan(&family, At::Newest).await, to, options).await;
            let present: Vec<bool> = words(&done).iter().map(|(_, word)| *word == "present").collect();
            assert_eq!(present, there, "request {request}");
            assert_whole(&family, to).await;
            if is_whole {
                break;
            }
            kills += 1;
            partly += usize::from(there.contains(&true));
        }
    }
    assert!(kills > 60 && partly > 30, "{kills} {partly}");
}

#[tokio::test]
async fn what_fails_keeps_its_branches_back_and_nothing_else() {
    for cause in ["lost bundle", "lost log", "other contents", "deleted there"] {
        let family = Family::lived().await;
        family.write(family.home(), 5, at_lsn(9), &["5-x"]).await;
        let second = TestStore::memory().create().await;
        let to = Place { store: &second, tenant: 2 };
        let view = open(family.home(), 2).await;
        match cause {
            "lost bundle" => {
                let bundle = view.keys.bundle(view.state.bundles()[0].id).unwrap();
                family.test.objects().delete(&[bundle]).await.unwrap();
            }
            "lost log" => {
                // The manifest too: what is left begins with a gap.
                let keys = [view.keys.record(Seq(1)), view.keys.manifest(Seq(2))];
                family.test.objects().delete(&keys.map(Result::unwrap)).await.unwrap();
            }
            "other contents" => family.write(to, 2, at_lsn(65), &["55-c", "58-other"]).await,
            _ => {
                family.write(to, 2, at_lsn(65), &["55-c"]).await;
                let plan = plan_delete(&second, open(to, 2).await).await.unwrap();
                execute_delete(&second, plan, TakeOver::No, writer_options("delete")).await.unwrap();
            }
        }
        let done = copy(&family, to, At::Newest).await;
        let failed = if cause == "other contents" { "differs" } else { "failed" };
        let mut found = words(&done);
        found.sort();
        let mut expected =
            expect(&[(1, "copied"), (2, failed), (3, "blocked"), (4, "blocked"), (5, "copied")]);
        expected.sort();
        assert_eq!(found, expected, "{cause}");
        for timeline in [3, 4] {
            assert_eq!(open(to, timeline).await.state.seq().0, 0);
        }
    }
}

#[tokio::test]
async fn a_copy_that_has_gone_on_since_is_another_timeline() {
    let family = Family::lived().await;
    let gone_on = [
        ("metadata", at_lsn(99), &[][..]),
        ("LSN", Draft { disk_consistent_lsn: Some(Lsn(69)), ..Draft::default() }, &[]),
        ("a layer more", Draft::default(), &["63-more"]),
        ("a layer less", without("62-f", RemovalReason::Collected), &[]),
        ("other contents", without("62-f", RemovalReason::Collected), &[]),
    ];
    for (number, (what, draft, layers)) in (2..).zip(gone_on) {
        let to = Place { store: &family.store, tenant: number };
        copy(&family, to, At::Newest).await;
        family.write(to, 4, draft, layers).await;
        if what == "other contents" {
            let view = open(to, 4).await;
            let mut writer = TimelineWriter::claim(to.store, view, writer_options("other")).await.unwrap();
            let other = ("62-f".to_owned(), RawDigest::of(b"other"), b"other".to_vec());
            let draft = Draft { released: true, ..Draft::default() };
            writer.append(draft, pack([other].into_iter())).await.unwrap();
        }
        let expected = [(1, "present"), (2, "present"), (3, "present"), (4, "differs")];
        assert_eq!(words(&copy(&family, to, At::Newest).await), expect(&expected), "{what}");
    }
}

#[tokio::test]
async fn as_of_a_time_every_timeline_is_what_it_was_then() {
    let family = Family::lived().await;
    let then = At::Time(open(family.home(), 3).await.state.time());
    // Since then: the root compacted, 2 was deleted with what came of it, and 5 began.
    family.write(family.home(), 1, without("10-a", RemovalReason::Compacted), &["9-compacted"]).await;
    for timeline in [4, 3, 2] {
        let plan = plan_delete(&family.store, open(family.home(), timeline).await).await.unwrap();
        let options = family.writer_options("delete");
        execute_delete(&family.store, plan, TakeOver::No, options).await.unwrap();
    }
    family.write(family.home(), 5, at_lsn(9), &["5-x"]).await;
    let to = Place { store: &family.store, tenant: 2 };
    let done = copy(&family, to, then).await;
    let expected = [(1, "copied"), (2, "copied"), (3, "copied"), (4, "not there yet"), (5, "not there yet")];
    assert_eq!(words(&done), expect(&expected));
    assert!(layers(to, 1).await.contains("10-a") && !layers(to, 1).await.contains("9-compacted"));
    let past = ["10-a", "45-b", "55-c", "61-e"].map(name);
    find_layers(to.store, open(to, 3).await, &BTreeSet::from(past)).await.unwrap();
    // Said again it is the same.
    assert_eq!(
        words(&copy(&family, to, then).await)[..3],
        expect(&[(1, "present"), (2, "present"), (3, "present")])
    );
    // After the deletions they are gone, and by LSN too.
    let now = open(family.home(), 5).await.state.time();
    for (tenant, at) in [(3, At::Time(now)), (4, At::Lsn(Lsn(1000))), (5, At::Newest)] {
        let done = copy(&family, Place { tenant, ..to }, at).await;
        assert_eq!(words(&done), expect(&[(1, "copied"), (5, "copied")]), "{at}");
    }
    let done = copy(&family, Place { tenant: 6, ..to }, At::Lsn(Lsn(20))).await;
    assert_eq!(words(&done), expect(&[(5, "copied"), (1, "not there yet")]));
}

#[tokio::test]
async fn how_the_source_goes_on_after_the_plan_makes_no_difference() {
    let family = Family::lived().await;
    let planned = plan(&family, At::Newest).await;
    family.write(family.home(), 1, without("45-b", RemovalReason::Compacted), &["44-compacted"]).await;
    family.write(family.home(), 2, at_lsn(80), &["70-new"]).await;
    let to = Place { store: &family.store, tenant: 2 };
    let done = execute(&family, planned, to, (At::Newest, TakeOver::No)).await;
    assert_eq!(words(&done), expect(&[(1, "copied"), (2, "copied"), (3, "copied"), (4, "copied")]));
    assert!(layers(to, 1).await.contains("45-b"));
    assert!(!layers(to, 2).await.contains("70-new"));
}

#[tokio::test]
async fn an_unfinished_copy_that_somebody_holds_is_gone_on_with_when_told_to() {
    let family = Family::lived().await;
    let to = Place { store: &family.store, tenant: 2 };
    TimelineWriter::claim(to.store, open(to, 2).await, writer_options("killed")).await.unwrap();
    let done = copy(&family, to, At::Newest).await;
    assert_eq!(words(&done), expect(&[(1, "copied"), (2, "failed"), (3, "blocked"), (4, "blocked")]));
    let options = (At::Newest, TakeOver::Yes);
    let done = execute(&family, plan(&family, At::Newest).await, to, options).await;
    assert_eq!(words(&done), expect(&[(1, "present"), (2, "copied"), (3, "copied"), (4, "copied")]));
    assert_whole(&family, to).await;
}

#[tokio::test]
async fn a_copy_that_has_lost_a_bundle_is_not_there_already() {
    let family = Family::lived().await;
    let to = Place { store: &family.store, tenant: 2 };
    copy(&family, to, At::Newest).await;
    let copied = open(to, 2).await;
    let bundle = copied.state.bundles()[0].id;
    family.store.objects().delete(&[copied.keys.bundle(bundle).unwrap()]).await.unwrap();
    let done = copy(&family, to, At::Newest).await;
    let is_lost = |copy: &TimelineCopy| match copy {
        TimelineCopy::Failed(error) => matches!(**error, Error::SourceDamaged { .. }),
        _ => false,
    };
    assert!(done.iter().any(|(timeline, copy)| *timeline == id(2) && is_lost(copy)), "{done:?}");
    assert_eq!(words(&done), expect(&[(1, "present"), (2, "failed"), (3, "blocked"), (4, "blocked")]));
}
