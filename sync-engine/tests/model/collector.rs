//! gc, in steps: a view, a list, and one deletion at a time.

use std::collections::BTreeMap;

use crate::records::{Change, No, PayloadKey, Place, Record, Timeline};
use crate::rules::Rule;
use crate::system::System;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Collector {
    Idle,
    /// It knows the state at the floor, what came since, and which records there are; the rest is to be listed.
    Viewed(View),
    /// What is left to be deleted.
    Deleting(Vec<Target>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    floor: No,
    /// The states from the floor to the newest.
    states: Vec<Timeline>,
    records: BTreeMap<No, Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    Manifest(No),
    Record(No),
    Payload(PayloadKey),
}

impl System {
    /// The floors that gc may take now. Which one it takes depends on the retention period: any that the rules allow.
    pub(crate) fn floors(&self) -> Vec<No> {
        let manifests = &self.store.manifests;
        let Some((newest, manifest)) = manifests.last_key_value() else { return Vec::new() };
        if self.rules.on(Rule::NewestIsReadBack) && !manifest.readable {
            return Vec::new();
        }
        let may_be = |(seq, manifest): (&No, &crate::store::Manifest)| {
            let reads = manifest.readable || self.rules.off(Rule::FloorIsReadBack);
            let older = seq < newest || self.rules.off(Rule::FloorIsNotNewest);
            (reads && older).then_some(*seq)
        };
        manifests.iter().filter_map(may_be).collect()
    }

    pub(crate) fn collector_views(&mut self, floor: No) {
        let Ok(opened) = self.store.open(&self.rules) else { return };
        // Where the floor is not read back, it is taken to be what was once written there.
        let at_floor = self.store.manifests[&floor].state.clone();
        let mut states = vec![at_floor];
        for seq in floor + 1..=opened.state.seq {
            let last = states.last().unwrap();
            let Some(next) = self.store.log.get(&seq).and_then(|record| last.after(record, &self.rules))
            else {
                return;
            };
            states.push(next);
        }
        self.collections_left -= 1;
        self.damage_allowed = self.damage_left.min(1);
        self.promised = self.promised.max(floor);
        self.collector = Collector::Viewed(View { floor, states, records: self.store.log.clone() });
    }

    /// Lists the payload objects and plans.
    pub(crate) fn collector_plans(&mut self) {
        let Collector::Viewed(view) = std::mem::replace(&mut self.collector, Collector::Idle) else { return };
        let mut plan: Vec<Target> = self
            .store
            .manifests
            .keys()
            .filter(|seq| **seq < view.floor)
            .copied()
            .map(Target::Manifest)
            .collect();
        let may_go = |seq: &&No| self.record_may_go(&view, **seq);
        plan.extend(view.records.keys().filter(may_go).copied().map(Target::Record));
        let may_go = |key: &&PayloadKey| self.payload_may_go(&view, **key);
        plan.extend(self.store.payloads.keys().filter(may_go).copied().map(Target::Payload));
        self.collector = Collector::Deleting(plan);
    }

    fn record_may_go(&self, view: &View, seq: No) -> bool {
        // A gc that remembers what it has read there takes a void claim that has landed since for the ordinary record
        // that it was: the claims that stay are those of the log.
        let is_claim = self.log_was(seq).is_some_and(|then| then.claim == seq);
        if is_claim && self.rules.on(Rule::ClaimsStay) {
            return false;
        }
        let at_most = if self.rules.on(Rule::AboveTheFloorStays) { view.floor } else { No::MAX };
        seq <= at_most && !self.is_live(view, Place::Record(seq))
    }

    fn payload_may_go(&self, view: &View, key: PayloadKey) -> bool {
        let newest = view.states.last().unwrap();
        let named = view.states.iter().filter_map(|state| state.named.get(&key)).max();
        match named {
            Some(seq) => *seq <= view.floor && !self.is_live(view, Place::Payload(key)),
            None => key.claim < newest.claim || self.rules.off(Rule::OrphansAreOfOlderClaims),
        }
    }

    fn is_live(&self, view: &View, place: Place) -> bool {
        if self.rules.off(Rule::LivenessIsByPlace) {
            // A name that was removed is taken for dead, wherever it is now.
            let removed = |record: &Record| record.change == Change::Remove && record.seq <= view.floor;
            return !view.records.values().any(removed);
        }
        let newest = view.states.last().unwrap();
        if self.rules.off(Rule::LiveSinceTheFloorStays) {
            return newest.place() == Some(place);
        }
        view.states.iter().any(|state| state.place() == Some(place))
    }

    /// Which of what is left may be deleted next.
    pub(crate) fn next_deletions(plan: &[Target], manifests_first: bool) -> impl Iterator<Item = usize> {
        let has_manifests = plan.iter().any(|target| matches!(target, Target::Manifest(_)));
        plan.iter().enumerate().filter_map(move |(index, target)| {
            let is_manifest = matches!(target, Target::Manifest(_));
            (is_manifest || !has_manifests || !manifests_first).then_some(index)
        })
    }

    pub(crate) fn collector_deletes(&mut self, index: usize) {
        let Collector::Deleting(plan) = &mut self.collector else { return };
        match plan.remove(index) {
            Target::Manifest(seq) => drop(self.store.manifests.remove(&seq)),
            Target::Record(seq) => drop(self.store.log.remove(&seq)),
            Target::Payload(key) => drop(self.store.payloads.remove(&key)),
        }
    }
}
