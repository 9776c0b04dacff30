//! Where anything is damaged nothing is deleted.

use layer_archive::{BundleId, Manifest, Seq};
use storage_api::{Body, GetRange, Key, ObjectStoreExt, PutMode};
use sync_engine::TakeOver;

use crate::bench::{Bench, NONE};
use crate::support::{contents, name, open};

/// A timeline with a floor, garbage below it, and records above it.
async fn timeline() -> Bench {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    for n in 0..70u64 {
        let layer = format!("layer-{n}");
        bench.commit(&mut writer, &[(&layer, &contents(n, 500))], &[]).await;
        if n % 2 == 0 {
            bench.commit(&mut writer, &[], &[&layer]).await;
        }
        writer.put_manifest_if_due().await.unwrap();
    }
    bench.release(writer).await;
    assert!(open(&bench.store).await.listing.manifests.len() >= 2);
    bench
}

async fn bytes(bench: &Bench, key: &Key) -> Vec<u8> {
    bench.objects.get_bytes(key, GetRange::Full, u64::MAX).await.unwrap().1.to_vec()
}

async fn replace(bench: &Bench, key: &Key, bytes: Vec<u8>) {
    bench.objects.put(key, Body::new(bytes), PutMode::Overwrite).await.unwrap();
}

/// Collects, and checks that nothing was deleted and that `object` is named.
async fn assert_refused(bench: &Bench, object: &Key) {
    let before: Vec<Key> = bench.objects().await.into_iter().map(|info| info.key).collect();
    assert!(bench.plan(&NONE).await.is_empty());
    let report = bench.gc(&NONE, TakeOver::Yes).await;
    assert!(report.damage.iter().any(|finding| finding.object == object.as_str()), "{report:?}");
    assert_eq!(bench.objects().await.into_iter().map(|info| info.key).collect::<Vec<_>>(), before);
}

#[tokio::test]
async fn a_torn_manifest_at_the_floor_or_above_stops_it() {
    for back in [0, 1] {
        let bench = timeline().await;
        let plan = bench.plan(&NONE).await;
        assert!(plan.objects.len() > 30, "there is garbage to be deleted");
        let listing = bench.listing().await;
        let (_, info) = listing.manifests.iter().rev().nth(back).unwrap();
        let mut torn = bytes(&bench, &info.key).await;
        let middle = torn.len() / 2;
        torn[middle] ^= 1;
        replace(&bench, &info.key, torn).await;
        assert_refused(&bench, &info.key).await;
    }
}

#[tokio::test]
async fn a_floor_that_lies_and_is_well_formed_stops_it() {
    // A manifest that lacks a layer would condemn its bundle.
    let bench = timeline().await;
    let listing = bench.listing().await;
    let (_, info) = listing.manifests.iter().rev().nth(1).unwrap();
    let mut lie = Manifest::decode(&bytes(&bench, &info.key).await).unwrap();
    let lost = lie.layers.remove(3);
    lie.bundles.retain(|bundle| bundle.id != lost.place.bundle);
    replace(&bench, &info.key, lie.encode().unwrap()).await;
    assert_refused(&bench, &info.key).await;
}

#[tokio::test]
async fn a_missing_bundle_a_missing_record_and_a_corrupt_one_stop_it() {
    let bench = timeline().await;
    let view = open(&bench.store).await;
    let live = view.state.layers().values().next().unwrap().place.bundle;
    let key = view.keys.bundle(live).unwrap();
    bench.delete(key.clone()).await;
    assert_refused(&bench, &key).await;
    // A record between the floor and the newest manifest, of which nobody but the collection needs to know.
    let bench = timeline().await;
    let listing = bench.listing().await;
    let newest = *listing.manifests.keys().next_back().unwrap();
    let dead = (0..newest.0)
        .rev()
        .map(Seq)
        .find(|seq| !view.state.layers().values().any(|layer| layer.place.bundle == BundleId::Record(*seq)));
    let key = view.keys.record(dead.unwrap()).unwrap();
    let mut torn = bytes(&bench, &key).await;
    let at = torn.len() - 100;
    torn[at] ^= 1;
    replace(&bench, &key, torn).await;
    assert_refused(&bench, &key).await;
    bench.delete(key.clone()).await;
    let refused = bench.gc_of(&bench.store, &NONE, TakeOver::Yes).await.unwrap_err();
    assert!(refused.to_string().contains(key.as_str()), "{refused}");
}

#[tokio::test]
async fn a_record_below_the_floor_that_does_not_read_is_taken_for_a_claim() {
    let bench = timeline().await;
    let plan = bench.plan(&NONE).await;
    let doomed = plan.objects[0].key.clone();
    replace(&bench, &doomed, b"not a record".to_vec()).await;
    let report = bench.gc(&NONE, TakeOver::No).await;
    assert_eq!(report.doubtful.len(), 1);
    assert!(report.collected.objects > 30);
    bench.objects.head(&doomed).await.unwrap();
}

#[tokio::test]
async fn a_source_that_is_damaged_stays_and_the_others_are_repacked() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    for record in 0..2u64 {
        let (live, dead) = (format!("live-{record}"), format!("dead-{record}"));
        bench
            .commit(
                &mut writer,
                &[(&live, &contents(record, 3000)), (&dead, &contents(9 + record, 90_000))],
                &[],
            )
            .await;
        bench.commit(&mut writer, &[], &[&dead]).await;
    }
    bench.release(writer).await;
    let key = open(&bench.store).await.keys.record(Seq(2)).unwrap();
    let mut torn = bytes(&bench, &key).await;
    torn[100] ^= 1;
    replace(&bench, &key, torn).await;
    let report = bench.gc(&NONE, TakeOver::No).await;
    assert_eq!((report.repacked.layers, report.repacked.findings.len()), (1, 1));
    let state = open(&bench.store).await.state;
    let bundle = |layer: &str| state.layers()[&name(layer)].place.bundle;
    assert_eq!(bundle("live-0"), BundleId::Record(Seq(2)));
    assert!(matches!(bundle("live-1"), BundleId::Payload(_)));
    bench.objects.head(&key).await.unwrap();
}
