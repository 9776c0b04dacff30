//! Nothing outside the root is read, written or removed, whatever lies inside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use storage_api::{
    Body, ErrorKind, GetRange, Key, KeyPrefix, ListRequest, ObjectStore, ObjectStoreExt, PutMode, Result,
    UploadId,
};
use storage_localfs::LocalStore;
use tempfile::TempDir;

struct Fixture {
    store: LocalStore,
    root: TempDir,
    outside: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let (root, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        write(&outside.path().join("secret"), b"secret");
        Self { store: LocalStore::open(root.path()).unwrap(), root, outside }
    }

    fn assert_outside_is_untouched(&self) {
        assert_eq!(names_in(self.outside.path()), ["secret"]);
        assert_eq!(fs::read(self.outside.path().join("secret")).unwrap(), b"secret");
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own file need not be durable")]
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

#[track_caller]
fn assert_denied<T>(result: Result<T>) {
    assert_eq!(result.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
}

#[tokio::test]
async fn a_linked_directory_is_refused() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    symlink(fixture.outside.path(), fixture.root.path().join("link")).unwrap();
    store.put(&key("object"), Body::new("x"), PutMode::Create).await.unwrap();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        assert_denied(store.put(&key("link/new"), Body::new("x"), mode).await);
        assert_denied(store.put(&key("link/deeper/new"), Body::new("x"), mode).await);
        assert_denied(store.put(&key("link/secret"), Body::new("x"), mode).await);
        assert_denied(store.copy(&key("object"), &key("link/new")).await);
        assert_denied(store.copy(&key("link/secret"), &key("stolen")).await);
    }
    assert_denied(store.get(&key("link/secret"), GetRange::Full).await);
    assert_denied(store.head(&key("link/secret")).await);
    assert_denied(store.delete(&[key("link/secret")]).await.unwrap().remove(0).result);
    let upload = store.multipart_create(&key("link/new")).await.unwrap();
    let part = store.multipart_put(&key("link/new"), &upload, 1, Body::new("x")).await.unwrap();
    let whole = part.crc32c;
    assert_denied(store.multipart_complete(&key("link/new"), &upload, &[part], whole).await);
    assert_denied(store.list_all(&KeyPrefix::new("link/").unwrap()).await);
    fixture.assert_outside_is_untouched();
}

#[tokio::test]
async fn a_linked_file_is_refused_or_replaced() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    symlink(fixture.outside.path().join("secret"), fixture.root.path().join("link")).unwrap();
    assert_denied(store.get(&key("link"), GetRange::Full).await);
    assert_denied(store.head(&key("link")).await);
    assert_denied(store.copy(&key("link"), &key("stolen")).await);
    assert_denied(store.delete(&[key("link")]).await.unwrap().remove(0).result);
    assert!(store.put(&key("link"), Body::new("x"), PutMode::Create).await.unwrap_err().is_already_exists());
    fixture.assert_outside_is_untouched();
    store.put(&key("link"), Body::new("mine"), PutMode::Overwrite).await.unwrap();
    assert_eq!(&store.get_bytes(&key("link"), GetRange::Full, 10).await.unwrap().1[..], b"mine");
    fixture.assert_outside_is_untouched();
}

/// Asserts that a list of `prefix`, rolled up or not, is refused because of `path`.
async fn assert_list_names(store: &LocalStore, prefix: &KeyPrefix, path: &str, what: &str) {
    for rolled_up in [false, true] {
        let request = ListRequest { prefix: prefix.clone(), rolled_up, ..ListRequest::default() };
        let error = store.list(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}, rolled up: {rolled_up}");
        let fault = error.source().unwrap();
        assert_eq!(fault.to_string(), format!("cannot list {path:?}"));
        let cause = fault.source().unwrap().to_string();
        assert!(cause.starts_with(&format!("{what} is not an object: ")), "{cause}");
    }
}

#[tokio::test]
async fn a_link_makes_the_list_fail_even_inside_the_root() {
    for (target, link) in
        [("real", "inside"), ("object", "real/alias"), ("..", "real/loop"), ("nowhere", "dangling")]
    {
        let fixture = Fixture::new();
        let store = &fixture.store;
        store.put(&key("other/object"), Body::new("x"), PutMode::Create).await.unwrap();
        store.put(&key("real/object"), Body::new("x"), PutMode::Create).await.unwrap();
        symlink(target, fixture.root.path().join(link)).unwrap();
        assert_list_names(store, &KeyPrefix::root(), link, "a symbolic link").await;
        let other = store.list_all(&KeyPrefix::new("other/").unwrap()).await.unwrap();
        assert_eq!(other.len(), 1, "a link elsewhere is no concern of this list");
        assert_denied(store.get(&key(&format!("{link}/object")), GetRange::Full).await);
        assert_eq!(store.sweep_stale(std::time::Duration::ZERO).await.unwrap(), 0);
    }
    let fixture = Fixture::new();
    symlink(fixture.outside.path(), fixture.root.path().join("outside")).unwrap();
    assert_list_names(&fixture.store, &KeyPrefix::root(), "outside", "a symbolic link").await;
    fixture.assert_outside_is_untouched();
}

#[tokio::test]
async fn an_object_replaced_by_a_link_is_missed() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    for name in ["log/1", "log/2", "log/3"] {
        store.put(&key(name), Body::new("x"), PutMode::Create).await.unwrap();
    }
    let last = fixture.root.path().join("log/3");
    fs::rename(&last, fixture.outside.path().join("moved")).unwrap();
    symlink(fixture.outside.path().join("moved"), &last).unwrap();
    assert_list_names(store, &KeyPrefix::new("log/").unwrap(), "log/3", "a symbolic link").await;
    let after = ListRequest { start_after: Some("log/2".to_owned()), ..ListRequest::default() };
    assert_denied(store.list(&after).await);
}

#[tokio::test]
async fn links_under_names_that_no_key_has_are_not_listed() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    store.put(&key("a/object"), Body::new("x"), PutMode::Create).await.unwrap();
    for name in [".layerpack-mine", "a/.layerpack-stage-1-2", "a/new\nline"] {
        symlink(fixture.outside.path(), fixture.root.path().join(name)).unwrap();
    }
    let listed = store.list_all(&KeyPrefix::root()).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a/object"]);
}

#[tokio::test]
async fn uploads_do_not_leave_their_directory() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let target = key("object");
    let real = store.multipart_create(&target).await.unwrap();
    for name in
        ["", ".", "..", "../..", "/", "a/b", &format!("../.layerpack-uploads/{}", real.0), &"a".repeat(300)]
    {
        let upload = UploadId(name.to_owned());
        let put = store.multipart_put(&target, &upload, 1, Body::new("x")).await.unwrap_err();
        // A name that is too long is none of ours either.
        assert!(matches!(put.kind(), ErrorKind::NotFound | ErrorKind::Invalid), "{name:?}: {put:?}");
    }
    store.multipart_abort(&target, &UploadId("..".to_owned())).await.unwrap();
    assert_eq!(store.multipart_list(&KeyPrefix::root()).await.unwrap().len(), 1);
    store.multipart_abort(&key("another"), &real).await.unwrap();
    assert_eq!(
        store.multipart_list(&KeyPrefix::root()).await.unwrap().len(),
        1,
        "another key's abort ended it"
    );

    let linked = Fixture::new();
    symlink(linked.outside.path(), linked.root.path().join(".layerpack-uploads")).unwrap();
    assert_denied(linked.store.multipart_create(&target).await);
    assert_denied(linked.store.multipart_list(&KeyPrefix::root()).await);
    linked.assert_outside_is_untouched();
}

#[tokio::test]
async fn what_is_no_regular_file_is_no_object() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    // Opening a pipe to read it would block until somebody writes.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fixture.root.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    assert_eq!(store.get(&key("pipe"), GetRange::Full).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.head(&key("pipe")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_list_names(store, &KeyPrefix::root(), "pipe", "a pipe, socket or device").await;
}
