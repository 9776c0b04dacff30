//! One layer, one page: what they cost.

use std::sync::Arc;

use crate::support::{TestStore, WorkDir, backup, contents, files, name, open, reader};
use sync_engine::{DurableDir, Error, Mirror, Progress};
use tempfile::TempDir;

#[tokio::test]
async fn one_layer_costs_one_get_of_its_frames() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    for n in 0..30u64 {
        work.put(&format!("small-{n:02}"), &contents(n, 20_000));
    }
    work.put("large", &contents(99, 3 << 20));
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let view = open(&store).await;
    let dir = TempDir::new().unwrap();
    let target = DurableDir::create(dir.path()).unwrap();
    for layer in ["small-17", "large"] {
        let before = test.counts();
        let entry = &view.state.layers()[&name(layer)];
        reader(&store, &view).fetch(&entry.name, &target, &Arc::new(Progress::default())).await.unwrap();
        let counts = test.counts().since(&before);
        assert_eq!((counts.requests(), counts.get), (1, 1));
        assert_eq!(counts.bytes_received, entry.place.location.stored_len);
        assert!(files(dir.path())[layer] == files(work.path())[layer]);
    }
    let before = test.counts();
    let entry = &view.state.layers()[&name("large")];
    let again =
        reader(&store, &view).fetch(&entry.name, &target, &Arc::new(Progress::default())).await.unwrap();
    assert_eq!((again.written.len(), again.taken.len(), test.counts().since(&before).get), (0, 1, 1));
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_layer_is_neither_followed_nor_waited_for() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    work.put("layer", b"bytes");
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let view = open(&store).await;
    let entry = &view.state.layers()[&name("layer")];
    let dir = TempDir::new().unwrap();
    let target = DurableDir::create(dir.path()).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::File::create(&elsewhere).unwrap();
    let path = dir.path().join("layer");
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    for _ in 0..2 {
        let fetched = reader(&store, &view).fetch(&entry.name, &target, &Arc::new(Progress::default())).await;
        assert!(matches!(fetched, Err(Error::Local { doing: "open", .. })), "{fetched:?}");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    }
    assert_eq!(elsewhere.metadata().unwrap().len(), 0);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "a temporary file stayed");
}

#[tokio::test]
async fn a_page_of_a_layer_of_64_mb_costs_two_gets_and_less_than_400_kb() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    let large = contents(1, 64_000_000);
    work.put("large", &large);
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let view = open(&store).await;
    for start in
        [0u64, 8192, (256 << 10) - 8192, (256 << 10) - 100, 31_999_000, 64_000_000 - 8192, 64_000_000 - 5]
    {
        let before = test.counts();
        let page = reader(&store, &view).read_at(&name("large"), start..start + 8192).await.unwrap();
        let counts = test.counts().since(&before);
        let from = usize::try_from(start).unwrap();
        assert!(page == large[from..large.len().min(from + 8192)], "at {start}");
        assert_eq!((counts.requests(), counts.get), (2, 2));
        // A page across a cut needs both of its frames, and these contents hardly compress: half their size.
        assert!(counts.bytes_received < 400_000, "{} bytes at {start}", counts.bytes_received);
    }
}

#[tokio::test]
async fn any_range_of_any_layer_is_what_the_file_has_there() {
    let test = TestStore::memory();
    let work = WorkDir::new();
    for (n, len) in [0usize, 1, 511, 8192, 262_144, 262_145, 524_288, 1_000_003].into_iter().enumerate() {
        work.put(&format!("layer-{n}"), &contents(n as u64, len));
    }
    let store = test.create().await;
    backup(&store, &work, Mirror::Off).await.unwrap();
    let view = open(&store).await;
    for (file, bytes) in files(work.path()) {
        let len = bytes.len() as u64;
        for start in [0, 1, len / 3, 262_143, 262_144, len.saturating_sub(1), len, len + 10] {
            for count in [0, 1, 8192, 300_000, u64::MAX / 2] {
                let read = reader(&store, &view).read_at(&name(&file), start..start + count).await;
                let (from, to) = (start.min(len), (start + count).min(len));
                let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                assert!(read.unwrap() == bytes[range], "{file} {start} {count}");
            }
        }
    }
    let missing = reader(&store, &view).read_at(&name("nothing"), 0..1).await.unwrap_err();
    assert!(matches!(missing, Error::LayerNotFound { .. }));
}
