//! Latencies, counted in buckets.
//!
//! Must always hold: a recorded value is off by less than two per cent; threads that record at the
//! same time do not wait for each other; no recorded value is lost.

use std::{
    cell::Cell,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram as Counts;

/// Significant decimal digits: a value is off by at most one per cent.
const DIGITS: u8 = 2;
/// Maximum latency; longer ones count as this one.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Number of threads that record without sharing a lock.
const SHARDS: usize = 16;

/// The number of occurrences of each latency, in nanoseconds.
pub(super) struct Histogram {
    shards: Vec<Mutex<Counts<u64>>>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(counts())).collect() }
    }
}

fn counts() -> Counts<u64> {
    let highest = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
    Counts::new_with_max(highest, DIGITS).expect("the bounds are constants")
}

fn locked(shard: &Mutex<Counts<u64>>) -> MutexGuard<'_, Counts<u64>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of this thread among the recording threads.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        let number = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        own.set(Some(number));
        number
    })
}

impl Histogram {
    /// Records a latency.
    pub(super) fn record(&self, nanoseconds: u64) {
        locked(&self.shards[thread_number() % SHARDS]).saturating_record(nanoseconds);
    }

    /// The latency below which `share` (0 to 1) of the recorded values are, in microseconds; 0 when
    /// nothing was recorded.
    pub(super) fn quantile_us(&self, share: f64) -> f64 {
        let mut all = counts();
        for shard in &self.shards {
            all.add(&*locked(shard)).expect("all shards have the same bounds");
        }
        let value = all.value_at_quantile(share);
        Duration::from_nanos(all.median_equivalent(value)).as_secs_f64() * 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_value_is_off_by_less_than_two_per_cent() {
        let mut value = 1_u64;
        while value < 3_600_000_000_000 {
            let histogram = Histogram::default();
            histogram.record(value);
            let read = histogram.quantile_us(0.5) * 1_000.0;
            let off = (read - value as f64).abs() / value as f64;
            assert!(off < 0.02, "{value} is read as {read}");
            value = value * 3 / 2 + 1;
        }
    }

    #[test]
    fn quantiles_count_the_values_of_all_threads() {
        let histogram = Histogram::default();
        assert!(histogram.quantile_us(0.5).abs() < f64::EPSILON);
        std::thread::scope(|scope| {
            for part in 0..SHARDS as u64 + 4 {
                let histogram = &histogram;
                scope.spawn(move || {
                    (1..=1_000)
                        .filter(|micros| micros % (SHARDS as u64 + 4) == part)
                        .for_each(|micros| histogram.record(micros * 1_000));
                });
            }
        });
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let read = histogram.quantile_us(share);
            assert!((read - expected).abs() / expected < 0.02, "{share}: {read}");
        }
    }

    #[test]
    fn a_latency_beyond_the_longest_counts_as_the_longest() {
        let histogram = Histogram::default();
        histogram.record(u64::MAX);
        let hours = histogram.quantile_us(1.0) / 3.6e9;
        assert!((hours - 1.0).abs() < 0.02, "{hours}");
    }
}
