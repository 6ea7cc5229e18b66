//! Returning attempts of earlier leaders to their inboxes, a bounded number at a time, so that
//! entries start again while others are still returning.
//!
//! Must always hold: a vqueue is not active, and so decides nothing, while attempts of earlier
//! epochs of its entries are left (P4); vqueues with running entries start before the others; at
//! most [`HAND_BACKS_IN_FLIGHT_MAX`] records are in flight. Must not know: why the leader changed.

use std::collections::VecDeque;

use forebay_messages::{
    AttemptToken, EntryId, Epoch, RecordSeq, Timestamp, VQueueId,
    command::{RetryAttempt, RetryReason},
};

use crate::machine::Map;

use super::{
    ENDS_PER_RECORD_MAX, KnownAttempt, Partition, Phase,
    effect::PartitionEffect,
    ended::{self, End},
};

/// Maximum number of records with returning attempts that are proposed but not applied.
const HAND_BACKS_IN_FLIGHT_MAX: usize = 4;

/// The attempts of earlier leaders that are returning to their inboxes.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Attempts that are not proposed yet, vqueue by vqueue.
    waiting: VecDeque<(EntryId, AttemptToken)>,
    /// Records that are proposed but not applied, in order.
    in_flight: VecDeque<RecordSeq>,
    /// Number of remaining attempts of earlier epochs per vqueue.
    left: Map<VQueueId, usize>,
    /// Attempts whose process died, with the number of interruptions after which their entry
    /// becomes a dead letter.
    interrupted: Map<AttemptToken, u32>,
}

impl Drain {
    fn begin(&mut self, attempts: Vec<KnownAttempt>) {
        let interrupted = std::mem::take(&mut self.interrupted);
        self.clear();
        self.interrupted = interrupted;
        for KnownAttempt { vqueue, entry, token } in attempts {
            *self.left.entry(vqueue).or_default() += 1;
            self.waiting.push_back((entry, token));
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.in_flight.clear();
        self.left.clear();
        self.interrupted.clear();
    }

    /// These attempts ended with the process that ran them, unlike others of earlier epochs.
    pub(super) fn set_interrupted(&mut self, interrupted: Vec<(AttemptToken, u32)>) {
        self.interrupted = interrupted.into_iter().collect();
    }

    /// Number of interruptions after which the entry of an attempt becomes a dead letter; 0 for an
    /// attempt that was not interrupted.
    pub(super) fn interruptions_max(&self, token: AttemptToken) -> u32 {
        self.interrupted.get(&token).copied().unwrap_or(0)
    }

    /// Whether no attempt of an earlier epoch is left.
    pub(super) fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// Whether a vqueue must wait for its own attempts.
    pub(super) fn is_of(&self, vqueue: VQueueId) -> bool {
        self.left.contains_key(&vqueue)
    }

    /// A record of this leader is applied.
    pub(super) fn applied(&mut self, seq: RecordSeq) {
        while self.in_flight.front().is_some_and(|first| *first <= seq) {
            self.in_flight.pop_front();
        }
    }

    /// An attempt of an earlier epoch is over; returns whether it was the last of its vqueue.
    fn over(&mut self, vqueue: VQueueId) -> bool {
        let Some(left) = self.left.get_mut(&vqueue) else { return false };
        *left -= 1;
        let is_last = *left == 0;
        if is_last {
            self.left.remove(&vqueue);
        }
        is_last
    }

    pub(super) fn check(&self, before: &Map<VQueueId, usize>) {
        assert_eq!(&self.left, before, "P4: each attempt of an earlier epoch counts once");
        assert!(self.in_flight.len() <= HAND_BACKS_IN_FLIGHT_MAX, "drains are bounded");
    }
}

impl Partition {
    /// The limiter counts the attempts of earlier leaders: they return now. The gate may open
    /// meanwhile.
    pub(super) fn on_drain(
        &mut self,
        now: Timestamp,
        epoch: Epoch,
        effects: &mut Vec<PartitionEffect>,
    ) {
        // A completed seed is required: the order may be about a limiter that died since.
        if epoch != self.epoch || self.phase != Phase::Seeding || self.is_seeding() {
            return;
        }
        self.phase = Phase::Draining;
        self.drain.begin(self.attempts.before(epoch));
        self.continue_draining(now, effects);
        effects.push(PartitionEffect::TellDraining { epoch });
    }

    /// Proposes the next returning attempts, if there is room.
    pub(super) fn continue_draining(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        while self.phase.may_propose()
            && !self.drain.waiting.is_empty()
            && self.drain.in_flight.len() < HAND_BACKS_IN_FLIGHT_MAX
        {
            let count = self.drain.waiting.len().min(ENDS_PER_RECORD_MAX);
            let attempts = self.drain.waiting.drain(..count).collect();
            self.hand_back(now, attempts, effects);
            self.drain.in_flight.push_back(self.next_seq);
        }
    }

    /// The process is about to end cleanly: every attempt that still runs returns to its inbox now,
    /// so that the next start does not count it as interrupted.
    pub(super) fn on_hand_back(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        if !self.is_closing && self.phase != Phase::Closing || !self.phase.has_limiter() {
            return;
        }
        let mut attempts: Vec<_> = self.drain.waiting.drain(..).collect();
        attempts.extend(self.attempts.running_under(self.epoch));
        self.hand_back(now, attempts, effects);
    }

    /// An attempt of an earlier epoch is over, however it ended. A vqueue whose last one it was may
    /// decide from here on; if none is left at all, all vqueues may.
    pub(super) fn on_drained(&mut self, vqueue: VQueueId, effects: &mut Vec<PartitionEffect>) {
        if !self.drain.over(vqueue) {
            return;
        }
        if self.may_activate(vqueue) && self.registry.find(vqueue).is_none() {
            self.activate(vqueue, effects);
        }
        self.walk_if_drained(effects);
    }

    /// Looks for work in all vqueues, once those with running entries have started.
    pub(super) fn walk_if_drained(&mut self, effects: &mut Vec<PartitionEffect>) {
        if self.phase == Phase::Leading && self.config.dispatches && self.drain.is_over() {
            self.walk(effects);
        }
    }

    /// Proposes that attempts return to their inboxes.
    pub(super) fn hand_back(
        &mut self,
        now: Timestamp,
        attempts: Vec<(EntryId, AttemptToken)>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let back = attempts.into_iter().map(|(entry, token)| {
            let interrupted = self.drain.interruptions_max(token);
            End::Retry(RetryAttempt { interrupted, ..hand_back(entry, token) })
        });
        for command in ended::records(back.collect(), self.bounds.room()) {
            self.propose(now, command, None, effects);
        }
    }
}

/// The leader changes: an attempt that has not ended returns to its inbox.
pub(super) fn hand_back(entry: EntryId, token: AttemptToken) -> RetryAttempt {
    RetryAttempt {
        entry,
        token,
        reason: RetryReason::LeaderChange,
        run_at: Timestamp::default(),
        message: Default::default(),
        detail: Default::default(),
        heeds_cancel: false,
        interrupted: 0,
        keeps_failure: false,
    }
}
