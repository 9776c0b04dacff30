//! What the service's tests share: a simulated store, a directory of layers, a service.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use layer_archive::{
    LayerName, Level, Lsn, RawDigest, RemovalReason, Removed, TenantId, TimelineId, TimelineMetadata,
    WriterInfo,
};
use storage_api::simulated::Simulation;
use storage_api::{Clock, Metered, ObjectStore, RequestCounts};
use sync_engine::service::{
    Attach, Change, CreateStore, Event, Observer, ServiceOptions, TimelineHandle, UploadService,
};
use sync_engine::{LocalLayer, LocalTimeline, PackOptions, Store, TimelineView};
use tempfile::TempDir;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn tenant() -> TenantId {
    "0000000000000000000000000000000a".parse().unwrap()
}

pub(crate) fn timeline() -> TimelineId {
    "0000000000000000000000000000000b".parse().unwrap()
}

pub(crate) fn name(text: &str) -> LayerName {
    LayerName::new(text).unwrap()
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

pub(crate) fn metadata(text: &str, lsn: u64) -> Option<(TimelineMetadata, Option<Lsn>)> {
    let metadata = TimelineMetadata { file_name: name("metadata"), bytes: text.into() };
    Some((metadata, Some(Lsn(lsn))))
}

pub(crate) fn removal(layers: &[&str]) -> Change {
    let removed = layers.iter().map(|layer| Removed { name: name(layer), reason: RemovalReason::Compacted });
    Change { removed: removed.collect(), ..Change::default() }
}

/// A service with a small bundle target, a client of its own, and what it told.
pub(crate) struct Process {
    pub(crate) metered: Arc<Metered<dyn ObjectStore>>,
    pub(crate) service: UploadService,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

/// Layers that have frames of their own, of this many bytes, two of which fill a bundle.
pub(crate) const LARGE: usize = 270_000;

pub(crate) fn bundles_of_two(options: &mut ServiceOptions) {
    options.pack.bundle_bytes_target = 300_000;
}

/// The store, and the directory with the layers.
pub(crate) struct Bench {
    pub(crate) simulation: Simulation,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new(simulation: &Simulation) -> Self {
        Self { simulation: simulation.clone(), dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, layer: &str) -> PathBuf {
        self.dir.path().join(layer)
    }

    /// Freezes a layer.
    pub(crate) fn layer(&self, layer: &str, bytes: &[u8]) -> LocalLayer {
        self.layer_at(layer, layer, bytes)
    }

    /// Freezes a layer in a file of another name.
    pub(crate) fn layer_at(&self, layer: &str, file: &str, bytes: &[u8]) -> LocalLayer {
        let path = self.path(file);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        LocalLayer {
            name: name(layer),
            path,
            raw_size: bytes.len() as u64,
            lsn_range: None,
            level: Level::IMAGE,
        }
    }

    /// A checkpoint of small layers.
    pub(crate) fn checkpoint(&self, layers: &[&str], lsn: u64) -> Change {
        let layer = |layer: &&str| self.layer(layer, &contents(layer.len() as u64 + lsn, 3_000));
        let layers = layers.iter().map(layer).collect();
        Change { layers, metadata: metadata(&format!("m{lsn}"), lsn), ..Change::default() }
    }

    /// What is on the disk, with this metadata.
    pub(crate) fn local(&self, layers: &[&LocalLayer], lsn: u64) -> LocalTimeline {
        let (metadata, disk_consistent_lsn) = metadata(&format!("m{lsn}"), lsn).unwrap();
        LocalTimeline {
            layers: layers.iter().copied().cloned().collect(),
            metadata: Some(metadata),
            disk_consistent_lsn,
            ..LocalTimeline::default()
        }
    }

    /// The store as it is, without faults.
    pub(crate) async fn store(&self) -> Store {
        let objects: Arc<dyn ObjectStore> = Arc::<storage_api::MemoryStore>::clone(self.simulation.objects());
        Store::open_or_create(objects, "simulated").await.unwrap().0
    }

    pub(crate) async fn view(&self) -> TimelineView {
        TimelineView::open(&self.store().await, &tenant(), &timeline(), None).await.unwrap()
    }

    /// The names of the layers in the store.
    pub(crate) async fn stored(&self) -> Vec<String> {
        self.view().await.state.layers().keys().map(ToString::to_string).collect()
    }

    /// The contents of the layers in the store, compared with `expected`.
    pub(crate) async fn assert_holds(&self, expected: &BTreeMap<String, Vec<u8>>) {
        let (store, view) = (self.store().await, self.view().await);
        let names: Vec<&str> = view.state.layers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, expected.keys().map(String::as_str).collect::<Vec<_>>());
        let reader = sync_engine::TimelineReader::new(&store, view.clone(), Default::default());
        for (layer, bytes) in expected {
            let name = name(layer);
            assert_eq!(view.state.layers()[&name].raw, RawDigest::of(bytes), "{layer}");
            let all = 0..bytes.len() as u64;
            let read = reader.read_at(&name, all).await.unwrap();
            assert!(read == *bytes, "{layer} differs");
        }
    }

    /// A service of a process of this name, with bundles of 32 KiB.
    pub(crate) async fn process(&self, program: &str) -> Process {
        self.process_with(program, |_| {}).await
    }

    pub(crate) async fn process_with(
        &self,
        program: &str,
        configure: impl FnOnce(&mut ServiceOptions),
    ) -> Process {
        // There is a store before anything goes wrong.
        self.store().await;
        let client: Arc<dyn ObjectStore> = self.simulation.client(program);
        self.process_on(client, program, configure)
    }

    /// A service on a client of the test's own.
    pub(crate) fn process_on(
        &self,
        client: Arc<dyn ObjectStore>,
        program: &str,
        configure: impl FnOnce(&mut ServiceOptions),
    ) -> Process {
        let metered = Arc::new(Metered::new(client));
        let objects: Arc<dyn ObjectStore> = Arc::<Metered<dyn ObjectStore>>::clone(&metered);
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let writer = WriterInfo { host: "test".into(), pid: 1, program: program.into() };
        let mut options = ServiceOptions::new(writer, self.simulation.clock());
        options.pack =
            PackOptions { bundle_bytes_target: 32 << 10, compressors: 1, ..PackOptions::default() };
        // What is counted and timed is not disturbed; the tests of it turn it on.
        options.gc = None;
        options.observer = Observer::new(move |_, event| told.lock().unwrap().push(event.clone()));
        configure(&mut options);
        let service = UploadService::new(objects, "simulated", CreateStore::Never, options);
        Process { metered, service, events }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        self.simulation.clock()
    }
}

impl Process {
    pub(crate) fn attach(&self) -> TimelineHandle {
        self.attach_with(None)
    }

    pub(crate) fn attach_with(&self, local: Option<LocalTimeline>) -> TimelineHandle {
        self.service.attach(&tenant(), &timeline(), Attach { generation: None, local }).unwrap()
    }

    /// A timeline that is open and claimed.
    pub(crate) async fn attach_open(&self, bench: &Bench) -> TimelineHandle {
        let handle = self.attach();
        let ticket = handle.hand_over(bench.checkpoint(&["first"], 1)).unwrap();
        handle.wait(ticket).await.unwrap();
        handle
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        self.metered.metrics().snapshot()
    }

    /// What was committed: the records' numbers and LSNs, in order.
    pub(crate) fn committed(&self) -> Vec<(u64, usize, Option<u64>)> {
        let events = self.events.lock().unwrap();
        let committed = events.iter().filter_map(|event| match event {
            Event::Committed { seq, layers, remote_consistent_lsn, .. } => {
                Some((seq.0, *layers, remote_consistent_lsn.map(|lsn| lsn.0)))
            }
            _ => None,
        });
        committed.collect()
    }
}
