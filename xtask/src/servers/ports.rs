//! Free ports for servers that must be told theirs.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// Below them are the ports that services have by custom; above are those that systems hand out to clients, of which
/// one could be taken between the choice and its use.
const RANGE: std::ops::Range<u16> = 15_000..30_000;

/// So many ports of the loopback address that nobody listens on.
///
/// # Errors
/// When there are not so many.
pub(super) fn free<const N: usize>() -> Result<[u16; N]> {
    // Processes that choose at the same time start in different places.
    let start = std::process::id().wrapping_mul(7_919);
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    choose(start, is_free).with_context(|| format!("the machine has no {N} free ports in {RANGE:?}"))
}

/// The first free ports at or after place `start` of the range, which wraps around.
fn choose<const N: usize>(start: u32, mut is_free: impl FnMut(u16) -> bool) -> Option<[u16; N]> {
    let len = usize::from(RANGE.end - RANGE.start);
    let skipped = usize::try_from(start).unwrap_or(0) % len;
    let free = RANGE.cycle().skip(skipped).take(len).filter(|port| is_free(*port));
    let ports: Vec<u16> = free.take(N).collect();
    ports.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_passed_over_and_the_range_wraps_around() {
        let taken = [29_999, 15_001];
        assert_eq!(choose(14_998, |port| !taken.contains(&port)), Some([29_998, 15_000, 15_002]));
        assert_eq!(choose(15_000, |_| true), Some([15_000, 15_001]));
        assert_eq!(choose::<2>(7, |port| port == 20_000), None);
    }

    #[test]
    fn a_port_that_is_listened_on_is_not_free() {
        let [port] = free().unwrap();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let [other] = free().unwrap();
        assert_ne!(port, other);
    }
}
