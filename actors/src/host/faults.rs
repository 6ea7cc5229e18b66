//! Planned deaths of vqueue actors and failures of their refills, for tests.
//!
//! Owns: how often they happen, by a seed. Must not know: what an actor does.

#[cfg(feature = "testkit")]
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

#[cfg(feature = "testkit")]
use crate::shell::sim::SeededRandom;

/// The planned faults of a node; none outside of tests.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    #[cfg(feature = "testkit")]
    faults: Option<Arc<dyn Faults>>,
}

/// Decides when a fault happens.
#[cfg(feature = "testkit")]
pub(crate) trait Faults: std::fmt::Debug + Send + Sync {
    /// Kills the calling vqueue actor if a fault is due.
    fn at_vqueue(&self) {}

    /// Whether a worker must do a read even if it would not block.
    fn blocks(&self) -> bool {
        false
    }

    /// Whether a worker's scan fails. Panics instead if a panic is due.
    fn at_scan(&self) -> bool {
        false
    }
}

#[cfg(feature = "testkit")]
impl From<Arc<ActorFaults>> for FaultPlan {
    fn from(faults: Arc<ActorFaults>) -> Self {
        Self::by(faults)
    }
}

#[cfg(feature = "testkit")]
impl FaultPlan {
    /// These faults.
    pub(crate) fn by(faults: Arc<dyn Faults>) -> Self {
        Self { faults: Some(faults) }
    }

    pub(crate) fn at_vqueue(&self) {
        if let Some(faults) = &self.faults {
            faults.at_vqueue();
        }
    }

    pub(crate) fn blocks(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.blocks())
    }

    pub(crate) fn at_scan(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.at_scan())
    }
}

#[cfg(not(feature = "testkit"))]
#[expect(clippy::unused_self, reason = "the same calls in both builds")]
impl FaultPlan {
    pub(crate) fn at_vqueue(&self) {}

    pub(crate) fn blocks(&self) -> bool {
        false
    }

    pub(crate) fn at_scan(&self) -> bool {
        false
    }
}

/// Message of a planned panic.
#[cfg(feature = "testkit")]
const PLANNED: &str = "a planned panic";

/// Rates of faults: one in this many calls on average; 0 means never.
#[cfg(feature = "testkit")]
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    /// A vqueue actor dies before it does something.
    pub vqueue_dies: u32,
    /// A refill is read by a worker instead of at once.
    pub refill_blocks: u32,
    /// A worker's read fails.
    pub refill_fails: u32,
    /// A worker panics instead of reading.
    pub worker_panics: u32,
}

/// Makes vqueue actors panic and refills fail at random. Share one between the runtime and the
/// test, which reads the counts.
#[cfg(feature = "testkit")]
#[derive(Debug)]
pub struct ActorFaults {
    rates: FaultRates,
    random: Mutex<SeededRandom>,
    died: AtomicU64,
    blocked: AtomicU64,
    failed: AtomicU64,
    panicked: AtomicU64,
}

#[cfg(feature = "testkit")]
impl ActorFaults {
    /// Faults at these rates. The same seed draws the same numbers; which actor draws which number
    /// depends on the threads.
    #[must_use]
    pub fn new(seed: u64, rates: FaultRates) -> Self {
        Self {
            rates,
            random: Mutex::new(SeededRandom::new(seed)),
            died: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
        }
    }

    /// So far: vqueue actors that died, refills left to a worker, failed reads, and workers that
    /// panicked.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        [&self.died, &self.blocked, &self.failed, &self.panicked]
            .map(|count| count.load(Ordering::Relaxed))
    }

    fn strikes(&self, one_in: u32, count: &AtomicU64) -> bool {
        if one_in == 0 {
            return false;
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let strikes = random.below(one_in as usize) == 0;
        drop(random);
        count.fetch_add(u64::from(strikes), Ordering::Relaxed);
        strikes
    }
}

#[cfg(feature = "testkit")]
impl Faults for ActorFaults {
    fn at_vqueue(&self) {
        if self.strikes(self.rates.vqueue_dies, &self.died) {
            // Bypasses the panic hook: a planned death needs no backtrace.
            std::panic::resume_unwind(Box::new(PLANNED));
        }
    }

    fn blocks(&self) -> bool {
        self.strikes(self.rates.refill_blocks, &self.blocked)
    }

    fn at_scan(&self) -> bool {
        if self.strikes(self.rates.worker_panics, &self.panicked) {
            std::panic::resume_unwind(Box::new(PLANNED));
        }
        self.strikes(self.rates.refill_fails, &self.failed)
    }
}
