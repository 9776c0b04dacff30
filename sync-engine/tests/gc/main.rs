//! Garbage collection: one binary, a module a subject.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod beside;
mod churn;
mod damage;
mod eighty;
mod frames;
mod kills;
mod model;
mod rules;
mod spy;
#[expect(dead_code, reason = "shared with the engine's tests, which use the rest")]
#[path = "../engine/support/mod.rs"]
mod support;
