//! Latencies, counted in buckets.
//!
//! Must always hold: a recorded value is off by less than two per cent; recording takes no lock and
//! no memory; no count is ever lost.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets per power of two.
const STEPS: u64 = 64;
/// Powers of two above [`STEPS`], in nanoseconds: the last ends after an hour.
const POWERS: u64 = 36;

/// Number of occurrences of each latency, in nanoseconds.
pub(super) struct Histogram {
    buckets: Vec<AtomicU64>,
}

impl Default for Histogram {
    fn default() -> Self {
        let count = STEPS + POWERS * STEPS;
        Self { buckets: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Histogram {
    /// Counts a latency.
    pub(super) fn record(&self, nanoseconds: u64) {
        let at = bucket(nanoseconds).min(self.buckets.len() - 1);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
    }

    /// The latency below which `share` (0 to 1) of the recorded values are, in microseconds; 0
    /// without values.
    pub(super) fn quantile_us(&self, share: f64) -> f64 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let wanted = (all as f64 * share).ceil().max(1.0) as u64;
        let mut passed = 0;
        for (at, count) in counts.into_iter().enumerate() {
            passed += count;
            if passed >= wanted {
                return Duration::from_nanos(middle(at as u64)).as_secs_f64() * 1e6;
            }
        }
        0.0
    }
}

/// Below [`STEPS`] one bucket per nanosecond, above [`STEPS`] of them per power of two.
fn bucket(value: u64) -> usize {
    if value < STEPS {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = u64::from(value.ilog2() - STEPS.ilog2());
    usize::try_from(power * STEPS + (value >> power)).unwrap_or(usize::MAX)
}

/// The value in the middle of a bucket.
fn middle(at: u64) -> u64 {
    if at < 2 * STEPS {
        return at;
    }
    let power = at / STEPS - 1;
    let first = (at - power * STEPS) << power;
    first + (1 << power) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_off_by_less_than_two_per_cent() {
        let mut value = 1_u64;
        while value < 3_600_000_000_000 {
            let read = middle(bucket(value) as u64);
            let off = read.abs_diff(value) as f64 / value as f64;
            assert!(off < 0.02, "{value} is read as {read}");
            value = value * 21 / 20 + 1;
        }
    }

    #[test]
    fn buckets_are_in_order_without_a_gap() {
        for value in 1..100_000_u64 {
            let step = bucket(value) - bucket(value - 1);
            assert!(step <= 1, "{value} is {step} buckets after {}", value - 1);
        }
    }

    #[test]
    fn quantiles_match_the_recorded_values() {
        let histogram = Histogram::default();
        assert!(histogram.quantile_us(0.5).abs() < f64::EPSILON);
        for micros in 1..=1_000 {
            histogram.record(micros * 1_000);
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let read = histogram.quantile_us(share);
            assert!((read - expected).abs() / expected < 0.02, "{share}: {read}");
        }
    }
}
