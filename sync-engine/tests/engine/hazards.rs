//! Schedules and directories that have broken backups before: each was found by somebody who set out to.

use std::sync::Arc;

use layer_archive::{BundleId, BundleWriter, Lsn, RemovalReason, Removed, Seq};
use storage_api::{Body, Key, ManualClock, MemoryStore, ObjectStore, PutMode};
use sync_engine::{
    Draft, DurableDir, Error, MetadataConflict, Mirror, Store, TimelineView, TimelineWriter, VerifyDepth,
    execute_backup, plan_backup, verify_timeline,
};
use tempfile::TempDir;

use crate::support::{
    TestStore, WorkDir, assert_restores, backup, backup_with, contents, files, name, noon, open, options,
    repacked, restore, tenant, timeline, writer_options,
};

/// A store of 1 to 5 with metadata.
async fn five() -> (TestStore, Store, WorkDir) {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    for n in 1..=5 {
        work.put(&format!("layer-{n}"), &contents(n, 5_000));
    }
    work.set_metadata(b"m1");
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    (test, store, work)
}

#[tokio::test]
async fn a_mirror_removes_nothing_while_the_replacement_cannot_be_packed() {
    let (_test, store, mut work) = five().await;
    let before: std::collections::BTreeMap<_, _> =
        files(work.path()).into_iter().chain([("metadata".into(), b"m1".to_vec())]).collect();
    // 1 and 2 were compacted into a layer that vanishes before it is packed.
    work.remove("layer-1");
    work.remove("layer-2");
    work.put("compacted", b"1 and 2");
    work.set_metadata(b"m2");
    let local = work.local();
    work.remove("compacted");
    let report = backup_with(&store, local, Mirror::Guarded, options()).await.unwrap();
    assert_eq!((report.removed, report.removals_held_back, report.metadata_held_back), (0, 2, true));
    assert_restores(&store, &before).await;

    work.put("compacted", b"1 and 2");
    let report = backup(&store, &work, Mirror::Guarded).await.unwrap();
    assert_eq!((report.removed, report.removals_held_back, report.metadata_held_back), (2, 0, false));
}

#[tokio::test]
async fn nothing_is_written_where_nothing_can_be_packed() {
    let (test, store, work) = five().await;
    work.put("new", b"gone before it is packed");
    let local = work.local();
    work.remove("new");
    let before = test.counts();
    let report = backup_with(&store, local, Mirror::Off, options()).await.unwrap();
    assert_eq!((report.failed.len(), test.counts().since(&before).put), (1, 0));
}

#[tokio::test]
async fn what_is_there_in_another_form_is_not_gone() {
    let (_test, store, work) = five().await;
    let mut local = work.local();
    let linked = local.layers.remove(0);
    local.present.insert(linked.name.clone());
    let report = backup_with(&store, local.clone(), Mirror::Forced, options()).await.unwrap();
    assert_eq!(report.removed, 0);
    local.is_partial = true;
    local.metadata =
        Some(layer_archive::TimelineMetadata { file_name: name("metadata"), bytes: b"m2".to_vec() });
    let report = backup_with(&store, local, Mirror::Forced, options()).await.unwrap();
    assert_eq!((report.removed, report.metadata_held_back), (0, true));
    assert!(open(&store).await.state.layers().contains_key(&linked.name));
}

#[tokio::test]
async fn a_directory_without_metadata_is_not_mirrored_over_a_timeline_that_has_some() {
    let (_test, store, mut work) = five().await;
    work.remove("layer-1");
    work.metadata = None;
    let refused = backup(&store, &work, Mirror::Guarded).await.unwrap_err();
    assert!(matches!(refused, Error::UnfinishedRestore { .. }), "{refused}");
    assert_eq!(backup(&store, &work, Mirror::Forced).await.unwrap().removed, 1);
}

#[tokio::test]
async fn an_older_work_directory_turns_nothing_back() {
    let (test, store, mut work) = five().await;
    work.set_metadata(b"metadata that is longer, so it has a larger LSN here");
    backup(&store, &work, Mirror::Off).await.unwrap();
    work.set_metadata(b"m1");
    work.put("an-old-layer", b"that was compacted away");
    let before = test.counts();
    let report = backup(&store, &work, Mirror::Guarded).await.unwrap();
    assert_eq!(report.metadata_conflict, Some(MetadataConflict { local: Lsn(2), stored: Lsn(52) }));
    assert_eq!(test.counts().since(&before).put, 0);
}

#[tokio::test]
async fn metadata_that_does_not_say_an_lsn_does_not_replace_one_that_does() {
    let (_test, store, work) = five().await;
    work.put("new", b"layer");
    for torn in [&b""[..], b"opaque"] {
        let mut local = work.local();
        local.metadata =
            Some(layer_archive::TimelineMetadata { file_name: name("metadata"), bytes: torn.to_vec() });
        local.disk_consistent_lsn = None;
        let report = backup_with(&store, local, Mirror::Off, options()).await.unwrap();
        assert!(report.metadata_held_back);
    }
    let state = open(&store).await.state;
    assert_eq!(
        (state.disk_consistent_lsn(), state.metadata().unwrap().bytes.as_slice()),
        (Some(Lsn(2)), &b"m1"[..])
    );
    assert!(state.layers().contains_key(&name("new")), "the layers are stored all the same");
}

#[tokio::test]
async fn a_record_with_metadata_says_the_lsn_anew_or_that_it_is_not_known() {
    let (_test, store, _work) = five().await;
    let mut writer = TimelineWriter::claim(&store, open(&store).await, writer_options("w")).await.unwrap();
    writer
        .append(Draft { disk_consistent_lsn: Some(Lsn(7)), ..Draft::default() }, BundleWriter::new())
        .await
        .unwrap();
    assert_eq!(open(&store).await.state.disk_consistent_lsn(), Some(Lsn(7)));
    let metadata =
        Some(layer_archive::TimelineMetadata { file_name: name("metadata"), bytes: b"opaque".to_vec() });
    writer.append(Draft { metadata, ..Draft::default() }, BundleWriter::new()).await.unwrap();
    assert_eq!(open(&store).await.state.disk_consistent_lsn(), None);
}

/// Takes `layer-3` out and puts another `new` in, while somebody else has planned already.
async fn move_on(writer: &mut TimelineWriter) {
    let removed = vec![Removed { name: name("layer-3"), reason: RemovalReason::Compacted }];
    let other = WorkDir::new();
    other.put("new", b"theirs");
    writer.append(Draft { removed, ..Draft::default() }, repacked(&other)).await.unwrap();
}

#[tokio::test]
async fn a_plan_is_made_again_where_the_claim_passed_over_other_records() {
    let (_test, store, work) = five().await;
    work.put("new", b"ours");
    work.put("ours-alone", b"too");
    let mut other = TimelineWriter::claim(&store, open(&store).await, writer_options("other")).await.unwrap();
    let view = open(&store).await;
    let options = options();
    let plan = plan_backup(&view.state, work.local(), Mirror::Off, &options.progress).await.unwrap();
    assert_eq!((plan.unchanged, plan.add.len()), (5, 2));
    move_on(&mut other).await;
    let report = execute_backup(&store, view, plan, options).await.unwrap();
    assert_eq!(report.conflicts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["new"]);
    let state = open(&store).await.state;
    for kept in ["layer-3", "ours-alone"] {
        assert!(state.layers().contains_key(&name(kept)), "{kept} was counted as stored and is not");
    }
    assert_eq!(state.layers()[&name("new")].raw.size, 6, "their layer was replaced");
    assert!(matches!(move_on_again(&mut other).await, Err(Error::Fenced { .. })));
}

async fn move_on_again(writer: &mut TimelineWriter) -> Result<(), Error> {
    writer.append(Draft::default(), BundleWriter::new()).await.map(drop)
}

#[tokio::test]
async fn a_plan_is_made_again_where_the_claim_was_void() {
    let (_test, store, work) = five().await;
    work.put("new", b"ours");
    let mut other = TimelineWriter::claim(&store, open(&store).await, writer_options("other")).await.unwrap();
    let view = open(&store).await;
    let options = options();
    let plan = plan_backup(&view.state, work.local(), Mirror::Off, &options.progress).await.unwrap();
    move_on(&mut other).await;
    for _ in 0..20 {
        other.append(Draft::default(), BundleWriter::new()).await.unwrap();
    }
    other.detach().await.unwrap().unwrap();
    // gc frees the record after the one that the plan was made at.
    let freed = view.keys.record(view.state.seq().next()).unwrap();
    store.objects().delete(&[freed]).await.unwrap();
    let report = execute_backup(&store, view, plan, options).await.unwrap();
    assert!(open(&store).await.state.layers().contains_key(&name("layer-3")), "{report:?}");
}

#[tokio::test]
async fn a_list_that_misses_a_record_is_made_again_before_the_log_is_called_damaged() {
    let (_test, store, work) = five().await;
    work.put("new", b"layer");
    backup(&store, &work, Mirror::Off).await.unwrap();
    let whole = open(&store).await;
    let mut torn = whole.listing.clone();
    torn.records.remove(&Seq(3));
    let view = TimelineView::open(&store, &tenant(), &timeline(), Some(torn)).await.unwrap();
    assert_eq!(view.state, whole.state);
}

#[tokio::test]
async fn behind_a_damaged_manifest_a_short_list_is_made_whole() {
    let objects: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new().with_list_keys_max(8));
    let test = TestStore::over(objects);
    let store = test.create().await;
    let work = WorkDir::new();
    for n in 0..6 {
        work.put(&format!("layer-{n}"), &contents(n, 100));
        backup(&store, &work, Mirror::Off).await.unwrap();
    }
    let mut writer = TimelineWriter::claim(&store, open(&store).await, writer_options("w")).await.unwrap();
    for _ in 0..20 {
        writer.append(Draft::default(), BundleWriter::new()).await.unwrap();
    }
    let newest = writer.detach().await.unwrap().unwrap();
    let view = open(&store).await;
    assert!(!view.listing.whole && view.damage.is_empty());
    let key = view.keys.manifest(newest.seq).unwrap();
    store.objects().put(&key, Body::new("LPMANIF\nnonsense"), PutMode::Overwrite).await.unwrap();
    let again = open(&store).await;
    assert_eq!(again.state, view.state);
    assert_eq!(
        again.damage.iter().map(|finding| finding.object.as_str()).collect::<Vec<_>>(),
        [key.as_str()]
    );
}

#[tokio::test]
async fn lost_bundles_are_seen_on_opening_and_a_lost_claim_by_verify() {
    let (_test, store, _work) = five().await;
    let view = open(&store).await;
    let claim = view.keys.record(Seq(1)).unwrap();
    store.objects().delete(std::slice::from_ref(&claim)).await.unwrap();
    let report = verify_timeline(&store, &open(&store).await, VerifyDepth::Listing).await.unwrap();
    assert_eq!(
        report.findings.iter().map(|finding| finding.object.as_str()).collect::<Vec<_>>(),
        [claim.as_str()]
    );

    let bundle = view.keys.bundle(BundleId::Record(Seq(2))).unwrap();
    store.objects().delete(std::slice::from_ref(&bundle)).await.unwrap();
    let view = open(&store).await;
    assert_eq!((view.damage.len(), view.damage[0].layers.len()), (1, 5));
    assert_eq!(view.damage[0].object, bundle.as_str());
    // A list that is only too old is no damage.
    let (_test, store, _work) = five().await;
    let mut old = open(&store).await.listing;
    old.records.clear();
    let view = TimelineView::open(&store, &tenant(), &timeline(), Some(old)).await.unwrap();
    assert_eq!(view.damage, []);
}

#[tokio::test]
async fn the_largest_number_of_all_is_no_reason_to_read_for_ever() {
    let store = TestStore::memory().create().await;
    let view = open(&store).await;
    let mut manifest = view.state.to_manifest();
    manifest.seq = Seq(u64::MAX);
    let key = view.keys.manifest(Seq(u64::MAX)).unwrap();
    store.objects().put(&key, Body::new(manifest.encode().unwrap()), PutMode::Create).await.unwrap();
    let record = view.keys.record(Seq(u64::MAX)).unwrap();
    store.objects().put(&record, Body::new("anything"), PutMode::Create).await.unwrap();
    let error = TimelineView::open(&store, &tenant(), &timeline(), None).await.unwrap_err();
    assert!(matches!(error, Error::Gap { .. } | Error::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_has_lost_its_marker_does_not_get_a_new_one() {
    let (test, store, _work) = five().await;
    let marker = Key::new("layerpack.store").unwrap();
    store.objects().delete(&[marker]).await.unwrap();
    let refused = Store::open_or_create(test.objects(), "test").await.unwrap_err();
    assert!(matches!(&refused, Error::MarkerDamaged { why, .. } if why.contains("missing")), "{refused}");
    // Where only the probe was made, the creation goes on.
    let test = TestStore::memory();
    let probe = Key::new("layerpack.probe").unwrap();
    test.objects().put(&probe, Body::new("x"), PutMode::Create).await.unwrap();
    test.create().await;
}

#[tokio::test]
async fn equal_layers_too_large_for_memory_are_each_streamed() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    // These bytes shrink to half: more than a range that is fetched at once.
    let large = contents(9, 90 << 20);
    for copy in ["copy-1", "copy-2"] {
        work.put(copy, &large);
    }
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let view = open(&store).await;
    let plan = sync_engine::plan_restore(&view.state, Default::default());
    assert_eq!(plan.requests(), 2);
    assert_restores(&store, &files(work.path())).await;
}

#[test]
fn a_sweep_leaves_files_that_are_being_written() {
    let dir = TempDir::new().unwrap();
    let target = DurableDir::create(dir.path()).unwrap();
    let path = dir.path().join(".layerpack-00000000000000ff.temp");
    let file = std::fs::File::create(&path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(target.sweep().unwrap(), 0);
    drop(file);
    assert_eq!(target.sweep().unwrap(), 1);
    assert!(!path.try_exists().unwrap());
    std::fs::File::create(dir.path().join(".layerpack-notes.temp")).unwrap();
    assert_eq!(target.sweep().unwrap(), 0, "a file of another name was removed");
}

#[tokio::test]
async fn a_record_that_may_not_be_read_back_is_an_answer_and_not_waited_for() {
    let (_test, store, _work) = five().await;
    let clock = Arc::new(ManualClock::new(noon()));
    let mut options = writer_options("w");
    options.clock = clock.clone();
    let mut writer = TimelineWriter::claim(&store, open(&store).await, options).await.unwrap();
    let next = writer.view().keys.record(writer.view().state.seq().next()).unwrap();
    // Somebody has put an object there that is no record.
    store.objects().put(&next, Body::new("not a record"), PutMode::Create).await.unwrap();
    let error = writer.append(Draft::default(), BundleWriter::new()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(storage_api::Clock::now(&*clock), noon(), "it was waited for");
}

#[tokio::test]
async fn a_restore_beside_another_into_one_directory_ends_right() {
    let (_test, store, work) = five().await;
    let dir = TempDir::new().unwrap();
    let (first, second) = futures::join!(restore(&store, dir.path()), restore(&store, dir.path()));
    assert!(first.unwrap().failed.is_empty() && second.unwrap().failed.is_empty());
    let mut there = files(dir.path());
    there.remove("metadata").unwrap();
    assert!(there == files(work.path()));
}

#[tokio::test]
async fn a_large_layer_that_changes_before_its_end_leaves_nothing_behind() {
    let test = TestStore::memory();
    let store = test.create().await;
    let work = WorkDir::new();
    // Two of one size are hashed for the plan, so that the change is seen; a small one goes before, a large one after.
    work.put("a-small", b"one");
    for (n, large) in ["changes", "stays"].into_iter().enumerate() {
        work.put(large, &contents(n as u64, 900_000));
    }
    work.put("later", &contents(7, 1_000_000));
    let view = open(&store).await;
    let mut options = options();
    options.pack.bundle_bytes_target = 150_000;
    let plan = plan_backup(&view.state, work.local(), Mirror::Off, &options.progress).await.unwrap();
    work.put("changes", &contents(99, 900_000));
    let report = execute_backup(&store, view, plan, options).await.unwrap();
    assert_eq!(report.failed.iter().map(|failed| failed.name.as_str()).collect::<Vec<_>>(), ["changes"]);
    let mut rest = files(work.path());
    rest.remove("changes");
    assert_restores(&store, &rest).await;
    assert_eq!(open(&store).await.state.bundles().len(), 3);
}
