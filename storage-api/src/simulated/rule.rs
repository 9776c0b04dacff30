//! Which requests go wrong, and how.

use std::ops::Range;
use std::time::Duration;

use super::{Gate, Random, Request};
use crate::{ErrorKind, Operation};

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It never arrives: a broken connection.
    RequestLost,
    /// It takes effect, and its answer is lost: a broken connection.
    AnswerLost,
    /// The caller gets a timeout, and it takes effect when the caller has long gone on.
    Late(Delay),
    /// It takes so much longer before it takes effect.
    Slow(Delay),
    /// The store asks for fewer requests: of this one and, for the time `lasting`, of every other, whoever sends it.
    Throttled {
        /// How long the burst lasts.
        lasting: Duration,
        /// The wait that the store asks for.
        retry_after: Duration,
    },
    /// It is refused without effect, like a 500 or 409 ([`ErrorKind::Unexpected`]), a 412 or a 403.
    Refused(ErrorKind),
    /// The object read is damaged on its way. Other operations than get are not affected.
    Body(BodyFault),
    /// Of a bulk delete every other key, by the seed, is refused and stays. Other operations are not affected.
    KeysStay,
    /// A create replaces what is there, as in stores that ignore `If-None-Match`.
    CreateReplaces,
}

/// How long something waits.
#[derive(Clone, Debug)]
pub enum Delay {
    /// For a time in this range, chosen by the seed.
    For(Range<Duration>),
    /// Until the test lets it pass.
    Until(Gate),
}

/// What becomes of a body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// It ends early without an error.
    CutShort,
    /// The connection breaks in its middle.
    BrokenOff,
    /// It goes on behind its end.
    TooLong,
    /// One bit of it flips.
    BitFlipped,
}

/// Which requests meet a fault, and when: a pattern, and then always, the nth time or with a probability.
#[derive(Clone, Debug)]
pub struct Rule {
    client: Option<String>,
    operations: Vec<Operation>,
    key_part: String,
    when: When,
    fault: Fault,
}

#[derive(Clone, Debug)]
enum When {
    Always,
    Numbers(Range<u64>),
    Chance(f64),
}

impl Rule {
    /// Every request meets `fault`.
    pub fn new(fault: Fault) -> Self {
        Self { client: None, operations: Vec::new(), key_part: String::new(), when: When::Always, fault }
    }

    /// The same, of requests of this client alone.
    #[must_use]
    pub fn of_client(mut self, name: &str) -> Self {
        self.client = Some(name.to_owned());
        self
    }

    /// The same, of requests of these kinds alone.
    #[must_use]
    pub fn on(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.operations = operations.into_iter().collect();
        self
    }

    /// The same, of requests whose key or prefix contains `part` alone. A bulk delete has its first key.
    #[must_use]
    pub fn on_key(mut self, part: &str) -> Self {
        self.key_part = part.to_owned();
        self
    }

    /// The same, of the `n`th such request alone, counted from 1 since the rule was added.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.numbers(n..n + 1)
    }

    /// The same, of the such requests with these numbers, counted from 1 since the rule was added.
    #[must_use]
    pub fn numbers(mut self, numbers: Range<u64>) -> Self {
        self.when = When::Numbers(numbers);
        self
    }

    /// The same, of each such request with this probability.
    #[must_use]
    pub fn with_chance(mut self, probability: f64) -> Self {
        self.when = When::Chance(probability);
        self
    }

    fn matches(&self, request: &Request) -> bool {
        self.client.as_ref().is_none_or(|client| *client == request.client)
            && (self.operations.is_empty() || self.operations.contains(&request.operation))
            && request.key.contains(&self.key_part)
    }
}

/// A rule and how many requests it has met.
pub(super) struct ActiveRule {
    rule: Rule,
    met: u64,
}

impl ActiveRule {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, met: 0 }
    }

    /// Counts `request` if the rule is about it, and says what goes wrong.
    pub(super) fn meet(&mut self, request: &Request, random: &mut Random) -> Option<Fault> {
        if !self.rule.matches(request) {
            return None;
        }
        self.met += 1;
        let fires = match &self.rule.when {
            When::Always => true,
            When::Numbers(numbers) => numbers.contains(&self.met),
            When::Chance(probability) => random.chance(*probability),
        };
        fires.then(|| self.rule.fault.clone())
    }
}
