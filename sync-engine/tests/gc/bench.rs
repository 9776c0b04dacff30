//! A timeline in a store whose clock the test moves, its layers made in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use layer_archive::{BundleId, BundleIndex, BundleWriter, Manifest, RawDigest, RemovalReason, Removed, Seq};
use storage_api::{
    Clock, GetRange, Key, KeyPrefix, ManualClock, MemoryStore, ObjectInfo, ObjectStore, ObjectStoreExt,
    RequestCounts,
};
use sync_engine::gc::{
    GcOptions, GcPlan, GcPolicy, GcReport, KnownRecords, Repacker, Survey, Upkeep, execute_gc, plan_gc,
    store_time, survey_timeline,
};
use sync_engine::{
    Draft, Error, Store, TakeOver, TimelineListing, TimelineReader, TimelineState, TimelineView,
    TimelineWriter, VerifyDepth, verify_timeline,
};

use crate::support::{TestStore, name, noon, open, pack, tenant, timeline, writer_options};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const TARGET: u64 = 32 << 20;

/// Names and contents.
pub(crate) type Layers = BTreeMap<String, Vec<u8>>;

pub(crate) struct Bench {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) test: TestStore,
    pub(crate) store: Store,
    pub(crate) layers: Layers,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(noon()));
        let memory = MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock));
        Self::over(clock, Arc::new(memory)).await
    }

    pub(crate) async fn over(clock: Arc<ManualClock>, objects: Arc<dyn ObjectStore>) -> Self {
        let test = TestStore::over(Arc::clone(&objects));
        let store = test.create().await;
        Self { clock, objects, test, store, layers: Layers::new() }
    }

    /// The same objects seen through another store.
    pub(crate) async fn through(&self, objects: Arc<dyn ObjectStore>) -> Result<Store, Error> {
        Store::open(objects, "through").await
    }

    pub(crate) async fn writer(&self, program: &str) -> TimelineWriter {
        let mut options = writer_options(program);
        options.clock = Arc::<ManualClock>::clone(&self.clock);
        TimelineWriter::claim(&self.store, open(&self.store).await, options).await.unwrap()
    }

    /// Appends a record with new layers, and without others.
    pub(crate) async fn commit(
        &mut self,
        writer: &mut TimelineWriter,
        add: &[(&str, &[u8])],
        remove: &[&str],
    ) {
        append(writer, add, remove).await.unwrap();
        for gone in remove {
            self.layers.remove(*gone).unwrap();
        }
        self.layers.extend(add.iter().map(|(layer, bytes)| ((*layer).to_owned(), bytes.to_vec())));
    }

    /// Says that nobody writes, and writes a manifest if one is due.
    pub(crate) async fn release(&self, mut writer: TimelineWriter) {
        writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
        writer.detach().await.unwrap();
    }

    pub(crate) async fn survey(&self, policy: &GcPolicy) -> Survey {
        self.survey_of(&self.store, policy).await.unwrap()
    }

    pub(crate) async fn survey_of(&self, store: &Store, policy: &GcPolicy) -> Result<Survey, Error> {
        let now = match policy.retention.is_zero() {
            true => None,
            false => store_time(store).await?,
        };
        survey_timeline(store, (&tenant(), &timeline()), None, policy, now, KnownRecords::default()).await
    }

    pub(crate) async fn plan(&self, policy: &GcPolicy) -> GcPlan {
        plan_gc(&self.survey(policy).await, policy, TARGET)
    }

    pub(crate) async fn gc(&self, policy: &GcPolicy, take_over: TakeOver) -> GcReport {
        self.gc_of(&self.store, policy, take_over).await.unwrap()
    }

    pub(crate) async fn gc_of(
        &self,
        store: &Store,
        policy: &GcPolicy,
        take_over: TakeOver,
    ) -> Result<GcReport, Error> {
        let survey = self.survey_of(store, policy).await?;
        let plan = plan_gc(&survey, policy, TARGET);
        let mut writer = writer_options("gc");
        writer.clock = Arc::<ManualClock>::clone(&self.clock);
        let options = GcOptions { policy: *policy, bundle_bytes_target: TARGET, writer, take_over };
        execute_gc(store, survey, plan, &options).await
    }

    /// Every layer is there and is what it should be, and nothing is damaged.
    pub(crate) async fn assert_whole(&self) {
        let view = open(&self.store).await;
        assert_eq!(contents(&self.store, &view.state).await, self.layers);
        let report = verify_timeline(&self.store, &view, VerifyDepth::Deep).await.unwrap();
        assert_eq!(report.findings, []);
    }

    pub(crate) async fn listing(&self) -> TimelineListing {
        TimelineListing::read_whole(&*self.objects, &open(&self.store).await.keys).await.unwrap()
    }

    pub(crate) async fn objects(&self) -> Vec<ObjectInfo> {
        self.objects.list_all(&KeyPrefix::root()).await.unwrap()
    }

    pub(crate) async fn stored_bytes(&self) -> u64 {
        self.listing().await.stored_bytes()
    }

    pub(crate) fn counts(&self) -> RequestCounts {
        self.test.counts()
    }

    pub(crate) async fn delete(&self, key: Key) {
        self.objects.delete(&[key]).await.unwrap();
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }
}

/// Appends a record with new layers, and without others.
pub(crate) async fn append(
    writer: &mut TimelineWriter,
    add: &[(&str, &[u8])],
    remove: &[&str],
) -> Result<Seq, Error> {
    let layers = add.iter().map(|(layer, bytes)| ((*layer).to_owned(), RawDigest::of(bytes), bytes.to_vec()));
    let bundle = if add.is_empty() { BundleWriter::new() } else { pack(layers) };
    writer.append(Draft { removed: removed(remove), ..Draft::default() }, bundle).await?;
    Ok(writer.view().state.seq())
}

pub(crate) fn removed(layers: &[&str]) -> Vec<Removed> {
    let removed = |layer: &&str| Removed { name: name(layer), reason: RemovalReason::Compacted };
    layers.iter().map(removed).collect()
}

/// Stores a payload object with these layers, which no record names yet.
pub(crate) async fn put_payload(
    writer: &mut TimelineWriter,
    add: &[(&str, &[u8])],
) -> (layer_archive::PayloadRef, Vec<layer_archive::LayerEntry>) {
    let layers = add.iter().map(|(layer, bytes)| ((*layer).to_owned(), RawDigest::of(bytes), bytes.to_vec()));
    writer.put_payload(pack(layers)).await.unwrap()
}

/// What the layers of a state hold.
pub(crate) async fn contents(store: &Store, state: &TimelineState) -> Layers {
    // The state may be an older one.
    let view = TimelineView { state: state.clone(), ..open(store).await };
    let reader = TimelineReader::new(store, view, Default::default());
    let mut all = Layers::new();
    for layer in state.layers().keys() {
        let bytes = reader.read_at(layer, 0..u64::MAX).await.unwrap();
        all.insert(layer.to_string(), bytes.to_vec());
    }
    all
}

/// The state after record `seq`, from the newest manifest that is not newer, and the log.
pub(crate) async fn state_at(store: &Store, seq: Seq) -> TimelineState {
    let view = open(store).await;
    let objects = &**store.objects();
    let listing = TimelineListing::read_whole(objects, &view.keys).await.unwrap();
    let mut state = TimelineState::empty(tenant(), timeline());
    if let Some((_, info)) = listing.manifests.range(..=seq).next_back() {
        let (_, bytes) = objects.get_bytes(&info.key, GetRange::Full, info.size).await.unwrap();
        state = TimelineState::from_manifest(Manifest::decode(&bytes).unwrap()).unwrap();
    }
    while state.seq() < seq {
        let key = view.keys.bundle(BundleId::Record(state.seq().next())).unwrap();
        let (_, bytes) = objects.get_bytes(&key, GetRange::Full, u64::MAX).await.unwrap();
        state.apply(&BundleIndex::parse_object(&bytes).unwrap()).unwrap();
    }
    state
}

pub(crate) fn live_ratio(view: &TimelineView) -> f64 {
    let bundles = view.state.bundles();
    let sum = |bytes: fn(&layer_archive::BundleEntry) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "two digits are compared")]
        let sum = bundles.iter().map(bytes).sum::<u64>() as f64;
        sum
    };
    sum(|bundle| bundle.live_bytes) / sum(|bundle| bundle.stored_bytes)
}

/// A collection beside a writer that has nothing else to do meanwhile.
pub(crate) async fn upkeep(
    store: &Store,
    writer: &mut TimelineWriter,
    policy: &GcPolicy,
    bundle_bytes_target: u64,
    known: &mut KnownRecords,
) -> GcReport {
    let now = store_time(store).await.unwrap();
    let (id, repacker) = ((tenant(), timeline()), Repacker::ThisWriter);
    let begun = Upkeep::begin(store, (&id.0, &id.1), policy, bundle_bytes_target, repacker, now, known).await;
    let mut upkeep = begun.unwrap();
    while !upkeep.is_done() {
        upkeep.step(store, writer).await.unwrap();
    }
    upkeep.report().clone()
}

/// A policy that keeps nothing but the newest.
pub(crate) const NONE: GcPolicy = GcPolicy {
    retention: Duration::ZERO,
    live_percent_min: 50,
    small_bundle_bytes: 1 << 20,
    small_bundles_min: 16,
    checkpoint_bytes_min: 4 << 10,
    repack_bytes_max: u64::MAX,
    requests_max: usize::MAX,
};

/// A policy that keeps the past for so long.
pub(crate) fn keeping(retention: Duration) -> GcPolicy {
    GcPolicy { retention, ..GcPolicy::default() }
}
