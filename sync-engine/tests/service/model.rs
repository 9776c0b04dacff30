//! Random programs against a plain map: checkpoints, metadata, removals, reads, restarts, crashes, second writers, and
//! faults of the store and of the disk. After every step the store is read and compared.
//!
//! The map after the first `k` changes is what the timeline is as of the `k`th. At any time the store must hold one of
//! these states whole: the metadata of the `k`th and all of its layers, for some `k` that is not before the last change
//! that was acknowledged. Besides it may hold layers of later changes, and those whose removal was lost with a process.
//!
//! `cargo xtask prove service` runs many more; `LAYERPACK_SEED=n` runs the one with that seed.

mod program;
mod world;

use std::cell::Cell;

use storage_api::simulated::check_seeds;

use self::program::{Step, program};
use self::world::World;

/// Programs in a plain `cargo test`, and where the variable `LAYERPACK_PROVE` asks for more.
const PROGRAMS: (u64, u64) = (300, 10_000);

#[test]
fn whatever_happens_the_store_holds_a_state_that_is_whole_and_not_before_what_was_acknowledged() {
    let programs = if std::env::var_os("LAYERPACK_PROVE").is_some() { PROGRAMS.1 } else { PROGRAMS.0 };
    let collected = Cell::new((0, 0, 0));
    check_seeds(0..programs, async |simulation| {
        let steps = program(&mut simulation.random("program"));
        let mut world = World::new(&simulation).await;
        for (number, step) in steps.iter().enumerate() {
            let step: &Step = step;
            world.told(format!("step {number}: {step:?}"));
            world.step(step).await;
            world.compare().await;
        }
        world.told("the end".into());
        world.end().await;
        let (programs, deleted, repacked) = collected.get();
        let (more_deleted, more_repacked) = world.collected();
        collected.set((programs + 1, deleted + more_deleted, repacked + more_repacked));
    });
    let (programs, deleted, repacked) = collected.get();
    println!("{programs} programs: {deleted} objects deleted and {repacked} layers repacked meanwhile");
    // One program alone may do without.
    assert!(programs < 100 || deleted > programs && repacked > programs, "{deleted} and {repacked}");
}
