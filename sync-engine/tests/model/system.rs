//! All of it together: the actors, the store, what really happened, and what must never be.

use stateright::{Model, Property};

use crate::collector::Collector;
use crate::reader::Reader;
use crate::records::{Change, No, Record, Term, Timeline, Version, digest};
use crate::rules::{Rule, Rules};
use crate::store::{Manifest, Put, Store};
use crate::writer::{Fate, Intent, Phase, Writer};

/// A state of the whole system.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) rules: Rules,
    pub(crate) store: Store,
    pub(crate) writers: Vec<Writer>,
    pub(crate) reader: Reader,
    pub(crate) collector: Collector,
    pub(crate) next_term: Term,
    pub(crate) late_left: u8,
    pub(crate) snapshots_left: u8,
    pub(crate) collections_left: u8,
    pub(crate) damage_left: u8,
    /// How many manifests may still break before gc looks at them again.
    pub(crate) damage_allowed: u8,
    pub(crate) records_lost: bool,
    /// What the log really is: the state after each record that was the first with its number.
    history: Vec<Timeline>,
    /// The bytes of the layer by what was added and removed, moves not looked at.
    committed: Option<Version>,
    /// The last record that a writer was told is there.
    pub(crate) acknowledged: No,
    /// The highest floor of a collection: from there on everything was promised to stay.
    pub(crate) promised: No,
    pub(crate) violation: Option<Violation>,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Violation {
    AcknowledgedAndLost,
    StaleState,
    MixedState,
    FalseDamage,
    TookOverUnknowingly,
    TookOverFromARunningWriter,
    FencedByItself,
    OtherThanCommitted,
}

// The rules are of the model and not of a state, and states are compared often.
impl PartialEq for System {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl std::hash::Hash for System {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl System {
    fn new(bounds: &Bounds, rules: &Rules) -> Self {
        Self {
            rules: rules.clone(),
            store: Store::empty(),
            writers: bounds.writers.iter().map(|kind| Writer::new(*kind == Kind::Tool)).collect(),
            reader: Reader::Idle,
            collector: Collector::Idle,
            next_term: 0,
            late_left: bounds.late,
            snapshots_left: bounds.snapshots,
            collections_left: bounds.collections,
            damage_left: bounds.damage,
            damage_allowed: bounds.damage.min(1),
            records_lost: false,
            history: Vec::new(),
            committed: None,
            acknowledged: 0,
            promised: 0,
            violation: None,
        }
    }

    #[expect(clippy::type_complexity, reason = "everything but the rules")]
    fn parts(
        &self,
    ) -> (
        (&Store, &[Writer], &Reader, &Collector),
        (Term, [u8; 5], bool),
        (&[Timeline], Option<Version>, No, No, Option<Violation>),
    ) {
        let left = [
            self.late_left,
            self.snapshots_left,
            self.collections_left,
            self.damage_left,
            self.damage_allowed,
        ];
        (
            (&self.store, &self.writers, &self.reader, &self.collector),
            (self.next_term, left, self.records_lost),
            (&self.history, self.committed, self.acknowledged, self.promised, self.violation),
        )
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// The state after record `seq` as it really was.
    pub(crate) fn log_was(&self, seq: No) -> Option<Timeline> {
        match seq.checked_sub(1) {
            None => Some(Timeline::empty()),
            Some(index) => self.history.get(usize::from(index)).cloned(),
        }
    }

    /// A create-only put of a record takes effect, if it can.
    pub(crate) fn create(&mut self, record: Record) -> bool {
        if self.store.log.contains_key(&record.seq) {
            return false;
        }
        self.store.log.insert(record.seq, record);
        loop {
            let last = self.log_was(No::try_from(self.history.len()).unwrap()).unwrap();
            let Some(record) = self.store.log.get(&(last.seq + 1)) else { return true };
            let Some(next) = last.after(record, &self.rules) else { return true };
            match record.change {
                Change::Add => self.committed = Some(record.id()),
                Change::AddUploaded(key) => self.committed = Some(digest(&key)),
                Change::Remove => self.committed = None,
                Change::Claim | Change::Note | Change::Move { .. } | Change::Release => {}
            }
            if next.layer.map(|layer| layer.version) != self.committed {
                self.violate(Violation::OtherThanCommitted);
            }
            self.history.push(next);
        }
    }

    pub(crate) fn put_manifest(&mut self, state: Timeline) {
        self.store.manifests.entry(state.seq).or_insert(Manifest { state, readable: true });
    }

    pub(crate) fn acknowledge(&mut self, seq: No, history: u32) {
        if self.log_was(seq).is_none_or(|then| then.history != history) {
            self.violate(Violation::AcknowledgedAndLost);
        }
        self.acknowledged = self.acknowledged.max(seq);
    }

    fn land(&mut self, put: Put) {
        self.store.late.remove(&put);
        match put {
            Put::Record(record) => drop(self.create(record)),
            Put::Manifest(state) => self.put_manifest(state),
        }
    }

    /// The whole log can be read at this moment, or records were lost and that is said.
    fn reads(&self) -> bool {
        match self.store.open(&self.rules) {
            Ok(opened) => self.history.last().map_or(0, |newest| newest.history) == opened.state.history,
            Err(_) => self.records_lost,
        }
    }

    /// Everything live at the floor or later is there, and so are the records since.
    fn keeps(&self) -> bool {
        let since = self.promised..=No::try_from(self.history.len()).unwrap();
        since.clone().all(|seq| self.log_was(seq).is_some_and(|state| self.store.holds_layer_of(&state)))
            && (self.records_lost || since.skip(1).all(|seq| self.store.log.contains_key(&seq)))
    }

    /// From every manifest that reads, the log can be replayed to its end.
    fn replays_from_anywhere(&self) -> bool {
        self.store.manifests.values().filter(|manifest| manifest.readable).all(|manifest| {
            (manifest.state.seq + 1..=No::try_from(self.history.len()).unwrap())
                .all(|seq| self.store.log.contains_key(&seq))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pageserver,
    Tool,
}

/// How far a model goes.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) writers: Vec<Kind>,
    /// How often each writer starts.
    pub(crate) runs: u8,
    pub(crate) records: No,
    /// Puts without an answer, in all.
    pub(crate) late: u8,
    /// Manifests written, in all.
    pub(crate) snapshots: u8,
    pub(crate) collections: u8,
    pub(crate) reader: bool,
    /// Whether somebody who does not write the log writes manifests of it.
    pub(crate) bystander: bool,
    pub(crate) intents: Vec<Intent>,
    pub(crate) uploads: bool,
    /// Manifests that break, in all; one at most between two readings of gc.
    pub(crate) damage: u8,
    /// Whether a record vanishes.
    pub(crate) lost_record: bool,
    /// Whether equal writers are taken for one another, which halves the states.
    pub(crate) symmetric: bool,
}

impl Bounds {
    /// Whether a manifest can come late.
    fn may_sleep(&self) -> bool {
        self.late > 0 || self.writers.len() > 1
    }
}

/// The model to check.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) bounds: Bounds,
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Open(usize),
    Create(usize, Fate),
    LookUp(usize),
    Settle(usize),
    Append(usize, Intent, Fate),
    RunAhead(usize),
    Upload {
        writer: usize,
        copy: bool,
    },
    Snapshot(usize, Fate),
    SnapshotByBystander(Fate),
    /// The nth put under way takes effect.
    Land(usize),
    ListManifests,
    ListLog,
    ReadOn,
    View(No),
    Plan,
    Delete(usize),
    Break(No),
    Lose(No),
}

impl Protocol {
    fn fates(&self, state: &System) -> &'static [Fate] {
        if state.late_left > 0 { &[Fate::Answered, Fate::Late] } else { &[Fate::Answered] }
    }

    fn writer_actions(&self, state: &System, w: usize, actions: &mut Vec<Action>) {
        let Bounds { runs, late: _, intents, uploads, .. } = &self.bounds;
        let writer = &state.writers[w];
        let rules = &self.rules;
        let fates = self.fates(state);
        if writer.runs < *runs {
            actions.push(Action::Open(w));
        }
        let mut snapshots = false;
        match writer.phase {
            Phase::Idle | Phase::Stopped => {}
            Phase::Creating => actions.extend(fates.iter().map(|fate| Action::Create(w, *fate))),
            Phase::Unknown => {
                actions.push(Action::LookUp(w));
                snapshots = rules.off(Rule::ManifestsOfAcknowledged);
                if rules.off(Rule::OneInFlight) && writer.pending.is_some_and(|p| p.term == writer.known.term)
                {
                    actions.push(Action::RunAhead(w));
                }
            }
            Phase::Settling => {
                actions.push(Action::Settle(w));
                snapshots = rules.off(Rule::SnapshotsWaitForTheClaim);
                if *uploads && !writer.has_uploaded && rules.off(Rule::UploadsWaitForTheClaim) {
                    actions.push(Action::Upload { writer: w, copy: false });
                }
            }
            Phase::Active => {
                snapshots = true;
                for intent in intents {
                    let makes_sense = match intent {
                        Intent::Note | Intent::Release => true,
                        Intent::Add => writer.known.layer.is_none(),
                        Intent::Remove => writer.known.layer.is_some(),
                        Intent::NameUploaded => writer
                            .uploaded
                            .is_some_and(|(_, from)| from.is_some() || writer.known.layer.is_none()),
                    };
                    if makes_sense {
                        actions.extend(fates.iter().map(|fate| Action::Append(w, *intent, *fate)));
                    }
                }
                if *uploads && !writer.has_uploaded {
                    actions.push(Action::Upload { writer: w, copy: false });
                    if writer.known.layer.is_some() {
                        actions.push(Action::Upload { writer: w, copy: true });
                    }
                }
            }
        }
        if snapshots && state.snapshots_left > 0 {
            actions.extend(fates.iter().map(|fate| Action::Snapshot(w, *fate)));
        }
    }
}

impl Model for Protocol {
    type State = System;
    type Action = Action;

    fn init_states(&self) -> Vec<System> {
        vec![System::new(&self.bounds, &self.rules)]
    }

    fn actions(&self, state: &System, actions: &mut Vec<Action>) {
        if state.violation.is_some() {
            return;
        }
        for w in 0..state.writers.len() {
            self.writer_actions(state, w, actions);
        }
        actions.extend((0..state.store.late.len()).map(Action::Land));
        if self.bounds.bystander && state.snapshots_left > 0 && !state.store.log.is_empty() {
            actions.extend(self.fates(state).iter().map(|fate| Action::SnapshotByBystander(*fate)));
        }
        match &state.reader {
            Reader::Idle if self.bounds.reader => actions.extend([Action::ListManifests, Action::ListLog]),
            Reader::Idle => {}
            Reader::Reading(reading) => {
                actions.extend(reading.may_list_manifests().then_some(Action::ListManifests));
                actions.extend(reading.may_list_log().then_some(Action::ListLog));
                actions.extend(reading.may_go_on().then_some(Action::ReadOn));
            }
        }
        // A collector can end anywhere, and another begins.
        if state.collections_left > 0 {
            actions.extend(state.floors().into_iter().map(Action::View));
        }
        match &state.collector {
            Collector::Idle => {}
            Collector::Viewed(_) => actions.push(Action::Plan),
            Collector::Deleting(plan) => {
                let manifests_first = self.rules.on(Rule::ManifestsGoFirst);
                actions.extend(System::next_deletions(plan, manifests_first).map(Action::Delete));
            }
        }
        if state.damage_allowed > 0 {
            let readable = state.store.manifests.iter().filter(|(_, manifest)| manifest.readable);
            actions.extend(readable.map(|(seq, _)| Action::Break(*seq)));
        }
        if self.bounds.lost_record && !state.records_lost {
            // That the last one is gone nobody can see.
            let mut records: Vec<No> = state.store.log.keys().copied().collect();
            records.pop();
            actions.extend(records.into_iter().map(Action::Lose));
        }
    }

    fn next_state(&self, state: &System, action: Action) -> Option<System> {
        let mut next = state.clone();
        match action {
            Action::Open(w) => next.writer_opens(w),
            Action::Create(w, fate) => next.writer_creates(w, fate),
            Action::LookUp(w) => next.writer_looks_up(w),
            Action::Settle(w) => next.writer_settles(w),
            Action::Append(w, intent, fate) => next.writer_appends(w, intent, fate),
            Action::RunAhead(w) => next.writer_runs_ahead(w),
            Action::Upload { writer, copy } => next.writer_uploads(writer, copy),
            Action::Snapshot(w, fate) => next.writer_snapshots(w, fate),
            Action::SnapshotByBystander(fate) => next.bystander_snapshots(fate),
            Action::Land(index) => {
                let put = next.store.late.iter().nth(index)?.clone();
                next.land(put);
            }
            Action::ListManifests => next.reader_lists_manifests(),
            Action::ListLog => next.reader_lists_log(),
            Action::ReadOn => next.reader_goes_on(),
            Action::View(floor) => next.collector_views(floor),
            Action::Plan => next.collector_plans(),
            Action::Delete(index) => next.collector_deletes(index),
            Action::Break(seq) => {
                next.store.manifests.get_mut(&seq)?.readable = false;
                next.damage_left -= 1;
                next.damage_allowed -= 1;
            }
            Action::Lose(seq) => {
                next.store.log.remove(&seq);
                next.records_lost = true;
            }
        }
        if self.bounds.symmetric {
            next.writers.sort();
        }
        Some(next)
    }

    fn within_boundary(&self, state: &System) -> bool {
        state.store.log.keys().next_back().is_none_or(|last| *last <= self.bounds.records)
            && state.history.len() <= usize::from(self.bounds.records)
            && state.writers.iter().all(|writer| writer.known.seq <= self.bounds.records)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "an acknowledged commit is visible to every later reader",
                |_, state: &System| {
                    !matches!(state.violation, Some(Violation::AcknowledgedAndLost | Violation::StaleState))
                        && state.reads()
                },
            ),
            Property::always("nothing live is deleted", |_, state: &System| {
                state.records_lost || state.keeps()
            }),
            Property::always("a reader's state is a prefix of the log", |_, state: &System| {
                state.violation != Some(Violation::MixedState)
            }),
            Property::always("whole stores are not called damaged", |_, state: &System| {
                state.records_lost || state.violation != Some(Violation::FalseDamage)
            }),
            Property::always("of two concurrent writers one goes on", |_, state: &System| {
                !matches!(
                    state.violation,
                    Some(
                        Violation::TookOverUnknowingly
                            | Violation::TookOverFromARunningWriter
                            | Violation::FencedByItself
                    )
                )
            }),
            Property::always("layers are what was committed", |_, state: &System| {
                state.violation != Some(Violation::OtherThanCommitted)
            }),
            Property::always("a manifest is the state after its record", |_, state: &System| {
                state.store.manifests.iter().all(|(seq, manifest)| {
                    state.log_was(*seq).is_some_and(|then| then.history == manifest.state.history)
                })
            }),
            Property::always("the log is whole behind every manifest", |model: &Self, state: &System| {
                // One that a sleeping writer brings may be of before the floor.
                model.bounds.may_sleep() || state.records_lost || state.replays_from_anywhere()
            }),
        ]
    }
}
