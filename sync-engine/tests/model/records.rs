//! What the log holds: records, and the state of a timeline as a pure function of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::rules::{Rule, Rules};

/// The number of a record. The model's logs are short.
pub(crate) type No = u8;

/// A random number that names a writer's reign. The model deals them out in order.
pub(crate) type Term = u8;

/// The key of a payload object: its writer's claim and term. One object a reign is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PayloadKey {
    pub(crate) claim: No,
    pub(crate) term: Term,
}

/// Which bytes a layer has.
pub(crate) type Version = u32;

/// Where the bytes of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    Record(No),
    Payload(PayloadKey),
}

/// What a record does. There is one layer name, which is enough to add, remove, add again and move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Change {
    Claim,
    /// New metadata: nothing that any rule looks at.
    Note,
    /// The layer, in the record's own bundle.
    Add,
    /// The layer, in a payload object.
    AddUploaded(PayloadKey),
    Remove,
    Move {
        from: Place,
        to: PayloadKey,
    },
    /// The last commit of a clean detach.
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) seq: No,
    /// The digest of everything before.
    pub(crate) parent: u32,
    pub(crate) term: Term,
    /// Tells records apart that one writer makes for one number, which it must not.
    pub(crate) nonce: u8,
    pub(crate) change: Change,
}

impl Record {
    /// The digest of its bytes.
    pub(crate) fn id(&self) -> u32 {
        digest(self)
    }
}

/// The digest of anything: equal ones are equal for certain as far as these small models go.
pub(crate) fn digest(value: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    u32::try_from(hasher.finish() >> 32).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Layer {
    pub(crate) place: Place,
    pub(crate) version: Version,
}

/// The state after some records, as `sync_engine::TimelineState` is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Timeline {
    pub(crate) seq: No,
    pub(crate) history: u32,
    pub(crate) claim: No,
    pub(crate) term: Term,
    pub(crate) released: bool,
    pub(crate) layer: Option<Layer>,
    /// The payload objects it knows, with the last record that names each.
    pub(crate) named: BTreeMap<PayloadKey, No>,
}

impl Timeline {
    pub(crate) fn empty() -> Self {
        Self { seq: 0, history: 0, claim: 0, term: 0, released: true, layer: None, named: BTreeMap::new() }
    }

    /// The next record of this state.
    pub(crate) fn next(&self, term: Term, change: Change) -> Record {
        Record { seq: self.seq + 1, parent: self.history, term, nonce: 0, change }
    }

    /// Applies the next record. `None` where it is of another history or reign.
    #[must_use]
    pub(crate) fn after(&self, record: &Record, rules: &Rules) -> Option<Self> {
        let claims = record.change == Change::Claim;
        if record.seq != self.seq + 1 || record.parent != self.history || !claims && record.term != self.term
        {
            return None;
        }
        let mut next = self.clone();
        next.seq = record.seq;
        next.history = digest(&(self.history, record.id()));
        next.released = record.change == Change::Release;
        match record.change {
            Change::Claim => (next.claim, next.term) = (record.seq, record.term),
            Change::Note | Change::Release => {}
            Change::Add => {
                next.layer = Some(Layer { place: Place::Record(record.seq), version: record.id() });
            }
            Change::AddUploaded(key) => {
                next.named.insert(key, record.seq);
                next.layer = Some(Layer { place: Place::Payload(key), version: digest(&key) });
            }
            Change::Remove => next.layer = None,
            Change::Move { from, to } => {
                next.named.insert(to, record.seq);
                let to = Place::Payload(to);
                next.layer = match self.layer {
                    Some(layer) if layer.place == from => Some(Layer { place: to, ..layer }),
                    _ if rules.off(Rule::MovesNameTheirPlace) => {
                        Some(Layer { place: to, version: digest(&to) })
                    }
                    other => other,
                };
            }
        }
        let (claim, live) = (next.claim, next.place());
        next.named.retain(|key, _| Some(Place::Payload(*key)) == live || key.claim >= claim);
        Some(next)
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.layer.map(|layer| layer.place)
    }
}
