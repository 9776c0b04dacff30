//! Timelines to which nothing was committed: what a killed backup or copy leaves, and what only looks like it.

use layer_archive::{Ancestor, BranchPoint, BundleWriter, Lsn, Manifest};
use storage_api::{GetRange, ObjectStoreExt};
use sync_engine::{
    At, CopyOptions, CopyTarget, Draft, Error, PackOptions, Store, TakeOver, TimelineState, TimelineView,
    TimelineWriter, copy_timeline, execute_delete, plan_delete,
};

use crate::bench::{Bench, NONE, append, put_payload};
use crate::put_metadata;
use crate::support::{contents, open, tenant, timeline, writer_options};

/// A claim, and whether its writer could still say that it left.
async fn unfinished(store: &Store, released: bool) -> TimelineWriter {
    let mut writer =
        TimelineWriter::claim(store, open(store).await, writer_options("unfinished")).await.unwrap();
    if released {
        writer.append(Draft { released, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    }
    writer
}

async fn copy(store: &Store, at: At) -> Result<(), Error> {
    let from = TimelineView::open_at(store, (&tenant(), &timeline()), at, None).await?;
    let other = "0000000000000000000000000000000d".parse().unwrap();
    let target = CopyTarget { store, tenant: &tenant(), timeline: &other };
    copy_timeline(store, &from, target, copy_options(at)).await.map(drop)
}

fn copy_options(at: At) -> CopyOptions {
    let (writer, pack) = (writer_options("copy"), PackOptions::default());
    CopyOptions { writer, pack, take_over: TakeOver::No, at, progress: Default::default() }
}

#[tokio::test]
async fn claims_and_releases_alone_are_no_empty_timeline_however_many_there_are() {
    let bench = Bench::new().await;
    assert!(!open(&bench.store).await.state.nothing_committed(), "there is no timeline");
    for released in [false, true, true, false] {
        unfinished(&bench.store, released).await;
        let view = open(&bench.store).await;
        assert!(view.state.nothing_committed());
        assert!(matches!(view.require_commits(), Err(Error::NothingCommitted { .. })));
        let refused = copy(&bench.store, At::Newest).await.unwrap_err();
        assert!(matches!(refused, Error::NothingCommitted { .. }), "{refused}");
    }
    // The first commit makes it a timeline, and what was before stays a point at which nothing was there.
    let mut writer = bench.writer("backup").await;
    append(&mut writer, &[("a", b"a")], &[]).await.unwrap();
    bench.release(writer).await;
    assert!(open(&bench.store).await.require_commits().is_ok());
    let early = At::Seq(layer_archive::Seq(2));
    let refused = copy(&bench.store, early).await.unwrap_err();
    assert!(matches!(refused, Error::PointNotFound { .. }), "{refused}");
    let past = TimelineView::open_at(&bench.store, (&tenant(), &timeline()), early, None).await.unwrap();
    let refused = past.require_commits().unwrap_err();
    assert!(matches!(refused, Error::PointNotFound { is_before_first: true, .. }), "{refused}");
}

#[tokio::test]
async fn a_timeline_that_was_emptied_has_a_history() {
    for manifest in [false, true] {
        let bench = Bench::new().await;
        let mut writer = bench.writer("backup").await;
        append(&mut writer, &[("a", &contents(1, 90_000))], &[]).await.unwrap();
        append(&mut writer, &[], &["a"]).await.unwrap();
        if manifest {
            writer.detach().await.unwrap();
        }
        let view = open(&bench.store).await;
        assert_eq!((view.state.layers().len(), view.manifest.is_some()), (0, manifest));
        assert!(!view.state.nothing_committed(), "{manifest}");
    }
}

#[tokio::test]
async fn facts_without_layers_are_commits() {
    let ancestor = || Some(Ancestor { timeline: timeline(), lsn: Lsn(7) });
    let point = || vec![BranchPoint { tenant: tenant(), timeline: timeline(), lsn: Lsn(7) }];
    for draft in [
        Draft { ancestor: ancestor(), ..Draft::default() },
        Draft { branch_points_added: point(), ..Draft::default() },
        Draft { disk_consistent_lsn: Some(Lsn(7)), ..Draft::default() },
    ] {
        let bench = Bench::new().await;
        let mut writer = unfinished(&bench.store, false).await;
        writer.append(draft, BundleWriter::new()).await.unwrap();
        assert!(!open(&bench.store).await.state.nothing_committed());
        // A branch point that is ended has been there.
        let ended = Draft { branch_points_removed: point(), ..Draft::default() };
        writer.append(ended, BundleWriter::new()).await.unwrap();
        assert!(!open(&bench.store).await.state.nothing_committed());
    }
    let bench = Bench::new().await;
    put_metadata(&mut unfinished(&bench.store, false).await, 70).await;
    assert!(!open(&bench.store).await.state.nothing_committed());
    // A tombstone neither.
    let bench = Bench::new().await;
    unfinished(&bench.store, true).await;
    let plan = plan_delete(&bench.store, open(&bench.store).await).await.unwrap();
    execute_delete(&bench.store, plan, TakeOver::No, writer_options("delete")).await.unwrap();
    assert!(!open(&bench.store).await.state.nothing_committed());
}

#[tokio::test]
async fn a_manifest_says_as_much_as_the_numbers_prove_and_is_the_same_state() {
    let bench = Bench::new().await;
    for (released, is_known) in [(true, true), (true, false)] {
        let mut writer = unfinished(&bench.store, released).await;
        let replayed = open(&bench.store).await.state;
        assert!(replayed.nothing_committed());
        let read = TimelineState::from_manifest(
            Manifest::decode(&replayed.to_manifest().encode().unwrap()).unwrap(),
        )
        .unwrap();
        assert_eq!((&read, read.nothing_committed()), (&replayed, is_known));
        if !is_known {
            writer.detach().await.unwrap();
        }
    }
    // What the store has is the same.
    let view = open(&bench.store).await;
    let manifest = view.manifest.unwrap();
    let key = view.keys.manifest(manifest.seq).unwrap();
    let (_, bytes) = bench.objects.get_bytes(&key, GetRange::Full, 1 << 20).await.unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap(), view.state.to_manifest());
}

#[tokio::test]
async fn a_copy_that_failed_is_gone_on_with_even_after_it_was_collected() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        let mut writer = unfinished(&bench.store, false).await;
        put_payload(&mut writer, &[("orphan", &contents(7, 90_000))]).await;
        writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    }
    bench.gc(&NONE, TakeOver::No).await;
    let view = open(&bench.store).await;
    assert!(view.manifest.is_some() && !view.state.nothing_committed(), "nobody can know");
    let (tenant, source) = (tenant(), "0000000000000000000000000000000e".parse().unwrap());
    let empty = TimelineView::open(&bench.store, &tenant, &source, None).await.unwrap();
    let mut writer = TimelineWriter::claim(&bench.store, empty, writer_options("source")).await.unwrap();
    append(&mut writer, &[("a", b"a")], &[]).await.unwrap();
    let from = TimelineView::open(&bench.store, &tenant, &source, None).await.unwrap();
    let target = CopyTarget { store: &bench.store, tenant: &tenant, timeline: &timeline() };
    copy_timeline(&bench.store, &from, target, copy_options(At::Newest)).await.unwrap();
    assert_eq!(open(&bench.store).await.state.layers().len(), 1);
    // What is known to have been filled and emptied is a timeline.
    let mut writer = bench.writer("empties").await;
    append(&mut writer, &[], &["a"]).await.unwrap();
    bench.release(writer).await;
    let exists = copy_timeline(&bench.store, &from, target, copy_options(At::Newest)).await.unwrap_err();
    assert!(matches!(exists, Error::TimelineExists { .. }), "{exists}");
}
