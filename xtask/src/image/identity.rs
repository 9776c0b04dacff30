//! Tenant and timeline ids, derived from an image's seed.

use super::random::Random;

/// Streams far from those of the layers.
const TENANT_STREAM: u64 = u64::MAX;
const TIMELINE_STREAM: u64 = u64::MAX - 1;

/// The tenant id, 32 lower-case hex digits.
pub(super) fn tenant(seed: u64) -> String {
    id(seed, TENANT_STREAM)
}

/// The timeline id, 32 lower-case hex digits.
pub(super) fn timeline(seed: u64) -> String {
    id(seed, TIMELINE_STREAM)
}

fn id(seed: u64, stream: u64) -> String {
    let mut random = Random::for_stream(seed, stream);
    format!("{:016x}{:016x}", random.next(), random.next())
}
