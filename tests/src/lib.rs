//! Servers for tests, on loopback: an S3 endpoint in this process, and a proxy that counts requests and injects faults.
//!
//! Each runs on a thread and a runtime of its own, so that blocking tests and child processes can use it, and ends
//! when it is dropped. They fail by panicking, as what uses them are tests.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod remote;
mod s3_server;
mod serving;
mod wire_proxy;

pub use remote::{Remote, SERVER_VARIABLE, ServerKind, URL_VARIABLE};
pub use s3_server::{BUCKET, KeyPair, Quirk, READ_ONLY, READ_WRITE, REGION, S3Server};
pub use wire_proxy::{Fault, RequestKind, Rule, WireProxy, WireRequest};
