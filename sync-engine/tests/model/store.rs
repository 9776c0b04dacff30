//! The store of the model: what exists, and the puts that are still under way.

use std::collections::{BTreeMap, BTreeSet};

use layer_archive::Seq;
use sync_engine::rules::to_replay;

use crate::records::{No, PayloadKey, Place, Record, Timeline, Version};
use crate::rules::{Rule, Rules};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) log: BTreeMap<No, Record>,
    pub(crate) manifests: BTreeMap<No, Manifest>,
    pub(crate) payloads: BTreeMap<PayloadKey, Version>,
    /// Puts whose writers got no answer, and which may yet take effect.
    pub(crate) late: BTreeSet<Put>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Manifest {
    pub(crate) state: Timeline,
    pub(crate) readable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Put {
    Record(Record),
    Manifest(Timeline),
}

/// What a list and reads at one moment say of a timeline.
pub(crate) struct Opened {
    pub(crate) state: Timeline,
    /// The newest manifest that was listed.
    pub(crate) newest: No,
}

/// The timeline does not read.
#[derive(Debug)]
pub(crate) struct Damage;

impl Store {
    pub(crate) fn empty() -> Self {
        Self {
            log: BTreeMap::new(),
            manifests: BTreeMap::new(),
            payloads: BTreeMap::new(),
            late: BTreeSet::new(),
        }
    }

    pub(crate) fn newest_manifest(&self) -> No {
        self.manifests.keys().next_back().copied().unwrap_or(0)
    }

    /// The base to replay from: the newest manifest of these that reads. `Err` where one has gone.
    pub(crate) fn base(&self, listed: &[No]) -> Result<Timeline, Gone> {
        for seq in listed.iter().rev() {
            match self.manifests.get(seq) {
                None => return Err(Gone),
                Some(manifest) if manifest.readable => return Ok(manifest.state.clone()),
                Some(_) => {}
            }
        }
        Ok(Timeline::empty())
    }

    /// Opening, as if all of it happened at this moment.
    pub(crate) fn open(&self, rules: &Rules) -> Result<Opened, Damage> {
        let manifests: Vec<No> = self.manifests.keys().copied().collect();
        let log: Vec<No> = self.log.keys().copied().collect();
        let mut state = self.base(&manifests).map_err(|_| Damage)?;
        for seq in wanted(&state, &log, &manifests, rules).map_err(|_| Damage)? {
            state = state.after(&self.log[&seq], rules).ok_or(Damage)?;
        }
        Ok(Opened { state, newest: self.newest_manifest() })
    }

    /// Whether the bytes are there that a state says are live.
    pub(crate) fn holds_layer_of(&self, state: &Timeline) -> bool {
        match state.layer {
            None => true,
            Some(layer) => match layer.place {
                Place::Record(seq) => self.log.get(&seq).is_some_and(|record| record.id() == layer.version),
                Place::Payload(key) => self.payloads.get(&key) == Some(&layer.version),
            },
        }
    }
}

/// An object that was listed is not there any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// The records to replay behind `base`, or the first that is missing: the engine's own decision.
pub(crate) fn wanted(base: &Timeline, log: &[No], manifests: &[No], rules: &Rules) -> Result<Vec<No>, No> {
    let short = |seq: Seq| No::try_from(seq.0).unwrap();
    let long = |seq: &No| Seq(u64::from(*seq));
    match to_replay(long(&base.seq), log.iter().map(long), manifests.last().map(long)) {
        Ok(wanted) => Ok(wanted.into_iter().map(short).collect()),
        Err(gap) if rules.off(Rule::GapsAreDamage) => {
            Ok(log.iter().copied().filter(|seq| *seq > base.seq && *seq < short(gap)).collect())
        }
        Err(gap) => Err(short(gap)),
    }
}
