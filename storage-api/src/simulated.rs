//! A store that misbehaves as real ones do, by a seed: latency, lost answers, late effects, throttling, damaged bodies.
//!
//! A [`Simulation`] is one store in memory with the full semantics of the contract. Its [clients](SimulatedClient)
//! are what processes are to a real store: each has a name and a count of requests, and can be killed while the others
//! go on. What goes wrong is said by [`Rule`]s, which can be changed at any time; without rules the store conforms.
//!
//! Time is tokio's: on a runtime whose time is paused, waiting takes none. Whatever takes its time from
//! [`Simulation::clock`] lives in that time too. What one client meets depends on the seed, its name and the number of
//! its request alone, so that equal seeds give equal [traces](Simulation::trace) as long as the program under test
//! sends the same requests. A test that panics prints the seed and the end of the trace.
//!
//! ```
//! use std::time::Duration;
//! use storage_api::simulated::{Fault, Rule, check_seeds};
//! use storage_api::{Body, Key, ObjectStore, PutMode};
//!
//! check_seeds(0..3, async |simulation| {
//!     simulation.set_latency(Duration::from_millis(5)..Duration::from_millis(50));
//!     simulation.add_rule(Rule::new(Fault::AnswerLost).on_key("log/").nth(1));
//!     let client = simulation.client("writer");
//!     let key = Key::new("log/1").unwrap();
//!     assert!(client.put(&key, Body::new("x"), PutMode::Create).await.is_err());
//!     let again = client.put(&key, Body::new("x"), PutMode::Create).await;
//!     assert!(again.unwrap_err().is_already_exists());
//! });
//! ```

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod client;
mod clock;
mod damage;
mod gate;
mod random;
mod rule;
mod seeds;
mod trace;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Clock, MemoryStore};

pub use client::{Moment, SimulatedClient};
pub use clock::VirtualClock;
pub use gate::Gate;
pub use random::Random;
pub use rule::{BodyFault, Delay, Fault, Rule};
pub use seeds::{SEED_VARIABLE, check_seeds};
pub use trace::{Event, Request, TraceEntry};

use rule::ActiveRule;

/// How much of the trace a failing test prints.
const TRACE_LINES_SHOWN: usize = 60;

/// One store, the faults of its network, and what happened so far. Clones are handles to the same.
#[derive(Clone)]
pub struct Simulation(Arc<Shared>);

struct Shared {
    seed: u64,
    clock: VirtualClock,
    memory: Arc<MemoryStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    latency: Range<Duration>,
    rules: Vec<ActiveRule>,
    /// Until when every request is throttled, and the wait that the store then asks for.
    throttled: Option<(Duration, Duration)>,
    trace: Vec<TraceEntry>,
    late_effects: usize,
}

impl Simulation {
    /// An empty store without faults and latency. To be made on the runtime whose time it is to live in.
    pub fn new(seed: u64) -> Self {
        Self::over(seed, |memory| memory)
    }

    /// The same over a store with other bounds: `configure` lowers those of [`MemoryStore`].
    pub fn over(seed: u64, configure: impl FnOnce(MemoryStore) -> MemoryStore) -> Self {
        let clock = VirtualClock::new();
        let memory = Arc::new(configure(MemoryStore::with_clock(Arc::new(clock))));
        Self(Arc::new(Shared { seed, clock, memory, state: Mutex::default() }))
    }

    /// The seed that replays this run.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The time of this store, for everything that is to live in it.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.0.clock)
    }

    /// What the store holds, without faults, latency and trace: for a test to look at and to prepare.
    pub fn objects(&self) -> &Arc<MemoryStore> {
        &self.0.memory
    }

    /// A generator for the test's own choices, different for each purpose.
    pub fn random(&self, purpose: &str) -> Random {
        Random::new(self.0.seed, purpose, u64::MAX)
    }

    /// A client of this store. Two clients of one name meet the same faults.
    pub fn client(&self, name: &str) -> Arc<SimulatedClient> {
        Arc::new(SimulatedClient::new(self.clone(), name))
    }

    /// Each request takes so long from now on, half of it before its effect on average.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.lock().latency = latency;
    }

    /// Adds a rule behind those there are. Of the rules that a request meets, the first that fires counts.
    pub fn add_rule(&self, rule: Rule) {
        self.lock().rules.push(ActiveRule::new(rule));
    }

    /// Takes all rules away, and ends throttling. What is late already stays late.
    pub fn clear_rules(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.throttled = None;
    }

    /// What happened so far, in order.
    pub fn trace(&self) -> Vec<TraceEntry> {
        self.lock().trace.clone()
    }

    /// Waits until every late effect that does not wait at a [`Gate`] nobody opens has happened.
    pub async fn settle(&self) {
        while self.lock().late_effects > 0 {
            self.0.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    fn record(&self, request: &Request, event: Event) {
        let at = self.0.clock.elapsed();
        self.lock().trace.push(TraceEntry { at, request: request.clone(), event });
    }

    /// What goes wrong with `request`.
    fn fault(&self, request: &Request, random: &mut Random) -> Option<Fault> {
        let now = self.0.clock.elapsed();
        let mut state = self.lock();
        if let Some((until, retry_after)) = state.throttled
            && now < until
        {
            return Some(Fault::Throttled { lasting: Duration::ZERO, retry_after });
        }
        // Every rule sees every request, so that what one counts does not depend on what another does.
        let fired: Vec<Fault> =
            state.rules.iter_mut().filter_map(|rule| rule.meet(request, random)).collect();
        let fault = fired.into_iter().next();
        if let Some(Fault::Throttled { lasting, retry_after }) = fault {
            state.throttled = Some((now + lasting, retry_after));
        }
        fault
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("seed", &self.0.seed).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    #[expect(clippy::print_stderr, reason = "whoever sees a test fail needs the seed")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let trace = &self.state.get_mut().unwrap_or_else(PoisonError::into_inner).trace;
        let hidden = trace.len().saturating_sub(TRACE_LINES_SHOWN);
        eprintln!("the simulated store of seed {}, {} events, the last:", self.seed, trace.len());
        for entry in &trace[hidden..] {
            eprintln!("  {entry}");
        }
    }
}
