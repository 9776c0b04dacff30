//! Thirty days of a pageserver's churn on virtual time: how much space and traffic packing costs in the long run.
//!
//! Sizes and their spread are those of a fleet of 31,106 timelines in 2023 (layer bytes: p1 36,879, p50 61,471, p90
//! 44.7 MB, p99 201 MB), scaled down together with the bounds of the policy: a layer is frozen every ten minutes or more,
//! twenty deltas are compacted into images, which replace what they cover, and a part of the old images is collected.
//! `LAYERPACK_CHURN=full` runs all thirty days of two timelines, one of which checkpoints every ten minutes; without it
//! sixteen days of one that does every two hours.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::{
    BundleId, BundleWriter, FrameCompressor, LayerName, Level, PackedLayer, Place, RawDigest, Seq,
    member_header, padding_len,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use storage_api::RequestCounts;
use sync_engine::gc::{GcPolicy, KnownRecords};
use sync_engine::{Draft, TimelineWriter};

use crate::bench::{Bench, DAY, contents as read, removed, state_at, upkeep};
use crate::support::contents;

/// By how much layers and bundles are smaller than in the field.
const SCALE: u64 = 512;
/// What bundles are filled to, scaled.
const TARGET: u64 = (32 << 20) / SCALE;
/// Layers that share frames, scaled.
const SHARING_BYTES: u64 = (256 << 10) / SCALE;
/// Days that the past is kept.
const RETENTION_DAYS: u32 = 7;

/// How long it runs and how often layers are frozen.
#[derive(Clone, Copy, Debug)]
struct Pace {
    days: u32,
    checkpoints_a_day: u32,
    seed: u64,
}

/// Requests by their price: in dollars a million, PUT and LIST 5, GET and HEAD 0.4, as S3 asks in us-east-1.
#[derive(Clone, Copy, Debug, Default)]
struct Bill {
    puts: u64,
    gets: u64,
}

impl Bill {
    fn dollars(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let (puts, gets) = (self.puts as f64, self.gets as f64);
        puts * 5e-6 + gets * 0.4e-6
    }
}

/// A layer size of the fleet, by its percentiles and straight lines between their logarithms, scaled.
fn layer_bytes(random: &mut SmallRng) -> usize {
    const POINTS: [(f64, f64); 5] =
        [(0.0, 8192.0), (0.01, 36_879.0), (0.5, 61_471.0), (0.9, 44.7e6), (1.0, 275e6)];
    let at: f64 = random.random();
    let after = POINTS.iter().position(|(p, _)| *p > at).unwrap_or(POINTS.len() - 1);
    let ((p0, b0), (p1, b1)) = (POINTS[after - 1], POINTS[after]);
    let bytes = (b0.ln() + (b1.ln() - b0.ln()) * (at - p0) / (p1 - p0)).exp();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 8 KiB and 275 MB")]
    let bytes = bytes as usize;
    (bytes / usize::try_from(SCALE).unwrap()).max(64)
}

/// Seeds and lengths of live layers.
type Live = BTreeMap<String, (u64, usize)>;

/// What is on the disk of the pageserver, and what it will do next.
struct Pageserver {
    random: SmallRng,
    serial: u64,
    deltas: Vec<String>,
    images: Vec<String>,
    live: Live,
}

/// One commit: layers with their seeds and lengths, and names.
#[derive(Default)]
struct Change {
    add: Vec<(String, u64, usize)>,
    remove: Vec<String>,
}

impl Pageserver {
    fn freeze(&mut self, kind: &str) -> (String, u64, usize) {
        self.serial += 1;
        let layer = (format!("{kind}-{:06}", self.serial), self.serial, layer_bytes(&mut self.random));
        self.live.insert(layer.0.clone(), (layer.1, layer.2));
        layer
    }

    /// A checkpoint; now and then a compaction, and a collection.
    fn next(&mut self) -> Change {
        let mut change = Change::default();
        for _ in 0..self.random.random_range(1..4) {
            let layer = self.freeze("delta");
            self.deltas.push(layer.0.clone());
            change.add.push(layer);
        }
        if self.deltas.len() >= 20 {
            change.remove.append(&mut self.deltas);
            for _ in 0..self.random.random_range(4..8) {
                let layer = self.freeze("image");
                self.images.push(layer.0.clone());
                change.add.push(layer);
            }
        }
        // The branch's horizon moves on: of old images some are covered by newer ones.
        while self.images.len() > 60 {
            let old = self.random.random_range(0..30);
            change.remove.push(self.images.remove(old));
        }
        for gone in &change.remove {
            self.live.remove(gone);
        }
        // What is compacted away before it was ever stored is not stored.
        change.add.retain(|(layer, ..)| self.live.contains_key(layer));
        change
    }
}

/// On which day bytes died, and how many.
type Deaths = Vec<(u32, u64)>;

/// What a run has cost.
#[derive(Debug, Default)]
struct Figures {
    worst_space: f64,
    uploaded: u64,
    uploaded_without: u64,
    ours: Bill,
    one_object_a_layer: Bill,
    repacked_layers: usize,
    deleted: usize,
    points_checked: usize,
}

/// A bundle of these layers: those that are small in the field share a frame, the others have one each.
fn bundle(layers: &[&(String, u64, usize)]) -> BundleWriter {
    let (small, large): (Vec<_>, Vec<_>) =
        layers.iter().copied().partition(|(_, _, len)| *len as u64 <= SHARING_BYTES);
    let mut frames: Vec<Vec<_>> = large.into_iter().map(|layer| vec![layer]).collect();
    frames.extend((!small.is_empty()).then_some(small));
    let mut compressor = FrameCompressor::new().unwrap();
    let mut bundle = BundleWriter::new();
    for layers in frames {
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        for (layer, seed, len) in layers {
            let (name, bytes) = (LayerName::new(layer.as_str()).unwrap(), contents(*seed, *len));
            plain.extend(member_header(&name, bytes.len() as u64).unwrap());
            plain.extend(&bytes);
            plain.resize(plain.len() + padding_len(bytes.len() as u64), 0);
            packed.push(PackedLayer { name, lsn_range: None, raw: RawDigest::of(&bytes) });
        }
        bundle.push_frame(&compressor.compress(&plain, Level::DELTA).unwrap()).unwrap();
        for layer in packed {
            bundle.push_layer(layer).unwrap();
        }
    }
    bundle
}

/// Commits as a backup does: bundles are closed at their target, all but the last are payload objects.
async fn commit(writer: &mut TimelineWriter, change: &Change) {
    let mut bundles: Vec<Vec<&(String, u64, usize)>> = vec![Vec::new()];
    let mut filled = 0;
    for layer in &change.add {
        if filled > 0 && filled + layer.2 as u64 > TARGET {
            bundles.push(Vec::new());
            filled = 0;
        }
        filled += layer.2 as u64;
        bundles.last_mut().unwrap().push(layer);
    }
    let last = bundles.pop().unwrap();
    // What was frozen and compacted in one step was never stored.
    let stored =
        |layer: &&String| writer.view().state.layers().contains_key(&LayerName::new(layer.as_str()).unwrap());
    let remove: Vec<&str> = change.remove.iter().filter(stored).map(String::as_str).collect();
    let mut draft = Draft { removed: removed(&remove), ..Draft::default() };
    for full in bundles {
        let (payload, layers) = writer.put_payload(bundle(&full)).await.unwrap();
        draft.payloads.push(payload);
        draft.added.extend(layers);
    }
    writer.append(draft, bundle(&last)).await.unwrap();
    writer.put_manifest_if_due().await.unwrap();
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
        let layers = state.layers().values();
        let layers: BTreeMap<_, _> =
            layers.map(|layer| ((layer.name.clone(), layer.place), layer.stored_bytes)).collect();
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
}

async fn run(pace: Pace) -> Figures {
    let bench = Bench::new().await;
    let mut writer = bench.writer("pageserver").await;
    let policy = GcPolicy {
        retention: DAY * RETENTION_DAYS,
        small_bundle_bytes: (1 << 20) / SCALE,
        ..GcPolicy::default()
    };
    let mut server = Pageserver {
        random: SmallRng::seed_from_u64(pace.seed),
        serial: pace.seed << 32,
        deltas: Vec::new(),
        images: Vec::new(),
        live: BTreeMap::new(),
    };
    let mut alive = Alive::default();
    let (mut figures, mut deaths, mut known) = (Figures::default(), Deaths::new(), KnownRecords::default());
    let mut ends: Vec<(Seq, Live)> = Vec::new();
    let step = DAY / pace.checkpoints_a_day;
    for day in 0..pace.days {
        for _ in 0..pace.checkpoints_a_day {
            let change = server.next();
            let counts = bench.counts();
            commit(&mut writer, &change).await;
            figures.uploaded_without += figures.count(&counts, &bench);
            alive.update(&writer, day, &mut deaths);
            // Each layer a PUT, and the index again with every checkpoint; each removed layer a DELETE, which is free.
            figures.one_object_a_layer.puts += change.add.len() as u64 + 1;
            bench.clock.advance(step);
        }
        let counts = bench.counts();
        let report = upkeep(&bench.store, &mut writer, &policy, TARGET, &mut known).await;
        assert!(report.damage.is_empty() && report.repacked.findings.is_empty(), "{report:?}");
        figures.count(&counts, &bench);
        figures.repacked_layers += report.repacked.layers;
        figures.deleted += report.collected.objects;
        alive.update(&writer, day, &mut deaths);
        figures.end_day(&bench, &writer, day, &deaths).await;
        ends.push((writer.view().state.seq(), server.live.clone()));
        figures.check_points(&bench, &ends).await;
    }
    figures
}

impl Figures {
    /// Counts the requests since `before`, which the checks between are not among. Returns the bytes that were sent.
    fn count(&mut self, before: &RequestCounts, bench: &Bench) -> u64 {
        let now = bench.counts();
        self.ours.puts += now.put + now.list + now.multipart - before.put - before.list - before.multipart;
        self.ours.gets += now.get + now.head - before.get - before.head;
        self.uploaded += now.bytes_sent - before.bytes_sent;
        now.bytes_sent - before.bytes_sent
    }

    async fn end_day(&mut self, bench: &Bench, writer: &TimelineWriter, day: u32, deaths: &Deaths) {
        let stored = bench.stored_bytes().await;
        let bundles = writer.view().state.bundles();
        let live: u64 = bundles.iter().map(|bundle| bundle.live_bytes).sum();
        let held: u64 =
            deaths.iter().filter(|(died, _)| died + RETENTION_DAYS > day).map(|(_, bytes)| bytes).sum();
        #[expect(clippy::cast_precision_loss, reason = "two digits are compared")]
        let space = stored.saturating_sub(held) as f64 / live as f64;
        self.worst_space = self.worst_space.max(space);
        assert!(
            space <= 1.5,
            "day {day}: {stored} stored, {held} dead inside retention, {live} live: {space:.2}"
        );
    }

    /// Every end of a day that is inside retention can be read, and is what it was: the oldest and two others a day.
    async fn check_points(&mut self, bench: &Bench, ends: &[(Seq, Live)]) {
        let inside = &ends[ends.len().saturating_sub(RETENTION_DAYS as usize)..];
        let chosen = [0, inside.len() / 2, inside.len() - 1];
        for (seq, live) in chosen.into_iter().map(|index| &inside[index]) {
            let state = state_at(&bench.store, *seq).await;
            let there = read(&bench.store, &state).await;
            assert!(there.keys().eq(live.keys()), "the layers of record {seq}");
            for (layer, (seed, len)) in live {
                assert!(there[layer] == contents(*seed, *len), "{layer} at record {seq}");
            }
            self.points_checked += 1;
        }
    }
}

async fn prove(pace: Pace) -> String {
    let figures = run(pace).await;
    #[expect(clippy::cast_precision_loss, reason = "two digits are compared")]
    let uploads = figures.uploaded as f64 / figures.uploaded_without as f64;
    assert!(uploads <= 1.3, "{uploads}");
    assert!(figures.ours.dollars() < figures.one_object_a_layer.dollars(), "{figures:?}");
    assert!(figures.repacked_layers > 0 && figures.deleted > 0, "{figures:?}");
    let Figures { worst_space, ours, one_object_a_layer, repacked_layers, deleted, points_checked, .. } =
        &figures;
    format!(
        "{pace:?}: stored but for what retention holds, at most {worst_space:.2} of live; {uploads:.2} times the bytes \
         uploaded; {ours:?}, {:.4} dollars; one object a layer {one_object_a_layer:?}, {:.4} dollars; {repacked_layers} \
         layers repacked, {deleted} objects deleted, {points_checked} points read back",
        ours.dollars(),
        one_object_a_layer.dollars()
    )
}

#[tokio::test]
async fn a_month_of_churn_stays_within_its_space_and_its_traffic() {
    let is_full = std::env::var_os("LAYERPACK_CHURN").is_some_and(|full| full == "full");
    let paces = match is_full {
        true => vec![
            Pace { days: 30, checkpoints_a_day: 48, seed: 1 },
            Pace { days: 30, checkpoints_a_day: 144, seed: 2 },
        ],
        false => vec![Pace { days: 16, checkpoints_a_day: 12, seed: 1 }],
    };
    for pace in paces {
        println!("{}", prove(pace).await);
    }
}
