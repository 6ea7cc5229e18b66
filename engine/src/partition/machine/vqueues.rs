//! Starting and stopping vqueues: active while they have something to do, cold
//! otherwise.

use std::collections::BTreeSet;

use forebay_messages::{
    EntryKey, Timestamp, VQueueHandle, VQueueId,
    actor::{LimiterMessage, VQueueMessage},
};

use crate::{machine::Map, vqueue::Rest};

use super::{ACTIVATIONS_PER_STEP_MAX, Partition, Phase, effect::PartitionEffect, registry::Gone};

/// Cold vqueues with a head in the future: one timer for all of them.
///
/// Must always hold: a vqueue sleeps at most once, and never while it is active.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    until: Map<VQueueId, Timestamp>,
    order: BTreeSet<(Timestamp, VQueueId)>,
}

impl Sleepers {
    fn put(&mut self, vqueue: VQueueId, until: Timestamp) {
        self.remove(vqueue);
        self.until.insert(vqueue, until);
        self.order.insert((until, vqueue));
    }

    fn remove(&mut self, vqueue: VQueueId) {
        if let Some(until) = self.until.remove(&vqueue) {
            self.order.remove(&(until, vqueue));
        }
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<VQueueId> {
        let (until, vqueue) = *self.order.first()?;
        if until > now {
            return None;
        }
        self.remove(vqueue);
        Some(vqueue)
    }

    fn first(&self) -> Option<Timestamp> {
        self.order.first().map(|(until, _)| *until)
    }

    pub(super) fn clear(&mut self) {
        self.until.clear();
        self.order.clear();
    }
}

impl Partition {
    fn may_activate(&self) -> bool {
        self.phase == Phase::Leading && self.config.dispatches
    }

    /// Activates the cold vqueues whose time has come.
    pub(super) fn wake_sleepers(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        if self.phase != Phase::Leading {
            return;
        }
        // The rest wakes in the next step: the timer goes off at once.
        for _ in 0..ACTIVATIONS_PER_STEP_MAX {
            let Some(vqueue) = self.sleepers.pop_due(now) else { break };
            if self.registry.find(vqueue).is_none() {
                self.activate(vqueue, effects);
            }
        }
        if let Some(first) = self.sleepers.first() {
            effects.push(PartitionEffect::WakeAt(first));
        }
    }

    fn sleep(&mut self, vqueue: VQueueId, until: Timestamp, effects: &mut Vec<PartitionEffect>) {
        self.sleepers.put(vqueue, until);
        if self.sleepers.first() == Some(until) {
            effects.push(PartitionEffect::WakeAt(until));
        }
    }

    fn activate(&mut self, vqueue: VQueueId, effects: &mut Vec<PartitionEffect>) {
        self.sleepers.remove(vqueue);
        let handle = self.registry.activate(vqueue);
        let dispatched = self.attempts.dispatched(vqueue);
        effects.push(PartitionEffect::SpawnVQueue { handle, vqueue, dispatched });
    }

    /// A row came: an active vqueue is told, a cold one is started (and reads it).
    pub(super) fn on_inbox_added(
        &mut self,
        vqueue: VQueueId,
        key: EntryKey,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if !self.registry.note_added(vqueue, key) && self.may_activate() {
            self.activate(vqueue, effects);
        }
    }

    pub(super) fn on_vqueue_paused(
        &mut self,
        vqueue: VQueueId,
        paused: bool,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let message = if paused { VQueueMessage::Pause } else { VQueueMessage::Resume };
        let told = self.registry.tell(vqueue, message, effects);
        if !told && !paused && self.may_activate() {
            self.activate(vqueue, effects);
        }
    }

    /// Vqueues with work were found at the start of a leadership.
    pub(super) fn on_vqueues_found(
        &mut self,
        found: &[VQueueId],
        next: Option<VQueueId>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.phase != Phase::Leading {
            return;
        }
        for vqueue in found {
            if self.registry.find(*vqueue).is_none() {
                self.activate(*vqueue, effects);
            }
        }
        if next.is_some() {
            effects.push(PartitionEffect::FindVQueues { after: next });
        }
    }

    fn is_present(&mut self, handle: VQueueHandle) -> bool {
        let present = self.registry.vqueue(handle).is_some();
        self.stale.vqueue += u64::from(!present);
        present
    }

    pub(super) fn on_idle(&mut self, handle: VQueueHandle, effects: &mut Vec<PartitionEffect>) {
        if self.is_present(handle) {
            self.registry.passivate(handle, effects);
        }
    }

    pub(super) fn on_still_needed(
        &mut self,
        handle: VQueueHandle,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.is_present(handle) {
            self.registry.stays(handle, effects);
        }
    }

    pub(super) fn on_passivated(
        &mut self,
        handle: VQueueHandle,
        rest: Rest,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let Some(vqueue) = self.registry.vqueue(handle) else {
            self.stale.vqueue += 1;
            return;
        };
        effects.push(PartitionEffect::ToLimiter(LimiterMessage::Withdraw(handle)));
        effects.push(PartitionEffect::StopVQueue(handle));
        match (self.registry.remove(handle), rest) {
            (Gone::Restart(vqueue), _) => self.activate(vqueue, effects),
            (Gone::Cold, Rest::Until(until)) => self.sleep(vqueue, until, effects),
            (Gone::Cold, Rest::Empty | Rest::Paused) => {}
        }
    }

    /// A vqueue died: what it was granted comes back, and it is rebuilt from its rows.
    pub(super) fn on_vqueue_died(
        &mut self,
        handle: VQueueHandle,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if let Some(vqueue) = self.registry.vqueue(handle) {
            effects.push(PartitionEffect::ToLimiter(LimiterMessage::Withdraw(handle)));
            effects.push(PartitionEffect::StopVQueue(handle));
            self.registry.remove(handle);
            self.activate(vqueue, effects);
        } else {
            self.stale.vqueue += 1;
        }
    }
}
