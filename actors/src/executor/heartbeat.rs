//! The pulse of an attempt: when its handler last said that it is alive.
//!
//! Must always hold: a beat is cheap (one store, no lock), for handlers beat in loops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Shared by a handler, which beats, and whoever listens, if somebody does.
#[derive(Clone, Debug)]
pub struct Pulse(Option<Arc<Beats>>);

#[derive(Debug)]
struct Beats {
    begun: Instant,
    /// Milliseconds from `begun` to the last beat.
    last_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self(Some(Arc::new(Beats { begun: Instant::now(), last_ms: AtomicU64::new(0) })))
    }
}

impl Pulse {
    /// The pulse of an attempt to which nobody listens.
    pub(crate) fn unheard() -> Self {
        Self(None)
    }

    /// The handler is alive.
    pub fn beat(&self) {
        if let Some(beats) = &self.0 {
            let since = u64::try_from(beats.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            beats.last_ms.fetch_max(since, Ordering::Relaxed);
        }
    }

    /// Completes when there was no beat for so long. Cancel-safe.
    pub(crate) async fn silence(&self, within: Duration) {
        let Some(beats) = &self.0 else { return std::future::pending().await };
        loop {
            let last = Duration::from_millis(beats.last_ms.load(Ordering::Relaxed));
            // A time that cannot be told is one that never comes.
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
    async fn it_may_be_asked_to_wait_for_ever() {
        let waiting = Pulse::default();
        let ever = waiting.silence(Duration::MAX);
        assert!(tokio::time::timeout(Duration::from_secs(86_400), ever).await.is_err());
    }
}
