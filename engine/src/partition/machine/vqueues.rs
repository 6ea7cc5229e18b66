//! Starting and stopping vqueues: active while they have something to do, cold otherwise.

use forebay_messages::{
    EntryKey, Timestamp, VQueueHandle, VQueueId,
    actor::{LimiterMessage, Permits, VQueueMessage},
};

use crate::vqueue::Rest;

use super::{ACTIVATIONS_PER_STEP_MAX, Partition, Phase, effect::PartitionEffect, registry::Gone};

impl Partition {
    /// P4: no wake-up starts a vqueue before its own attempts of earlier epochs are drained.
    pub(super) fn may_activate(&self, vqueue: VQueueId) -> bool {
        self.phase == Phase::Leading && self.config.dispatches && !self.drain.is_of(vqueue)
    }

    /// Time passed: activates cold vqueues that are due, and passivates vqueues that have been
    /// idle for long.
    pub(super) fn wake(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
        }
        if self.phase != Phase::Leading {
            return;
        }
        // The rest wakes in the next step: the timer fires at once.
        for _ in 0..ACTIVATIONS_PER_STEP_MAX {
            let Some(vqueue) = self.sleepers.pop_due(now) else { break };
            if self.registry.find(vqueue).is_none() && self.may_activate(vqueue) {
                self.activate(vqueue, effects);
            }
        }
        self.passivate_idle(now, effects);
        self.schedule_sleepers(now, effects);
    }

    /// Asks vqueues to passivate that are idle for too long, or too many.
    fn passivate_idle(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        for _ in 0..ACTIVATIONS_PER_STEP_MAX {
            let Some(handle) = self.idle.pop(now) else { break };
            self.registry.ask_to_go(handle, VQueueMessage::Passivate, effects);
        }
    }

    fn sleep(
        &mut self,
        now: Timestamp,
        vqueue: VQueueId,
        until: Timestamp,
        effects: &mut Vec<PartitionEffect>,
    ) {
        self.sleepers.put(vqueue, until);
        self.schedule_sleepers(now, effects);
    }

    /// Looks for dropped sleepers, if it is time, and sets the timer.
    fn schedule_sleepers(&mut self, now: Timestamp, effects: &mut Vec<PartitionEffect>) {
        if !self.is_walking && self.sleepers.wants_walk(now) {
            self.walk_if_drained(effects);
        }
        self.set_timer(effects);
    }

    /// Sets the timer to the earliest of all times. Only a leader acts on them: for another phase a
    /// time that is over would fire the timer again and again. All are looked up when it leads.
    pub(super) fn set_timer(&mut self, effects: &mut Vec<PartitionEffect>) {
        if self.phase != Phase::Leading {
            return;
        }
        let due = [self.sleepers.next_due(), self.idle.next_due(), self.journals.next_due()];
        let next = due.into_iter().flatten().min();
        if let Some(next) = next
            && self.wake_at.is_none_or(|at| next < at)
        {
            self.wake_at = Some(next);
            effects.push(PartitionEffect::WakeAt(next));
        }
    }

    /// Begins to visit all vqueues, a page at a time.
    pub(super) fn walk(&mut self, effects: &mut Vec<PartitionEffect>) {
        self.is_walking = true;
        self.sleepers.walk_begins();
        effects.push(PartitionEffect::FindVQueues { after: None });
    }

    /// Stops all vqueues at once; nothing is left to wake.
    pub(super) fn forget_vqueues(&mut self, effects: &mut Vec<PartitionEffect>) {
        self.registry.clear(effects);
        self.idle.clear();
        self.active.clear();
        self.sleepers.clear();
        self.is_walking = false;
    }

    pub(super) fn activate(&mut self, vqueue: VQueueId, effects: &mut Vec<PartitionEffect>) {
        self.sleepers.remove(vqueue);
        let handle = self.registry.activate(vqueue);
        self.spawn(handle, vqueue, None, effects);
    }

    pub(super) fn spawn(
        &mut self,
        handle: VQueueHandle,
        vqueue: VQueueId,
        permits: Option<Permits>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let dispatched = self.attempts.dispatched(vqueue);
        effects.push(PartitionEffect::SpawnVQueue { handle, vqueue, dispatched, permits });
        self.active.put(handle, Timestamp::MAX);
        self.make_room(effects);
    }

    /// A row was added to a cold vqueue: it is started (and reads it), or sleeps until the row is
    /// due. If its head keeps it asleep for longer, it wakes once without work.
    pub(super) fn start_for_row(
        &mut self,
        now: Timestamp,
        vqueue: VQueueId,
        key: EntryKey,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if !self.may_activate(vqueue) {
            // A walk finds it once this replica may start it.
        } else if key.run_at > now {
            self.sleep(now, vqueue, key.run_at, effects);
        } else {
            self.activate_or_wait(vqueue, key, effects);
        }
    }

    /// Vqueues with work were found, with the times of their heads.
    pub(super) fn on_vqueues_found(
        &mut self,
        now: Timestamp,
        found: &[(VQueueId, Option<EntryKey>)],
        next: Option<VQueueId>,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.phase != Phase::Leading {
            return;
        }
        for (vqueue, head) in found {
            match head {
                // An active vqueue has newer information.
                _ if self.registry.find(*vqueue).is_some() => {}
                Some(head) if head.run_at > now => self.sleepers.put(*vqueue, head.run_at),
                _ if !self.may_activate(*vqueue) => {}
                Some(head) => self.activate_or_wait(*vqueue, *head, effects),
                None => self.activate(*vqueue, effects),
            }
        }
        if next.is_some() {
            effects.push(PartitionEffect::FindVQueues { after: next });
        } else {
            self.is_walking = false;
        }
        self.schedule_sleepers(now, effects);
    }

    fn is_present(&mut self, handle: VQueueHandle) -> bool {
        let present = self.registry.vqueue(handle).is_some();
        self.stale.vqueue += u64::from(!present);
        present
    }

    pub(super) fn on_idle(
        &mut self,
        now: Timestamp,
        handle: VQueueHandle,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.is_present(handle) {
            self.idle.put(handle, now);
            self.passivate_idle(now, effects);
            self.schedule_sleepers(now, effects);
        }
    }

    pub(super) fn on_wants_to_go(
        &mut self,
        handle: VQueueHandle,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.is_present(handle) {
            self.idle.remove(handle);
            self.registry.ask_to_go(handle, VQueueMessage::Passivate, effects);
        }
    }

    pub(super) fn on_still_needed(
        &mut self,
        handle: VQueueHandle,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.is_present(handle) {
            self.registry.stays(handle, effects);
            self.active.put(handle, Timestamp::MAX);
        }
    }

    pub(super) fn on_passivated(
        &mut self,
        now: Timestamp,
        handle: VQueueHandle,
        rest: Rest,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let Some(vqueue) = self.registry.vqueue(handle) else {
            self.stale.vqueue += 1;
            return;
        };
        self.tell_limiter(LimiterMessage::Withdraw(handle), effects);
        effects.push(PartitionEffect::StopVQueue(handle));
        self.idle.remove(handle);
        self.active.remove(handle);
        match (self.registry.remove(handle), rest) {
            (Gone::Restart(vqueue), _) => self.activate(vqueue, effects),
            (Gone::Cold, Rest::Waits(head)) => self.wait_for_permit(vqueue, head, true, effects),
            (Gone::Cold, Rest::Until(until)) => self.sleep(now, vqueue, until, effects),
            // A vqueue without a handler is not kept in memory, however many there are: a walk
            // finds it when the services change.
            (Gone::Cold, Rest::Empty | Rest::Paused | Rest::NotServed) => {}
        }
    }

    /// The set of services with a handler here changed: vqueues with a handler are searched for and
    /// started. If a service lost its handler, active vqueues are restarted, so that those of that
    /// service stop asking for permits.
    pub(super) fn on_services_changed(&mut self, lost: bool, effects: &mut Vec<PartitionEffect>) {
        if lost {
            for handle in self.registry.with_actors() {
                self.on_vqueue_died(handle, effects);
            }
        }
        self.walk_if_drained(effects);
    }

    /// A vqueue died: its permits are returned, and it is rebuilt from its rows.
    pub(super) fn on_vqueue_died(
        &mut self,
        handle: VQueueHandle,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if let Some(vqueue) = self.registry.vqueue(handle) {
            self.tell_limiter(LimiterMessage::Withdraw(handle), effects);
            effects.push(PartitionEffect::StopVQueue(handle));
            self.idle.remove(handle);
            self.active.remove(handle);
            self.registry.remove(handle);
            self.activate(vqueue, effects);
        } else {
            self.stale.vqueue += 1;
        }
    }
}
