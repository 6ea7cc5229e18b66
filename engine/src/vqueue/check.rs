//! The vqueue's invariants, checked after every step in debug builds and simulation.

use forebay_messages::actor::LockWish;

use super::VQueue;

impl VQueue {
    /// Panics when an invariant is broken, saying which.
    pub(super) fn check_invariants(&self) {
        self.inbox.check();
        if let Some(wish) = self.asked {
            let wishes_lock = wish != LockWish::None;
            assert_eq!(wishes_lock, self.config.has_lock, "asked for the wrong kind of permit");
        }
        assert!(
            !(self.config.paused && self.armed.is_some()),
            "a paused vqueue waits for its resume, not for a timer"
        );
        assert!(
            !(self.inbox.is_refill_in_flight() && self.retry_at.is_some()),
            "a refill is in flight and would be retried"
        );
        if let Some(retry_at) = self.retry_at {
            let is_armed = self.armed.is_some_and(|armed| armed <= retry_at);
            assert!(is_armed, "a failed scan is not retried");
        }
        assert!(
            self.early.is_none() || self.inbox.is_refill_in_flight(),
            "permits are held although the inbox was read"
        );
        let has_rows = self.inbox.head().is_some();
        let is_known = self.inbox.is_complete() || self.inbox.is_refill_in_flight() || has_rows;
        let is_free = !self.config.paused && !self.config.draining;
        assert!(
            !is_free || is_known || self.retry_at.is_some(),
            "the inbox is unknown and no refill is running"
        );
        let waits_for_answer = if self.config.has_lock {
            self.inbox.dispatched().len() > 0
        } else {
            self.inbox.dispatched().len() >= super::DISPATCHED_MAX
        };
        assert!(
            !(is_free && has_rows)
                || self.asked.is_some()
                || self.armed.is_some()
                || waits_for_answer,
            "there is a runnable head but nothing outstanding to start it"
        );
    }
}
