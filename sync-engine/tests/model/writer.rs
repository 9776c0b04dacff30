//! A writer: it opens, claims, waits for its claim to stand, appends; it can sleep between any two steps.

use layer_archive::Seq;
use sync_engine::rules::{Claimed, Found, Reopened, found, judge_claim, judge_reopened, may_claim};

use crate::records::{Change, No, PayloadKey, Place, Record, Term, Timeline, digest};
use crate::rules::Rule;
use crate::store::Put;
use crate::system::{System, Violation};

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Writer {
    pub(crate) phase: Phase,
    /// What it believes the timeline to be.
    pub(crate) known: Timeline,
    /// The newest manifest it has seen.
    pub(crate) seen: No,
    /// The newest claim when it began.
    pub(crate) began: No,
    pub(crate) claim: No,
    pub(crate) term: Term,
    /// The record whose bytes are frozen.
    pub(crate) pending: Option<Record>,
    /// A payload object that it has uploaded and not named yet, and the place it was copied from, if it was.
    pub(crate) uploaded: Option<(PayloadKey, Option<Place>)>,
    /// Whether it has uploaded in this reign: once is enough.
    pub(crate) has_uploaded: bool,
    pub(crate) runs: u8,
    /// It appends only to what is released.
    pub(crate) is_tool: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    Idle,
    /// A record is to be created.
    Creating,
    /// What became of the create is to be found out.
    Unknown,
    /// The claim exists; whether it stands is to be found out.
    Settling,
    Active,
    /// Fenced, or the timeline did not read.
    Stopped,
}

/// What becomes of a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// It is answered.
    Answered,
    /// The writer gets no answer; it takes effect later, or never.
    Late,
}

/// What an active writer commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Intent {
    Note,
    Add,
    Remove,
    /// Names what was uploaded: a new layer, or the move of a copied one.
    NameUploaded,
    Release,
}

impl Writer {
    pub(crate) fn new(is_tool: bool) -> Self {
        Self {
            phase: Phase::Idle,
            known: Timeline::empty(),
            seen: 0,
            began: 0,
            claim: 0,
            term: 0,
            pending: None,
            uploaded: None,
            has_uploaded: false,
            runs: 0,
            is_tool,
        }
    }

    /// Forgets everything but how often it has run.
    fn reset(&mut self) {
        *self = Self { runs: self.runs, ..Self::new(self.is_tool) };
    }

    pub(crate) fn stop(&mut self) {
        self.reset();
        self.phase = Phase::Stopped;
    }
}

fn long(seq: No) -> Seq {
    Seq(u64::from(seq))
}

impl System {
    /// Starts or restarts: whatever it was doing is forgotten, what it sent is not.
    pub(crate) fn writer_opens(&mut self, w: usize) {
        let Ok(opened) = self.store.open(&self.rules) else {
            self.violate(Violation::FalseDamage);
            return;
        };
        let writer = &mut self.writers[w];
        writer.reset();
        writer.runs += 1;
        writer.began = opened.state.claim;
        (writer.known, writer.seen) = (opened.state, opened.newest);
        if writer.is_tool && !writer.known.released {
            writer.stop();
            return;
        }
        self.prepare_claim(w);
    }

    /// Makes the bytes of a claim, with a fresh term, behind what is known.
    fn prepare_claim(&mut self, w: usize) {
        self.next_term += 1;
        let writer = &mut self.writers[w];
        writer.term = self.next_term;
        writer.has_uploaded = false;
        writer.pending = Some(writer.known.next(writer.term, Change::Claim));
        writer.phase = Phase::Creating;
    }

    /// Sends the pending record.
    pub(crate) fn writer_creates(&mut self, w: usize, fate: Fate) {
        let record = self.writers[w].pending.unwrap();
        self.writers[w].phase = Phase::Unknown;
        match fate {
            Fate::Late => {
                self.late_left -= 1;
                self.store.late.insert(Put::Record(record));
                if self.rules.off(Rule::UnknownIsNotSuccess) {
                    self.record_exists(w);
                }
            }
            Fate::Answered => {
                if self.create(record) {
                    self.record_exists(w);
                }
            }
        }
    }

    /// Reads the record at the key of one whose create was refused or not answered.
    pub(crate) fn writer_looks_up(&mut self, w: usize) {
        let writer = &mut self.writers[w];
        let ours = writer.pending.unwrap();
        let there = self.store.log.get(&ours.seq).copied();
        let ids = (there.map(|record| record.id()), ours.id());
        let is_own_term = there.is_some_and(|there| there.term == ours.term);
        match found(ids.0.as_ref(), &ids.1) {
            Found::Ours => self.record_exists(w),
            Found::Another if self.rules.off(Rule::BytesAreFrozen) && is_own_term => self.record_exists(w),
            Found::Another => self.record_is_anothers(w, &there.unwrap()),
            Found::Nothing => {
                writer.phase = Phase::Creating;
                if self.rules.off(Rule::BytesAreFrozen) && ours.change != Change::Claim {
                    writer.pending = Some(Record { nonce: ours.nonce + 1, ..ours });
                }
            }
        }
    }

    /// The pending record is taken to exist: the claim is to be judged, or the commit is acknowledged.
    fn record_exists(&mut self, w: usize) {
        let writer = &mut self.writers[w];
        let record = writer.pending.take().unwrap();
        writer.known = writer.known.after(&record, &self.rules).unwrap();
        if record.change == Change::Claim {
            writer.claim = record.seq;
            writer.phase = Phase::Settling;
            if self.rules.off(Rule::ClaimsAreJudged) {
                self.writer_begins(w);
            }
            return;
        }
        writer.phase = Phase::Active;
        let named = matches!(record.change, Change::AddUploaded(_) | Change::Move { .. });
        if named && self.rules.on(Rule::DeadStaysDead) {
            writer.uploaded = None;
        }
        let history = writer.known.history;
        if record.change == Change::Release && self.rules.on(Rule::ReleasedIsTheEnd) {
            writer.reset();
        }
        self.acknowledge(record.seq, history);
    }

    fn record_is_anothers(&mut self, w: usize, there: &Record) {
        let writer = &mut self.writers[w];
        if writer.pending.unwrap().change != Change::Claim {
            writer.stop();
            return;
        }
        let Some(known) = writer.known.after(there, &self.rules) else {
            writer.stop();
            self.violate(Violation::FalseDamage);
            return;
        };
        writer.known = known;
        if may_claim(long(writer.began), long(writer.known.claim)) {
            writer.pending = Some(writer.known.next(writer.term, Change::Claim));
            writer.phase = Phase::Creating;
        } else {
            writer.stop();
        }
    }

    /// Lists the manifests after the claim.
    pub(crate) fn writer_settles(&mut self, w: usize) {
        let newest = self.store.newest_manifest();
        let writer = &self.writers[w];
        match judge_claim(long(writer.claim), long(writer.seen), long(newest)) {
            Claimed::Stands => self.writer_begins(w),
            Claimed::Unsure if self.rules.off(Rule::NewerManifestIsTaken) => self.writer_begins(w),
            Claimed::Unsure => {
                let Ok(opened) = self.store.open(&self.rules) else {
                    self.violate(Violation::FalseDamage);
                    return;
                };
                let writer = &mut self.writers[w];
                if (opened.state.claim, opened.state.term) == (writer.claim, writer.term) {
                    (writer.known, writer.seen) = (opened.state, newest);
                } else {
                    writer.stop();
                }
            }
            Claimed::Void => {
                let Ok(opened) = self.store.open(&self.rules) else {
                    self.violate(Violation::FalseDamage);
                    return;
                };
                let writer = &mut self.writers[w];
                (writer.known, writer.seen) = (opened.state, opened.newest);
                let ours = (long(writer.claim), writer.term);
                let newest = (long(writer.known.claim), writer.known.term);
                match judge_reopened(ours, long(writer.began), newest) {
                    Reopened::Stands if self.rules.off(Rule::OwnClaimStands) => {
                        writer.stop();
                        self.violate(Violation::FencedByItself);
                    }
                    Reopened::Stands => self.writer_begins(w),
                    Reopened::Fenced if self.rules.on(Rule::ForeignClaimFences) => writer.stop(),
                    Reopened::ClaimAgain | Reopened::Fenced => self.prepare_claim(w),
                }
            }
        }
    }

    /// The claim is taken to stand.
    fn writer_begins(&mut self, w: usize) {
        let writer = &mut self.writers[w];
        writer.phase = Phase::Active;
        let (claim, began, is_tool) = (writer.claim, writer.began, writer.is_tool);
        let Some(before) = self.log_was(claim - 1) else { return };
        if before.claim != began {
            self.violate(Violation::TookOverUnknowingly);
        } else if is_tool && !before.released {
            self.violate(Violation::TookOverFromARunningWriter);
        }
    }

    pub(crate) fn writer_appends(&mut self, w: usize, intent: Intent, fate: Fate) {
        let writer = &mut self.writers[w];
        let change = match (intent, writer.uploaded) {
            (Intent::Note, _) => Change::Note,
            (Intent::Add, _) => Change::Add,
            (Intent::Remove, _) => Change::Remove,
            (Intent::Release, _) => Change::Release,
            (Intent::NameUploaded, Some((to, Some(from)))) => Change::Move { from, to },
            (Intent::NameUploaded, Some((key, None))) => Change::AddUploaded(key),
            (Intent::NameUploaded, None) => return,
        };
        writer.pending = Some(writer.known.next(writer.term, change));
        self.writer_creates(w, fate);
    }

    /// Sends the record after the pending one, whose outcome is not known, and takes an answer for an acknowledgement.
    pub(crate) fn writer_runs_ahead(&mut self, w: usize) {
        let writer = &self.writers[w];
        let first = writer.pending.unwrap();
        let Some(between) = writer.known.after(&first, &self.rules) else { return };
        let second = between.next(writer.term, Change::Note);
        if self.create(second) {
            let history = between.after(&second, &self.rules).unwrap().history;
            self.acknowledge(second.seq, history);
        }
    }

    /// Uploads a payload object: a new layer, or a copy of the one there is.
    pub(crate) fn writer_uploads(&mut self, w: usize, copy: bool) {
        let writer = &mut self.writers[w];
        let key = PayloadKey { claim: writer.claim, term: writer.term };
        let (from, version) = match writer.known.layer {
            Some(layer) if copy => (Some(layer.place), layer.version),
            _ => (None, digest(&key)),
        };
        (writer.uploaded, writer.has_uploaded) = (Some((key, from)), true);
        self.store.payloads.entry(key).or_insert(version);
    }

    /// Somebody who only reads, such as gc, writes down what there is.
    pub(crate) fn bystander_snapshots(&mut self, fate: Fate) {
        let Ok(opened) = self.store.open(&self.rules) else { return };
        self.snapshot(opened.state, fate);
    }

    /// Writes down what is known, and in a variant what is not.
    pub(crate) fn writer_snapshots(&mut self, w: usize, fate: Fate) {
        let writer = &self.writers[w];
        let state = match writer.pending {
            Some(pending) if writer.phase == Phase::Unknown => {
                writer.known.after(&pending, &self.rules).unwrap()
            }
            _ => writer.known.clone(),
        };
        self.snapshot(state, fate);
    }

    fn snapshot(&mut self, state: Timeline, fate: Fate) {
        self.snapshots_left -= 1;
        match fate {
            Fate::Answered => self.put_manifest(state),
            Fate::Late => {
                self.late_left -= 1;
                self.store.late.insert(Put::Manifest(state));
            }
        }
    }
}
