//! The command line, as the real program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the messages and figures are for whoever runs it")]

/// Each flow as two tests: with a store in a directory, and on the S3 remote under test (`layerpack_tests::Remote`).
macro_rules! on_both {
    ($($flow:ident),* $(,)?) => {
        mod directory {
            $(#[test] fn $flow() { super::$flow(crate::support::Kind::Directory); })*
        }
        mod s3 {
            $(#[test] fn $flow() { super::$flow(crate::support::Kind::S3); })*
        }
    };
}

mod beside;
mod branches;
mod commands;
mod crashes;
mod dry_run;
mod family_past;
mod faults;
mod gc;
mod real_branch;
mod round_trip;
mod s3_errors;
mod s3_options;
mod s3_wire;
mod stock_tools;
mod stored;
mod support;
mod tenants;
mod time;
mod unfinished;
