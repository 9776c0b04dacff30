//! Bulk loads, large layers, and many timelines at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use layer_archive::TimelineId;
use storage_api::simulated::{Event as Traced, Simulation, check_seeds};
use storage_api::{Clock, ObjectStore};
use sync_engine::TimelineView;
use sync_engine::service::{Attach, Change, ServiceOptions};

use crate::support::{Bench, LARGE, bundles_of_two, contents, metadata, tenant};

/// The most puts that were on their way at the same time, and the most bytes in them.
async fn most_in_flight(bench: &Bench) -> (usize, u64) {
    let (mut now, mut most) = (BTreeMap::new(), (0, 0));
    for entry in bench.simulation.trace() {
        let key = &entry.request.key;
        if !key.contains("/payload/") && !key.contains("/log/") {
            continue;
        }
        match entry.event {
            Traced::Sent(_) => {
                let key = storage_api::Key::new(key.clone()).unwrap();
                let size = bench.simulation.objects().head(&key).await.map_or(0, |info| info.size);
                now.insert((entry.request.client, entry.request.number), size);
                most = (most.0.max(now.len()), most.1.max(now.values().sum()));
            }
            Traced::Answered(_) => {
                now.remove(&(entry.request.client, entry.request.number));
            }
            _ => {}
        }
    }
    most
}

#[test]
fn a_bulk_load_goes_up_as_payload_bundles_in_parallel_within_the_budget() {
    check_seeds(0..2, async |simulation| {
        simulation.set_latency(Duration::from_millis(20)..Duration::from_millis(60));
        let bench = Bench::new(&simulation);
        let budget = 1_400_000;
        let configure = |options: &mut ServiceOptions| {
            bundles_of_two(options);
            options.upload_bytes_max = budget;
        };
        let process = bench.process_with("pageserver", configure).await;
        let handle = process.attach();
        let layers: Vec<_> =
            (0..20).map(|n| bench.layer(&format!("layer-{n:02}"), &contents(n, LARGE))).collect();
        let expected: BTreeMap<_, _> =
            (0..20).map(|n| (format!("layer-{n:02}"), contents(n, LARGE))).collect();
        let change = Change { layers, metadata: metadata("m1", 1), ..Change::default() };
        handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
        bench.assert_holds(&expected).await;
        let (objects, bytes) = most_in_flight(&bench).await;
        assert!(objects >= 2, "{objects} at a time");
        assert!(bytes <= budget, "{bytes} bytes at a time");
        let view = bench.view().await;
        assert!(view.listing.payloads.len() >= 6, "{} payload objects", view.listing.payloads.len());
    });
}

#[test]
fn a_budget_smaller_than_a_bundle_still_moves_everything() {
    check_seeds(0..2, async |simulation| {
        let bench = Bench::new(&simulation);
        let configure = |options: &mut ServiceOptions| {
            bundles_of_two(options);
            options.upload_bytes_max = 1;
        };
        let process = bench.process_with("pageserver", configure).await;
        let handles: Vec<_> = (0..3)
            .map(|n| {
                let timeline: TimelineId = format!("{n:032x}").parse().unwrap();
                process.service.attach(&tenant(), &timeline, Attach::default()).unwrap()
            })
            .collect();
        for (n, handle) in handles.iter().enumerate() {
            let layers = (0..6)
                .map(|m| bench.layer(&format!("{n}-{m}"), &contents((n * 20 + m) as u64, LARGE)))
                .collect();
            handle.hand_over(Change { layers, ..Change::default() }).unwrap();
        }
        for handle in &handles {
            handle.flush().await.unwrap();
        }
    });
}

#[test]
fn a_layer_larger_than_a_bundle_goes_up_in_parts_beside_small_ones() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let simulation = Simulation::over(1, |memory| memory.with_part_bytes_min(64 << 10));
        let bench = Bench::new(&simulation);
        let process = bench
            .process_with("pageserver", |options| {
                bundles_of_two(options);
                options.pack.part_bytes = 64 << 10;
                options.pack.parts_in_flight = 2;
            })
            .await;
        let handle = process.attach_open(&bench).await;
        let (large, small) = (contents(1, 2_000_000), contents(2, 2_000));
        let layers = vec![bench.layer("large", &large), bench.layer("small", &small)];
        let before = process.counts();
        handle.wait(handle.hand_over(Change { layers, ..Change::default() }).unwrap()).await.unwrap();
        let counts = process.counts().since(&before);
        assert_eq!(counts.put, 1, "the small one is in the record");
        assert!(counts.multipart > 10, "{counts:?}");
        let first = contents("first".len() as u64 + 1, 3_000);
        let expected = [("first", first), ("large", large), ("small", small)];
        bench.assert_holds(&expected.map(|(name, bytes)| (name.to_owned(), bytes)).into()).await;
    });
}

#[test]
fn a_thousand_checkpoints_from_twenty_timelines_at_once_are_fair() {
    check_seeds(0..1, async |simulation| {
        simulation.set_latency(Duration::from_millis(5)..Duration::from_millis(50));
        let bench = Bench::new(&simulation);
        let process = bench.process_with("pageserver", |options| options.upload_bytes_max = 4 << 20).await;
        let timelines: Vec<TimelineId> = (0..20).map(|n| format!("{n:032x}").parse().unwrap()).collect();
        let clock = bench.clock();
        let waits = timelines.iter().map(|timeline| {
            let handle = process.service.attach(&tenant(), timeline, Attach::default()).unwrap();
            let (bench, clock): (_, &dyn Clock) = (&bench, &*clock);
            async move {
                let mut waited = Vec::new();
                for n in 1..=50 {
                    let layer =
                        |m: u64| bench.layer(&format!("{timeline}-{n}-{m}"), &contents(n * 3 + m, 2_000));
                    let layers = (0..3).map(layer).collect();
                    let change =
                        Change { layers, metadata: metadata(&format!("m{n}"), n), ..Change::default() };
                    let handed_over = clock.now();
                    handle.wait(handle.hand_over(change).unwrap()).await.unwrap();
                    waited.push(clock.now().duration_since(handed_over).unwrap());
                }
                waited
            }
        });
        // One more loads in bulk meanwhile.
        let bulk: TimelineId = format!("{:032x}", 99).parse().unwrap();
        let bulk = process.service.attach(&tenant(), &bulk, Attach::default()).unwrap();
        let layers = (0..40).map(|n| bench.layer(&format!("bulk-{n}"), &contents(n, LARGE))).collect();
        let loaded = bulk.hand_over(Change { layers, ..Change::default() }).unwrap();
        let (waits, loaded) = futures::join!(join_all(waits), bulk.wait(loaded));
        loaded.unwrap();
        let mean = |waits: &[Duration]| waits.iter().sum::<Duration>() / u32::try_from(waits.len()).unwrap();
        let means: Vec<Duration> = waits.iter().map(|waits| mean(waits)).collect();
        let (all, worst) = (mean(&means), means.iter().max().unwrap());
        assert!(*worst < all * 2, "one timeline waits {worst:?} where all wait {all:?}");
        let longest = waits.iter().flatten().max().unwrap();
        assert!(*longest < all * 8, "one checkpoint waits {longest:?}, the mean is {all:?}");
        for timeline in &timelines {
            let view = TimelineView::open(&bench.store().await, &tenant(), timeline, None).await.unwrap();
            assert_eq!(view.state.layers().len(), 150);
        }
    });
}
