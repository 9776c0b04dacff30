//! Backup and restore of whole directories: equal bytes, few requests, nothing lost when a file misbehaves.

use std::sync::Arc;

use crate::support::{
    TestStore, WorkDir, assert_restores, backup, backup_with, contents, files, name, open, options, restore,
};
use storage_localfs::LocalStore;
use sync_engine::{Error, MetadataOutcome, Mirror, Store};
use tempfile::TempDir;

/// Every kind of layer: empty, tiny, small, copies, sliced, copies of a sliced one, long names.
fn mixed(work: &mut WorkDir) {
    for n in 0..40u64 {
        work.put(&format!("small-{n:02}"), &contents(n % 25, 4096 * (1 + usize::try_from(n % 5).unwrap())));
    }
    for n in 0..3 {
        work.put(&format!("empty-{n}"), b"");
        work.put(&format!("large-copy-{n}"), &contents(77, 700_001));
    }
    work.put("large", &contents(99, (1 << 20) + 3));
    work.put("exactly-a-slice", &contents(5, 256 << 10));
    work.put(&"n".repeat(255), &contents(6, 300_000));
    work.put(&"m".repeat(100), b"x");
    work.put("ünïcode", b"yes");
    work.set_metadata(b"durable up to here");
}

fn expected(work: &WorkDir) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut expected = files(work.path());
    if let Some(metadata) = &work.metadata {
        expected.insert("metadata".into(), metadata.bytes.clone());
    }
    expected
}

#[tokio::test]
async fn a_new_store_takes_nine_requests_a_restore_four_and_a_second_backup_writes_nothing() {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    mixed(&mut work);
    let store = test.create().await;
    let report = backup(&store, &work, Mirror::Off).await.unwrap();
    assert_eq!((report.layers, report.bundles), (51, 1));
    let counts = test.counts();
    assert_eq!((counts.requests(), counts.put, counts.get, counts.list), (9, 6, 1, 2), "{counts:?}");

    let before = test.counts();
    let store = Store::open(test.objects(), "test").await.unwrap();
    let report = backup(&store, &work, Mirror::Off).await.unwrap();
    let counts = test.counts().since(&before);
    assert_eq!((report.layers, report.unchanged, report.stored_bytes), (0, 51, 0));
    assert_eq!((counts.put, counts.bytes_sent), (0, 0), "{counts:?}");

    let before = test.counts();
    let store = Store::open(test.objects(), "test").await.unwrap();
    assert_restores(&store, &expected(&work)).await;
    let counts = test.counts().since(&before);
    assert_eq!((counts.requests(), counts.get, counts.list), (4, 3, 1), "{counts:?}");

    work.put("one-more", b"layer");
    let before = test.counts();
    let store = Store::open(test.objects(), "test").await.unwrap();
    backup(&store, &work, Mirror::Off).await.unwrap();
    let counts = test.counts().since(&before);
    assert_eq!((counts.put, counts.get, counts.list), (2, 2, 2), "{counts:?}");
    assert_restores(&store, &expected(&work)).await;
}

#[tokio::test]
async fn more_than_one_bundle_goes_up_as_payload_objects_that_one_record_names() {
    let root = TempDir::new().unwrap();
    let test = TestStore::over(Arc::new(LocalStore::create(root.path()).unwrap()));
    let mut work = WorkDir::new();
    mixed(&mut work);
    let store = test.create().await;
    let mut small = options();
    small.pack.bundle_bytes_target = 200_000;
    let report = backup_with(&store, work.local(), Mirror::Off, small).await.unwrap();
    assert!(report.bundles >= 4, "{report:?}");
    let view = open(&store).await;
    assert_eq!(view.listing.payloads.len(), report.bundles - 1);
    assert_eq!(view.listing.records.len(), 2);
    assert_restores(&store, &expected(&work)).await;
}

#[tokio::test]
async fn where_bundles_are_cut_does_not_depend_on_how_many_compress() {
    let mut work = WorkDir::new();
    mixed(&mut work);
    // The claim's random term is in the names of payload objects and in the record's index, not in the frames.
    let mut places = Vec::new();
    for compressors in [1, 5] {
        let test = TestStore::memory();
        let store = test.create().await;
        let mut options = options();
        options.pack.bundle_bytes_target = 150_000;
        options.pack.compressors = compressors;
        backup_with(&store, work.local(), Mirror::Off, options).await.unwrap();
        let state = open(&store).await.state;
        assert!(state.bundles().len() >= 4);
        places.push(
            state
                .layers()
                .values()
                .map(|layer| (layer.name.clone(), layer.place.location))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(places[0], places[1]);
}

#[tokio::test]
async fn what_is_gone_locally_stays_unless_mirrored_and_a_mirror_does_not_remove_more_than_half() {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    mixed(&mut work);
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let all = expected(&work);
    for n in 0..20 {
        work.remove(&format!("small-{n:02}"));
    }
    backup(&store, &work, Mirror::Off).await.unwrap();
    assert_restores(&store, &all).await;

    let report = backup(&store, &work, Mirror::Guarded).await.unwrap();
    assert_eq!((report.removed, report.layers), (20, 0));
    assert_restores(&store, &expected(&work)).await;

    for n in 20..40 {
        work.remove(&format!("small-{n:02}"));
    }
    let refused = backup(&store, &work, Mirror::Guarded).await.unwrap_err();
    assert!(matches!(refused, Error::MirrorTooMuch { removed: 20, total: 31, .. }), "{refused}");
    backup(&store, &work, Mirror::Forced).await.unwrap();
    assert_restores(&store, &expected(&work)).await;
}

#[tokio::test]
async fn a_removed_name_comes_back_as_a_new_layer() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    work.put("a", b"first");
    work.put("b", b"stays");
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    work.remove("a");
    backup(&store, &work, Mirror::Guarded).await.unwrap();
    work.put("a", b"second, and longer");
    backup(&store, &work, Mirror::Guarded).await.unwrap();
    assert_restores(&store, &files(work.path())).await;
}

#[tokio::test]
async fn equal_names_with_other_contents_are_conflicts_on_both_ways() {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    work.put("a", b"ours");
    work.put("b", b"same");
    work.set_metadata(b"1");
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let stored = expected(&work);

    for other in [&b"OURS"[..], b"longer than before"] {
        work.put("a", other);
        work.put("c", b"new");
        work.set_metadata(b"2");
        let report = backup(&store, &work, Mirror::Off).await.unwrap();
        assert_eq!(report.conflicts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(report.metadata_held_back);
    }
    // What is left to do cannot be done: nothing is written for it, not even a claim.
    let before = test.counts();
    let report = backup(&store, &work, Mirror::Off).await.unwrap();
    assert!(report.metadata_held_back && test.counts().since(&before).put == 0);

    let mut with_c = stored.clone();
    with_c.insert("c".into(), b"new".to_vec());
    assert_restores(&store, &with_c).await;

    let report = restore(&store, work.path()).await.unwrap();
    assert_eq!(report.conflicts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!((report.present, report.metadata), (2, MetadataOutcome::HeldBack));
    assert_eq!(files(work.path())["a"], b"longer than before");
    assert!(!work.path().join("metadata").try_exists().unwrap());
}

#[tokio::test]
async fn a_layer_that_vanishes_or_changes_fails_alone_and_holds_the_metadata_back() {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    mixed(&mut work);
    let store = test.create().await;
    let mut local = work.local();
    let stale = |layers: &mut Vec<sync_engine::LocalLayer>, which: &str| {
        let layer = layers.iter_mut().find(|layer| layer.name == name(which)).unwrap();
        layer.raw_size -= 1;
    };
    // These two are not what they were when they were listed; three others are gone.
    stale(&mut local.layers, "large");
    stale(&mut local.layers, "small-03");
    let gone = ["small-07", "exactly-a-slice", "ünïcode"];
    gone.iter().for_each(|gone| work.remove(gone));
    let report = backup_with(&store, local, Mirror::Off, options()).await.unwrap();
    let mut failed: Vec<_> = report.failed.iter().map(|failed| failed.name.as_str()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["exactly-a-slice", "large", "small-03", "small-07", "ünïcode"]);
    assert!(report.metadata_held_back);
    let mut rest = files(work.path());
    failed.iter().for_each(|failed| drop(rest.remove(*failed)));
    assert_restores(&store, &rest).await;

    let report = backup(&store, &work, Mirror::Off).await.unwrap();
    assert!(report.failed.is_empty() && !report.metadata_held_back);
    assert_restores(&store, &expected(&work)).await;
}

#[tokio::test]
async fn a_copy_takes_the_place_of_an_equal_layer_that_vanished_after_it_was_hashed() {
    // Three equal layers are hashed for the plan; the one that would hold the bytes is gone when they are packed.
    let test = TestStore::memory();
    let work = WorkDir::new();
    for copy in ["copy-1", "copy-2", "copy-3"] {
        work.put(copy, &contents(1, 10_000));
    }
    let store = test.create().await;
    let view = open(&store).await;
    let options = options();
    let plan =
        sync_engine::plan_backup(&view.state, work.local(), Mirror::Off, &options.progress).await.unwrap();
    work.remove("copy-1");
    let report = sync_engine::execute_backup(&store, view, plan, options).await.unwrap();
    assert_eq!(report.failed.iter().map(|failed| failed.name.as_str()).collect::<Vec<_>>(), ["copy-1"]);
    assert_restores(&store, &files(work.path())).await;
}

#[tokio::test]
async fn a_restore_keeps_what_is_there_and_equal_and_sweeps_what_a_killed_one_left() {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    mixed(&mut work);
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let dir = TempDir::new().unwrap();
    restore(&store, dir.path()).await.unwrap();
    for gone in ["large", "small-03", "metadata"] {
        std::fs::remove_file(dir.path().join(gone)).unwrap();
    }
    let left = dir.path().join(".layerpack-0123456789abcdef.temp");
    std::fs::File::create(&left).unwrap();
    let report = restore(&store, dir.path()).await.unwrap();
    assert_eq!((report.layers, report.present), (2, 49));
    assert_eq!(report.metadata, MetadataOutcome::Written);
    assert!(files(dir.path()) == expected(&work));
}
