//! The heartbeat of an attempt: when its handler last reported that it is alive.
//!
//! Must always hold: a beat is cheap (one store, no lock), because handlers beat in loops; an
//! attempt that only waits for its journal needs no beat.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Shared by a handler, which beats, and the attempt, which may listen.
#[derive(Clone, Debug)]
pub struct Pulse(Option<Arc<Beats>>);

#[derive(Debug)]
struct Beats {
    begun: Instant,
    /// Milliseconds from `begun` to the last beat.
    last_ms: AtomicU64,
    is_resting: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        let begun = Instant::now();
        Self(Some(Arc::new(Beats { begun, last_ms: AtomicU64::new(0), is_resting: false.into() })))
    }
}

impl Pulse {
    /// The heartbeat of an attempt without a heartbeat timeout.
    pub(crate) fn without_timeout() -> Self {
        Self(None)
    }

    /// Reports that the handler is alive.
    pub fn beat(&self) {
        if let Some(beats) = &self.0 {
            let since = u64::try_from(beats.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            beats.last_ms.fetch_max(since, Ordering::Relaxed);
        }
    }

    /// Whether the attempt only waits for its journal: until it continues, no beat is needed.
    pub fn rest(&self, is_resting: bool) {
        if let Some(beats) = &self.0
            && beats.is_resting.swap(is_resting, Ordering::Relaxed)
        {
            self.beat();
        }
    }

    /// Completes when there was no beat for this long. Cancel-safe.
    pub(crate) async fn silence(&self, within: Duration) {
        let Some(beats) = &self.0 else { return std::future::pending().await };
        loop {
            if beats.is_resting.load(Ordering::Relaxed) {
                self.beat();
            }
            let last = Duration::from_millis(beats.last_ms.load(Ordering::Relaxed));
            // A time beyond the range of `Instant` is never reached.
            let Some(due) = beats.begun.checked_add(last).and_then(|at| at.checked_add(within))
            else {
                return std::future::pending().await;
            };
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_begins_with_the_last_beat() {
        let pulse = Pulse::default();
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        let beating = pulse.clone();
        let listening = tokio::spawn(async move { pulse.silence(3 * second).await });
        for _ in 0..5 {
            tokio::time::sleep(2 * second).await;
            beating.beat();
            assert!(!listening.is_finished());
        }
        listening.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_rests_needs_no_beat() {
        let pulse = Pulse::default();
        let second = Duration::from_secs(1);
        let begun = Instant::now();
        pulse.rest(true);
        let resting = pulse.clone();
        let listening = tokio::spawn(async move { pulse.silence(3 * second).await });
        tokio::time::sleep(100 * second).await;
        assert!(!listening.is_finished());
        resting.rest(false);
        listening.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 103);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_may_be_unlimited() {
        let waiting = Pulse::default();
        let ever = waiting.silence(Duration::MAX);
        assert!(tokio::time::timeout(Duration::from_secs(86_400), ever).await.is_err());
    }
}
