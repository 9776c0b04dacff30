//! What a program does.

use std::time::Duration;

use storage_api::simulated::{Delay, Fault, Random, Rule};
use storage_api::{ErrorKind, Operation};

use crate::support::{MINUTE, SECOND};

/// One step. Numbers choose among what there is at the time.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Hand over new layers of these sizes, remove this many that are there, and perhaps say new metadata, which may have
    /// the LSN of the last.
    Change { layers: Vec<usize>, removals: u64, metadata: Metadata },
    /// Take a name again that was removed before.
    TakeNameAgain { len: usize },
    /// A file cannot be read for a while.
    LoseFile,
    /// The files that could not be read are there again.
    FindFiles,
    /// Wait.
    Sleep(Duration),
    /// Wait until everything is stored, but not for ever.
    Flush,
    /// Read a layer from the store.
    Read(u64),
    /// Leave in order and come back.
    Restart,
    /// The process dies after so many more requests, and another one comes.
    Crash { requests: u64, after_effect: After },
    /// Another process comes while this one goes on.
    SecondWriter,
    /// From now on this goes wrong too.
    Fault(FaultKind, f64),
    /// Nothing goes wrong any more.
    Calm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    None,
    SameLsn,
    Newer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Effect,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum FaultKind {
    RequestLost,
    AnswerLost,
    LateCreate,
    Throttled,
    Refused,
    Forbidden,
    Slow,
}

impl FaultKind {
    pub(super) fn rule(self, chance: f64) -> Rule {
        let creates = [Operation::PutCreate];
        match self {
            Self::RequestLost => Rule::new(Fault::RequestLost),
            Self::AnswerLost => Rule::new(Fault::AnswerLost),
            Self::LateCreate => Rule::new(Fault::Late(Delay::For(SECOND..20 * MINUTE))).on(creates),
            Self::Throttled => Rule::new(Fault::Throttled { lasting: 3 * SECOND, retry_after: SECOND }),
            Self::Refused => Rule::new(Fault::Refused(ErrorKind::Unexpected)),
            Self::Forbidden => Rule::new(Fault::Refused(ErrorKind::PermissionDenied)).on(creates),
            Self::Slow => Rule::new(Fault::Slow(Delay::For(SECOND..20 * SECOND))),
        }
        .with_chance(chance)
    }
}

/// A program of 8 to 40 steps.
pub(super) fn program(random: &mut Random) -> Vec<Step> {
    (0..8 + random.below(33)).map(|_| step(random)).collect()
}

fn step(random: &mut Random) -> Step {
    match random.below(100) {
        0..36 => {
            let layers = (0..random.below(4)).map(|_| len(random)).collect();
            let metadata = match random.below(4) {
                0 => Metadata::None,
                1 => Metadata::SameLsn,
                _ => Metadata::Newer,
            };
            let removals = if random.chance(0.4) { 1 + random.below(3) } else { 0 };
            Step::Change { layers, removals, metadata }
        }
        36..42 => Step::TakeNameAgain { len: len(random) },
        42..46 => Step::LoseFile,
        46..50 => Step::FindFiles,
        50..56 => Step::Sleep(random.duration(&(SECOND / 100..SECOND / 5))),
        56..58 => Step::Sleep(random.duration(&(SECOND / 100..3 * SECOND))),
        58..62 => Step::Sleep(random.duration(&(MINUTE..10 * MINUTE))),
        62..70 => Step::Flush,
        70..74 => Step::Read(random.next()),
        74..78 => Step::Restart,
        78..83 => {
            let after_effect = if random.chance(0.5) { After::Effect } else { After::Nothing };
            Step::Crash { requests: random.below(6), after_effect }
        }
        83..87 => Step::SecondWriter,
        87..95 => {
            let kinds = [
                FaultKind::RequestLost,
                FaultKind::AnswerLost,
                FaultKind::LateCreate,
                FaultKind::Throttled,
                FaultKind::Refused,
                FaultKind::Forbidden,
                FaultKind::Slow,
            ];
            let kind = random.pick(&kinds).copied().unwrap_or(FaultKind::Slow);
            let chances = [0.05, 0.2, 0.6];
            Step::Fault(kind, random.pick(&chances).copied().unwrap_or(0.1))
        }
        _ => Step::Calm,
    }
}

/// Mostly small; some have frames of their own, a few of which fill a bundle, and more than one record's worth may come
/// at once.
fn len(random: &mut Random) -> usize {
    if random.chance(0.08) {
        return 263_000;
    }
    let bound = random.pick(&[1, 500, 4_000, 4_000]).copied().unwrap_or(1);
    usize::try_from(random.below(bound)).unwrap_or(0)
}
