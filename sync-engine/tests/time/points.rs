//! Points in time.

use std::time::{Duration, UNIX_EPOCH};

use layer_archive::{Ancestor, BundleWriter, Lsn, Seq, UnixMillis};
use storage_api::{Body, Clock, GetRange, ObjectStoreExt, PutMode};
use sync_engine::{At, Draft, Error, TakeOver, TimelineView, execute_delete, plan_delete};

use crate::bench::{Bench, DAY, NONE, append, contents, keeping, state_at};
use crate::past::put_manifest;
use crate::support::{open, tenant, timeline, writer_options};
use crate::{churned, lived, put_metadata, went_on};

async fn at(bench: &Bench, at: At) -> Result<TimelineView, Error> {
    TimelineView::open_at(&bench.store, (&tenant(), &timeline()), at, None).await
}

/// What an error says of why there is no such point; none where it says something else.
fn is_before_first(error: &Error) -> Option<bool> {
    if let Error::PointNotFound { is_before_first, .. } = error { Some(*is_before_first) } else { None }
}

fn millis(bench: &Bench) -> UnixMillis {
    let since = bench.clock.now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis(since.as_millis().try_into().unwrap())
}

#[tokio::test]
async fn every_record_is_a_point_that_is_found_by_number_lsn_and_time() {
    let bench = Bench::new().await;
    let mut writer = bench.writer("only").await;
    let mut lsns = Vec::new();
    for number in 0..80u64 {
        bench.clock.advance(Duration::from_secs(60));
        let layer = format!("layer {number:02}");
        append(&mut writer, &[(&layer, number.to_string().as_bytes())], &[]).await.unwrap();
        put_metadata(&mut writer, 100 + number * 10).await;
        lsns.push((writer.view().state.seq(), Lsn(100 + number * 10), millis(&bench)));
        writer.put_manifest_if_due().await.unwrap();
    }
    bench.release(writer).await;
    let newest = open(&bench.store).await;
    assert!(newest.listing.manifests.len() > 1);
    let points = newest.points(&bench.store).await.unwrap();
    assert_eq!(points.iter().map(|point| point.seq.0).collect::<Vec<_>>(), (2..=162).collect::<Vec<_>>());
    for seq in (1..=162).step_by(7).map(Seq) {
        let view = at(&bench, At::Seq(seq)).await.unwrap();
        assert_eq!(view.state, state_at(&bench.store, seq).await);
        assert_eq!(view.is_newest(), seq == newest.state.seq());
    }
    for (seq, lsn, time) in lsns.iter().step_by(9) {
        // The layers of the next checkpoint come before its metadata.
        let last = if *seq == Seq(161) { Seq(162) } else { seq.next() };
        assert_eq!(at(&bench, At::Lsn(*lsn)).await.unwrap().state.seq(), last);
        assert_eq!(at(&bench, At::Lsn(Lsn(lsn.0 + 9))).await.unwrap().state.seq(), last);
        let of_time = if *seq == Seq(161) { Seq(162) } else { *seq };
        assert_eq!(at(&bench, At::Time(*time)).await.unwrap().state.seq(), of_time);
        assert_eq!(at(&bench, At::Time(UnixMillis(time.0 + 59_999))).await.unwrap().state.seq(), of_time);
    }
    for (nothing, is_early) in [
        (At::Seq(Seq(163)), false),
        (At::Seq(Seq(0)), false),
        (At::Lsn(Lsn(99)), true),
        (At::Time(UnixMillis(5)), true),
    ] {
        let error = at(&bench, nothing).await.unwrap_err();
        assert_eq!(is_before_first(&error), Some(is_early), "{error}");
        let said = error.to_string();
        assert!(said.contains("record 2 of 2027") && said.contains("record 162 of 2027"), "{said}");
    }
}

#[tokio::test]
async fn what_is_collected_is_no_point_any_more_and_what_is_kept_is_whole() {
    let mut bench = lived().await;
    let began = millis(&bench);
    let before = open(&bench.store).await.state.seq();
    let old = contents(&bench.store, &state_at(&bench.store, before).await).await;
    bench.clock.advance(DAY);
    went_on(&mut bench).await;
    churned(&mut bench).await;
    bench.gc(&keeping(DAY / 2), TakeOver::No).await;
    bench.clock.advance(DAY);
    bench.gc(&keeping(DAY * 2), TakeOver::No).await;
    let at_old = at(&bench, At::Seq(before)).await.unwrap();
    assert_eq!(contents(&bench.store, &at_old.state).await, old);
    bench.gc(&keeping(DAY / 4), TakeOver::No).await;
    let newest = open(&bench.store).await;
    let points = newest.points(&bench.store).await.unwrap();
    assert!(points[0].seq > before, "{points:?}");
    for point in &points {
        let view = at(&bench, At::Seq(point.seq)).await.unwrap();
        assert!(!contents(&bench.store, &view.state).await.is_empty());
    }
    // What gc has given up is not what never was, however long ago that is.
    for gone in [At::Seq(before), At::Lsn(Lsn(70)), At::Lsn(Lsn(5)), At::Time(began), At::Seq(Seq(1))] {
        let error = at(&bench, gone).await.unwrap_err();
        assert!(matches!(&error, Error::PointNotFound { is_before_first: false, .. }), "{error}");
        assert!(error.to_string().contains(&format!("record {} of", points[0].seq)), "{error}");
    }
    let early = at(&bench, At::Time(UnixMillis(began.0 - 1))).await.unwrap_err();
    assert!(matches!(&early, Error::PointNotFound { is_before_first: true, .. }), "{early}");
    assert_eq!(at(&bench, At::Lsn(Lsn(80))).await.unwrap().state, newest.state);
}

#[tokio::test]
async fn a_branch_had_no_lsn_before_the_one_where_it_was_left_whatever_was_collected() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("branch").await;
    let ancestor =
        Some(Ancestor { timeline: "0000000000000000000000000000000e".parse().unwrap(), lsn: Lsn(50) });
    writer.append(Draft { ancestor, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    put_metadata(&mut writer, 60).await;
    bench.release(writer).await;
    churned(&mut bench).await;
    let mut writer = bench.writer("goes on").await;
    put_metadata(&mut writer, 90).await;
    bench.release(writer).await;
    churned(&mut bench).await;
    bench.gc(&NONE, TakeOver::No).await;
    assert!(!bench.listing().await.records.contains_key(&Seq(3)));
    for (lsn, is_early) in [(49, true), (60, false)] {
        let error = at(&bench, At::Lsn(Lsn(lsn))).await.unwrap_err();
        assert_eq!(is_before_first(&error), Some(is_early), "{error}");
    }
}

#[tokio::test]
async fn a_time_after_the_deletion_is_of_a_deleted_timeline() {
    let mut bench = lived().await;
    let lived = millis(&bench);
    for has_manifest in [false, true] {
        bench.clock.advance(DAY);
        let deleted = millis(&bench);
        if has_manifest {
            let plan = plan_delete(&bench.store, open(&bench.store).await).await.unwrap();
            execute_delete(&bench.store, plan, TakeOver::Yes, writer_options("delete")).await.unwrap();
        } else {
            // What a deletion that was killed leaves.
            went_on(&mut bench).await;
            let mut writer = bench.writer("delete").await;
            writer.append(Draft { deleted: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
        }
        let (tenant, timeline) = (tenant(), timeline());
        let undeleted = |at| TimelineView::open_undeleted(&bench.store, (&tenant, &timeline), at, None);
        for later in [deleted, UnixMillis(deleted.0 + 1)] {
            let error = at(&bench, At::Time(later)).await.unwrap_err();
            assert!(matches!(&error, Error::TimelineDeleted { .. }), "{error}");
            assert!(undeleted(At::Time(later)).await.unwrap().is_none());
        }
        let before = At::Time(UnixMillis(deleted.0 - 1));
        assert_eq!(at(&bench, At::Time(lived)).await.unwrap().state.disk_consistent_lsn(), Some(Lsn(70)));
        if !has_manifest {
            assert_eq!(undeleted(before).await.unwrap().unwrap().state.time(), lived);
        }
        // An LSN says nothing of it: alone it is of before the deletion, among others the timeline is deleted.
        assert_eq!(at(&bench, At::Lsn(Lsn(75))).await.unwrap().state.disk_consistent_lsn(), Some(Lsn(70)));
        assert!(undeleted(At::Lsn(Lsn(75))).await.unwrap().is_none());
        assert!(undeleted(At::Newest).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn an_older_state_reads_where_the_log_is_damaged_behind_it() {
    let mut bench = lived().await;
    let before = open(&bench.store).await.state.seq();
    let whole = bench.layers.clone();
    went_on(&mut bench).await;
    let keys = open(&bench.store).await.keys;
    bench.delete(keys.record(Seq(before.0 + 2)).unwrap()).await;
    let newest = TimelineView::open(&bench.store, &tenant(), &timeline(), None).await;
    assert!(matches!(newest, Err(Error::Gap { .. })));
    let view = at(&bench, At::Seq(before)).await.unwrap();
    let reader = sync_engine::TimelineReader::new(&bench.store, view.clone(), Default::default());
    assert_eq!(view.state.layers().len(), whole.len());
    for (layer, bytes) in whole {
        assert_eq!(reader.read_at(&crate::support::name(&layer), 0..u64::MAX).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn behind_a_record_that_is_lost_an_older_state_is_not_taken_for_the_one_asked_for() {
    let bench = Bench::new().await;
    let mut writer = bench.writer("only").await;
    for number in 0..80u64 {
        bench.clock.advance(Duration::from_secs(60));
        append(&mut writer, &[(&format!("layer {number:02}"), b"layer")], &[]).await.unwrap();
        put_metadata(&mut writer, 100 + number * 10).await;
        writer.put_manifest_if_due().await.unwrap();
    }
    bench.release(writer).await;
    let view = open(&bench.store).await;
    let manifest = *view.listing.manifests.keys().next().unwrap();
    let (lost, behind) = (Seq(manifest.0 + 10), Seq(manifest.0 + 20));
    assert!(view.listing.manifests.keys().nth(1).unwrap() > &behind);
    let asked = at(&bench, At::Seq(behind)).await.unwrap().state;
    bench.clock.advance(Duration::from_secs(60));
    bench.delete(view.keys.record(lost).unwrap()).await;
    let lsn = asked.disk_consistent_lsn().unwrap();
    for asked in [At::Seq(behind), At::Lsn(lsn), At::Time(asked.time())] {
        let error = at(&bench, asked).await.unwrap_err();
        assert!(matches!(&error, Error::Gap { seq, .. } if *seq == lost), "{asked:?}: {error}");
    }
    // What lies before the gap, and behind the next manifest, is as it was.
    for seq in [Seq(lost.0 - 1), view.state.seq()] {
        assert_eq!(at(&bench, At::Seq(seq)).await.unwrap().state.seq(), seq);
    }
    let early = Lsn(lsn.0 - 80);
    let found = at(&bench, At::Lsn(early)).await.unwrap().state;
    assert!(found.seq() < lost && found.disk_consistent_lsn() == Some(early));
    assert_eq!(at(&bench, At::Lsn(Lsn(u64::MAX))).await.unwrap().state.seq(), view.state.seq());
}

/// Twenty checkpoints a minute apart, each of a layer that the next removes, and metadata; after the sixth, perhaps, a
/// manifest.
async fn minutes(bench: &mut Bench, manifests: bool) {
    let mut writer = bench.writer("only").await;
    for number in 0..20u64 {
        bench.clock.advance(Duration::from_secs(60));
        let (layer, before) = (format!("layer {number:02}"), format!("layer {:02}", number.wrapping_sub(1)));
        let gone: &[&str] = if number == 0 { &[] } else { &[&before] };
        append(&mut writer, &[(&layer, &[7; 9000])], gone).await.unwrap();
        put_metadata(&mut writer, 100 + number * 10).await;
        if manifests && number == 5 {
            put_manifest(bench, &writer).await;
        }
    }
    writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
}

#[tokio::test]
async fn without_a_manifest_what_is_behind_a_lost_record_is_not_known() {
    for collected in [false, true] {
        let mut bench = Bench::new().await;
        minutes(&mut bench, false).await;
        let newest = open(&bench.store).await;
        let seq = newest.state.seq();
        if collected {
            bench.gc(&NONE, TakeOver::No).await;
            assert!(!bench.listing().await.records.contains_key(&Seq(4)));
            for (_, info) in bench.listing().await.manifests {
                bench.delete(info.key).await;
            }
        } else {
            bench.delete(newest.keys.record(Seq(8)).unwrap()).await;
        }
        for behind in [At::Time(millis(&bench)), At::Lsn(Lsn(u64::MAX)), At::Lsn(Lsn(200)), At::Seq(seq)] {
            let error = at(&bench, behind).await.unwrap_err();
            assert!(matches!(&error, Error::Gap { .. }), "{behind:?}: {error}");
            let (tenant, timeline) = (tenant(), timeline());
            let among = TimelineView::open_undeleted(&bench.store, (&tenant, &timeline), behind, None).await;
            assert!(matches!(among, Err(Error::Gap { .. })), "{behind:?}");
        }
        let before = at(&bench, At::Seq(Seq(5))).await.map(|view| view.state.seq());
        assert_eq!(before.ok(), (!collected).then_some(Seq(5)));
        let early = at(&bench, At::Time(UnixMillis(0))).await.unwrap_err();
        assert!(matches!(&early, Error::PointNotFound { is_before_first: true, .. }), "{early}");
    }
}

#[tokio::test]
async fn a_gap_that_may_have_been_collected_is_answered_by_no_state_before_it() {
    for case in ["equal times", "a late manifest"] {
        let mut bench = Bench::new().await;
        minutes(&mut bench, true).await;
        let mut writer = bench.writer("goes on").await;
        append(&mut writer, &[("more", b"more")], &[]).await.unwrap();
        put_manifest(&bench, &writer).await;
        bench.release(writer).await;
        let (listing, keys) = (bench.listing().await, open(&bench.store).await.keys);
        let first = *listing.manifests.keys().next().unwrap();
        let between = at(&bench, At::Seq(Seq(first.0 + 9))).await.unwrap().state;
        let manifest = listing.manifests[&first].key.clone();
        let bytes = bench.objects.get_bytes(&manifest, GetRange::Full, 1 << 20).await.unwrap().1;
        if case == "equal times" {
            for info in listing.manifests.values() {
                let bytes = bench.objects.get_bytes(&info.key, GetRange::Full, 1 << 20).await.unwrap().1;
                bench.objects.put(&info.key, Body::new(bytes), PutMode::Overwrite).await.unwrap();
            }
            bench.delete(keys.record(Seq(first.0 + 4)).unwrap()).await;
        } else {
            bench.gc(&NONE, TakeOver::No).await;
            bench.clock.advance(Duration::from_secs(1));
            bench.objects.put(&manifest, Body::new(bytes), PutMode::Create).await.unwrap();
            let late = at(&bench, At::Seq(first)).await.unwrap_err();
            assert!(matches!(&late, Error::PointNotFound { .. }), "what it tells of is collected: {late}");
        }
        let lsn = between.disk_consistent_lsn().unwrap();
        for behind in [At::Seq(between.seq()), At::Lsn(lsn), At::Time(between.time())] {
            let error = at(&bench, behind).await.unwrap_err();
            let given_up = matches!(&error, Error::PointNotFound { is_before_first: false, .. });
            assert!(given_up, "{case}: {behind:?}: {error}");
        }
        assert!(at(&bench, At::Time(millis(&bench))).await.is_ok(), "{case}");
    }
}
