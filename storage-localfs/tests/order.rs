//! A list beside a writer shows no object without those that were there before it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use storage_api::{Body, Key, ListRequest, ObjectStore, PutMode};
use storage_localfs::LocalStore;
use tempfile::TempDir;

const ROUNDS: usize = 2;
const BURSTS: usize = 60;
/// So many records are made without a pause; all of a round fit one page, with what follows each.
const BURST: usize = 8;
/// How long a writer waits for a list, should there be none.
const WAIT_MAX: Duration = Duration::from_secs(10);

const STEP: Duration = Duration::from_micros(100);

fn record(n: usize) -> String {
    format!("log/{n:04}")
}

/// Sorts after the records, so that a list comes to it later.
fn follower(n: usize) -> String {
    format!("manifest/{n:04}")
}

/// Makes records in ascending order, each followed by an object of another directory; as files, since a store that
/// syncs what it is given leaves lists more time. After each burst a list can end, which counts `lists`.
fn write(root: &Path, lists: &AtomicUsize) {
    for burst in 0..BURSTS {
        for n in burst * BURST..(burst + 1) * BURST {
            File::create_new(root.join(record(n))).unwrap();
            File::create_new(root.join(follower(n))).unwrap();
        }
        let (ended, mut waited) = (lists.load(Ordering::Relaxed), Duration::ZERO);
        while lists.load(Ordering::Relaxed) == ended && waited < WAIT_MAX {
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }
}

/// How many records `listed` shows, which are all up to the newest that it knows of.
fn check(listed: &[String]) -> usize {
    let records = listed.iter().filter(|key| key.starts_with("log/")).count();
    let followers = listed.len() - records;
    let expected: Vec<_> = (0..records).map(record).chain((0..followers).map(follower)).collect();
    assert!(listed == expected, "{records} records and {followers} followers with holes: {listed:?}");
    assert!(followers <= records, "record {records} is not shown, and what was made after it is");
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_no_holes() {
    for _ in 0..ROUNDS {
        let root = TempDir::new().unwrap();
        let store = LocalStore::open(root.path()).unwrap();
        for dir in ["log", "manifest"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        let lists = Arc::new(AtomicUsize::new(0));
        let (path, ended) = (root.path().to_owned(), Arc::clone(&lists));
        let writer = tokio::task::spawn_blocking(move || write(&path, &ended));
        let (mut newest, mut overtaken) = (0, 0);
        while newest < BURSTS * BURST {
            let page = store.list(&ListRequest::default()).await.unwrap();
            lists.fetch_add(1, Ordering::Relaxed);
            let listed: Vec<_> = page.objects.iter().map(|object| object.key.as_str().to_owned()).collect();
            let records = check(&listed);
            assert!(records >= newest, "records that were shown are gone");
            overtaken += usize::from(records > newest);
            newest = records;
        }
        writer.await.unwrap();
        assert!(overtaken > BURSTS / 4, "only {overtaken} lists showed something new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_ends_beside_a_store_that_is_written_to_without_a_pause() {
    let root = TempDir::new().unwrap();
    let store = Arc::new(LocalStore::open(root.path()).unwrap());
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0..200 {
                store.put(&Key::new(record(n)).unwrap(), Body::new("x"), PutMode::Create).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let page = store.list(&ListRequest::default()).await.unwrap();
        check(&page.objects.iter().map(|object| object.key.as_str().to_owned()).collect::<Vec<_>>());
    }
    writer.await.unwrap();
}
