//! The background service over the simulated store: one binary, a module a subject. Time is virtual.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod branches;
mod collecting;
mod faults;
mod gathering;
mod leaving;
mod loads;
mod model;
mod order;
mod reconcile;
mod support;
mod writers;
