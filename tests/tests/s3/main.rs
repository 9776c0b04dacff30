//! The S3 backend, its decorators and the engine over real HTTP, on the remote under test: a server in this process,
//! or the one that the environment names (see `layerpack_tests::Remote`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the figures are for whoever runs it")]

mod budgets;
mod conformance;
mod exemptions;
mod fencing;
mod flows;
mod races;
mod reads;
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod unreachable;
