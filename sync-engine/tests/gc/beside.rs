//! Collections beside a running writer and a reader: nobody is disturbed, and the space comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use storage_api::ObjectStore;
use sync_engine::gc::{GcPolicy, KnownRecords, Repacker, Upkeep};
use sync_engine::{Error, Store, TakeOver, TimelineWriter};

use crate::bench::{Bench, NONE, TARGET, append, upkeep};
use crate::spy::{Fate, Spy};
use crate::support::{contents, files, open, restore, tenant, timeline};

/// How much is written and removed.
const STEPS: u64 = 400;

/// Appends, removes and snapshots as a pageserver does. Returns what lives in the end. Never fenced.
async fn write(mut writer: TimelineWriter, seed: u64) -> (TimelineWriter, BTreeSet<String>) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut live: Vec<String> = Vec::new();
    for step in 0..STEPS {
        let layer = format!("layer-{step:04}");
        let bytes = contents(step, random.random_range(0..9000));
        let mut gone = Vec::new();
        while live.len() > 20 || (!live.is_empty() && random.random_bool(0.3)) {
            gone.push(live.swap_remove(random.random_range(0..live.len())));
        }
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        append(&mut writer, &[(&layer, &bytes)], &gone).await.unwrap();
        writer.put_manifest_if_due().await.unwrap();
        live.push(layer);
    }
    (writer, live.into_iter().collect())
}

/// Restores, and begins anew where a layer was collected meanwhile.
async fn read(store: &Store) -> usize {
    let mut attempts = 0;
    loop {
        attempts += 1;
        assert!(attempts < 20, "every restore found something collected");
        let dir = tempfile::tempdir().unwrap();
        let report = match restore(store, dir.path()).await {
            Err(Error::TimelineNotFound { .. }) => return 0,
            report => report.unwrap(),
        };
        if report.is_complete() {
            for (layer, bytes) in files(dir.path()) {
                let step: u64 = layer.rsplit('-').next().unwrap().parse().unwrap();
                assert_eq!(bytes, contents(step, bytes.len()), "{layer}");
            }
            return report.layers;
        }
        for failed in &report.failed {
            let gone = matches!(&*failed.error, Error::Storage(error) if error.is_not_found());
            assert!(gone, "{failed:?}");
        }
    }
}

#[tokio::test]
async fn a_writer_is_not_fenced_a_reader_succeeds_and_the_space_comes_back() {
    let bench = Bench::new().await;
    let policy = NONE;
    // Every request lets the others go on.
    let yielding = || Spy::new(&bench.objects, |_, _| Fate::Done);
    let writers = bench.through(yielding()).await.unwrap();
    let (readers, collectors) =
        (bench.through(yielding()).await.unwrap(), bench.through(yielding()).await.unwrap());
    let options = crate::support::writer_options("pageserver");
    let writer = TimelineWriter::claim(&writers, open(&writers).await, options).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let writing = async {
        let written = write(writer, 7).await;
        done.store(true, Ordering::Relaxed);
        written
    };
    // Two at the same time.
    let collecting = async || {
        let mut collected = 0;
        while !done.load(Ordering::Relaxed) {
            let report = bench.gc_of(&collectors, &policy, TakeOver::No).await.unwrap();
            assert!(report.damage.is_empty() && report.collected.failed.is_empty(), "{report:?}");
            assert_eq!(report.repacked.layers, 0);
            collected += report.collected.objects;
        }
        collected
    };
    let reading = async {
        let mut restored = 0;
        while !done.load(Ordering::Relaxed) {
            restored += read(&readers).await;
        }
        restored
    };
    let ((writer, live), first, second, restored) =
        tokio::join!(writing, collecting(), collecting(), reading);
    assert!(first + second > 150 && restored > 0, "{first} and {second} collected, {restored} restored");
    let state = open(&bench.store).await.state;
    assert_eq!(state, writer.view().state);
    assert_eq!(state.layers().keys().map(ToString::to_string).collect::<BTreeSet<_>>(), live);
    read(&bench.store).await;
    // What lives, and what came after the last floor: the collections wrote manifests of their own.
    assert!(bench.listing().await.records.len() < 60, "{}", bench.listing().await.records.len());
}

#[tokio::test]
async fn a_writer_repacks_in_its_background_within_its_budget() {
    let bench = Bench::new().await;
    let counted = Arc::new(storage_api::Metered::new(Arc::clone(&bench.objects)));
    let store = bench.through(Arc::<storage_api::Metered<dyn ObjectStore>>::clone(&counted)).await.unwrap();
    let options = crate::support::writer_options("pageserver");
    let mut writer = TimelineWriter::claim(&store, open(&store).await, options).await.unwrap();
    let mut random = SmallRng::seed_from_u64(3);
    let policy = GcPolicy { requests_max: 60, repack_bytes_max: 400_000, ..NONE };
    let mut known = KnownRecords::default();
    let mut live: Vec<String> = Vec::new();
    let (mut moved, mut most) = (0, 0);
    for step in 0..300u64 {
        let layers: Vec<(String, Vec<u8>)> =
            (0..4).map(|n| (format!("layer-{step:04}-{n}"), contents(step * 4 + n, 5000))).collect();
        let add: Vec<(&str, &[u8])> = layers.iter().map(|(layer, bytes)| (&**layer, &**bytes)).collect();
        let mut gone = Vec::new();
        while live.len() > 40 {
            gone.push(live.swap_remove(random.random_range(0..live.len())));
        }
        let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
        append(&mut writer, &add, &gone).await.unwrap();
        live.extend(layers.into_iter().map(|(layer, _)| layer));
        if step % 10 == 9 {
            let before = counted.metrics().snapshot().requests();
            let report = upkeep(&store, &mut writer, &policy, 64 << 10, &mut known).await;
            assert!(report.damage.is_empty() && report.repacked.findings.is_empty(), "{report:?}");
            assert!(report.repacked.stored_bytes < 500_000);
            moved += report.repacked.layers;
            most = most.max(counted.metrics().snapshot().requests() - before);
        }
    }
    // A survey reads the records since the floor, ten or twenty.
    assert!(moved > 100 && most < 120, "{moved} moved, at most {most} requests");
    let (stored, live_bytes) = (bench.stored_bytes().await, {
        let bundles = open(&store).await.state.bundles();
        bundles.iter().map(|bundle| bundle.live_bytes).sum::<u64>()
    });
    assert!(stored < live_bytes * 5, "{stored} stored for {live_bytes}");
    for layer in live {
        let seed: Vec<u64> = layer.split('-').skip(1).map(|number| number.parse().unwrap()).collect();
        let view = open(&store).await;
        let name = crate::support::name(&layer);
        let reader = sync_engine::TimelineReader::new(&store, view, Default::default());
        let bytes = reader.read_at(&name, 0..u64::MAX).await.unwrap();
        assert_eq!(bytes, contents(seed[0] * 4 + seed[1], 5000));
    }
}

#[tokio::test]
async fn a_writer_that_was_fenced_and_does_not_know_it_learns_of_it_and_repacks_nothing() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("sleeper").await;
    for n in 0..20 {
        let layer = format!("layer-{n:02}");
        bench.commit(&mut writer, &[(&layer, &contents(n, 3000))], &[]).await;
    }
    let other = bench.writer("other").await;
    let (id, mut known) = ((tenant(), timeline()), KnownRecords::default());
    let id = (&id.0, &id.1);
    let begun = Upkeep::begin(&bench.store, id, &NONE, TARGET, Repacker::ThisWriter, None, &mut known).await;
    let mut upkeep = begun.unwrap();
    let before = bench.objects().await;
    let fenced = upkeep.step(&bench.store, &mut writer).await.unwrap_err();
    assert!(matches!(&fenced, Error::Fenced { by, .. } if by.program == "other"), "{fenced}");
    assert_eq!(bench.objects().await, before);
    assert_eq!(open(&bench.store).await.state, other.view().state);
}

#[tokio::test]
async fn of_two_collections_that_want_to_repack_one_leaves_it_to_the_other() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("pageserver").await;
    for n in 0..40 {
        let layer = format!("layer-{n:02}");
        bench.commit(&mut writer, &[(&layer, &contents(n, 3000))], &[]).await;
    }
    bench.release(writer).await;
    let yielding = || Spy::new(&bench.objects, |_, _| Fate::Done);
    let (one, two) = (bench.through(yielding()).await.unwrap(), bench.through(yielding()).await.unwrap());
    let (one, two) =
        tokio::join!(bench.gc_of(&one, &NONE, TakeOver::No), bench.gc_of(&two, &NONE, TakeOver::No));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.repacked.layers.max(two.repacked.layers), 40);
    assert!(one.left_to.is_some() != two.left_to.is_some(), "{one:?}\n{two:?}");
    bench.assert_whole().await;
    assert!(open(&bench.store).await.state.is_released());
}
