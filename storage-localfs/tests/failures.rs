//! What a store says when the file system is missing, full, forbidden or in the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use storage_api::conformance::skip;
use storage_api::{
    Body, ErrorKind, GetRange, Key, KeyPrefix, ListRequest, ObjectStore, ObjectStoreExt, PutMode,
};
use storage_localfs::LocalStore;
use tempfile::TempDir;

/// Tells this test program, started once more by a test, which directory is its store.
const CHILD_ROOT: &str = "STORAGE_LOCALFS_TEST_ROOT";

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_missing_root_is_a_missing_store() {
    let outer = TempDir::new().unwrap();
    let root = outer.path().join("deep/down");
    let error = LocalStore::open(&root).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreMissing);
    assert_eq!(error.key(), root.to_str().unwrap());

    let store = LocalStore::create(&root).unwrap();
    LocalStore::create(&root).unwrap();
    store.put(&key("a/b"), Body::new("x"), PutMode::Create).await.unwrap();
    fs::remove_dir_all(&root).unwrap();
    let kinds = [
        store.put(&key("a/b"), Body::new("x"), PutMode::Create).await.unwrap_err(),
        store.get(&key("a/b"), GetRange::Full).await.unwrap_err(),
        store.head(&key("a")).await.unwrap_err(),
        store.list(&ListRequest::default()).await.unwrap_err(),
        store.list_all(&KeyPrefix::new("a/").unwrap()).await.unwrap_err(),
        store.delete(&[key("a/b")]).await.unwrap_err(),
        store.delete(&[key("a")]).await.unwrap_err(),
        store.copy(&key("a/b"), &key("c")).await.unwrap_err(),
        store.multipart_create(&key("c")).await.unwrap_err(),
    ]
    .map(|error| error.kind());
    assert_eq!(kinds, [ErrorKind::StoreMissing; 9]);
}

#[tokio::test]
async fn a_file_is_no_root() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(LocalStore::open(file.path()).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(LocalStore::create(file.path()).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(LocalStore::create(&file.path().join("below")).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_key_below_an_object_is_refused() {
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    store.put(&key("a"), Body::new("object"), PutMode::Create).await.unwrap();
    store.put(&key("b/c"), Body::new("object"), PutMode::Create).await.unwrap();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        for clash in ["a/b", "a/b/c", "b"] {
            let error = store.put(&key(clash), Body::new("x"), mode).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{clash} {mode:?}");
            let cause = error.source().unwrap().source().unwrap().to_string();
            assert!(cause.contains("cannot exist beside"), "{cause}");
        }
    }
    assert!(store.get(&key("a/b"), GetRange::Full).await.unwrap_err().is_not_found());
    assert!(store.get(&key("b"), GetRange::Full).await.unwrap_err().is_not_found());
    assert_eq!(names_in(root.path()), ["a", "b"], "a stage file was left");
}

#[tokio::test]
async fn a_forbidden_directory_is_permission_denied() {
    if rustix::process::geteuid().is_root() {
        return skip("a_forbidden_directory_is_permission_denied", "nothing is forbidden to root");
    }
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    store.put(&key("a/b"), Body::new("x"), PutMode::Create).await.unwrap();
    let set_mode =
        |mode| fs::set_permissions(root.path().join("a"), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o500);
    let put = store.put(&key("a/c"), Body::new("x"), PutMode::Create).await.unwrap_err();
    set_mode(0o000);
    let list = store.list_all(&KeyPrefix::root()).await.unwrap_err();
    let get = store.get(&key("a/b"), GetRange::Full).await.unwrap_err();
    set_mode(0o700);
    assert_eq!([put.kind(), list.kind(), get.kind()], [ErrorKind::PermissionDenied; 3]);
}

#[tokio::test]
async fn an_error_tells_the_path_and_what_was_being_done() {
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    let error = store.get(&key("missing/object"), GetRange::Full).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot read \"missing/object\" in the localfs store: not found");
    let fault = error.source().unwrap();
    assert_eq!(fault.to_string(), "cannot open \"missing\"");
    assert_eq!(fault.source().unwrap().to_string(), "No such file or directory (os error 2)");
}

#[test]
fn a_full_disk_is_storage_full_and_leaves_nothing() {
    let root = TempDir::new().unwrap();
    // A limit on the size of files, in blocks, and the signal that goes with it ignored.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" --exact child_with_a_full_disk --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_ROOT, root.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("the store was full"), "{stdout}");
    assert_eq!(names_in(root.path()), [".layerpack-uploads", "small"], "a stage file was left");
}

/// Runs only in the process that the test above starts.
#[tokio::test]
async fn child_with_a_full_disk() {
    let Some(root) = std::env::var_os(CHILD_ROOT) else { return };
    let store = LocalStore::open(Path::new(&root)).unwrap();
    let (small, large) = (Body::new("small"), Body::new(vec![7; 1 << 20]));
    store.put(&key("small"), small, PutMode::Create).await.unwrap();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        for name in ["small-not", "small"] {
            let error = store.put(&key(name), large.clone(), mode).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}");
        }
    }
    let upload = store.multipart_create(&key("multipart")).await.unwrap();
    let error = store.multipart_put(&key("multipart"), &upload, 1, large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error:?}");
    store.multipart_abort(&key("multipart"), &upload).await.unwrap();
    assert_eq!(&store.get_bytes(&key("small"), GetRange::Full, 10).await.unwrap().1[..], b"small");
    println!("the store was full");
}
