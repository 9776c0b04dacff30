//! Which bytes a repack copies, which it makes anew, and under which names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use layer_archive::{BundleId, BundleIndex, RemovalReason};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use storage_api::{GetRange, ObjectStoreExt};
use sync_engine::gc::{GcOptions, execute_gc, plan_gc, plan_repack};
use sync_engine::{Mirror, TakeOver, remove_layers};

use crate::bench::{Bench, NONE};
use crate::support::faulty::FaultyStore;
use crate::support::{WorkDir, backup_with, contents, files, name, open, options, writer_options};

/// Backs up `layers`, removes `gone` by hand, collects, and returns the index and the bytes of what is left.
async fn repacked(
    layers: &[(&str, Vec<u8>)],
    gone: &[&str],
    target: u64,
) -> (Bench, BTreeMap<BundleId, Vec<u8>>) {
    let mut bench = Bench::new().await;
    let work = WorkDir::new();
    for (layer, bytes) in layers {
        work.put(layer, bytes);
    }
    let mut options = options();
    options.pack.bundle_bytes_target = target;
    backup_with(&bench.store, work.local(), Mirror::Off, options).await.unwrap();
    bench.layers = files(work.path());
    let view = open(&bench.store).await;
    let names: BTreeSet<_> = gone.iter().map(|layer| name(layer)).collect();
    let rm = writer_options("rm");
    remove_layers(&bench.store, view, &names, RemovalReason::Collected, TakeOver::No, rm).await.unwrap();
    bench.layers.retain(|layer, _| !gone.contains(&layer.as_str()));
    let report = bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(report.repacked.findings, []);
    bench.assert_whole().await;
    let view = open(&bench.store).await;
    let mut bundles = BTreeMap::new();
    for bundle in view.state.bundles() {
        let key = view.keys.bundle(bundle.id).unwrap();
        let bytes = bench.objects.get_bytes(&key, GetRange::Full, u64::MAX).await.unwrap().1;
        bundles.insert(bundle.id, bytes.to_vec());
    }
    (bench, bundles)
}

/// The stored bytes of the frames of the layer `layer`.
fn frames(bytes: &[u8], layer: &str) -> Vec<Vec<u8>> {
    let index = BundleIndex::parse_object(bytes).unwrap();
    let layer = index.layers().iter().find(|indexed| indexed.name.as_str() == layer).unwrap();
    let range = |frame: &layer_archive::IndexedFrame| {
        let range = frame.stored_range();
        bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec()
    };
    index.frames()[index.frames_of(layer)].iter().map(range).collect()
}

#[tokio::test]
async fn frames_that_are_all_live_are_copied_and_the_others_made_anew() {
    // Large layers have frames of their own; small ones share.
    let layers = [
        ("dead-large", contents(1, 900_000)),
        ("dead-small", contents(2, 2000)),
        ("live-large", contents(3, 300_000)),
        ("live-small", contents(4, 3000)),
    ];
    let (_, alone) = repacked(&layers, &[], 32 << 20).await;
    let (bench, bundles) = repacked(&layers, &["dead-large", "dead-small"], 32 << 20).await;
    let (old, new) = (alone.values().next().unwrap(), bundles.values().next().unwrap());
    assert_eq!(bundles.len(), 1);
    assert_eq!(frames(new, "live-large"), frames(old, "live-large"));
    assert_eq!(frames(new, "live-large").len(), 2);
    assert_ne!(frames(new, "live-small"), frames(old, "live-small"));
    // The end of the old tar stream, its metadata and its links are not carried along.
    let index = BundleIndex::parse_object(new).unwrap();
    assert_eq!(index.frames().len(), 4);
    assert_eq!(bench.layers.len(), 2);
}

#[tokio::test]
async fn a_dead_member_with_live_links_lives_on_under_a_live_name() {
    for size in [2000, 700_000] {
        let twin = contents(5, size);
        let layers = [
            ("a-first", twin.clone()),
            ("b-link", twin.clone()),
            ("c-link", twin.clone()),
            ("dead", contents(6, size * 3)),
            ("dead-too", contents(7, 60_000)),
        ];
        let (_, bundles) = repacked(&layers, &["a-first", "dead", "dead-too"], 32 << 20).await;
        let index = BundleIndex::parse_object(bundles.values().next().unwrap()).unwrap();
        let members: Vec<&str> = index.layers().iter().map(|layer| layer.name.as_str()).collect();
        let links: Vec<&str> = index.links().iter().map(|link| link.name.as_str()).collect();
        assert_eq!((members, links), (vec!["b-link"], vec!["c-link"]), "{size}");
    }
}

#[tokio::test]
async fn empty_layers_move_and_full_bundles_are_closed() {
    let mut layers: Vec<(String, Vec<u8>)> =
        (0..30).map(|n| (format!("live-{n:02}"), contents(n, 20_000))).collect();
    layers.push(("empty".into(), Vec::new()));
    layers.extend((0..70).map(|n| (format!("dead-{n:02}"), contents(100 + n, 20_000))));
    let gone: Vec<&str> =
        layers.iter().map(|(layer, _)| layer.as_str()).filter(|layer| layer.starts_with("dead")).collect();
    let given: Vec<(&str, Vec<u8>)> =
        layers.iter().map(|(layer, bytes)| (layer.as_str(), bytes.clone())).collect();
    let (bench, bundles) = repacked(&given, &gone, 32 << 20).await;
    assert_eq!((bundles.len(), bench.layers.len()), (1, 31));
}

#[tokio::test]
async fn a_bundle_too_large_to_be_read_at_once_is_read_in_ranges() {
    // Ten layers of 4.5 MB that do not compress, in one bundle of 45 MB.
    let noise = |seed: u64| {
        let mut bytes = vec![0; 4_500_000];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes
    };
    let layers: Vec<(String, Vec<u8>)> = (0..10).map(|n| (format!("layer-{n}"), noise(n))).collect();
    let given: Vec<(&str, Vec<u8>)> =
        layers.iter().map(|(layer, bytes)| (layer.as_str(), bytes.clone())).collect();
    let gone = ["layer-0", "layer-2", "layer-3", "layer-5", "layer-6", "layer-7", "layer-8"];
    let (_, bundles) = repacked(&given, &gone, 64 << 20).await;
    let stored: usize = bundles.values().map(Vec::len).sum();
    assert!(bundles.len() == 1 && stored < 14_000_000, "{stored}");
}

#[tokio::test]
async fn a_bundle_of_tiny_layers_and_links_is_not_packed_anew_for_ever() {
    let twin = contents(5, 700);
    let names: Vec<String> = (0..600).map(|n| format!("link-{n:03}")).collect();
    let layers: Vec<(&str, Vec<u8>)> = names.iter().map(|layer| (layer.as_str(), twin.clone())).collect();
    let (bench, _) = repacked(&layers, &[], 32 << 20).await;
    let state = open(&bench.store).await.state;
    let bundle = state.bundles()[0];
    let frames = bundle.stored_bytes - u64::from(bundle.tail_len);
    assert!(bundle.live_bytes * 2 < frames, "{bundle:?}");
    assert!(plan_repack(&state, &NONE, 32 << 20).is_empty());
}

#[tokio::test]
async fn small_layers_are_moved_though_the_frame_they_share_is_larger_than_the_target() {
    let bench = Bench::new().await;
    let work = WorkDir::new();
    let layers: Vec<String> = (0..40).map(|n| format!("layer-{n:02}")).collect();
    for (seed, layer) in (0..).zip(&layers) {
        let mut bytes = vec![0; 5000];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        work.put(layer, &bytes);
    }
    backup_with(&bench.store, work.local(), Mirror::Off, options()).await.unwrap();
    let gone: BTreeSet<_> = layers[..32].iter().map(|layer| name(layer)).collect();
    let rm = || writer_options("rm");
    let view = open(&bench.store).await;
    let target = 64 << 10;
    let frame = view.state.layers().values().map(|layer| layer.place.location.stored_len).max().unwrap();
    assert!(frame > target, "{frame}");
    remove_layers(&bench.store, view, &gone, RemovalReason::Collected, TakeOver::No, rm()).await.unwrap();
    let survey = bench.survey(&NONE).await;
    let plan = plan_gc(&survey, &NONE, target);
    assert_eq!(plan.repack.sources.len(), 1);
    let options = GcOptions {
        policy: NONE,
        bundle_bytes_target: target,
        writer: writer_options("gc"),
        take_over: TakeOver::No,
    };
    execute_gc(&bench.store, survey, plan, &options).await.unwrap();
    let state = open(&bench.store).await.state;
    assert!(state.bundles().iter().all(|bundle| bundle.stored_bytes < target), "{:?}", state.bundles());
    assert_eq!(state.layers().len(), 8);
    assert!(plan_repack(&state, &NONE, target).is_empty());
}

#[tokio::test]
async fn what_flips_on_the_way_is_read_again_and_what_is_wrong_in_the_store_stays_there() {
    // One bundle that is read at once, and one that is read in ranges.
    for layer_bytes in [400_000, 4_500_000] {
        for flips in [1, 1000] {
            let mut bench = Bench::new().await;
            let work = WorkDir::new();
            for layer in 0..10u64 {
                let mut bytes = vec![0; layer_bytes];
                SmallRng::seed_from_u64(layer).fill_bytes(&mut bytes);
                work.put(&format!("layer-{layer}"), &bytes);
            }
            let mut options = options();
            options.pack.bundle_bytes_target = 64 << 20;
            backup_with(&bench.store, work.local(), Mirror::Off, options).await.unwrap();
            bench.layers = files(work.path());
            let gone: BTreeSet<_> =
                (0..10).filter(|n| *n != 5).map(|n| name(&format!("layer-{n}"))).collect();
            let (view, rm) = (open(&bench.store).await, writer_options("rm"));
            remove_layers(&bench.store, view, &gone, RemovalReason::Collected, TakeOver::No, rm)
                .await
                .unwrap();
            bench.layers.retain(|layer, _| layer == "layer-5");
            let faulty = FaultyStore::new(Arc::clone(&bench.objects));
            let entry = open(&bench.store).await.state.layers()[&name("layer-5")].clone();
            let key = open(&bench.store).await.keys.bundle(entry.place.bundle).unwrap();
            // A byte in the middle of the object is one of this layer; what is read in ranges is read behind its index.
            let first = usize::from(layer_bytes > 1_000_000);
            let mut number = 0;
            faulty.on_get(move |read| {
                number += usize::from(*read == key);
                *read == key && (first + 1..=first + flips).contains(&number)
            });
            let store = bench.through(Arc::new(faulty)).await.unwrap();
            let report = bench.gc_of(&store, &NONE, TakeOver::No).await.unwrap();
            let moved = usize::from(flips == 1);
            assert_eq!((report.repacked.layers, report.repacked.findings.len()), (moved, 1 - moved));
            bench.assert_whole().await;
        }
    }
}
