//! Every object, damaged in every way: found by name, mended from what is left, or said to be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use layer_archive::LayerName;
use storage_api::{Body, GetRange, Key, ObjectStoreExt, PutMode};
use sync_engine::{
    Error, RepairOptions, RepairReport, TakeOver, TimelineView, VerifyDepth, repair_timeline, verify_timeline,
};
use tempfile::TempDir;

use crate::bench::{Bench, Layers, contents};
use crate::support::{WorkDir, name, open, options, tenant, timeline};
use crate::{lived, went_on};

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Deleted,
    Emptied,
    CutBy(usize),
    /// A bit flips at this part of its length, in percent.
    FlippedAt(usize),
}

const KINDS: [Damage; 7] = [
    Damage::Deleted,
    Damage::Emptied,
    Damage::CutBy(1),
    Damage::CutBy(700),
    Damage::FlippedAt(5),
    Damage::FlippedAt(60),
    Damage::FlippedAt(99),
];

pub(crate) async fn damage(bench: &Bench, key: &Key, kind: Damage) {
    let (_, bytes) = bench.objects.get_bytes(key, GetRange::Full, 1 << 20).await.unwrap();
    let mut bytes = bytes.to_vec();
    match kind {
        Damage::Deleted => return bench.delete(key.clone()).await,
        Damage::Emptied => bytes.clear(),
        Damage::CutBy(count) => bytes.truncate(bytes.len().saturating_sub(count)),
        Damage::FlippedAt(percent) => {
            let at = bytes.len() * percent / 100;
            bytes[at] ^= 0x10;
        }
    }
    // In its place and with its time.
    let now = bench.now();
    bench.clock.set(bench.objects.head(key).await.unwrap().last_modified);
    bench.objects.put(key, Body::new(bytes), PutMode::Overwrite).await.unwrap();
    bench.clock.set(now);
}

/// Files of these layers, and where they are.
pub(crate) fn local(layers: &Layers) -> (TempDir, BTreeMap<LayerName, PathBuf>) {
    let dir = TempDir::new().unwrap();
    let work = WorkDir { dir, metadata: None };
    layers.iter().for_each(|(layer, bytes)| work.put(layer, bytes));
    let dir = work.dir;
    let files = layers.keys().map(|layer| (name(layer), dir.path().join(layer))).collect();
    (dir, files)
}

pub(crate) async fn repair(
    bench: &Bench,
    files: &BTreeMap<LayerName, PathBuf>,
    take_over: TakeOver,
) -> Result<RepairReport, Error> {
    let scratch = TempDir::new().unwrap();
    let depth = VerifyDepth::Deep;
    let repair = RepairOptions { backup: options(), take_over, depth, scratch: scratch.path().join("own") };
    let report = repair_timeline(&bench.store, (&tenant(), &timeline()), files, &repair).await;
    let left: Vec<_> = std::fs::read_dir(scratch.path().join("own")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    report
}

/// Every layer of the newest state is there and is what it should be. Older points may be lost.
async fn assert_whole_now(bench: &Bench) {
    let view = open(&bench.store).await;
    assert_eq!(contents(&bench.store, &view.state).await, bench.layers);
    let report = verify_timeline(&bench.store, &view, VerifyDepth::Deep).await.unwrap();
    assert!(report.findings.iter().all(sync_engine::Finding::is_of_the_past), "{report:?}");
}

/// The objects that verification, or opening, says are damaged.
async fn found(bench: &Bench) -> Vec<String> {
    match TimelineView::open(&bench.store, &tenant(), &timeline(), None).await {
        Ok(view) => {
            let report = verify_timeline(&bench.store, &view, VerifyDepth::Deep).await.unwrap();
            report.findings.into_iter().chain(report.unneeded).map(|finding| finding.object).collect()
        }
        Err(Error::Gap { key, .. }) => vec![key],
        Err(Error::Damaged { object, .. }) => vec![object],
        Err(error) => vec![error.to_string()],
    }
}

/// Whether a record, deleted, is what gc would have deleted: nothing tells that it was there.
fn is_nobodys(bench_key: &Key, kind: Damage, view: &TimelineView) -> bool {
    let is_record = bench_key.as_str().contains("/log/");
    let holds = view.state.bundles().iter().any(|bundle| view.keys.bundle(bundle.id).unwrap() == *bench_key);
    let below = view.manifest.is_some_and(|manifest| view.keys.record(manifest.seq).unwrap() >= *bench_key);
    let newest = view.keys.record(view.state.seq()).unwrap() == *bench_key;
    let claim = view.keys.record(view.state.claim()).unwrap() == *bench_key;
    // Older manifests and the last record leave no trace either: what comes after is all that there ever was.
    let old_manifest = bench_key.as_str().contains("/manifest/");
    kind == Damage::Deleted && ((is_record && !holds && !claim && (below || newest)) || old_manifest)
}

#[tokio::test]
async fn every_object_damaged_in_every_way_is_named_and_mended_from_local_files() {
    let (mut mended, mut lossy) = (0, 0);
    for number in 0.. {
        let mut there = true;
        for kind in KINDS {
            let mut bench = lived().await;
            went_on(&mut bench).await;
            let before = open(&bench.store).await;
            let objects: Vec<Key> = bench
                .objects()
                .await
                .into_iter()
                .map(|info| info.key)
                .filter(|key| key.as_str().starts_with("tenants/"))
                .collect();
            let Some(key) = objects.get(number) else {
                there = false;
                break;
            };
            damage(&bench, key, kind).await;
            let what = format!("{key} {kind:?}");
            if is_nobodys(key, kind, &before) {
                continue;
            }
            let named = found(&bench).await;
            assert!(named.iter().any(|object| object == key.as_str()), "{what}: {named:?}");
            let (_dir, files) = local(&bench.layers);
            // Where the record that releases is damaged, the timeline looks held.
            let report = match repair(&bench, &files, TakeOver::No).await {
                Err(Error::Held { .. }) => repair(&bench, &files, TakeOver::Yes).await.unwrap(),
                report => report.unwrap(),
            };
            let after = open(&bench.store).await;
            let now = contents(&bench.store, &after.state).await;
            if report.missing.is_empty() {
                assert_eq!(now, bench.layers, "{what}");
                assert!(report.is_whole(), "{what}: {report:?}");
                assert_eq!(after.state.metadata(), before.state.metadata(), "{what}");
                mended += 1;
            } else {
                // A lost record takes what it added along; what is there is right, and removals after it are held back.
                for (layer, bytes) in &bench.layers {
                    assert!(now.get(layer).is_none_or(|there| there == bytes), "{what}");
                    assert!(now.contains_key(layer) || layer == "later", "{what} lost {layer}");
                }
                lossy += 1;
            }
            // What is left of the damage costs nothing any more.
            let report = verify_timeline(&bench.store, &after, VerifyDepth::Deep).await.unwrap();
            assert!(report.findings.iter().all(|finding| finding.layers.is_empty()), "{what}: {report:?}");
            assert!(after.damage.is_empty(), "{what}: {:?}", after.damage);
        }
        if !there {
            break;
        }
    }
    assert!(mended > 30 && lossy > 5, "{mended} mended, {lossy} with loss");
}

#[tokio::test]
async fn without_local_files_what_still_reads_is_saved_and_the_rest_is_listed() {
    for kind in [Damage::FlippedAt(60), Damage::CutBy(1), Damage::CutBy(700), Damage::Deleted] {
        let bench = lived().await;
        let view = open(&bench.store).await;
        let bundle = view.state.layers()[&name("large")].place.bundle;
        let key = view.keys.bundle(bundle).unwrap();
        damage(&bench, &key, kind).await;
        let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
        let lost: Vec<&str> = report.lost.iter().map(|lost| lost.name.as_str()).collect();
        let saved = matches!(kind, Damage::CutBy(1));
        assert_eq!(lost, if saved { vec![] } else { vec!["large"] }, "{kind:?}");
        assert_eq!(report.is_whole(), saved);
        // The others are as they were.
        let dir = TempDir::new().unwrap();
        let restored = crate::support::restore(&bench.store, dir.path()).await.unwrap();
        assert_eq!(restored.failed.len(), usize::from(!saved), "{kind:?}");
        let mut expected = bench.layers.clone();
        if !saved {
            expected.remove("large");
        }
        let mut files = crate::support::files(dir.path());
        files.remove("metadata");
        assert_eq!(files, expected);
        // A copy turns up later.
        let (_dir, files) = local(&bench.layers);
        let report = repair(&bench, &files, TakeOver::No).await.unwrap();
        assert_eq!((report.wrote, report.is_whole()), (!saved, true), "{kind:?}");
        assert_whole_now(&bench).await;
    }
}

#[tokio::test]
async fn a_local_file_that_differs_is_not_taken() {
    // What still reads in the store is taken instead, where anything does.
    for (kind, mended) in [(Damage::Deleted, 0), (Damage::CutBy(1), 1)] {
        let bench = lived().await;
        let view = open(&bench.store).await;
        let key = view.keys.bundle(view.state.layers()[&name("large")].place.bundle).unwrap();
        damage(&bench, &key, kind).await;
        let mut wrong = bench.layers.clone();
        wrong.get_mut("large").unwrap()[5] ^= 1;
        let (_dir, files) = local(&wrong);
        let report = repair(&bench, &files, TakeOver::No).await.unwrap();
        assert_eq!((report.mended.len(), report.lost.len()), (mended, 1 - mended), "{kind:?}");
    }
}

#[tokio::test]
async fn a_sound_timeline_is_not_written_to_and_one_that_is_held_only_by_taking_over() {
    let mut bench = lived().await;
    let before = bench.objects().await;
    let report = repair(&bench, &BTreeMap::new(), TakeOver::No).await.unwrap();
    assert_eq!((report.wrote, report.findings.len()), (false, 0));
    assert_eq!(bench.objects().await, before);
    let mut writer = bench.writer("holder").await;
    bench.commit(&mut writer, &[("held", &[7; 5000])], &[]).await;
    let view = open(&bench.store).await;
    bench.delete(view.keys.bundle(view.state.layers()[&name("large")].place.bundle).unwrap()).await;
    let (_dir, files) = local(&bench.layers);
    let refused = repair(&bench, &files, TakeOver::No).await.unwrap_err();
    assert!(matches!(&refused, Error::Held { by, .. } if by.program == "holder"), "{refused}");
    let report = repair(&bench, &files, TakeOver::Yes).await.unwrap();
    assert_eq!(report.mended, BTreeSet::from([name("large")]));
    assert_whole_now(&bench).await;
}

#[tokio::test]
async fn killed_at_any_request_a_repair_makes_nothing_worse() {
    for request in 0.. {
        let bench = lived().await;
        let view = open(&bench.store).await;
        bench.delete(view.keys.bundle(view.state.layers()[&name("1-1")].place.bundle).unwrap()).await;
        let (_dir, files) = local(&bench.layers);
        let spy = crate::killed_at(&bench.objects, request, crate::spy::Fate::AnswerLost);
        let scratch = TempDir::new().unwrap();
        let options = RepairOptions {
            backup: options(),
            take_over: TakeOver::No,
            depth: VerifyDepth::Listing,
            scratch: scratch.path().to_owned(),
        };
        let repaired = match bench.through(Arc::clone(&spy) as Arc<dyn storage_api::ObjectStore>).await {
            Ok(store) => repair_timeline(&store, (&tenant(), &timeline()), &files, &options).await,
            Err(error) => Err(error),
        };
        let options = RepairOptions { take_over: TakeOver::Yes, ..options };
        repair_timeline(&bench.store, (&tenant(), &timeline()), &files, &options).await.unwrap();
        assert_whole_now(&bench).await;
        if repaired.is_ok() {
            assert!(request > 10, "{request}");
            break;
        }
    }
}

#[tokio::test]
async fn what_killed_repairs_have_left_is_removed_and_what_running_ones_have_is_not() {
    let bench = lived().await;
    let view = open(&bench.store).await;
    damage(&bench, &view.keys.bundle(view.state.bundles()[0].id).unwrap(), Damage::FlippedAt(5)).await;
    let scratch = TempDir::new().unwrap();
    let dir = |name: &str| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let [left, running, other] = ["repair-0000000000000001", "repair-0000000000000002", "past"].map(dir);
    #[expect(clippy::disallowed_methods, reason = "test data need not survive a crash")]
    std::fs::write(left.join("layer"), b"half").unwrap();
    let lock = std::fs::File::open(&running).unwrap();
    lock.lock().unwrap();
    let (_dir, files) = local(&bench.layers);
    let (take_over, depth, scratch) = (TakeOver::No, VerifyDepth::Deep, scratch.path().to_owned());
    let repair = RepairOptions { backup: options(), take_over, depth, scratch: scratch.clone() };
    let report = repair_timeline(&bench.store, (&tenant(), &timeline()), &files, &repair).await.unwrap();
    assert!(report.wrote && report.is_whole());
    let mut there: Vec<PathBuf> =
        std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect();
    there.sort();
    assert_eq!(there, [other, running]);
}
