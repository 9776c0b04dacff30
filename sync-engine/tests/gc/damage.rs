//! Where anything is damaged nothing is deleted.

use std::collections::BTreeSet;

use layer_archive::{BundleId, BundleWriter, Manifest, Seq};
use storage_api::{Body, GetRange, Key, ObjectStoreExt, PutMode};
use sync_engine::gc::{KnownRecords, Repacker, Upkeep};
use sync_engine::{At, Draft, TakeOver, TimelineView, TimelineWriter};

use crate::bench::{Bench, DAY, Layers, NONE, TARGET, contents as read};
use crate::support::{contents, name, open, tenant};

/// A timeline with a floor, garbage below it, and records above it.
async fn timeline() -> Bench {
    grown(Bench::new().await).await
}

async fn grown(mut bench: Bench) -> Bench {
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
    let plan = bench.plan(&NONE).await;
    assert!(plan.is_empty(), "{plan:?}");
    let report = bench.gc(&NONE, TakeOver::Yes).await;
    assert!(report.damage.iter().any(|finding| finding.object == object.as_str()), "{report:?}");
    assert_eq!(bench.objects().await.into_iter().map(|info| info.key).collect::<Vec<_>>(), before);
}

#[tokio::test]
async fn a_torn_manifest_at_the_only_floor_or_above_stops_it() {
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

async fn put_manifest(bench: &Bench, writer: &TimelineWriter) -> Key {
    let state = &writer.view().state;
    let key = writer.view().keys.manifest(state.seq()).unwrap();
    replace(bench, &key, state.to_manifest().encode().unwrap()).await;
    key
}

/// Three manifests, a day apart, each with garbage below it, and a layer that is removed after the second.
async fn three_days() -> (Bench, [Key; 3]) {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    let mut manifests = Vec::new();
    for day in 0..3u64 {
        let [gone, stays, later] = ["gone", "stays", "later"].map(|layer| format!("{layer} {day}"));
        bench.commit(&mut writer, &[(&gone, &contents(day, 6000))], &[]).await;
        bench.commit(&mut writer, &[(&stays, &contents(day + 10, 6000))], &[&gone]).await;
        bench.commit(&mut writer, &[(&later, &contents(day + 20, 6000))], &[]).await;
        manifests.push(put_manifest(&bench, &writer).await);
        bench.commit(&mut writer, &[], &[&later]).await;
        bench.clock.advance(DAY);
    }
    writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    (bench, manifests.try_into().unwrap())
}

async fn tear(bench: &Bench, key: &Key) {
    let mut torn = bytes(bench, key).await;
    let middle = torn.len() / 2;
    torn[middle] ^= 1;
    // In its place and with its time.
    let now = bench.now();
    let written = bench.objects.head(key).await.unwrap().last_modified;
    bench.clock.set(written);
    replace(bench, key, torn).await;
    bench.clock.set(now);
}

/// What can be restored of a point in time.
async fn at(bench: &Bench, seq: Seq) -> Layers {
    let id = (tenant(), crate::support::timeline());
    let past = TimelineView::open_at(&bench.store, (&id.0, &id.1), At::Seq(seq), None).await.unwrap();
    read(&bench.store, &past.state).await
}

fn keys(doomed: &[sync_engine::gc::Doomed]) -> BTreeSet<Key> {
    doomed.iter().map(|doomed| doomed.key.clone()).collect()
}

#[tokio::test]
async fn an_older_manifest_stands_in_for_a_floor_that_does_not_read() {
    let (bench, [oldest, floor, _]) = three_days().await;
    let whole = bench.plan(&NONE).await;
    assert_eq!(whole.floor, Some(Seq(8)));
    tear(&bench, &floor).await;
    let plan = bench.plan(&NONE).await;
    assert_eq!((plan.floor, &plan.damage[..]), (Some(Seq(4)), &[][..]));
    let named: Vec<&str> = plan.doubtful.iter().map(|finding| finding.object.as_str()).collect();
    assert_eq!(named, [floor.as_str()]);
    // It condemns something, and nothing that the newer one would have spared.
    let (condemned, before) = (keys(&plan.objects), keys(&whole.objects));
    assert!(!condemned.is_empty() && condemned.is_subset(&before) && condemned != before);
    assert!(!keys(&plan.manifests).contains(&oldest));
    let mut promised = Vec::new();
    for seq in 4..=open(&bench.store).await.state.seq().0 {
        promised.push(at(&bench, Seq(seq)).await);
    }
    sync_engine::gc::collect(&bench.store, &plan).await.unwrap();
    for key in condemned {
        assert!(bench.objects.head(&key).await.unwrap_err().is_not_found());
    }
    // Every point from the older floor on is as it was.
    for (seq, layers) in (4..).zip(promised) {
        assert_eq!(at(&bench, Seq(seq)).await, layers, "{seq}");
    }
    // The next floor lets go of both.
    let report = bench.gc(&NONE, TakeOver::No).await;
    assert!(report.checkpoint && report.floor > Some(Seq(12)), "{report:?}");
    for gone in [&oldest, &floor] {
        assert!(bench.objects.head(gone).await.unwrap_err().is_not_found());
    }
    assert_eq!(bench.gc(&NONE, TakeOver::No).await.doubtful, []);
    assert_eq!(read(&bench.store, &open(&bench.store).await.state).await, bench.layers);
}

#[tokio::test]
async fn a_manifest_that_does_not_read_is_no_floor_to_wait_for() {
    // What the torn one would condemn, and nobody else, is worth another manifest.
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("writer").await;
    bench.commit(&mut writer, &[("a", b"a")], &[]).await;
    put_manifest(&bench, &writer).await;
    bench.commit(&mut writer, &[("gone", &contents(1, 9000))], &[]).await;
    bench.commit(&mut writer, &[], &["gone"]).await;
    let floor = put_manifest(&bench, &writer).await;
    bench.commit(&mut writer, &[("b", b"b")], &[]).await;
    put_manifest(&bench, &writer).await;
    writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    tear(&bench, &floor).await;
    assert!(bench.gc(&NONE, TakeOver::No).await.checkpoint);
    assert!(bench.stored_bytes().await < 4000);
    assert_eq!(bench.plan(&NONE).await.doubtful, []);
}

#[tokio::test]
async fn where_no_manifest_can_stand_in_for_the_floor_it_is_damage() {
    // All of them torn.
    let (bench, [oldest, floor, _]) = three_days().await;
    tear(&bench, &floor).await;
    tear(&bench, &oldest).await;
    assert_refused(&bench, &floor).await;
    assert_refused(&bench, &oldest).await;
    // The older one lies.
    let (bench, [oldest, floor, _]) = three_days().await;
    tear(&bench, &floor).await;
    let mut lie = Manifest::decode(&bytes(&bench, &oldest).await).unwrap();
    let lost = lie.layers.remove(1);
    assert_eq!(lost.name, name("stays 0"));
    lie.bundles.retain(|bundle| bundle.id != lost.place.bundle);
    replace(&bench, &oldest, lie.encode().unwrap()).await;
    assert_refused(&bench, &oldest).await;
    // The older one was brought when the log behind it had been collected.
    let (bench, [oldest, floor, _]) = three_days().await;
    let late = bytes(&bench, &oldest).await;
    let report = bench.plan(&NONE).await;
    sync_engine::gc::collect(&bench.store, &report).await.unwrap();
    replace(&bench, &oldest, late).await;
    tear(&bench, &floor).await;
    assert_refused(&bench, &floor).await;
    // A record between the two is lost, and the older one was there before.
    let (bench, [_, floor, _]) = three_days().await;
    tear(&bench, &floor).await;
    let lost = open(&bench.store).await.keys.record(Seq(6)).unwrap();
    bench.delete(lost.clone()).await;
    let refused = bench.gc_of(&bench.store, &NONE, TakeOver::Yes).await.unwrap_err();
    assert!(refused.to_string().contains(lost.as_str()), "{refused}");
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
async fn what_a_floor_that_lies_says_of_claims_is_not_remembered() {
    let bench = Bench::new().await;
    bench.release(bench.writer("first").await).await;
    let bench = grown(bench).await;
    let listing = bench.listing().await;
    let (_, info) = listing.manifests.iter().rev().nth(1).unwrap();
    let right = bytes(&bench, &info.key).await;
    // A layer is said to be in the first writer's claim.
    let mut lie = Manifest::decode(&right).unwrap();
    let claim = BundleId::Record(Seq(1));
    let bundle = lie.bundles.iter_mut().find(|bundle| bundle.live_bytes > 0).unwrap();
    let was = std::mem::replace(&mut bundle.id, claim);
    lie.layers
        .iter_mut()
        .filter(|layer| layer.place.bundle == was)
        .for_each(|layer| layer.place.bundle = claim);
    lie.bundles.sort_by_key(|bundle| bundle.id);
    let mut known = KnownRecords::default();
    for manifest in [lie.encode().unwrap(), right] {
        replace(&bench, &info.key, manifest).await;
        let (tenant, timeline) = (tenant(), crate::support::timeline());
        let (id, nobody) = ((&tenant, &timeline), Repacker::Nobody);
        let begun = Upkeep::begin(&bench.store, id, &NONE, TARGET, nobody, None, &mut known).await.unwrap();
        let report = begun.report();
        assert_eq!(report.damage.is_empty(), report.collected.objects > 0, "{report:?}");
    }
    let records = bench.listing().await.records;
    assert!(records.len() < listing.records.len() && records.contains_key(&Seq(1)), "{:?}", records.keys());
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

#[tokio::test]
async fn a_bundle_that_is_overwritten_with_its_index_costs_the_layers_in_it() {
    let mut bench = Bench::new().await;
    let mut writer = bench.writer("pageserver").await;
    bench.commit(&mut writer, &[("a", &[1; 3000]), ("b", &[2; 3000])], &[]).await;
    bench.release(writer).await;
    let view = open(&bench.store).await;
    let key = view.keys.record(Seq(2)).unwrap();
    let len = view.listing.records[&Seq(2)].size;
    bench.delete(key.clone()).await;
    let zeros = Body::new(vec![0; usize::try_from(len).unwrap()]);
    bench.objects.put(&key, zeros, PutMode::Create).await.unwrap();
    let depth = sync_engine::VerifyDepth::Deep;
    let report = sync_engine::verify_timeline(&bench.store, &open(&bench.store).await, depth).await.unwrap();
    let found = report.findings.iter().find(|finding| finding.object == key.as_str()).unwrap();
    let layers: Vec<&str> = found.layers.iter().map(|layer| layer.as_str()).collect();
    assert_eq!(layers, ["a", "b"]);
}
