//! Sizes of layers, drawn from the percentiles of a fleet (31,106 timelines, 2023).

use super::Random;

/// Share of layers in 65,536ths, and the bytes that this share of layers does not exceed.
const PERCENTILES: [(u32, f64); 5] =
    [(655, 36_879.0), (32_768, 61_471.0), (58_982, 44.7e6), (64_881, 201.0e6), (65_536, 275.0e6)];

/// The bytes of a layer of the fleet: log-linear between the percentiles, the smallest below the first.
pub(super) fn draw(random: &mut Random) -> f64 {
    at_share(random.below(65_536))
}

/// `bytes` times `scale`, in whole bytes and at least 1.
#[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
pub(super) fn scaled(bytes: f64, scale: f64) -> u64 {
    ((bytes * scale) as u64).max(1)
}

fn at_share(share: u32) -> f64 {
    let mut below = PERCENTILES[0];
    for above in PERCENTILES {
        if share < above.0 {
            let fraction = f64::from(share.saturating_sub(below.0)) / f64::from((above.0 - below.0).max(1));
            return below.1 * fractional_power(above.1 / below.1, fraction);
        }
        below = above;
    }
    below.1
}

/// `base` to the power of `exponent`, which is at least 0 and below 1. By square roots, which every platform rounds
/// the same way, unlike its `pow`: equal seeds must give equal sizes.
fn fractional_power(base: f64, exponent: f64) -> f64 {
    let (mut result, mut root, mut rest) = (1.0, base, exponent);
    for _ in 0..32 {
        root = root.sqrt();
        rest *= 2.0;
        if rest >= 1.0 {
            result *= root;
            rest -= 1.0;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleets_percentiles_come_out() {
        let mut random = Random::for_stream(7, 7);
        let mut sizes: Vec<f64> = (0..100_000).map(|_| draw(&mut random)).collect();
        sizes.sort_by(f64::total_cmp);
        for (percent, expected) in [(1, 36_879.0), (50, 61_471.0), (90, 44.7e6), (99, 201.0e6)] {
            let got = sizes[percent * 1_000];
            assert!((got / expected).ln().abs() < 0.1, "p{percent} is {got}, not {expected}");
        }
        assert!(sizes[99_999] <= 275.0e6 && sizes[0] >= 36_878.0);
    }

    #[test]
    fn a_fractional_power_is_a_power() {
        for (base, exponent) in [(1.67_f64, 0.5), (727.0, 0.123), (4.5, 0.999), (1.37, 0.0)] {
            let expected = base.powf(exponent);
            assert!((fractional_power(base, exponent) / expected - 1.0).abs() < 1e-6);
        }
    }
}
