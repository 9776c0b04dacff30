//! Layers too large to wait in memory: uploaded in parts, and what becomes of those that are not completed.

use std::sync::{Arc, Mutex};

use layer_archive::{BundleId, PayloadId, Seq, Term};
use storage_api::{
    Body, ErrorKind, ManualClock, MemoryStore, ObjectStore, Operation, RetryPolicy, Retrying, StorageError,
};
use sync_engine::{
    BackupOptions, BackupReport, Error, Mirror, Store, TimelineWriter, VerifyDepth, abandoned_uploads,
    verify_timeline,
};

use crate::support::faulty::FaultyStore;
use crate::support::{
    TestStore, WorkDir, assert_restores, backup_with, contents, files, noon, open, options, writer_options,
};

const PART_BYTES: usize = 64 << 10;

/// Bundles of 256 KiB, parts of 64 KiB, two at a time.
fn small_parts() -> BackupOptions {
    let mut options = options();
    options.pack.bundle_bytes_target = 256 << 10;
    options.pack.part_bytes = PART_BYTES;
    options.pack.parts_in_flight = 2;
    options
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(MemoryStore::new().with_part_bytes_min(PART_BYTES as u64))
}

/// A store whose parts and reads can go wrong.
async fn faulty() -> (TestStore, Arc<FaultyStore>, Store) {
    let faulty = Arc::new(FaultyStore::new(memory()));
    let test = TestStore::over(Arc::<FaultyStore>::clone(&faulty));
    let store = test.create().await;
    (test, faulty, store)
}

/// Two layers that need parts, between small ones.
fn mixed() -> WorkDir {
    let mut work = WorkDir::new();
    for n in 0..10 {
        work.put(&format!("small-{n}"), &contents(n, 9_000));
    }
    work.put("large-1", &contents(50, 2_000_000));
    work.put("large-1-again", &contents(50, 2_000_000));
    work.put("large-2", &contents(51, 1_500_003));
    work.set_metadata(b"metadata");
    work
}

async fn backup(store: &Store, work: &WorkDir) -> Result<BackupReport, Error> {
    backup_with(store, work.local(), Mirror::Off, small_parts()).await
}

async fn pending(store: &Store) -> usize {
    store.objects().multipart_list(open(store).await.keys.prefix()).await.unwrap().len()
}

fn expected(work: &WorkDir) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut expected = files(work.path());
    if let Some(metadata) = &work.metadata {
        expected.insert("metadata".into(), metadata.bytes.clone());
    }
    expected
}

#[tokio::test]
async fn a_large_layer_goes_up_in_parts_of_one_size_and_comes_back() {
    let (test, faulty, store) = faulty().await;
    let work = mixed();
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&numbers);
    faulty.on_part(move |number| {
        seen.lock().unwrap().push(number);
        Ok(())
    });
    let report = backup(&store, &work).await.unwrap();
    assert_eq!((report.layers, report.failed.len(), report.metadata_held_back), (13, 0, false));
    let parts = numbers.lock().unwrap().len();
    // Contents of 3.5 MB that compress to a little more than half, in parts of 64 KiB.
    assert!((20..60).contains(&parts), "{parts} parts");
    // Two uploads: one list of what was left, and for each a beginning and an end.
    assert_eq!(test.counts().multipart, parts as u64 + 5);
    assert_eq!(pending(&store).await, 0);
    assert_restores(&store, &expected(&work)).await;
    let report = verify_timeline(&store, &open(&store).await, VerifyDepth::Deep).await.unwrap();
    assert_eq!((report.findings.len(), report.abandoned_uploads), (0, 0));
}

#[tokio::test]
async fn a_store_without_multipart_gets_a_large_layer_in_one_put() {
    let work = mixed();
    let mut options = options();
    options.pack.bundle_bytes_target = 256 << 10;
    // Its parts have at least 5 MiB, which these layers do not have: as good as none.
    let test = TestStore::memory();
    let store = test.create().await;
    backup_with(&store, work.local(), Mirror::Off, options).await.unwrap();
    assert_eq!(test.counts().multipart, 0);
    assert_restores(&store, &expected(&work)).await;
}

#[tokio::test]
async fn a_layer_that_changes_between_its_parts_is_left_out_and_its_upload_aborted() {
    let (_test, faulty, store) = faulty().await;
    let work = mixed();
    // Far longer than what is read ahead of the first part.
    work.put("large-2", &contents(52, 12_000_000));
    let path = work.path().join("large-2");
    let mut cut = false;
    faulty.on_part(move |_| {
        if !std::mem::replace(&mut cut, true) {
            std::fs::File::options().write(true).open(&path).unwrap().set_len(11_000_000).unwrap();
        }
        Ok(())
    });
    let report = backup(&store, &work).await.unwrap();
    let failed: Vec<_> = report.failed.iter().map(|failed| failed.name.as_str()).collect();
    assert_eq!(failed, ["large-2"]);
    assert!(report.metadata_held_back);
    assert_eq!(pending(&store).await, 0);
    let mut rest = files(work.path());
    rest.remove("large-2");
    assert_restores(&store, &rest).await;
}

#[tokio::test]
async fn a_part_that_is_refused_ends_the_backup_and_leaves_no_upload() {
    let (_test, faulty, store) = faulty().await;
    faulty.on_part(|number| match number {
        7 => Err(StorageError::new(ErrorKind::PermissionDenied, Operation::MultipartPut, "k", "faulty")),
        _ => Ok(()),
    });
    let refused = backup(&store, &mixed()).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Storage(error) if error.kind() == ErrorKind::PermissionDenied),
        "{refused}"
    );
    assert_eq!(pending(&store).await, 0);
    faulty.on_part(|_| Ok(()));
    let work = mixed();
    backup(&store, &work).await.unwrap();
    assert_restores(&store, &expected(&work)).await;
}

#[tokio::test]
async fn a_completion_whose_answer_is_lost_is_a_success() {
    let (_test, plain, store) = faulty().await;
    let (_test, below, _) = faulty().await;
    // The retry layer completes once more, and is told that there is no such upload.
    let clock = Arc::new(ManualClock::new(noon()));
    let retrying = Retrying::new(Arc::clone(&below), RetryPolicy::default(), clock);
    let retried = Store::open(Arc::new(retrying), "test").await.unwrap();
    for (faulty, store) in [(plain, store), (below, retried)] {
        faulty.lose_completions(2);
        let work = mixed();
        backup(&store, &work).await.unwrap();
        assert_restores(&store, &expected(&work)).await;
    }
}

/// Begins an upload of a payload object of the claim at `claim`, as a writer does that is then killed.
async fn leave_upload(store: &Store, claim: Seq) -> storage_api::Key {
    let id = PayloadId { claim, term: Term(7), number: 0 };
    let key = open(store).await.keys.bundle(BundleId::Payload(id)).unwrap();
    let upload = store.objects().multipart_create(&key).await.unwrap();
    store.objects().multipart_put(&key, &upload, 1, Body::new(vec![1; 1000])).await.unwrap();
    key
}

#[tokio::test]
async fn what_a_killed_writer_has_left_is_found_and_aborted_by_the_next_upload_and_nothing_else_is() {
    let (_test, _faulty, store) = faulty().await;
    let work = WorkDir::new();
    work.put("first", &contents(1, 1_000));
    // Records 1 and 2 are a claim and a commit.
    backup(&store, &work).await.unwrap();
    leave_upload(&store, Seq(1)).await;
    let newer = leave_upload(&store, Seq(100)).await;
    let view = open(&store).await;
    // The last claim's writer may be alive for all that is known.
    assert_eq!(abandoned_uploads(&**store.objects(), &view.keys, Seq(1)).await.unwrap(), []);
    work.put("small", &contents(2, 1_000));
    backup(&store, &work).await.unwrap();
    assert_eq!(pending(&store).await, 2, "a backup without parts does not look for them");
    let report = verify_timeline(&store, &open(&store).await, VerifyDepth::Listing).await.unwrap();
    assert_eq!((report.abandoned_uploads, report.findings.len()), (1, 0));
    work.put("large", &contents(3, 2_000_000));
    backup(&store, &work).await.unwrap();
    let left = store.objects().multipart_list(view.keys.prefix()).await.unwrap();
    assert_eq!(left.iter().map(|upload| &upload.key).collect::<Vec<_>>(), [&newer]);
    assert_restores(&store, &files(work.path())).await;
}

#[tokio::test]
async fn a_writer_whose_upload_was_aborted_by_the_one_after_it_is_fenced() {
    let (test, faulty, store) = faulty().await;
    let (objects, at) = (test.objects(), tokio::runtime::Handle::current());
    let mut taken = false;
    faulty.on_part(move |number| {
        if number < 5 || std::mem::replace(&mut taken, true) {
            return Ok(());
        }
        // Another writer claims the timeline and aborts what it finds.
        let (objects, at) = (Arc::clone(&objects), at.clone());
        let other = async move {
            let store = Store::open(objects, "test").await.unwrap();
            let claimed = TimelineWriter::claim(&store, open(&store).await, writer_options("other"));
            let claim = claimed.await.unwrap().view().state.claim();
            let keys = open(&store).await.keys;
            for left in abandoned_uploads(&**store.objects(), &keys, claim).await.unwrap() {
                store.objects().multipart_abort(&left.key, &left.upload).await.unwrap();
            }
        };
        std::thread::spawn(move || at.block_on(other)).join().unwrap();
        Ok(())
    });
    let fenced = backup(&store, &mixed()).await.unwrap_err();
    assert!(matches!(&fenced, Error::Fenced { by, .. } if by.program == "other"), "{fenced}");
    assert_eq!(pending(&store).await, 0);
}
