//! What backup and restore may cost, counted at the store.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the figures are for whoever runs it")]

mod bench;
mod image;
mod on_demand;
mod scale;
mod states;
#[path = "../support/mod.rs"]
mod support;
