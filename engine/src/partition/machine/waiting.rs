//! Vqueues that wait for a permit without an actor, so that few have an actor, however many have
//! work.
//!
//! A waiting vqueue has a slot and a handle, under which an `Acquire` is outstanding at the
//! limiter; nothing else of it is in memory. With many active vqueues, a new one waits like this
//! from the start. An active one that only waits is asked to wait like this when more arrive: it
//! withdraws its request and asks again, once, at the end of the queue.
//!
//! Must always hold: a vqueue with a slot and without an actor has an `Acquire` at the limiter,
//! whose grant starts its actor and is handed to it; before its lock, its rows or its pause require
//! something else, the `Acquire` is withdrawn. Must not know: limits.

use forebay_messages::{
    EntryKey, Timestamp, VQueueHandle, VQueueId,
    actor::{LimiterMessage, Permits, VQueueMessage},
};

use super::{Partition, effect::PartitionEffect, registry::Noted};

/// Number of vqueues asked to wait without an actor for each new one. Two, so that
/// vqueues that cannot do not block the ones that can.
const ASKED_PER_ARRIVAL: usize = 2;

impl Partition {
    /// Starts a vqueue with this row, or lets it wait for its permit first.
    pub(super) fn activate_or_wait(
        &mut self,
        vqueue: VQueueId,
        row: EntryKey,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let is_crowded = self.registry.active() >= self.config.vqueues.active_max;
        if is_crowded && self.attempts.dispatched(vqueue).is_empty() {
            self.wait_for_permit(vqueue, row, false, effects);
        } else {
            self.activate(vqueue, effects);
        }
    }

    pub(super) fn wait_for_permit(
        &mut self,
        vqueue: VQueueId,
        head: EntryKey,
        is_known: bool,
        effects: &mut Vec<PartitionEffect>,
    ) {
        self.sleepers.remove(vqueue);
        let handle = self.registry.wait(vqueue);
        effects.push(PartitionEffect::Acquire { handle, vqueue, head, is_known });
    }

    /// Its request no longer fits: its slot is released.
    fn wait_no_more(&mut self, handle: VQueueHandle, effects: &mut Vec<PartitionEffect>) {
        self.tell_limiter(LimiterMessage::Withdraw(handle), effects);
        self.registry.remove(handle);
    }

    /// A row was added. A waiting vqueue has requested a permit for whichever entry is its head by
    /// then, unless that one holds the lock.
    pub(super) fn on_inbox_added(
        &mut self,
        now: Timestamp,
        vqueue: VQueueId,
        key: EntryKey,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match self.registry.note_added(vqueue, key) {
            Noted::Told => {}
            Noted::Waits(_) if !key.has_lock => {}
            Noted::Waits(handle) => {
                self.wait_no_more(handle, effects);
                self.start_for_row(now, vqueue, key, effects);
            }
            Noted::Cold => self.start_for_row(now, vqueue, key, effects),
        }
    }

    /// A row was removed. A waiting vqueue may have none left: it is started to find out. So is a
    /// vqueue that sleeps for the holder of its lock, which was first whatever its time: entries
    /// behind the holder may be due.
    pub(super) fn on_inbox_removed(
        &mut self,
        vqueue: VQueueId,
        key: EntryKey,
        effects: &mut Vec<PartitionEffect>,
    ) {
        match self.registry.note_removed(vqueue, key) {
            Noted::Told => {}
            Noted::Waits(handle) => {
                self.wait_no_more(handle, effects);
                self.activate_without(vqueue, key, effects);
            }
            Noted::Cold if key.has_lock && self.may_activate(vqueue) => {
                self.activate_without(vqueue, key, effects);
            }
            Noted::Cold => {}
        }
    }

    /// Starts a vqueue because this row was removed. If a decision removed it, the vqueue starts
    /// with that decision as unanswered, so it is sent the removal as well.
    fn activate_without(
        &mut self,
        vqueue: VQueueId,
        key: EntryKey,
        effects: &mut Vec<PartitionEffect>,
    ) {
        self.activate(vqueue, effects);
        self.registry.note_removed(vqueue, key);
    }

    pub(super) fn on_vqueue_paused(
        &mut self,
        vqueue: VQueueId,
        paused: bool,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if let Some(handle) = self.registry.find_waiting(vqueue) {
            if paused {
                self.wait_no_more(handle, effects);
            }
            return;
        }
        let message = if paused { VQueueMessage::Pause } else { VQueueMessage::Resume };
        let was_sent = self.registry.tell(vqueue, message, effects);
        if !was_sent && !paused && self.may_activate(vqueue) {
            self.activate(vqueue, effects);
        }
    }

    /// A permit for a vqueue without an actor. If it does not wait (any more), its withdrawal
    /// returns the permit.
    pub(super) fn on_granted(
        &mut self,
        handle: VQueueHandle,
        permits: Permits,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if let Some(vqueue) = self.registry.wake(handle) {
            self.spawn(handle, vqueue, Some(permits), effects);
        }
    }

    /// A new vqueue has an actor: if there are too many, those with the oldest actors are asked
    /// whether they only wait.
    pub(super) fn make_room(&mut self, effects: &mut Vec<PartitionEffect>) {
        for _ in 0..ASKED_PER_ARRIVAL {
            // No vqueue is listed for too long: only the number matters.
            let Some(handle) = self.active.pop(Timestamp::default()) else { break };
            self.registry.ask_to_go(handle, VQueueMessage::MakeRoom, effects);
        }
    }
}
