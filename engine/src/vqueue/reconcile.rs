//! The step a vqueue takes after every message: compare the state with what should be outstanding
//! and emit the difference.
//!
//! Owns: the conditions for reading, asking, waiting and resting. Must always hold: reconciling
//! twice emits nothing the second time. Must not know: which message arrived.

use forebay_messages::{Timestamp, actor::RefillRequest};

use super::{DISPATCHED_MAX, Rest, VQueue, VQueueEffect, wish};

impl VQueue {
    pub(super) fn reconcile(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        self.use_early(now, effects);
        let read = self.refill_if_low(now);
        self.acquire_if_runnable(now, effects);
        self.set_timer(now, effects);
        self.hint_if_idle(now, effects);
        // Last, because a shell that reads without blocking may step the answer in at once.
        effects.extend(read.map(VQueueEffect::ReadInbox));
    }

    fn refill_if_low(&mut self, now: Timestamp) -> Option<RefillRequest> {
        if self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        let is_wanted = !self.config.paused && self.inbox.wants_refill();
        is_wanted.then(|| {
            self.gone.start_scan();
            self.inbox.start_refill(self.config.id)
        })
    }

    /// One `Acquire` is outstanding at a time. It is replaced only when the head needs something
    /// else of the lock; further runnable entries are asked for after the grant.
    fn acquire_if_runnable(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        let count = self.runnable(now);
        let Some(head) = self.inbox.head() else {
            return;
        };
        let lock = wish(self.config.has_lock, head);
        if count > 0 && self.asked != Some(lock) {
            self.may_stand |= self.asked.is_some();
            self.asked = Some(lock);
            effects.push(VQueueEffect::Acquire { count, lock });
        }
    }

    /// How many entries at the front could use a permit now, up to the maximum of one request.
    ///
    /// With a lock, one, and none while a decision is unanswered: it is not known yet whether its
    /// entry runs or returns to the front.
    pub(super) fn runnable(&self, now: Timestamp) -> u32 {
        if self.config.paused || self.config.draining {
            return 0;
        }
        let dispatched = self.inbox.dispatched().len();
        let room = if self.config.has_lock {
            usize::from(dispatched == 0)
        } else {
            DISPATCHED_MAX.saturating_sub(dispatched)
        };
        let heads = self.inbox.items().take(room.min(self.config.quantum as usize));
        let ready = heads.take_while(|key| key.run_at <= now).count();
        u32::try_from(ready).unwrap_or(self.config.quantum)
    }

    /// When the head may run, if that is in the future.
    fn head_waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.inbox.head().map(|head| head.run_at).filter(|run_at| *run_at > now)
    }

    fn set_timer(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        let is_blocked = self.config.paused || self.config.draining;
        let head = if is_blocked { None } else { self.head_waits_until(now) };
        let timer_at = [head, self.retry_at].into_iter().flatten().min();
        if timer_at == self.armed {
            return;
        }
        self.armed = timer_at;
        effects.push(match timer_at {
            None => VQueueEffect::DisarmTimer,
            Some(at) if Some(at) == head => VQueueEffect::ArmTimer(at),
            Some(at) => VQueueEffect::RetryRefillAt(at),
        });
    }

    /// Why there is nothing to do, if there is nothing. An outstanding `Acquire` does not count: it
    /// is no longer needed.
    pub(super) fn rest(&self, now: Timestamp) -> Option<Rest> {
        let is_busy = self.config.draining
            || self.inbox.is_refill_in_flight()
            || self.inbox.dispatched().len() > 0;
        if is_busy {
            None
        } else if self.config.paused {
            Some(Rest::Paused)
        } else if self.inbox.is_empty_for_sure() {
            Some(Rest::Empty)
        } else {
            self.head_waits_until(now).map(Rest::Until)
        }
    }

    /// The rest if the only thing left to do is to wait for the requested permit.
    pub(super) fn waits(&self, now: Timestamp) -> Option<Rest> {
        let is_busy = self.config.draining
            || self.inbox.is_refill_in_flight()
            || self.inbox.dispatched().len() > 0;
        if is_busy || self.config.paused || self.asked.is_none() {
            return None;
        }
        self.inbox.head().filter(|head| head.run_at <= now).map(Rest::Waits)
    }

    fn hint_if_idle(&mut self, now: Timestamp, effects: &mut Vec<VQueueEffect>) {
        let rest = self.rest(now);
        if rest == self.hinted {
            return;
        }
        self.hinted = rest;
        if let Some(rest) = rest {
            self.inbox.trim();
            effects.push(if self.asked.is_some() || self.may_stand {
                VQueueEffect::WantsToGo(rest)
            } else {
                VQueueEffect::Idle(rest)
            });
        }
    }
}
