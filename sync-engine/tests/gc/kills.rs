//! A collection that is killed at any of its requests, before or after that took effect, loses nothing.

use std::sync::Arc;

use storage_api::Operation;
use sync_engine::TakeOver;

use crate::bench::{Bench, NONE, live_ratio};
use crate::spy::{Fate, Spy};
use crate::support::{contents, open};

/// Three records of which little is live, a payload object that is half dead, and an orphan.
async fn half_dead() -> Bench {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("first").await;
    for record in 0..3 {
        let layers: Vec<(String, Vec<u8>)> =
            (0..12).map(|n| (format!("{record}-{n:02}"), contents(record * 100 + n, 3000))).collect();
        let add: Vec<(&str, &[u8])> = layers.iter().map(|(layer, bytes)| (&**layer, &**bytes)).collect();
        bench.commit(&mut writer, &add, &[]).await;
    }
    crate::bench::put_payload(&mut writer, &[("orphan", &contents(9, 5000))]).await;
    bench.release(writer).await;
    let mut writer = bench.writer("second").await;
    let gone: Vec<String> = bench.layers.keys().filter(|layer| !layer.ends_with('3')).cloned().collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    bench.commit(&mut writer, &[], &gone).await;
    bench.release(writer).await;
    bench
}

#[tokio::test]
async fn killed_at_any_request_nothing_is_lost_and_the_next_run_ends_the_work() {
    let policy = NONE;
    let mut kills = 0;
    for fate in [Fate::Lost, Fate::AnswerLost] {
        for request in 0u64.. {
            let bench = half_dead().await;
            let (mut number, at) = (0, fate.clone());
            let spy = Spy::new(&bench.objects, move |_, _| {
                number += 1;
                match number - 1 {
                    n if n < request => Fate::Done,
                    n if n == request => at.clone(),
                    _ => Fate::Lost,
                }
            });
            let killed = match bench.through(spy).await {
                Ok(store) => bench.gc_of(&store, &policy, TakeOver::No).await.map(drop),
                Err(error) => Err(error),
            };
            bench.assert_whole().await;
            if killed.is_ok() {
                assert!(request > 20, "{request} requests");
                break;
            }
            kills += 1;
            // Who finds it held takes over; a second run at the latest has it all back.
            bench.gc(&policy, TakeOver::Yes).await;
            bench.gc(&policy, TakeOver::Yes).await;
            bench.assert_whole().await;
            let ratio = live_ratio(&open(&bench.store).await);
            assert!(ratio > 0.9, "{ratio} after {fate:?} at request {request}");
            let listing = bench.listing().await;
            let live = open(&bench.store).await.state.bundles().len();
            assert_eq!(listing.payloads.len(), live, "after {fate:?} at request {request}");
        }
    }
    assert!(kills > 40, "{kills}");
}

#[tokio::test]
async fn a_delete_that_fails_for_some_keys_is_reported_and_tried_again() {
    let bench = half_dead().await;
    let policy = NONE;
    let objects = Arc::clone(&bench.objects);
    // The first key of each delete but the first, which is of manifests.
    let mut deletes = 0;
    let spy = Spy::with_delete_keys_max(&objects, 3, move |operation, keys| match operation {
        Operation::Delete => {
            deletes += 1;
            if deletes == 2 { Fate::Kept(keys[..1].to_vec()) } else { Fate::Done }
        }
        _ => Fate::Done,
    });
    let store = bench.through(spy).await.unwrap();
    let report = bench.gc_of(&store, &policy, TakeOver::No).await.unwrap();
    assert_eq!(report.collected.failed.len(), 1);
    let kept = report.collected.failed[0].key.clone();
    objects.head(&kept).await.unwrap();
    bench.assert_whole().await;
    bench.gc(&policy, TakeOver::No).await;
    assert!(objects.head(&kept).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn manifests_go_first_and_where_one_stays_so_do_the_records() {
    let bench = half_dead().await;
    let policy = NONE;
    let objects = Arc::clone(&bench.objects);
    let spy = Spy::new(&objects, |operation, keys| match operation {
        Operation::Delete => {
            assert!(keys.iter().all(|key| key.as_str().contains("/manifest/")), "{keys:?}");
            Fate::Kept(keys.to_vec())
        }
        _ => Fate::Done,
    });
    let store = bench.through(spy).await.unwrap();
    let report = bench.gc_of(&store, &policy, TakeOver::No).await.unwrap();
    assert_eq!((report.collected.objects, report.collected.failed.is_empty()), (0, false));
    let records = bench.listing().await.records.len();
    bench.gc(&policy, TakeOver::No).await;
    assert!(bench.listing().await.records.len() < records);
    bench.assert_whole().await;
}

#[tokio::test]
async fn a_full_store_gets_room_before_anything_is_written_to_it() {
    let mut bench = half_dead().await;
    let freed = |report: &sync_engine::gc::GcReport| report.collected.bytes;
    // What the first run has repacked away is garbage that the next one finds.
    let mut writer = bench.writer("pageserver").await;
    for n in 0..20 {
        let layer = format!("more-{n:02}");
        bench.commit(&mut writer, &[(&layer, &contents(n, 4000))], &[]).await;
    }
    bench.release(writer).await;
    let keeping = crate::bench::keeping(crate::bench::DAY);
    assert_eq!(freed(&bench.gc(&keeping, TakeOver::No).await), 0);
    bench.clock.advance(crate::bench::DAY * 2);
    let mut writer = bench.writer("pageserver").await;
    for n in 0..20 {
        bench.commit(&mut writer, &[(&format!("last-{n:02}"), &contents(n, 4000))], &[]).await;
    }
    bench.release(writer).await;
    let before = bench.stored_bytes().await;
    let full = Spy::new(&bench.objects, |operation, keys| {
        let writes =
            operation == Operation::PutCreate && keys.iter().any(|key| key.as_str().contains("/log/"));
        if writes { Fate::Lost } else { Fate::Done }
    });
    let full = bench.through(full).await.unwrap();
    bench.gc_of(&full, &keeping, TakeOver::No).await.unwrap_err();
    assert!(bench.stored_bytes().await + 10_000 < before, "{before}");
    bench.assert_whole().await;
}
