//! One timeline of the churn: its pageserver, its writer, and what died when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use layer_archive::{
    Ancestor, BranchPoint, BundleId, BundleWriter, FrameCompressor, LayerEntry, LayerName, Level, LsnRange,
    PackedLayer, Place, RawDigest, RemovalReason, Removed, Seq, TimelineId, member_header, padding_len,
};
use sync_engine::gc::{GcPolicy, GcReport, KnownRecords, Repacker, Upkeep, store_time};
use sync_engine::{
    At, Draft, TakeOver, TimelineReader, TimelineView, TimelineWriter, execute_delete, find_layers,
    plan_delete,
};

use super::pageserver::{Change, Layer, Live, Pageserver, SCALE};
use crate::bench::{Bench, upkeep};
use crate::support::{contents, name, tenant, writer_options};

/// What bundles are filled to, scaled.
const TARGET: u64 = (32 << 20) / SCALE;
/// Layers that share frames, scaled.
const SHARING_BYTES: u64 = (256 << 10) / SCALE;

/// On which day bytes died, and how many.
pub(super) type Deaths = Vec<(u32, u64)>;

/// A timeline.
pub(super) struct Line {
    pub(super) id: TimelineId,
    pub(super) server: Pageserver,
    pub(super) writer: TimelineWriter,
    known: KnownRecords,
    alive: Alive,
    pub(super) deaths: Deaths,
    /// The ends of its days.
    pub(super) ends: Vec<(Seq, Live)>,
    /// What its ancestor had when it left.
    needs: Live,
    pub(super) is_deleted: bool,
}

impl Line {
    pub(super) async fn new(bench: &Bench, id: &TimelineId, server: Pageserver) -> Self {
        let view = TimelineView::open(&bench.store, &tenant(), id, None).await.unwrap();
        let mut options = writer_options("pageserver");
        options.clock = Arc::<storage_api::ManualClock>::clone(&bench.clock);
        let writer = TimelineWriter::claim(&bench.store, view, options).await.unwrap();
        Self {
            id: id.clone(),
            server,
            writer,
            known: KnownRecords::default(),
            alive: Alive::default(),
            deaths: Deaths::new(),
            ends: Vec::new(),
            needs: Live::new(),
            is_deleted: false,
        }
    }

    /// A branch of the timeline leaves it where it is.
    pub(super) async fn branch(&mut self, bench: &Bench, id: &TimelineId, seed: u64) -> Self {
        let lsn = self.server.lsn();
        let point = BranchPoint { tenant: tenant(), timeline: id.clone(), lsn };
        let draft = Draft { branch_points_added: vec![point], ..Draft::default() };
        self.writer.append(draft, BundleWriter::new()).await.unwrap();
        let mut branch = Self::new(bench, id, Pageserver::new(seed, lsn)).await;
        branch.needs = self.server.images();
        let ancestor = Some(Ancestor { timeline: self.id.clone(), lsn });
        branch.writer.append(Draft { ancestor, ..Draft::default() }, BundleWriter::new()).await.unwrap();
        branch
    }

    /// Commits what the pageserver does next, as a backup does: bundles are closed at their target, all but the last are
    /// payload objects. Returns how many layers that were.
    pub(super) async fn commit(&mut self, day: u32) -> usize {
        let last_branch = self.writer.view().state.branch_points().map(|point| point.lsn).max();
        let change = self.server.next(last_branch);
        let mut bundles: Vec<Vec<&(String, Layer)>> = vec![Vec::new()];
        let mut filled = 0;
        for layer in &change.add {
            if filled > 0 && filled + layer.1.len as u64 > TARGET {
                bundles.push(Vec::new());
                filled = 0;
            }
            filled += layer.1.len as u64;
            bundles.last_mut().unwrap().push(layer);
        }
        let last = bundles.pop().unwrap();
        let mut draft = Draft { removed: self.removed(&change), ..Draft::default() };
        for full in bundles {
            let (payload, layers) = self.writer.put_payload(bundle(&full)).await.unwrap();
            draft.payloads.push(payload);
            draft.added.extend(layers);
        }
        self.writer.append(draft, bundle(&last)).await.unwrap();
        self.writer.put_manifest_if_due().await.unwrap();
        self.note_deaths(day);
        change.add.len()
    }

    /// What was frozen and compacted in one step was never stored.
    fn removed(&self, change: &Change) -> Vec<Removed> {
        let compacted = change.compacted.iter().map(|layer| (layer, RemovalReason::Compacted));
        let collected = change.collected.iter().map(|layer| (layer, RemovalReason::Collected));
        let removed = compacted.chain(collected).map(|(layer, reason)| Removed { name: name(layer), reason });
        let layers = self.writer.view().state.layers();
        removed.filter(|removed| layers.contains_key(&removed.name)).collect()
    }

    /// The collection that its service makes once a day; of a deleted one, anybody's.
    pub(super) async fn collect(&mut self, bench: &Bench, policy: &GcPolicy, day: u32) -> GcReport {
        let store = &bench.store;
        if self.is_deleted {
            let (now, tenant) = (store_time(store).await.unwrap(), tenant());
            let id = (&tenant, &self.id);
            let known = &mut self.known;
            let begun = Upkeep::begin(store, id, policy, TARGET, Repacker::Nobody, now, known).await;
            return begun.unwrap().report().clone();
        }
        let report = upkeep(store, &mut self.writer, policy, TARGET, &mut self.known).await;
        self.note_deaths(day);
        report
    }

    fn note_deaths(&mut self, day: u32) {
        self.alive.update(&self.writer, day, &mut self.deaths);
    }

    /// It is detached and deleted. The ancestor is held, and is not told.
    pub(super) async fn delete(&mut self, bench: &Bench, day: u32) {
        self.writer.append(Draft { released: true, ..Draft::default() }, BundleWriter::new()).await.unwrap();
        let view = TimelineView::open(&bench.store, &tenant(), &self.id, None).await.unwrap();
        let plan = plan_delete(&bench.store, view).await.unwrap();
        let mut options = writer_options("delete");
        options.clock = Arc::<storage_api::ManualClock>::clone(&bench.clock);
        let deletion = execute_delete(&bench.store, plan, TakeOver::No, options).await.unwrap();
        assert!(deletion.branch_point_left.is_some());
        self.alive.end(day, &mut self.deaths);
        self.is_deleted = true;
    }

    /// Bytes of live layers.
    pub(super) fn live_bytes(&self) -> u64 {
        if self.is_deleted {
            return 0;
        }
        self.writer.view().state.bundles().iter().map(|bundle| bundle.live_bytes).sum()
    }

    /// The state after record `seq` is there, and is what it was.
    pub(super) async fn check_point(&self, bench: &Bench, seq: Seq, live: &Live) {
        let (store, tenant) = (&bench.store, tenant());
        let view = TimelineView::open_at(store, (&tenant, &self.id), At::Seq(seq), None).await.unwrap();
        let there: BTreeSet<String> = view.state.layers().keys().map(ToString::to_string).collect();
        assert!(there.iter().eq(live.keys()), "the layers of {} at record {seq}", self.id);
        let reader = TimelineReader::new(store, view, Arc::default());
        for (layer, Layer { seed, len, lsn: _ }) in live {
            let read = reader.read_at(&name(layer), 0..u64::MAX).await.unwrap();
            assert!(read == contents(*seed, *len), "{layer} of {} at record {seq}", self.id);
        }
    }

    /// A branch finds what its ancestor had when it left.
    pub(super) async fn check_needs(&self, bench: &Bench) {
        if self.is_deleted || self.needs.is_empty() {
            return;
        }
        let view = TimelineView::open(&bench.store, &tenant(), &self.id, None).await.unwrap();
        let names: BTreeSet<LayerName> = self.needs.keys().map(|layer| name(layer)).collect();
        let found = find_layers(&bench.store, view, &names).await.unwrap();
        assert_eq!(found.len(), 1);
        let (ancestor, there) = &found[0];
        assert_eq!(there, &names);
        let reader = TimelineReader::new(&bench.store, ancestor.clone(), Arc::default());
        for (layer, Layer { seed, len, lsn: _ }) in &self.needs {
            let read = reader.read_at(&name(layer), 0..u64::MAX).await.unwrap();
            assert!(read == contents(*seed, *len), "{layer}, which {} needs", self.id);
        }
    }
}

/// A bundle of these layers: those that are small in the field share a frame, the others have one each.
fn bundle(layers: &[&(String, Layer)]) -> BundleWriter {
    let (small, large): (Vec<_>, Vec<_>) =
        layers.iter().copied().partition(|(_, layer)| layer.len as u64 <= SHARING_BYTES);
    let mut frames: Vec<Vec<_>> = large.into_iter().map(|layer| vec![layer]).collect();
    frames.extend((!small.is_empty()).then_some(small));
    let mut compressor = FrameCompressor::new().unwrap();
    let mut bundle = BundleWriter::new();
    for layers in frames {
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        for (layer, Layer { seed, len, lsn }) in layers {
            let (name, bytes) = (name(layer), contents(*seed, *len));
            plain.extend(member_header(&name, bytes.len() as u64).unwrap());
            plain.extend(&bytes);
            plain.resize(plain.len() + padding_len(bytes.len() as u64), 0);
            packed.push(PackedLayer { name, lsn_range: LsnRange::at(*lsn), raw: RawDigest::of(&bytes) });
        }
        bundle.push_frame(&compressor.compress(&plain, Level::DELTA).unwrap()).unwrap();
        for layer in packed {
            bundle.push_layer(layer).unwrap();
        }
    }
    bundle
}

/// What is live: layers by name and place, and what their bundles have besides, indexes and headers.
#[derive(Default)]
struct Alive {
    layers: BTreeMap<(LayerName, Place), u64>,
    beside: BTreeMap<BundleId, u64>,
}

impl Alive {
    /// Looks at the state, and notes what has died since the last time.
    fn update(&mut self, writer: &TimelineWriter, day: u32, deaths: &mut Deaths) {
        let state = &writer.view().state;
        let bytes = |layer: &LayerEntry| ((layer.name.clone(), layer.place), layer.stored_bytes);
        let layers: BTreeMap<_, _> = state.layers().values().map(bytes).collect();
        let dead = self.layers.iter().filter(|(at, _)| !layers.contains_key(at));
        deaths.extend(dead.map(|(_, bytes)| (day, *bytes)));
        let live: BTreeSet<BundleId> = layers.keys().map(|(_, place)| place.bundle).collect();
        for id in &live {
            // Of a new bundle all layers are live.
            let bundle = state.bundle(*id).unwrap();
            self.beside.entry(*id).or_insert(bundle.stored_bytes - bundle.live_bytes);
        }
        deaths.extend(self.beside.extract_if(.., |id, _| !live.contains(id)).map(|(_, bytes)| (day, bytes)));
        self.layers = layers;
    }

    /// All of it dies.
    fn end(&mut self, day: u32, deaths: &mut Deaths) {
        let Self { layers, beside } = std::mem::take(self);
        deaths.extend(layers.into_values().chain(beside.into_values()).map(|bytes| (day, bytes)));
    }
}
