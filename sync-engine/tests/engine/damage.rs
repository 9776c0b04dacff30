//! Damage: what verify says of it, and that it costs no more than it must.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::faulty::FaultyStore;
use crate::support::{
    TestStore, WorkDir, assert_restores, backup, backup_with, contents, files, name, open, options, pack,
    reader, restore, writer_options,
};
use layer_archive::{BundleId, RawDigest};
use storage_api::{Body, GetRange, Key, KeyPrefix, ObjectStoreExt, PutMode};
use sync_engine::{
    Draft, Error, MetadataOutcome, Mirror, Store, TimelineWriter, VerifyDepth, inspect, verify_timeline,
};
use tempfile::TempDir;

async fn get(store: &Store, key: &Key) -> Vec<u8> {
    store.objects().get_bytes(key, GetRange::Full, u64::MAX).await.unwrap().1.to_vec()
}

async fn overwrite(store: &Store, key: &Key, bytes: Vec<u8>) {
    store.objects().put(key, Body::new(bytes), PutMode::Overwrite).await.unwrap();
}

/// A store with records, payload objects and manifests, and the directory it is of.
async fn populated() -> (TestStore, Store, WorkDir) {
    let test = TestStore::memory();
    let mut work = WorkDir::new();
    for n in 0..24u64 {
        work.put(&format!("small-{n:02}"), &contents(n % 20, 9_000));
    }
    work.put("large", &contents(50, 600_000));
    work.put("empty", b"");
    work.set_metadata(b"metadata");
    let store = test.create().await;
    let mut options = options();
    options.pack.bundle_bytes_target = 120_000;
    backup_with(&store, work.local(), Mirror::Off, options).await.unwrap();
    work.put("late", &contents(60, 5_000));
    work.remove("small-00");
    backup(&store, &work, Mirror::Guarded).await.unwrap();
    (test, store, work)
}

#[tokio::test]
async fn a_whole_timeline_has_no_findings() {
    let (_test, store, _work) = populated().await;
    let view = open(&store).await;
    for depth in [VerifyDepth::Listing, VerifyDepth::Deep] {
        let report = verify_timeline(&store, &view, depth).await.unwrap();
        assert_eq!(report.findings, [], "{depth:?}");
        assert_eq!((report.layers, report.manifests), (26, 1));
        assert!(report.bundles >= 3);
    }
}

#[tokio::test]
async fn deep_verify_finds_a_flipped_bit_anywhere_in_any_object_of_the_timeline() {
    let (_test, store, _work) = populated().await;
    let view = open(&store).await;
    let objects = store.objects().list_all(view.keys.prefix()).await.unwrap();
    let mut flips = 0;
    for info in objects {
        let whole = get(&store, &info.key).await;
        let step = (whole.len() / 24).max(1);
        for at in (0..whole.len()).step_by(step) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            overwrite(&store, &info.key, flipped).await;
            // A record after the manifest that does not read already keeps the timeline from being opened.
            let found = match sync_engine::TimelineView::open(
                &store,
                view.state.tenant(),
                view.state.timeline(),
                None,
            )
            .await
            {
                Ok(view) => {
                    let report = verify_timeline(&store, &view, VerifyDepth::Deep).await.unwrap();
                    let here = |finding: &sync_engine::Finding| finding.object == info.key.as_str();
                    // The first claim is below the manifest and not the newest: its number is all that it is for.
                    let claim = view.keys.record(layer_archive::Seq(1)).unwrap();
                    if info.key == claim {
                        assert_eq!(report.findings, []);
                        report.unneeded.iter().any(here)
                    } else {
                        assert_eq!(report.unneeded, []);
                        report.findings.iter().any(here) || view.damage.iter().any(here)
                    }
                }
                Err(Error::Damaged { object, .. }) => object == info.key.as_str(),
                Err(other) => panic!("{other}"),
            };
            assert!(found, "a flip at {at} of {} was not found", info.key);
            flips += 1;
        }
        overwrite(&store, &info.key, whole).await;
    }
    assert!(flips > 80);
    assert_eq!(verify_timeline(&store, &open(&store).await, VerifyDepth::Deep).await.unwrap().findings, []);
}

#[tokio::test]
async fn a_missing_bundle_costs_its_own_layers_and_no_other() {
    let (_test, store, work) = populated().await;
    let view = open(&store).await;
    let lost =
        view.state.bundles().into_iter().find(|bundle| matches!(bundle.id, BundleId::Payload(_))).unwrap();
    let key = view.keys.bundle(lost.id).unwrap();
    store.objects().delete(std::slice::from_ref(&key)).await.unwrap();
    let in_it: Vec<String> = view
        .state
        .layers()
        .values()
        .filter(|layer| layer.place.bundle == lost.id)
        .map(|layer| layer.name.to_string())
        .collect();
    assert!(!in_it.is_empty());
    let report = verify_timeline(&store, &open(&store).await, VerifyDepth::Listing).await.unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].object, key.as_str());
    assert_eq!(report.findings[0].layers.iter().map(ToString::to_string).collect::<Vec<_>>(), in_it);

    let dir = TempDir::new().unwrap();
    let report = restore(&store, dir.path()).await.unwrap();
    let mut failed: Vec<String> = report.failed.iter().map(|failed| failed.name.to_string()).collect();
    failed.sort();
    assert_eq!(failed, in_it);
    assert_eq!(report.metadata, MetadataOutcome::HeldBack);
    let mut rest = files(work.path());
    in_it.iter().for_each(|gone| drop(rest.remove(gone)));
    assert!(files(dir.path()) == rest);
}

#[tokio::test]
async fn a_corrupt_frame_costs_the_layers_in_it_and_no_half_written_file_stays() {
    let (_test, store, work) = populated().await;
    let view = open(&store).await;
    let large = &view.state.layers()[&name("large")];
    let key = view.keys.bundle(large.place.bundle).unwrap();
    let mut bytes = get(&store, &key).await;
    // In the last of the layer's frames, when the first have been written already.
    let at = usize::try_from(large.place.location.end()).unwrap() - 100;
    bytes[at] ^= 1;
    overwrite(&store, &key, bytes).await;
    let dir = TempDir::new().unwrap();
    let report = restore(&store, dir.path()).await.unwrap();
    assert_eq!(report.failed.iter().map(|failed| failed.name.as_str()).collect::<Vec<_>>(), ["large"]);
    let cause = std::error::Error::source(&*report.failed[0].error).unwrap().to_string();
    assert!(cause.contains("checksum mismatch of stored layer at offset"), "{cause}");
    let mut rest = files(work.path());
    rest.remove("large");
    assert!(files(dir.path()) == rest);
}

#[tokio::test]
async fn the_inspector_reads_files_and_objects_alike_and_its_check_finds_damage() {
    let (_test, store, _work) = populated().await;
    let dir = TempDir::new().unwrap();
    let mut kinds = (0, 0);
    let prefix = KeyPrefix::new("tenants/").unwrap();
    for info in store.objects().list_all(&prefix).await.unwrap() {
        let bytes = get(&store, &info.key).await;
        let path = dir.path().join("object");
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), &bytes).unwrap();
        let (file, object) = (
            inspect::Subject::File(path.clone()),
            inspect::Subject::Object(store.objects().clone(), info.key.clone()),
        );
        let inspected = inspect::inspect(&file).await.unwrap();
        let report = inspect::Report::from(&inspected);
        let other = inspect::Report::from(&inspect::inspect(&object).await.unwrap());
        assert_eq!(report.to_string(), other.to_string());
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(inspect::check(&object, &inspected).await.unwrap(), []);
        match &inspected {
            inspect::Inspected::Manifest(manifest) => {
                assert_eq!(json["layers"].as_array().unwrap().len(), manifest.layers.len());
                kinds.1 += 1;
            }
            inspect::Inspected::Bundle(index) => {
                assert_eq!(json["stored_bytes"], bytes.len());
                assert!(inspect::draw_bundle(index).contains("</svg>"));
                let mut flipped = bytes.clone();
                flipped[10] ^= 4;
                std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), &flipped).unwrap();
                assert_eq!(inspect::check(&file, &inspected).await.unwrap().len(), 1);
                kinds.0 += 1;
            }
        }
    }
    assert!(kinds.0 >= 5 && kinds.1 == 1, "{kinds:?}");
}

#[tokio::test]
async fn contents_that_belong_to_another_digest_are_refused_although_every_stored_byte_is_right() {
    let store = TestStore::memory().create().await;
    let mut writer = TimelineWriter::claim(&store, open(&store).await, writer_options("liar")).await.unwrap();
    let (small, large) = (b"true".to_vec(), contents(1, 300_000));
    let mut wrong_large = RawDigest::of(&large);
    wrong_large.blake3 = RawDigest::of(b"other").blake3;
    let smalls = [
        ("honest".to_owned(), RawDigest::of(b"true"), small.clone()),
        ("small".to_owned(), RawDigest::of(b"lies"), small),
    ];
    writer.append(Draft::default(), pack(smalls.into_iter())).await.unwrap();
    let larges = [("zlarge".to_owned(), wrong_large, large)];
    writer.append(Draft::default(), pack(larges.into_iter())).await.unwrap();
    let dir = TempDir::new().unwrap();
    let report = restore(&store, dir.path()).await.unwrap();
    let mut failed: Vec<_> = report.failed.iter().map(|failed| failed.name.as_str()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["small", "zlarge"]);
    assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), ["honest"]);
    let report = verify_timeline(&store, &open(&store).await, VerifyDepth::Deep).await.unwrap();
    let mut found: Vec<_> = report.findings.iter().flat_map(|finding| finding.layers.clone()).collect();
    found.sort();
    assert_eq!(found, [name("small"), name("zlarge")]);
}

#[tokio::test]
async fn what_is_corrupted_on_the_way_is_read_once_more_and_is_right() {
    let (_test, plain, work) = populated().await;
    work.put("streamed", &contents(70, 900_000));
    let faulty = Arc::new(FaultyStore::new(Arc::clone(plain.objects())));
    let store = Store::open(Arc::<FaultyStore>::clone(&faulty), "test").await.unwrap();
    let corrupted = Arc::new(AtomicUsize::new(0));
    // The first read of everything is corrupt: of records, manifests, ranges of bundles.
    let (mut seen, count) = (HashSet::new(), Arc::clone(&corrupted));
    faulty.on_get(move |key| {
        let first = seen.insert(key.clone());
        count.fetch_add(usize::from(first), Ordering::SeqCst);
        first
    });
    backup(&store, &work, Mirror::Off).await.unwrap();
    let mut expected = files(work.path());
    expected.insert("metadata".into(), b"metadata".to_vec());
    assert_restores(&store, &expected).await;
    assert!(corrupted.load(Ordering::SeqCst) >= 4, "{corrupted:?}");
    // Every other read is corrupt, whatever is read.
    let mut reads = 0;
    faulty.on_get(move |_| {
        reads += 1;
        reads % 2 == 1
    });
    let view = open(&store).await;
    let report = verify_timeline(&store, &view, VerifyDepth::Deep).await.unwrap();
    assert_eq!(report.findings, []);
    for layer in ["large", "small-05", "streamed"] {
        let bytes = reader(&store, &view).read_at(&name(layer), 0..u64::MAX).await.unwrap();
        assert!(bytes == expected[layer], "{layer}");
    }
}

#[tokio::test]
async fn what_is_corrupt_twice_is_reported_with_its_place_and_both_checksums() {
    let (_test, plain, _work) = populated().await;
    let faulty = Arc::new(FaultyStore::new(Arc::clone(plain.objects())));
    let store = Store::open(Arc::<FaultyStore>::clone(&faulty), "test").await.unwrap();
    let view = open(&store).await;
    let reads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reads);
    faulty.on_get(move |_| count.fetch_add(1, Ordering::SeqCst) < usize::MAX);
    let read = reader(&store, &view).read_at(&name("small-05"), 0..u64::MAX).await;
    assert_eq!(reads.load(Ordering::SeqCst), 2, "once more and not for ever");
    let Err(Error::Damaged { object, range, source }) = read else { panic!("{read:?}") };
    let entry = &view.state.layers()[&name("small-05")];
    assert_eq!(range, Some(entry.place.location.start..entry.place.location.end()));
    assert_eq!(object, view.keys.bundle(entry.place.bundle).unwrap().as_str());
    let recorded = entry.place.location.crc32c.to_string();
    let text = source.to_string();
    assert!(text.contains(&format!("{recorded} recorded")) && text.contains("computed"), "{text}");
}

#[tokio::test]
async fn stored_checksums_are_compared_without_reading_what_they_are_of() {
    let (test, store, _work) = populated().await;
    let view = open(&store).await;
    let before = test.counts();
    let report = verify_timeline(&store, &view, VerifyDepth::Stored).await.unwrap();
    assert_eq!((&report.findings[..], report.without_checksum), (&[][..], 0));
    let stored: u64 = view.state.bundles().iter().map(|bundle| bundle.stored_bytes).sum();
    assert!(report.checked_bytes >= stored);
    assert!(test.counts().bytes_received - before.bytes_received < stored / 4);
    // One bit of a frame, wherever it is, changes the checksum that the store keeps.
    for bundle in view.state.bundles() {
        let key = view.keys.bundle(bundle.id).unwrap();
        let whole = get(&store, &key).await;
        let mut flipped = whole.clone();
        flipped[whole.len() / 3] ^= 1;
        overwrite(&store, &key, flipped).await;
        let report = verify_timeline(&store, &view, VerifyDepth::Stored).await.unwrap();
        let objects: Vec<_> = report.findings.iter().map(|finding| finding.object.as_str()).collect();
        assert_eq!(objects, [key.as_str()]);
        assert!(!report.findings[0].layers.is_empty());
        overwrite(&store, &key, whole).await;
    }
}

#[tokio::test]
async fn a_store_that_keeps_no_checksums_says_of_how_many_objects() {
    let dir = TempDir::new().unwrap();
    let local = storage_localfs::LocalStore::create(dir.path()).unwrap();
    let (store, _) = Store::open_or_create(Arc::new(local), "test").await.unwrap();
    let work = WorkDir::new();
    work.put("layer", &contents(1, 5_000));
    backup(&store, &work, Mirror::Off).await.unwrap();
    let report = verify_timeline(&store, &open(&store).await, VerifyDepth::Stored).await.unwrap();
    // The claim and the record with the layer.
    assert_eq!((report.findings.len(), report.without_checksum), (0, 2));
}
