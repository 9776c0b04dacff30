//! Rebuilding a state from what is left of a log.

use std::collections::BTreeMap;

use layer_archive::{BundleWriter, Seq};
use storage_api::Key;
use sync_engine::gc::GcPolicy;
use sync_engine::{
    Draft, Error, RepairOptions, TakeOver, TimelineView, VerifyDepth, rebuild_timeline, repair_timeline,
};

use crate::bench::{Bench, DAY, NONE, keeping};
use crate::support::{contents, open, options, tenant, timeline};
use crate::{churned, lived, went_on};

async fn manifests(bench: &Bench) -> Vec<Key> {
    bench
        .objects()
        .await
        .into_iter()
        .map(|info| info.key)
        .filter(|key| key.as_str().contains("/manifest/"))
        .collect()
}

fn repair_options(bench: &tempfile::TempDir) -> RepairOptions {
    let (take_over, depth) = (TakeOver::No, VerifyDepth::Deep);
    RepairOptions { backup: options(), take_over, depth, scratch: bench.path().to_owned() }
}

#[tokio::test]
async fn with_a_manifest_or_the_whole_log_it_is_exact() {
    let mut bench = lived().await;
    went_on(&mut bench).await;
    let state = open(&bench.store).await.state;
    let rebuilt = rebuild_timeline(&bench.store, &tenant(), &timeline()).await.unwrap();
    assert!(rebuilt.is_exact());
    assert_eq!(rebuilt.view.state, state);
    for manifest in manifests(&bench).await {
        bench.delete(manifest).await;
    }
    let rebuilt = rebuild_timeline(&bench.store, &tenant(), &timeline()).await.unwrap();
    assert!(rebuilt.is_exact());
    assert_eq!(rebuilt.view.state, state);
}

#[tokio::test]
async fn with_collected_records_and_no_manifest_it_is_a_superset_and_says_what_is_missing() {
    let mut bench = lived().await;
    went_on(&mut bench).await;
    churned(&mut bench).await;
    // Layers of which the record that removes them is collected, while others keep their bundle alive.
    let policy = GcPolicy { live_percent_min: 0, small_bundles_min: usize::MAX, ..NONE };
    bench.gc(&policy, TakeOver::No).await;
    bench.gc(&policy, TakeOver::No).await;
    let state = open(&bench.store).await.state;
    bench.assert_whole().await;
    // The record that names the payload object holds nothing itself.
    let large = state.layers()[&crate::support::name("large")].place.bundle;
    let named_by = state.bundle(large).unwrap().named_by;
    assert!(!bench.listing().await.records.contains_key(&named_by));
    for manifest in manifests(&bench).await {
        bench.delete(manifest).await;
    }
    let opened = TimelineView::open(&bench.store, &tenant(), &timeline(), None).await;
    assert!(matches!(opened, Err(Error::Gap { .. })), "{opened:?}");
    let before = bench.objects().await;
    let rebuilt = rebuild_timeline(&bench.store, &tenant(), &timeline()).await.unwrap();
    assert_eq!(bench.objects().await, before);
    assert!(!rebuilt.is_exact() && !rebuilt.missing.is_empty());
    assert!(rebuilt.missing.iter().all(|seq| *seq < state.seq()));
    for layer in state.layers().keys() {
        assert!(rebuilt.view.state.layers().contains_key(layer), "{layer}");
    }
    assert_eq!(rebuilt.view.state.metadata(), state.metadata());
    assert_eq!(rebuilt.view.state.history(), state.history());
    // Written, it opens, holds every layer, and can be gone on with.
    let scratch = tempfile::TempDir::new().unwrap();
    let id = (tenant(), timeline());
    let report = repair_timeline(&bench.store, (&id.0, &id.1), &BTreeMap::new(), &repair_options(&scratch))
        .await
        .unwrap();
    assert!(report.wrote && !report.is_whole());
    assert_eq!(report.missing, rebuilt.missing);
    let view = open(&bench.store).await;
    let now = crate::bench::contents(&bench.store, &view.state).await;
    assert!(bench.layers.iter().all(|(layer, bytes)| now[layer] == *bytes));
    let superset: Vec<&String> = now.keys().filter(|layer| !bench.layers.contains_key(*layer)).collect();
    // The record that removes the third is there, because it holds a layer.
    assert_eq!(superset, ["0-0", "1-0"]);
    let mut writer = bench.writer("goes on").await;
    bench.layers = now.clone();
    bench.commit(&mut writer, &[("next", b"next")], &["0-0", "1-0"]).await;
    bench.release(writer).await;
    bench.assert_whole().await;
}

#[tokio::test]
async fn layers_that_were_moved_are_known_where_only_the_record_that_moved_them_is_left() {
    for lost in ["manifests", "record"] {
        let mut bench = lived().await;
        if lost == "record" {
            // Lost behind a manifest, and moved by a record that is left.
            let mut writer = bench.writer("adds").await;
            let layers: Vec<_> = (0..6u64).map(|n| (format!("late-{n}"), contents(500 + n, 6000))).collect();
            let add: Vec<(&str, &[u8])> = layers.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
            bench.commit(&mut writer, &add, &[]).await;
            bench.commit(&mut writer, &[], &["late-0", "late-1", "late-2", "late-3"]).await;
            writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
        } else {
            churned(&mut bench).await;
            let mut writer = bench.writer("removes").await;
            bench.commit(&mut writer, &[], &["0-1", "0-2", "0-3", "1-1", "1-2", "1-3"]).await;
            bench.release(writer).await;
        }
        let before = open(&bench.store).await.state;
        let policy = GcPolicy { checkpoint_bytes_min: u64::MAX, ..keeping(DAY * 365) };
        let policy = if lost == "record" { policy } else { NONE };
        let report = bench.gc(&policy, TakeOver::No).await;
        let moved_at = report.repacked.seq.unwrap();
        let state = open(&bench.store).await.state;
        let is_moved =
            |name: &&layer_archive::LayerName| state.layers()[*name].place != before.layers()[*name].place;
        let moved: Vec<_> = state.layers().keys().filter(is_moved).cloned().collect();
        assert!(moved.len() > 1, "{moved:?}");
        if lost == "record" {
            assert!(open(&bench.store).await.manifest.unwrap().seq < moved_at);
            let added = before.layers()[&moved[0]].place.bundle;
            bench.delete(open(&bench.store).await.keys.bundle(added).unwrap()).await;
        } else {
            for manifest in manifests(&bench).await {
                bench.delete(manifest).await;
            }
        }
        let rebuilt = rebuild_timeline(&bench.store, &tenant(), &timeline()).await.unwrap();
        assert!(!rebuilt.is_exact(), "{lost}");
        for (name, layer) in state.layers() {
            assert_eq!(rebuilt.view.state.layers().get(name), Some(layer), "{lost}");
        }
        let (scratch, id) = (tempfile::TempDir::new().unwrap(), (tenant(), timeline()));
        let options = repair_options(&scratch);
        repair_timeline(&bench.store, (&id.0, &id.1), &BTreeMap::new(), &options).await.unwrap();
        let read = crate::bench::contents(&bench.store, &open(&bench.store).await.state).await;
        assert!(bench.layers.iter().all(|(layer, bytes)| read[layer] == *bytes), "{lost}");
    }
}

#[tokio::test]
async fn behind_a_lost_record_the_layers_are_kept_and_what_may_rely_on_it_is_held_back() {
    let mut bench = lived().await;
    let state = open(&bench.store).await.state;
    went_on(&mut bench).await;
    let keys = open(&bench.store).await.keys;
    // The claim of `went_on` is the next record, its layer the one after: that is lost.
    bench.delete(keys.record(Seq(state.seq().0 + 2)).unwrap()).await;
    let rebuilt = rebuild_timeline(&bench.store, &tenant(), &timeline()).await.unwrap();
    assert_eq!(rebuilt.missing, [Seq(state.seq().0 + 2)]);
    assert_eq!(rebuilt.view.state.metadata(), state.metadata());
    assert_eq!(rebuilt.view.state.disk_consistent_lsn(), state.disk_consistent_lsn());
    assert_eq!(rebuilt.view.state.layers(), state.layers());
    assert_eq!(rebuilt.view.state.seq(), Seq(state.seq().0 + 4));
}

#[tokio::test]
async fn an_object_numbered_far_beyond_the_log_is_named_and_not_counted_up_to() {
    use storage_api::{Body, PutMode};

    for stray in [u64::from(u32::MAX), u64::MAX] {
        for kind in ["log", "manifest"] {
            let mut bench = lived().await;
            went_on(&mut bench).await;
            let keys = open(&bench.store).await.keys;
            let key = match kind {
                "log" => keys.record(Seq(stray)).unwrap(),
                _ => keys.manifest(Seq(stray)).unwrap(),
            };
            let body = Body::new("stray");
            bench.store.objects().put(&key, body, PutMode::Create).await.unwrap();
            let refused = rebuild_timeline(&bench.store, &tenant(), &timeline()).await.unwrap_err();
            let names_it = matches!(&refused, Error::Damaged { object, .. } if object == key.as_str());
            assert!(names_it, "{refused:?}");
        }
    }
}
