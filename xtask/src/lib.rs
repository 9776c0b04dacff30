//! The project's task runner: benchmark images, the benchmark, S3 servers for the tests, the checks of `tidy`, the steps
//! of `ci`, and the proofs of `prove`.
//!
//! The logic is a library so that tests and the demo make their images with the same code as the command line.

pub mod bench;
pub mod ci;
pub mod demo;
pub mod image;
pub mod prove;
pub mod repository;
pub mod servers;
pub mod tidy;

pub use storage_api::conformance::skip;

/// Starts a timer, for times that are shown to people.
#[expect(clippy::disallowed_methods, reason = "nothing but the display depends on it")]
fn timer() -> std::time::Instant {
    std::time::Instant::now()
}
