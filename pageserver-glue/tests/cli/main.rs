//! The command line, as the real program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod commands;
mod faults;
mod round_trip;
mod stock_tools;
mod support;
