//! The engine over stores: one binary, a module a subject.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup_restore;
mod branches;
mod damage;
mod hazards;
mod on_demand;
mod pages;
mod protocol;
mod races;
mod retried;
mod state_model;
mod support;
mod uploads;
