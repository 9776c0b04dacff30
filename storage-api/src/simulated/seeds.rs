//! Running a test for many seeds, each on a runtime of its own whose time is virtual.

use std::ops::Range;
use std::time::Duration;

use super::Simulation;

/// The variable with the one seed to run instead of all.
pub const SEED_VARIABLE: &str = "LAYERPACK_SEED";

/// A test that is not done after so much virtual time waits for something that will not come.
const VIRTUAL_TIME_MAX: Duration = Duration::from_secs(400 * 24 * 3600);

/// Runs `test` once for each seed, or for the one in the variable [`SEED_VARIABLE`], each time with a new simulation on a
/// new single-threaded runtime whose time is paused.
///
/// # Panics
///
/// If the test does, with a line that says how to replay it; and if it hangs.
pub fn check_seeds(seeds: Range<u64>, test: impl AsyncFn(Simulation)) {
    let seeds = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => {
            let seed = seed.parse().expect("the variable LAYERPACK_SEED is a number");
            seed..seed + 1
        }
        Err(_) => seeds,
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime can be made");
        let replay = ReplayHint(seed);
        runtime.block_on(async {
            let run = tokio::time::timeout(VIRTUAL_TIME_MAX, test(Simulation::new(seed)));
            run.await.expect("the test goes on");
        });
        drop(replay);
    }
}

/// Says how to replay a seed, when it is dropped by a panic.
struct ReplayHint(u64);

impl Drop for ReplayHint {
    #[expect(clippy::print_stderr, reason = "whoever sees a test fail needs the seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or("NAME").to_owned();
            eprintln!("to replay it: {SEED_VARIABLE}={} cargo test {test}", self.0);
        }
    }
}
