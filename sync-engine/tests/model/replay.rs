//! Random walks through the model, taken by the real writers and views on the simulated store, request by request.
//!
//! After every step both must agree: who waits for an answer, who is active, who was fenced, and what a reader sees.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use layer_archive::{
    BundleId, BundleWriter, FrameCompressor, LayerName, Level, PackedLayer, RawDigest, RemovalReason,
    Removed, Seq, TenantId, TimelineId, TimelineMetadata, WriterInfo, member_header, padding_len,
};
use stateright::Model;
use storage_api::simulated::{Delay, Fault, Gate, Random, Rule, SEED_VARIABLE, Simulation, check_seeds};
use storage_api::{Body, ObjectStore, Operation, PutMode};
use sync_engine::{Draft, Error, Store, TimelineKeys, TimelineView, TimelineWriter, WriterOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::collector::{Collector, Target};
use crate::records::{No, Place, Record, Timeline};
use crate::rules::Rules;
use crate::scenarios::{proving, walks};
use crate::store::Put;
use crate::system::{Action, Protocol, System};
use crate::writer::{Fate, Intent, Phase};

/// How long a walk is.
const STEPS: usize = 60;

#[test]
fn the_code_does_what_the_model_does() {
    let seeds = if proving() { 20_000 } else { 300 };
    let seen = RefCell::new(BTreeMap::<String, usize>::new());
    check_seeds(0..seeds, async |simulation| {
        let walk = walk(simulation.seed());
        for (action, next) in &walk {
            let phase = acting_writer(action).map(|w| next.writers[w].phase);
            let name: String = format!("{action:?}").chars().take_while(|c| c.is_alphabetic()).collect();
            *seen.borrow_mut().entry(format!("{name} {phase:?}")).or_default() += 1;
        }
        Replay::new(simulation).await.run(&walk).await;
    });
    let seen = seen.into_inner();
    println!("{seeds} walks, {} steps: {seen:?}", seen.values().sum::<usize>());
    if std::env::var(SEED_VARIABLE).is_ok() {
        return;
    }
    // The walks go where it is dangerous.
    for wanted in
        ["Settle Some(Creating)", "Settle Some(Stopped)", "LookUp Some(Active)", "Delete None", "Land None"]
    {
        assert!(seen.contains_key(wanted), "no walk has {wanted}: {seen:?}");
    }
}

fn acting_writer(action: &Action) -> Option<usize> {
    match action {
        Action::Open(w) | Action::Create(w, _) | Action::LookUp(w) | Action::Settle(w) => Some(*w),
        Action::Append(w, ..) => Some(*w),
        _ => None,
    }
}

/// A random walk: each action and the state after it.
fn walk(seed: u64) -> Vec<(Action, System)> {
    let model = Protocol { bounds: walks(), rules: Rules::all() };
    let mut random = Random::new(seed, "walk", 0);
    let mut state = model.init_states().remove(0);
    let (mut walk, mut deleted) = (Vec::new(), 0);
    while walk.len() < STEPS {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        // The walks go where it is dangerous: a writer sleeps with its claim on the way until gc has freed something, and
        // what ends the story early is rare.
        let sleeper = usize::try_from(seed % 3).unwrap();
        let is_rare = |action: &Action| match action {
            Action::Open(w) => state.writers[*w].runs > 0,
            Action::Create(w, _) => *w == sleeper && deleted < 2,
            Action::SnapshotByBystander(_) | Action::Append(_, Intent::Release, _) => true,
            _ => false,
        };
        let collects = |action: &Action| matches!(action, Action::View(_) | Action::Plan | Action::Delete(_));
        let prefer: &dyn Fn(&Action) -> bool = if random.chance(0.4) { &collects } else { &|a| !is_rare(a) };
        if !random.chance(0.1) && actions.iter().any(prefer) {
            actions.retain(prefer);
        }
        let Some(action) = random.pick(&actions).copied() else { break };
        let next = model.next_state(&state, action).unwrap();
        assert_eq!(next.violation, None);
        deleted += usize::from(matches!(action, Action::Delete(_)));
        if !model.within_boundary(&next) {
            break;
        }
        walk.push((action, next.clone()));
        state = next;
    }
    walk
}

enum Command {
    Claim,
    Append(Intent),
    Snapshot,
}

#[derive(Debug)]
enum Outcome {
    Done,
    Manifest(Seq, Vec<u8>),
    Failed(Error),
}

/// A process that writes, and what the walk knows of it.
struct Run {
    name: String,
    commands: mpsc::Sender<Command>,
    outcomes: mpsc::Receiver<Outcome>,
    gate: Gate,
    task: JoinHandle<()>,
}

struct Replay {
    simulation: Simulation,
    reader: Store,
    keys: TimelineKeys,
    runs: BTreeMap<usize, Run>,
    started: usize,
    late: Vec<(Record, Gate)>,
    /// The manifests that were made, by their record.
    manifests: BTreeMap<No, Body>,
}

fn tenant() -> TenantId {
    "0000000000000000000000000000000a".parse().unwrap()
}

fn timeline() -> TimelineId {
    "0000000000000000000000000000000b".parse().unwrap()
}

fn layer() -> LayerName {
    LayerName::new("layer").unwrap()
}

impl Replay {
    async fn new(simulation: Simulation) -> Self {
        let reader = Store::open_or_create(simulation.client("reader"), "test").await.unwrap().0;
        let keys = TimelineKeys::new(&tenant(), &timeline()).unwrap();
        let (runs, late, manifests) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { simulation, reader, keys, runs, started: 0, late, manifests }
    }

    async fn run(mut self, walk: &[(Action, System)]) {
        for (step, (action, next)) in walk.iter().enumerate() {
            let before = step.checked_sub(1).map(|previous| &walk[previous].1);
            let fate = acting_writer(action).map_or(Fate::Answered, |w| next_fate(&walk[step + 1..], w));
            self.step(action, before, next, fate).await;
            self.compare(next, &walk[..=step]).await;
        }
        for run in self.runs.values() {
            run.task.abort();
        }
    }

    async fn step(&mut self, action: &Action, before: Option<&System>, next: &System, fate: Fate) {
        match *action {
            Action::Open(w) => {
                self.start(w).await;
                self.go_on(w, action, next, fate, Some(Command::Claim)).await;
            }
            // Sent long ago: the answer does not come either way.
            Action::Create(_, Fate::Late) => {}
            Action::Create(w, Fate::Answered) | Action::LookUp(w) | Action::Settle(w) => {
                self.go_on(w, action, next, fate, None).await;
            }
            Action::Append(w, intent, _) => {
                self.go_on(w, action, next, fate, Some(Command::Append(intent))).await;
            }
            Action::Snapshot(w, fate) => {
                let seq = self.manifest_of_writer(w).await;
                assert_eq!(seq, before.unwrap().writers[w].known.seq);
                if fate == Fate::Answered {
                    self.put_manifest(seq).await;
                }
            }
            Action::SnapshotByBystander(fate) => {
                let seq = self.manifest_of_bystander().await;
                if fate == Fate::Answered {
                    self.put_manifest(seq).await;
                }
            }
            Action::Land(index) => match before.unwrap().store.late.iter().nth(index).unwrap() {
                Put::Manifest(state) => self.put_manifest(state.seq).await,
                Put::Record(record) => {
                    self.late.iter().filter(|(late, _)| late == record).for_each(|(_, gate)| gate.open());
                    // The put runs in a task of its own.
                    self.simulation.clock().sleep(std::time::Duration::from_millis(1)).await;
                }
            },
            Action::Delete(index) => {
                let Collector::Deleting(plan) = &before.unwrap().collector else {
                    panic!("nothing to delete")
                };
                let key = match plan[index] {
                    Target::Manifest(seq) => self.keys.manifest(Seq(seq.into())).unwrap(),
                    Target::Record(seq) => self.keys.record(Seq(seq.into())).unwrap(),
                    Target::Payload(_) => panic!("walks upload nothing"),
                };
                self.simulation.objects().delete(&[key]).await.unwrap();
            }
            Action::View(_) | Action::Plan => {}
            other => panic!("walks do not {other:?}"),
        }
    }

    /// Starts a process in place of the one there was, whose requests end with it.
    async fn start(&mut self, w: usize) {
        if let Some(old) = self.runs.remove(&w) {
            old.task.abort();
            assert!(old.task.await.is_err_and(|error| error.is_cancelled()));
        }
        self.started += 1;
        let name = format!("writer {w}, process {}", self.started);
        let (commands, inbox) = mpsc::channel(1);
        let (outbox, outcomes) = mpsc::channel(1);
        let (client, clock) = (self.simulation.client(&name), self.simulation.clock());
        let writer = WriterInfo { host: "test".into(), pid: 1, program: name.clone() };
        let options = WriterOptions { writer, generation: None, clock };
        let task = tokio::spawn(process(client, options, inbox, outbox));
        self.runs.insert(w, Run { name, commands, outcomes, gate: Gate::new(), task });
    }

    /// Lets a process go on to its next request that the model tells apart, or to the end of what it was told to do.
    async fn go_on(
        &mut self,
        w: usize,
        action: &Action,
        next: &System,
        fate: Fate,
        command: Option<Command>,
    ) {
        self.set_rules(w, action, next, fate);
        let run = self.runs.get_mut(&w).unwrap();
        match command {
            Some(command) => run.commands.send(command).await.unwrap(),
            None => run.gate.pass(),
        }
        let outcome = tokio::select! {
            outcome = run.outcomes.recv() => Some(outcome.unwrap()),
            () = run.gate.reached() => None,
        };
        match (next.writers[w].phase, outcome) {
            (Phase::Creating | Phase::Unknown | Phase::Settling, None) => {}
            (Phase::Active | Phase::Idle, Some(Outcome::Done)) => {}
            (Phase::Stopped, Some(Outcome::Failed(Error::Fenced { .. }))) => {}
            (phase, outcome) => panic!("{action:?} leads to {phase:?} in the model, and here to {outcome:?}"),
        }
    }

    /// Says which of the process' next requests waits, and what becomes of its next create.
    fn set_rules(&mut self, w: usize, action: &Action, next: &System, fate: Fate) {
        self.simulation.clear_rules();
        let writer = &next.writers[w];
        let run = &self.runs[&w];
        let rule = |fault, operation| Rule::new(fault).of_client(&run.name).on([operation]);
        let waits = || Fault::Slow(Delay::Until(run.gate.clone()));
        let mut rules = Vec::new();
        if let Some(pending) = writer.pending {
            let key = self.keys.record(Seq(pending.seq.into())).unwrap();
            rules.push(rule(waits(), Operation::Get).on_key(key.as_str()));
            let create = match (writer.phase, action) {
                (Phase::Creating, _) if fate == Fate::Late => true,
                (Phase::Unknown, Action::Append(_, _, Fate::Late)) => true,
                (Phase::Creating, _) => {
                    rules.push(rule(waits(), Operation::PutCreate).on_key(key.as_str()));
                    false
                }
                _ => false,
            };
            if create {
                let gate = Gate::new();
                let late = Fault::Late(Delay::Until(gate.clone()));
                rules.push(rule(late, Operation::PutCreate).on_key(key.as_str()));
                self.late.push((pending, gate));
            }
        }
        if writer.phase == Phase::Settling {
            // Opening anew in between ends with such a list of its own.
            let nth = if matches!(action, Action::Settle(_)) { 2 } else { 1 };
            rules.push(rule(waits(), Operation::List).on_key("/manifest/").nth(nth));
        }
        rules.into_iter().for_each(|rule| self.simulation.add_rule(rule));
    }

    /// Keeps the bytes of a manifest of what the writer knows: the real writer's cadence writes none so soon.
    async fn manifest_of_writer(&mut self, w: usize) -> No {
        let run = self.runs.get_mut(&w).unwrap();
        run.commands.send(Command::Snapshot).await.unwrap();
        let Outcome::Manifest(seq, bytes) = run.outcomes.recv().await.unwrap() else {
            panic!("not a manifest")
        };
        self.remember_manifest(seq, bytes)
    }

    async fn manifest_of_bystander(&mut self) -> No {
        let state = TimelineView::open(&self.reader, &tenant(), &timeline(), None).await.unwrap().state;
        self.remember_manifest(state.seq(), state.to_manifest().encode().unwrap())
    }

    fn remember_manifest(&mut self, seq: Seq, bytes: Vec<u8>) -> No {
        let (seq, body) = (No::try_from(seq.0).unwrap(), Body::new(bytes));
        if let Some(same) = self.manifests.insert(seq, body.clone()) {
            assert_eq!(same.bytes(), body.bytes(), "two manifests of record {seq} differ");
        }
        seq
    }

    async fn put_manifest(&self, seq: No) {
        let key = self.keys.manifest(Seq(seq.into())).unwrap();
        let put = self.simulation.objects().put(&key, self.manifests[&seq].clone(), PutMode::Create).await;
        assert!(put.is_ok() || put.is_err_and(|error| error.is_already_exists()));
    }

    /// What a reader sees now is what it sees in the model.
    async fn compare(&self, next: &System, walk: &[(Action, System)]) {
        let view = TimelineView::open(&self.reader, &tenant(), &timeline(), None).await;
        let (Ok(there), Ok(view)) = (next.store.open(&Rules::all()), &view) else {
            panic!("the timeline does not read: {view:?} after {:?}", actions(walk));
        };
        let place = view.state.layers().get(&layer()).map(|layer| match layer.place.bundle {
            BundleId::Record(seq) => Place::Record(No::try_from(seq.0).unwrap()),
            BundleId::Payload(_) => panic!("walks upload nothing"),
        });
        let seen = (view.state.seq(), view.state.claim(), view.state.is_released(), place);
        let Timeline { seq, claim, released, .. } = there.state;
        let expected = (Seq(seq.into()), Seq(claim.into()), released, there.state.place());
        assert_eq!(seen, expected, "after {:?}", actions(walk));
    }
}

fn actions(walk: &[(Action, System)]) -> Vec<Action> {
    walk.iter().map(|(action, _)| *action).collect()
}

/// What will become of the next create of writer `w`.
fn next_fate(rest: &[(Action, System)], w: usize) -> Fate {
    let next = rest.iter().find_map(|(action, _)| match action {
        Action::Create(other, fate) if *other == w => Some(*fate),
        Action::Open(other) if *other == w => Some(Fate::Answered),
        _ => None,
    });
    next.unwrap_or(Fate::Answered)
}

/// The life of a process.
async fn process(
    client: Arc<dyn ObjectStore>,
    options: WriterOptions,
    mut commands: mpsc::Receiver<Command>,
    outcomes: mpsc::Sender<Outcome>,
) {
    let mut writer = None;
    while let Some(command) = commands.recv().await {
        let outcome = match (command, &mut writer) {
            (Command::Claim, _) => match claim(Arc::clone(&client), options.clone()).await {
                Ok(claimed) => {
                    writer = Some(claimed);
                    Outcome::Done
                }
                Err(error) => Outcome::Failed(error),
            },
            (Command::Append(intent), Some(writer)) => match append(writer, intent).await {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(error),
            },
            (Command::Snapshot, Some(writer)) => {
                let state = &writer.view().state;
                Outcome::Manifest(state.seq(), state.to_manifest().encode().unwrap())
            }
            (_, None) => panic!("nothing is claimed"),
        };
        if outcomes.send(outcome).await.is_err() {
            return;
        }
    }
}

async fn claim(client: Arc<dyn ObjectStore>, options: WriterOptions) -> Result<TimelineWriter, Error> {
    let store = Store::open(client, "test").await?;
    let view = TimelineView::open(&store, &tenant(), &timeline(), None).await?;
    TimelineWriter::claim(&store, view, options).await
}

async fn append(writer: &mut TimelineWriter, intent: Intent) -> Result<(), Error> {
    let seq = writer.view().state.seq().next();
    let mut draft = Draft::default();
    let mut bundle = BundleWriter::new();
    match intent {
        Intent::Note => {
            let bytes = seq.to_string().into_bytes();
            draft.metadata = Some(TimelineMetadata { file_name: LayerName::new("metadata").unwrap(), bytes });
        }
        Intent::Add => bundle = bundle_of(seq.to_string().as_bytes()),
        Intent::Remove => draft.removed.push(Removed { name: layer(), reason: RemovalReason::Compacted }),
        Intent::Release => draft.released = true,
        Intent::NameUploaded => panic!("walks upload nothing"),
    }
    writer.append(draft, bundle).await.map(drop)
}

/// A bundle of the one layer with these bytes.
fn bundle_of(bytes: &[u8]) -> BundleWriter {
    let len = bytes.len() as u64;
    let mut plain = member_header(&layer(), len).unwrap().to_vec();
    plain.extend(bytes);
    plain.resize(plain.len() + padding_len(len), 0);
    let mut bundle = BundleWriter::new();
    bundle.push_frame(&FrameCompressor::new().unwrap().compress(&plain, Level::REPACK).unwrap()).unwrap();
    bundle.push_layer(PackedLayer { name: layer(), lsn_range: None, raw: RawDigest::of(bytes) }).unwrap();
    bundle
}
