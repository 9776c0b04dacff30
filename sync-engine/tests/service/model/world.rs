//! The plain map, the processes that work on the store, and their comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use layer_archive::{Generation, LayerName, Lsn, RawDigest, RemovalReason, Removed};
use storage_api::simulated::{Moment, Random, SimulatedClient, Simulation};
use sync_engine::gc::GcPolicy;
use sync_engine::service::{Attach, BackgroundGc, Change, Phase, Reconciliation, Ticket, TimelineHandle};
use sync_engine::{Error, LocalLayer, LocalTimeline, TimelineState};

use super::program::{After, Metadata, Step};
use crate::support::{Bench, MINUTE, SECOND, contents, metadata, name, tenant, timeline};

/// A layer as the pageserver has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    file: LocalLayer,
    raw: RawDigest,
    bytes: Vec<u8>,
}

/// The timeline as of a change.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    layers: BTreeMap<LayerName, Layer>,
    /// Its metadata, and the LSN.
    metadata: Option<(Vec<u8>, u64)>,
}

/// A change, and who has it.
struct HandedOver {
    to: usize,
    ticket: Ticket,
    added: BTreeMap<LayerName, RawDigest>,
    removed: Vec<LayerName>,
}

/// A process that was started, dead or alive.
struct Process {
    client: Arc<SimulatedClient>,
    handle: TimelineHandle,
    /// Keeps the service.
    _process: crate::support::Process,
}

pub(super) struct World {
    bench: Bench,
    random: Random,
    processes: Vec<Process>,
    /// As of each change; the first is as of none.
    snapshots: Vec<Snapshot>,
    changes: Vec<HandedOver>,
    /// How many changes are known to be acknowledged.
    acknowledged: usize,
    /// Layers that were removed, in vain if the process was lost before that was stored.
    removed_ever: BTreeSet<LayerName>,
    lost_files: BTreeSet<LayerName>,
    is_calm: bool,
    files_made: u64,
    told: Vec<String>,
}

fn program_name(number: usize) -> String {
    format!("process-{number}")
}

impl World {
    pub(super) async fn new(simulation: &Simulation) -> Self {
        simulation.set_latency(Duration::from_millis(1)..Duration::from_millis(80));
        let mut world = Self {
            bench: Bench::new(simulation),
            random: simulation.random("choices"),
            processes: Vec::new(),
            snapshots: vec![Snapshot::default()],
            changes: Vec::new(),
            acknowledged: 0,
            removed_ever: BTreeSet::new(),
            lost_files: BTreeSet::new(),
            is_calm: true,
            files_made: 0,
            told: Vec::new(),
        };
        world.start().await;
        world
    }

    /// Notes what is done, for whoever reads a failure.
    pub(super) fn told(&mut self, what: String) {
        self.told.push(what);
    }

    fn newest(&self) -> &Snapshot {
        self.snapshots.last().unwrap()
    }

    fn handle(&self) -> &TimelineHandle {
        &self.processes.last().unwrap().handle
    }

    /// A new process, which finds the directory as it is. What the one before had queued is lost with it.
    async fn start(&mut self) {
        // Of a directory that cannot be read whole the metadata is not taken.
        self.find_files();
        let program = program_name(self.processes.len());
        self.bench.store().await;
        let client = self.bench.simulation.client(&program);
        let objects = Arc::<SimulatedClient>::clone(&client);
        let linger = if self.processes.len().is_multiple_of(2) { SECOND / 50 } else { SECOND };
        // Some collect all the time, some now and then, some never.
        let every = *self.random.pick(&[None, Some(5 * SECOND), Some(20 * SECOND)]).unwrap();
        let process = self.bench.process_on(objects, &program, |options| {
            options.pack.bundle_bytes_target = 60_000;
            options.linger = linger;
            let policy = GcPolicy { small_bundles_min: 2, checkpoint_bytes_min: 0, ..GcPolicy::default() };
            let policy = GcPolicy { retention: Duration::ZERO, ..policy };
            options.gc = every.map(|every| BackgroundGc { policy, every });
        });
        // Without generations whoever claims last is right, and that may be a process that began before this one and
        // opens after it: with what was handed over to it long ago.
        let generation = Some(Generation(u32::try_from(self.processes.len()).unwrap() + 1));
        let attach = Attach { generation, local: Some(self.local()) };
        let handle = process.service.attach(&tenant(), &timeline(), attach).unwrap();
        self.processes.push(Process { client, handle, _process: process });
    }

    /// What is on the disk.
    fn local(&self) -> LocalTimeline {
        let newest = self.newest();
        let metadata = newest.metadata.as_ref().and_then(|(text, lsn)| {
            let (metadata, _) = metadata(std::str::from_utf8(text).unwrap(), *lsn)?;
            Some(metadata)
        });
        LocalTimeline {
            layers: newest.layers.values().map(|layer| layer.file.clone()).collect(),
            disk_consistent_lsn: newest.metadata.as_ref().map(|(_, lsn)| Lsn(*lsn)),
            metadata,
            ..LocalTimeline::default()
        }
    }

    pub(super) async fn step(&mut self, step: &Step) {
        match step {
            Step::Change { layers, removals, metadata } => self.change(layers, *removals, *metadata),
            Step::TakeNameAgain { len } => self.take_name_again(*len),
            Step::LoseFile => {
                let there: Vec<LayerName> = self.newest().layers.keys().cloned().collect();
                if let Some(lost) = self.random.pick(&there).cloned()
                    && self.lost_files.insert(lost.clone())
                {
                    std::fs::remove_file(&self.newest().layers[&lost].file.path).unwrap();
                }
            }
            Step::FindFiles => self.find_files(),
            Step::Sleep(duration) => self.bench.clock().sleep(*duration).await,
            Step::Flush => {
                let stored = self.flush().await;
                let must_be = self.is_calm && self.lost_files.is_empty();
                assert!(stored || !must_be, "{:#?}\n{:#?}", self.told, self.handle().status());
            }
            Step::Read(which) => self.read(*which).await,
            Step::Restart => {
                let handle = self.handle().clone();
                let report = handle.detach(MINUTE).await;
                if report.is_complete() {
                    assert!(self.changes.iter().all(|change| {
                        change.to + 1 != self.processes.len() || handle.is_settled(change.ticket)
                    }));
                }
                self.start().await;
            }
            Step::Crash { requests, after_effect } => {
                Self::kill(self.processes.last().unwrap(), *requests, *after_effect);
                self.start().await;
            }
            Step::SecondWriter => self.start().await,
            Step::Fault(kind, chance) => {
                self.bench.simulation.add_rule(kind.rule(*chance));
                self.is_calm = false;
            }
            Step::Calm => {
                self.bench.simulation.clear_rules();
                self.is_calm = true;
            }
        }
        self.decide_conflicts();
    }

    /// Waits until all is stored, and decides conflicts meanwhile. Returns whether it came to an end: what was fenced has.
    async fn flush(&mut self) -> bool {
        let handle = self.handle().clone();
        for _ in 0..20 {
            self.decide_conflicts();
            if tokio::time::timeout(MINUTE, handle.flush()).await.is_ok() {
                return true;
            }
        }
        false
    }

    fn change(&mut self, layers: &[usize], removals: u64, metadata: Metadata) {
        let mut next = self.newest().clone();
        let mut removed = Vec::new();
        for _ in 0..removals {
            let there: Vec<LayerName> = next.layers.keys().cloned().collect();
            let Some(gone) = self.random.pick(&there).cloned() else { continue };
            next.layers.remove(&gone);
            removed.push(gone);
        }
        let mut added = Vec::new();
        for len in layers {
            let layer = self.freeze(None, *len);
            next.layers.insert(layer.file.name.clone(), layer.clone());
            added.push(layer);
        }
        let lsn = next.metadata.as_ref().map_or(0, |(_, lsn)| *lsn);
        let lsn = if metadata == Metadata::SameLsn { lsn.max(1) } else { lsn + 8 };
        if metadata != Metadata::None {
            next.metadata = Some((format!("m{}", self.snapshots.len()).into_bytes(), lsn));
        }
        self.hand_over(next, added, removed, metadata != Metadata::None);
    }

    fn take_name_again(&mut self, len: usize) {
        let free: Vec<LayerName> = self
            .removed_ever
            .iter()
            .filter(|name| !self.newest().layers.contains_key(*name))
            .cloned()
            .collect();
        let Some(again) = self.random.pick(&free).cloned() else { return };
        let mut next = self.newest().clone();
        let layer = self.freeze(Some(again.clone()), len);
        next.layers.insert(again, layer.clone());
        self.hand_over(next, vec![layer], Vec::new(), false);
    }

    /// A new layer in a file of its own.
    fn freeze(&mut self, taken: Option<LayerName>, len: usize) -> Layer {
        self.files_made += 1;
        let layer = taken.unwrap_or_else(|| name(&format!("layer-{:03}", self.files_made)));
        // Some are equal.
        let seed = if self.random.chance(0.2) { 7 } else { self.files_made };
        let bytes = contents(seed, len);
        let file = self.bench.layer_at(layer.as_str(), &format!("file-{:03}", self.files_made), &bytes);
        Layer { file, raw: RawDigest::of(&bytes), bytes }
    }

    fn hand_over(&mut self, next: Snapshot, added: Vec<Layer>, removed: Vec<LayerName>, says_metadata: bool) {
        let changed = next.metadata.as_ref().filter(|_| says_metadata);
        let change = Change {
            layers: added.iter().map(|layer| layer.file.clone()).collect(),
            removed: removed
                .iter()
                .map(|name| Removed { name: name.clone(), reason: RemovalReason::Compacted })
                .collect(),
            metadata: changed.and_then(|(text, lsn)| metadata(std::str::from_utf8(text).unwrap(), *lsn)),
            ancestor: None,
        };
        // One that has been fenced takes nothing: its pageserver has stopped.
        let Ok(ticket) = self.handle().hand_over(change) else {
            for layer in added {
                std::fs::remove_file(layer.file.path).unwrap();
            }
            return;
        };
        for gone in &removed {
            let path = self.newest().layers[gone].file.path.clone();
            if !self.lost_files.remove(gone) {
                std::fs::remove_file(path).unwrap();
            }
            self.removed_ever.insert(gone.clone());
        }
        let added = added.into_iter().map(|layer| (layer.file.name, layer.raw)).collect();
        self.changes.push(HandedOver { to: self.processes.len() - 1, ticket, added, removed });
        self.snapshots.push(next);
    }

    fn find_files(&mut self) {
        for found in std::mem::take(&mut self.lost_files) {
            let layer = self.newest().layers[&found].clone();
            let file = layer.file.path.file_name().unwrap().to_str().unwrap().to_owned();
            self.bench.layer_at(found.as_str(), &file, &layer.bytes);
        }
    }

    async fn read(&mut self, which: u64) {
        let (store, view) = (self.bench.store().await, self.bench.view().await);
        let names: Vec<LayerName> = view.state.layers().keys().cloned().collect();
        let Some(name) = names.get(usize::try_from(which).unwrap_or(0) % names.len().max(1)) else { return };
        let entry = &view.state.layers()[name];
        let reader = sync_engine::TimelineReader::new(&store, view.clone(), Default::default());
        let read = reader.read_at(name, 0..entry.raw.size).await;
        assert_eq!(RawDigest::of(&read.unwrap()), entry.raw, "{name}");
    }

    fn kill(process: &Process, requests: u64, after_effect: After) {
        let client = &process.client;
        let moment = if after_effect == After::Effect { Moment::AfterEffect } else { Moment::BeforeEffect };
        client.kill_at(client.requests() + 1 + requests, moment);
    }

    /// What somebody decides who sees a conflict: the disk is right. A name was taken again, and the removal of its old
    /// layer was lost with a process.
    fn decide_conflicts(&mut self) {
        let failed = self.handle().status().failed;
        let conflicts = failed.into_iter().filter(|failed| matches!(*failed.error, Error::Conflict { .. }));
        for conflict in conflicts.collect::<Vec<_>>() {
            let next = self.newest().clone();
            let Some(layer) = next.layers.get(&conflict.name).cloned() else { continue };
            if self.lost_files.contains(&conflict.name) {
                continue;
            }
            let change = Change {
                layers: vec![layer.file.clone()],
                removed: vec![Removed { name: conflict.name.clone(), reason: RemovalReason::Collected }],
                ..Change::default()
            };
            let Ok(ticket) = self.handle().hand_over(change) else { continue };
            let added = BTreeMap::from([(conflict.name, layer.raw)]);
            let to = self.processes.len() - 1;
            self.changes.push(HandedOver { to, ticket, added, removed: Vec::new() });
            self.snapshots.push(next);
        }
    }

    /// Reads the store and compares.
    pub(super) async fn compare(&mut self) {
        let state = self.bench.view().await.state;
        for (number, process) in self.processes.iter().enumerate() {
            if let Phase::Stopped(error) = process.handle.status().phase {
                match &*error {
                    Error::Fenced { by, .. } => {
                        assert_ne!(by.program, program_name(number), "fenced by itself: {:#?}", self.told);
                    }
                    Error::StaleGeneration { .. } => assert!(number + 1 < self.processes.len()),
                    error => panic!("{:#?}\n{error}", self.told),
                }
            }
        }
        // After the store was read, or what is acknowledged meanwhile would be looked for in vain.
        self.check(&state);
        let is_acknowledged =
            |change: &HandedOver| self.processes[change.to].handle.is_settled(change.ticket);
        let last = self.changes.iter().rposition(is_acknowledged).map_or(0, |last| last + 1);
        if last > self.acknowledged {
            self.acknowledged = last;
            let state = self.bench.view().await.state;
            self.check(&state);
        }
    }

    fn check(&self, state: &TimelineState) {
        let candidates = self.acknowledged..self.snapshots.len();
        let whys: Vec<String> =
            candidates.map_while(|k| self.differs(state, k).map(|why| format!("{k}: {why}"))).collect();
        if whys.len() == self.snapshots.len() - self.acknowledged {
            let holds: Vec<_> = state.layers().keys().map(ToString::to_string).collect();
            panic!(
                "after {:#?}\nthe store at record {} holds {holds:?}, which is no state since {} of {}: {whys:#?}",
                self.told,
                state.seq(),
                self.acknowledged,
                self.snapshots.len() - 1
            );
        }
    }

    /// Why the store does not hold the timeline as of change `k`.
    fn differs(&self, state: &TimelineState, k: usize) -> Option<String> {
        let snapshot = &self.snapshots[k];
        let stored = state.metadata().map(|metadata| &metadata.bytes);
        let expected = snapshot.metadata.as_ref().map(|(text, _)| text);
        if stored != expected {
            let text =
                |bytes: Option<&Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            return Some(format!("metadata {:?} instead of {:?}", text(stored), text(expected)));
        }
        for (name, layer) in &snapshot.layers {
            match state.layers().get(name) {
                Some(stored) if stored.raw == layer.raw => {}
                Some(_) => return Some(format!("{name} is another")),
                None => return Some(format!("{name} is missing")),
            }
        }
        let extra = state.layers().iter().filter(|(name, _)| !snapshot.layers.contains_key(*name));
        for (name, stored) in extra {
            let comes = self.changes[k..].iter().any(|change| change.added.get(name) == Some(&stored.raw));
            if !comes && !self.may_linger(name, k) {
                return Some(format!("{name} should be gone"));
            }
        }
        None
    }

    /// Whether a removal of `name` among the first `k` changes may have been lost with its process.
    fn may_linger(&self, name: &LayerName, k: usize) -> bool {
        let mut removals = self.changes[..k].iter().filter(|change| change.removed.contains(name));
        removals.next_back().is_some_and(|change| !self.processes[change.to].handle.is_settled(change.ticket))
    }

    /// Objects that all processes have deleted, and layers that they have repacked.
    pub(super) fn collected(&self) -> (u64, u64) {
        let written = self.processes.iter().map(|process| process.handle.status().written);
        written.fold((0, 0), |(deleted, repacked), now| (deleted + now.deleted, repacked + now.repacked))
    }

    /// Nothing goes wrong any more: after a last start the store holds the newest state, and nothing else.
    pub(super) async fn end(&mut self) {
        self.bench.simulation.clear_rules();
        for process in &self.processes {
            Self::kill(process, 0, After::Nothing);
        }
        self.bench.simulation.settle().await;
        // What they have sent arrives, claims too: of two claims on one state the second stops, be it the newer writer's.
        self.bench.clock().sleep(MINUTE).await;
        self.start().await;
        let handle = self.handle().clone();
        let reconciliation =
            handle.opened().await.unwrap_or_else(|error| panic!("{:#?}\n{error:?}", self.told));
        self.remove_extra(&reconciliation.unwrap());
        assert!(self.flush().await, "{:#?}\n{:#?}", self.told, handle.status());
        self.compare().await;
        assert_eq!(self.acknowledged, self.changes.len());
        let expected =
            self.newest().layers.iter().map(|(name, layer)| (name.to_string(), layer.bytes.clone()));
        self.bench.assert_holds(&expected.collect()).await;
        // All the others were fenced, or are dead.
        let report = handle.detach(MINUTE).await;
        assert!(report.is_complete() && report.released, "{report:?}");
        assert!(matches!(handle.status().phase, Phase::Detached));
    }

    fn remove_extra(&mut self, reconciliation: &Reconciliation) {
        let removed: Vec<LayerName> =
            reconciliation.remote_only.iter().map(|layer| layer.name.clone()).collect();
        let change = Change {
            removed: removed
                .iter()
                .map(|name| Removed { name: name.clone(), reason: RemovalReason::Collected })
                .collect(),
            ..Change::default()
        };
        let ticket = self.handle().hand_over(change).unwrap();
        let to = self.processes.len() - 1;
        self.changes.push(HandedOver { to, ticket, added: BTreeMap::new(), removed });
        let same = self.newest().clone();
        self.snapshots.push(same);
    }
}
