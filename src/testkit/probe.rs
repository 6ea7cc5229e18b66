//! A recipient that records what it is sent.

use std::{
    collections::VecDeque,
    fmt::Debug,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use forebay_actors::shell::Ref;

/// Stands in for an actor: records every message, in order, from any thread.
///
/// The `expect` methods panic with what was there instead.
pub struct Probe<I> {
    shared: Arc<Shared<I>>,
}

struct Shared<I> {
    received: Mutex<VecDeque<I>>,
    arrived: Condvar,
}

impl<I> Shared<I> {
    fn received(&self) -> MutexGuard<'_, VecDeque<I>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I> Default for Probe<I> {
    fn default() -> Self {
        let shared = Shared { received: Mutex::new(VecDeque::new()), arrived: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }
}

impl<I: Send + Debug + 'static> Probe<I> {
    /// A probe that has heard nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its address, to be handed to whoever is tested.
    #[must_use]
    pub fn address(&self) -> Ref<I> {
        let shared = Arc::clone(&self.shared);
        Ref::new(move |message| {
            shared.received().push_back(message);
            shared.arrived.notify_all();
            true
        })
    }

    /// The next message, which must be there already.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn expect(&self) -> I {
        self.shared.received().pop_front().expect("the probe has received nothing (more)")
    }

    /// The next message, which must come within this time.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    #[track_caller]
    pub fn expect_within(&self, within: Duration) -> I {
        let deadline = Instant::now() + within;
        let mut received = self.shared.received();
        loop {
            if let Some(message) = received.pop_front() {
                return message;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the probe has received nothing within {within:?}");
            received = self
                .shared
                .arrived
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Nothing may have come.
    ///
    /// # Panics
    /// When something has.
    #[track_caller]
    pub fn expect_none(&self) {
        let received = self.shared.received();
        assert!(received.is_empty(), "the probe has received {received:?}");
    }

    /// Everything that has come and was not taken yet.
    #[must_use]
    pub fn drain(&self) -> Vec<I> {
        self.shared.received().drain(..).collect()
    }
}
