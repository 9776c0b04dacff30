//! A reader, a request at a time.

use crate::records::{No, Timeline};
use crate::rules::Rule;
use crate::store::wanted;
use crate::system::{System, Violation};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    Idle,
    Reading(Reading),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    /// The last record that was acknowledged when it began.
    pub(crate) acknowledged: No,
    manifests: Option<Vec<No>>,
    log: Option<Vec<No>>,
    /// The state so far, once a manifest was loaded.
    state: Option<Timeline>,
    rest: Vec<No>,
    replayed: bool,
    /// What the last attempt missed, and this one if it does.
    missed: Option<No>,
    problem: Option<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Problem {
    Gap(No),
    Mismatch,
}

impl Reading {
    fn new(acknowledged: No, missed: Option<No>) -> Self {
        Self {
            acknowledged,
            manifests: None,
            log: None,
            state: None,
            rest: Vec::new(),
            replayed: false,
            missed,
            problem: None,
        }
    }

    pub(crate) fn may_list_manifests(&self) -> bool {
        self.manifests.is_none()
    }

    pub(crate) fn may_list_log(&self) -> bool {
        self.log.is_none()
    }

    pub(crate) fn may_go_on(&self) -> bool {
        self.manifests.is_some() && self.log.is_some()
    }
}

impl System {
    fn reading(&mut self) -> Reading {
        match std::mem::replace(&mut self.reader, Reader::Idle) {
            Reader::Idle => Reading::new(self.acknowledged, None),
            Reader::Reading(reading) => reading,
        }
    }

    pub(crate) fn reader_lists_manifests(&mut self) {
        let mut reading = self.reading();
        reading.manifests = Some(self.store.manifests.keys().copied().collect());
        self.reader = Reader::Reading(reading);
    }

    pub(crate) fn reader_lists_log(&mut self) {
        let mut reading = self.reading();
        reading.log = Some(self.store.log.keys().copied().collect());
        self.reader = Reader::Reading(reading);
    }

    /// The next request after the lists: a manifest, a record, or the manifests again.
    pub(crate) fn reader_goes_on(&mut self) {
        let mut reading = self.reading();
        let (manifests, log) = (reading.manifests.as_ref().unwrap(), reading.log.as_ref().unwrap());
        let Some(state) = &reading.state else {
            match self.store.base(manifests) {
                Err(_) => reading = Reading::new(reading.acknowledged, None),
                Ok(base) => {
                    match wanted(&base, log, manifests, &self.rules) {
                        Ok(rest) => reading.rest = rest,
                        Err(gap) => reading.problem = Some(Problem::Gap(gap)),
                    }
                    reading.state = Some(base);
                }
            }
            self.reader = Reader::Reading(reading);
            return;
        };
        if reading.problem.is_none() && !reading.rest.is_empty() {
            let seq = reading.rest.remove(0);
            match self.store.log.get(&seq).map(|record| state.after(record, &self.rules)) {
                None => reading = Reading::new(reading.acknowledged, None),
                Some(None) => reading.problem = Some(Problem::Mismatch),
                Some(Some(next)) => (reading.state, reading.replayed) = (Some(next), true),
            }
            self.reader = Reader::Reading(reading);
            return;
        }
        self.reader_ends(&reading);
    }

    /// The last list, and what comes of it.
    fn reader_ends(&mut self, reading: &Reading) {
        let listed = reading.manifests.as_ref().unwrap().last().copied().unwrap_or(0);
        let moved_on = self.store.newest_manifest() > listed;
        let restart = |missed| Reader::Reading(Reading::new(reading.acknowledged, missed));
        match reading.problem {
            Some(Problem::Mismatch) if moved_on && self.rules.on(Rule::MismatchesLookAgain) => {
                self.reader = restart(None);
            }
            Some(Problem::Mismatch) => self.violate(Violation::FalseDamage),
            Some(Problem::Gap(_)) if moved_on => self.reader = restart(None),
            Some(Problem::Gap(gap)) if reading.missed == Some(gap) => {
                if !self.records_lost {
                    self.violate(Violation::FalseDamage);
                }
            }
            Some(Problem::Gap(gap)) => self.reader = restart(Some(gap)),
            None => {
                // Who replayed nothing need not look: records above a floor stay, so that a log that was collected since
                // the manifests were listed shows a gap.
                if reading.replayed && moved_on && self.rules.on(Rule::ReadersLookAgain) {
                    self.reader = restart(None);
                } else {
                    self.reader_has_read(reading);
                }
            }
        }
    }

    fn reader_has_read(&mut self, reading: &Reading) {
        let state = reading.state.as_ref().unwrap();
        if self.log_was(state.seq).is_none_or(|then| then.history != state.history) {
            self.violate(Violation::MixedState);
        } else if state.seq < reading.acknowledged {
            self.violate(Violation::StaleState);
        }
    }
}
