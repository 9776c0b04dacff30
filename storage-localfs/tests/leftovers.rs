//! What stays on disk between processes: stage files, uploads, empty directories.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use storage_api::{
    Body, Clock, Crc32c, ErrorKind, GetRange, Key, KeyPrefix, ListRequest, ManualClock, ObjectStore,
    ObjectStoreExt, PutMode, SystemClock,
};
use storage_localfs::LocalStore;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn stage_files_are_never_listed_and_swept_by_age_alone() {
    let root = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let store = LocalStore::open(root.path()).unwrap().with_clock(clock.clone());
    let stages = [".layerpack-stage-1-0", "a/.layerpack-stage-ff-1", "a/empty/.layerpack-stage-1-2"];
    for stage in stages {
        write(&root.path().join(stage), b"half an obj");
    }
    write(&root.path().join("a/.layerpack-future-feature"), b"not ours to remove");
    store.put(&key("a/object"), Body::new("x"), PutMode::Create).await.unwrap();
    let upload = store.multipart_create(&key("b")).await.unwrap();

    let listed = store.list_all(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a/object"]);
    let request =
        ListRequest { rolled_up: true, prefix: KeyPrefix::new("a/").unwrap(), ..ListRequest::default() };
    assert_eq!(store.list(&request).await.unwrap().common_prefixes, [], "a stage file is no object");

    clock.advance(HOUR / 2);
    assert_eq!(store.sweep_stale(HOUR).await.unwrap(), 0, "a living writer's stage file was swept");
    clock.advance(HOUR);
    assert_eq!(store.sweep_stale(HOUR).await.unwrap(), 3);
    assert_eq!(store.sweep_stale(HOUR).await.unwrap(), 0);
    for stage in stages {
        assert!(!root.path().join(stage).try_exists().unwrap(), "{stage} is still there");
    }
    assert!(root.path().join("a/.layerpack-future-feature").try_exists().unwrap());
    assert_eq!(
        store.multipart_list(&KeyPrefix::root()).await.unwrap()[0].upload,
        upload,
        "an upload is not stale"
    );
    assert_eq!(store.head(&key("a/object")).await.unwrap().size, 1);
    clock.set(std::time::SystemTime::UNIX_EPOCH);
    write(&root.path().join(stages[0]), b"newer than the clock");
    assert_eq!(store.sweep_stale(HOUR).await.unwrap(), 0, "a clock that went back swept a stage file");
}

#[tokio::test]
async fn leftovers_of_a_process_with_our_id_are_left_alone() {
    let root = TempDir::new().unwrap();
    let names: Vec<_> =
        (0..300).map(|n| format!(".layerpack-stage-{:x}-{n:x}", std::process::id())).collect();
    for name in &names {
        write(&root.path().join(name), b"somebody else's");
    }
    let store = LocalStore::open(root.path()).unwrap();
    store.put(&key("created"), Body::new("x"), PutMode::Create).await.unwrap();
    store.put(&key("created"), Body::new("x"), PutMode::Create).await.unwrap_err();
    store.put(&key("overwritten"), Body::new("x"), PutMode::Overwrite).await.unwrap();
    for name in &names {
        assert_eq!(fs::read(root.path().join(name)).unwrap(), b"somebody else's");
    }
}

#[tokio::test]
async fn uploads_survive_a_restart() {
    let root = TempDir::new().unwrap();
    let target = key("deep/object");
    let (upload, first) = {
        let store = LocalStore::open(root.path()).unwrap();
        let upload = store.multipart_create(&target).await.unwrap();
        let first = store.multipart_put(&target, &upload, 1, Body::new("first, ")).await.unwrap();
        (upload, first)
    };
    let store = LocalStore::open(root.path()).unwrap();
    let pending = store.multipart_list(&KeyPrefix::new("deep/").unwrap()).await.unwrap();
    assert_eq!((&pending[0].key, &pending[0].upload, pending.len()), (&target, &upload, 1));
    let age = SystemClock.now().duration_since(pending[0].begun).unwrap_or_default();
    assert!(age < HOUR, "begun {age:?} ago");
    let second = store.multipart_put(&target, &upload, 2, Body::new("second")).await.unwrap();
    let whole = Crc32c::of(b"first, second");
    store.multipart_complete(&target, &upload, &[first, second], whole).await.unwrap();
    assert_eq!(&store.get_bytes(&target, GetRange::Full, 100).await.unwrap().1[..], b"first, second");
    assert!(
        fs::read_dir(root.path().join(".layerpack-uploads")).unwrap().next().is_none(),
        "parts were left"
    );
}

#[tokio::test]
async fn uploads_that_ended_halfway_are_swept() {
    let root = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let store = LocalStore::open(root.path()).unwrap().with_clock(clock.clone());
    let upload = store.multipart_create(&key("a")).await.unwrap();
    store.multipart_put(&key("a"), &upload, 1, Body::new("part")).await.unwrap();
    let dir = root.path().join(".layerpack-uploads").join(&upload.0);
    fs::remove_file(dir.join("key")).unwrap();
    assert_eq!(store.multipart_list(&KeyPrefix::root()).await.unwrap(), []);
    assert_eq!(store.sweep_stale(HOUR).await.unwrap(), 0);
    clock.advance(2 * HOUR);
    assert_eq!(store.sweep_stale(HOUR).await.unwrap(), 1);
    assert!(!dir.try_exists().unwrap());
}

#[tokio::test]
async fn a_part_damaged_on_disk_is_not_published() {
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let upload = store.multipart_create(&key("a")).await.unwrap();
    let part = store.multipart_put(&key("a"), &upload, 1, Body::new("part")).await.unwrap();
    write(&root.path().join(".layerpack-uploads").join(&upload.0).join("part-00001"), b"pArt");
    let whole = part.crc32c;
    let refused = store.multipart_complete(&key("a"), &upload, &[part], whole).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(store.head(&key("a")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_read_goes_on_over_a_delete_and_ends_at_a_cut() {
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    store.put(&key("a"), Body::new(bytes.clone()), PutMode::Create).await.unwrap();
    let response = store.get(&key("a"), GetRange::Full).await.unwrap();
    store.delete(&[key("a")]).await.unwrap();
    store.put(&key("a"), Body::new("other"), PutMode::Create).await.unwrap();
    let read: Vec<_> = response.stream.try_collect().await.unwrap();
    assert!(read.concat() == bytes, "a delete was seen by a read that had begun");

    store.put(&key("a"), Body::new(bytes), PutMode::Overwrite).await.unwrap();
    let mut response = store.get(&key("a"), GetRange::Full).await.unwrap();
    response.stream.next().await.unwrap().unwrap();
    fs::OpenOptions::new().write(true).open(root.path().join("a")).unwrap().set_len(600_000).unwrap();
    let cut = response.stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::Interrupted);
}

#[tokio::test]
async fn directories_removed_by_others_are_made_again() {
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    for _ in 0..3 {
        store.put(&key("a/b/c"), Body::new("x"), PutMode::Create).await.unwrap();
        fs::remove_dir_all(root.path().join("a")).unwrap();
    }
    assert!(store.list_all(&KeyPrefix::root()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_survives_the_removal_of_its_empty_directories() {
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let (is_done, removed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (path, stop, count) = (root.path().to_owned(), Arc::clone(&is_done), Arc::clone(&removed));
    let vandal = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for dir in ["a/b/c", "a/b", "a"] {
                count.fetch_add(u32::from(fs::remove_dir(path.join(dir)).is_ok()), Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    // As long as it takes until the two have met.
    for round in 0..50_000 {
        if round >= 60 && removed.load(Ordering::Relaxed) >= 3 {
            break;
        }
        store.put(&key("a/b/c/object"), Body::new("x"), PutMode::Create).await.unwrap();
        store.delete(&[key("a/b/c/object")]).await.unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    vandal.join().unwrap();
    assert!(removed.load(Ordering::Relaxed) > 0, "no directory was ever removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_passes_over_what_vanishes() {
    let root = TempDir::new().unwrap();
    let store = Arc::new(LocalStore::open(root.path()).unwrap());
    let path = root.path().to_owned();
    // Comes after all that vanishes, so that a list which breaks off there lacks it.
    let last = key("last/object");
    store.put(&last, Body::new("x"), PutMode::Create).await.unwrap();
    let mut lists = 0;
    for _ in 0..6 {
        // Nothing comes while it is listed: a list that finds more begins anew.
        for n in 0..100 {
            write(&path.join(format!("files/{n}")), b"x");
            write(&path.join(format!("dirs/{n}/object")), b"x");
        }
        let path = path.clone();
        let vandal = tokio::task::spawn_blocking(move || {
            for dir in ["files", "dirs"] {
                fs::remove_dir_all(path.join(dir)).unwrap();
            }
        });
        while !vandal.is_finished() {
            let listed = store.list_all(&KeyPrefix::root()).await.unwrap();
            assert_eq!(listed.last().map(|object| &object.key), Some(&last));
            store.list(&ListRequest { rolled_up: true, ..ListRequest::default() }).await.unwrap();
            lists += 1;
        }
        vandal.await.unwrap();
    }
    assert!(lists > 1);
}
