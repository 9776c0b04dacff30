//! What the engine's tests share: a work directory, a metered store, whole backups and restores.

pub(crate) mod faulty;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use layer_archive::{
    BundleWriter, FrameCompressor, LayerName, Level, Lsn, LsnRange, PackedLayer, RawDigest, TenantId,
    TimelineId, TimelineMetadata, WriterInfo, member_header, padding_len,
};
use storage_api::{ManualClock, MemoryStore, Metered, ObjectStore, RequestCounts};
use sync_engine::{
    BackupOptions, BackupReport, DurableDir, Error, LocalLayer, LocalTimeline, Mirror, PackOptions, Progress,
    RestoreReport, Store, TimelineReader, TimelineView, WriterOptions, execute_backup, execute_restore,
    hash_existing, plan_backup, plan_restore,
};
use tempfile::TempDir;

pub(crate) fn tenant() -> TenantId {
    "0000000000000000000000000000000a".parse().unwrap()
}

pub(crate) fn timeline() -> TimelineId {
    "0000000000000000000000000000000b".parse().unwrap()
}

pub(crate) fn name(text: &str) -> LayerName {
    LayerName::new(text).unwrap()
}

/// The start of the tests' clock.
pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn writer_options(program: &str) -> WriterOptions {
    WriterOptions {
        writer: WriterInfo { host: "test".into(), pid: 1, program: program.into() },
        generation: None,
        clock: Arc::new(ManualClock::new(noon())),
    }
}

pub(crate) fn options() -> BackupOptions {
    BackupOptions {
        writer: writer_options("test 1"),
        pack: PackOptions { compressors: 2, ..PackOptions::default() },
        progress: Arc::new(Progress::default()),
    }
}

/// An object store with counted requests.
pub(crate) struct TestStore {
    pub(crate) metered: Arc<Metered<dyn ObjectStore>>,
}

impl TestStore {
    pub(crate) fn memory() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    pub(crate) fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self { metered: Arc::new(Metered::new(objects)) }
    }

    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::<Metered<dyn ObjectStore>>::clone(&self.metered)
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        self.metered.metrics().snapshot()
    }

    pub(crate) async fn create(&self) -> Store {
        Store::open_or_create(self.objects(), "test").await.unwrap().0
    }
}

/// Bytes that compress somewhat, different for each seed.
pub(crate) fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 33).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A directory of layers.
pub(crate) struct WorkDir {
    pub(crate) dir: TempDir,
    pub(crate) metadata: Option<TimelineMetadata>,
}

impl WorkDir {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), metadata: None }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let mut file = std::fs::File::create(self.path().join(name)).unwrap();
        file.write_all(bytes).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
    }

    pub(crate) fn set_metadata(&mut self, bytes: &[u8]) {
        self.metadata = Some(TimelineMetadata { file_name: name("metadata"), bytes: bytes.to_vec() });
    }

    pub(crate) fn local(&self) -> LocalTimeline {
        let layers = files(self.path()).into_keys().map(|file| {
            let path = self.path().join(&file);
            LocalLayer {
                raw_size: path.metadata().unwrap().len(),
                lsn_range: LsnRange::at(Lsn(file.len() as u64)),
                level: Level::IMAGE,
                name: name(&file),
                path,
            }
        });
        LocalTimeline {
            layers: layers.collect(),
            metadata: self.metadata.clone(),
            disk_consistent_lsn: self.metadata.as_ref().map(|metadata| Lsn(metadata.bytes.len() as u64)),
            is_partial: false,
            present: BTreeSet::new(),
            ..LocalTimeline::default()
        }
    }
}

/// The files of a directory, by name; those that go while it is read are left out.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let bytes = match std::fs::read(entry.path()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            bytes => bytes.unwrap(),
        };
        Some((entry.file_name().into_string().unwrap(), bytes))
    };
    std::fs::read_dir(dir).unwrap().filter_map(read).collect()
}

pub(crate) async fn open(store: &Store) -> TimelineView {
    TimelineView::open(store, &tenant(), &timeline(), None).await.unwrap()
}

/// A reader of what `view` shows that has nothing cached.
pub(crate) fn reader(store: &Store, view: &TimelineView) -> TimelineReader {
    TimelineReader::new(store, view.clone(), Arc::default())
}

pub(crate) async fn backup(store: &Store, work: &WorkDir, mirror: Mirror) -> Result<BackupReport, Error> {
    backup_with(store, work.local(), mirror, options()).await
}

pub(crate) async fn backup_with(
    store: &Store,
    local: LocalTimeline,
    mirror: Mirror,
    options: BackupOptions,
) -> Result<BackupReport, Error> {
    let view = TimelineView::open(store, &tenant(), &timeline(), None).await?;
    let plan = plan_backup(&view.state, local, mirror, &options.progress).await?;
    execute_backup(store, view, plan, options).await
}

pub(crate) async fn restore(store: &Store, dir: &Path) -> Result<RestoreReport, Error> {
    let view = TimelineView::open_existing(store, &tenant(), &timeline(), None).await?;
    let existing: BTreeMap<LayerName, PathBuf> =
        files(dir).into_keys().map(|file| (name(&file), dir.join(file))).collect();
    let progress = Arc::new(Progress::default());
    let plan = plan_restore(&view.state, hash_existing(&view.state, &existing, &progress).await);
    let dir = DurableDir::create(dir)?;
    execute_restore(store, &view.keys, &view.state, plan, &dir, &progress).await
}

/// Restores into an empty directory and compares it with `expected`.
pub(crate) async fn assert_restores(store: &Store, expected: &BTreeMap<String, Vec<u8>>) {
    let dir = TempDir::new().unwrap();
    let report = restore(store, dir.path()).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    let restored = files(dir.path());
    assert_eq!(restored.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (file, bytes) in expected {
        assert!(restored[file] == *bytes, "{file} differs");
    }
}

/// A bundle of all files of a directory, in one frame.
pub(crate) fn repacked(work: &WorkDir) -> BundleWriter {
    pack(files(work.path()).into_iter().map(|(file, bytes)| (file, RawDigest::of(&bytes), bytes)))
}

/// A bundle of these layers, in one frame, with the digests that it is to claim for them.
pub(crate) fn pack(files: impl Iterator<Item = (String, RawDigest, Vec<u8>)>) -> BundleWriter {
    let mut bundle = BundleWriter::new();
    let mut plain = Vec::new();
    let mut layers = Vec::new();
    for (file, raw, bytes) in files {
        plain.extend(member_header(&name(&file), bytes.len() as u64).unwrap());
        plain.extend(&bytes);
        plain.resize(plain.len() + padding_len(bytes.len() as u64), 0);
        layers.push(PackedLayer { name: name(&file), lsn_range: None, raw });
    }
    bundle.push_frame(&FrameCompressor::new().unwrap().compress(&plain, Level::REPACK).unwrap()).unwrap();
    for layer in layers {
        bundle.push_layer(layer).unwrap();
    }
    bundle
}
