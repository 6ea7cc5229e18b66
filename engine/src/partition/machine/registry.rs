//! The active vqueues and their handles.
//!
//! Must always hold: a vqueue id has at most one slot (P5); a slot's generation changes with every
//! incarnation; notes for one vqueue keep their commit order.

use forebay_messages::{
    EntryKey, Generation, VQueueHandle, VQueueId,
    actor::{InboxChange, VQueueMessage},
};

use crate::machine::Map;

use super::effect::PartitionEffect;

/// State of an incarnation.
#[derive(Debug)]
enum SlotState {
    Active,
    /// Asked to passivate; messages that arrive meanwhile are kept for it or for its successor.
    Passivating(Vec<VQueueMessage>),
    /// It has no actor: its `Acquire` is outstanding at the limiter.
    Waiting,
}

#[derive(Debug)]
struct Slot {
    /// `None`: free.
    vqueue: Option<VQueueId>,
    generation: Generation,
    state: SlotState,
    /// Changes in this batch that were not sent to it yet.
    notes: Vec<InboxChange>,
}

/// The receiver of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// The vqueue, with the batch.
    Told,
    /// The vqueue has no actor: it waits for a permit.
    Waits(VQueueHandle),
    /// The vqueue has no actor: it is cold.
    Cold,
}

/// What to do about a passivated vqueue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Nothing: it is cold now.
    Cold,
    /// Messages arrived in the meantime: it must be started again.
    Restart(VQueueId),
}

/// The next generation of a slot. It wraps around after 2^32 incarnations: no message of an
/// incarnation is in transit for that long, and a slot that is used ten thousand times a second
/// gets there within five days.
fn after(generation: Generation) -> Generation {
    Generation(generation.0.wrapping_add(1))
}

/// The active vqueues.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: Map<VQueueId, u32>,
    /// Number of vqueues that wait without an actor.
    waiting: usize,
    /// Slots with notes.
    noted: Vec<u32>,
}

impl Registry {
    /// Number of vqueues with an actor.
    pub(super) fn active(&self) -> usize {
        self.by_id.len() - self.waiting
    }

    /// Number of vqueues that wait without one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn handle(&self, slot: u32) -> VQueueHandle {
        VQueueHandle { slot, generation: self.slots[slot as usize].generation }
    }

    /// The handle of an active vqueue.
    pub(super) fn find(&self, vqueue: VQueueId) -> Option<VQueueHandle> {
        self.by_id.get(&vqueue).map(|slot| self.handle(*slot))
    }

    /// The handles of all vqueues with an actor, in the order of their slots.
    pub(super) fn with_actors(&self) -> Vec<VQueueHandle> {
        let has_actor =
            |slot: &Slot| slot.vqueue.is_some() && !matches!(slot.state, SlotState::Waiting);
        let slots = self.slots.iter().zip(0_u32..);
        slots.filter(|(slot, _)| has_actor(slot)).map(|(_, number)| self.handle(number)).collect()
    }

    /// The vqueue behind a handle, if that incarnation is the current one.
    pub(super) fn vqueue(&self, handle: VQueueHandle) -> Option<VQueueId> {
        let slot = self.slots.get(handle.slot as usize)?;
        if slot.generation == handle.generation { slot.vqueue } else { None }
    }

    /// Gives a cold vqueue a slot and an actor.
    pub(super) fn activate(&mut self, vqueue: VQueueId) -> VQueueHandle {
        self.place(vqueue, SlotState::Active)
    }

    /// Gives a cold vqueue a slot to wait in.
    pub(super) fn wait(&mut self, vqueue: VQueueId) -> VQueueHandle {
        self.waiting += 1;
        self.place(vqueue, SlotState::Waiting)
    }

    /// It no longer waits and has an actor from now on, under the same handle; returns its id.
    pub(super) fn wake(&mut self, handle: VQueueHandle) -> Option<VQueueId> {
        let vqueue = self.vqueue(handle)?;
        let state = &mut self.slots[handle.slot as usize].state;
        if !matches!(state, SlotState::Waiting) {
            return None;
        }
        *state = SlotState::Active;
        self.waiting -= 1;
        Some(vqueue)
    }

    /// The handle of a vqueue that waits without an actor.
    pub(super) fn find_waiting(&self, vqueue: VQueueId) -> Option<VQueueHandle> {
        let slot = *self.by_id.get(&vqueue)?;
        let waits = matches!(self.slots[slot as usize].state, SlotState::Waiting);
        waits.then(|| self.handle(slot))
    }

    fn place(&mut self, vqueue: VQueueId, state: SlotState) -> VQueueHandle {
        assert!(!self.by_id.contains_key(&vqueue), "P5: {vqueue} is already active");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                vqueue: None,
                generation: Generation(0),
                state: SlotState::Active,
                notes: Vec::new(),
            });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 vqueues are active")
        });
        let entry = &mut self.slots[slot as usize];
        entry.vqueue = Some(vqueue);
        entry.generation = after(entry.generation);
        entry.state = state;
        self.by_id.insert(vqueue, slot);
        self.handle(slot)
    }

    /// Notes a change.
    pub(super) fn note_added(&mut self, vqueue: VQueueId, key: EntryKey) -> Noted {
        self.note(vqueue, InboxChange::Enqueued(key))
    }

    pub(super) fn note_removed(&mut self, vqueue: VQueueId, key: EntryKey) -> Noted {
        self.note(vqueue, InboxChange::Removed(key))
    }

    fn note(&mut self, vqueue: VQueueId, change: InboxChange) -> Noted {
        let Some(slot) = self.by_id.get(&vqueue).copied() else {
            return Noted::Cold;
        };
        let place = &mut self.slots[slot as usize];
        if matches!(place.state, SlotState::Waiting) {
            return Noted::Waits(self.handle(slot));
        }
        if place.notes.is_empty() {
            self.noted.push(slot);
        }
        place.notes.push(change);
        Noted::Told
    }

    /// Sends the notes of this batch, one message per vqueue.
    pub(super) fn flush_notes(&mut self, effects: &mut Vec<PartitionEffect>) {
        let mut noted = std::mem::take(&mut self.noted);
        for slot in noted.drain(..) {
            let notes = std::mem::take(&mut self.slots[slot as usize].notes);
            if !notes.is_empty() {
                self.tell_slot(slot, VQueueMessage::Notify(notes), effects);
            }
        }
        self.noted = noted;
    }

    /// Sends a message to an active vqueue, after the earlier notes.
    pub(super) fn tell(
        &mut self,
        vqueue: VQueueId,
        message: VQueueMessage,
        effects: &mut Vec<PartitionEffect>,
    ) -> bool {
        let Some(slot) = self.by_id.get(&vqueue).copied() else {
            return false;
        };
        if matches!(self.slots[slot as usize].state, SlotState::Waiting) {
            return false;
        }
        let notes = std::mem::take(&mut self.slots[slot as usize].notes);
        if !notes.is_empty() {
            self.tell_slot(slot, VQueueMessage::Notify(notes), effects);
        }
        self.tell_slot(slot, message, effects);
        true
    }

    fn tell_slot(&mut self, slot: u32, message: VQueueMessage, effects: &mut Vec<PartitionEffect>) {
        let handle = self.handle(slot);
        match &mut self.slots[slot as usize].state {
            SlotState::Active => effects.push(PartitionEffect::ToVQueue(handle, message)),
            SlotState::Passivating(buffer) => buffer.push(message),
            SlotState::Waiting => unreachable!("a vqueue without an actor gets no messages"),
        }
    }

    /// Asks an active vqueue to passivate, with this message.
    pub(super) fn ask_to_go(
        &mut self,
        handle: VQueueHandle,
        how: VQueueMessage,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let slot = &mut self.slots[handle.slot as usize];
        if matches!(slot.state, SlotState::Active) {
            effects.push(PartitionEffect::ToVQueue(handle, how));
            slot.state = SlotState::Passivating(Vec::new());
        }
    }

    /// It stays and receives the kept messages.
    pub(super) fn stays(&mut self, handle: VQueueHandle, effects: &mut Vec<PartitionEffect>) {
        let slot = &mut self.slots[handle.slot as usize];
        if let SlotState::Passivating(buffer) =
            std::mem::replace(&mut slot.state, SlotState::Active)
        {
            effects.extend(
                buffer.into_iter().map(|message| PartitionEffect::ToVQueue(handle, message)),
            );
        }
    }

    /// An incarnation is gone. Kept messages need no replay: a successor reads the rows, which
    /// include everything the messages reported.
    pub(super) fn remove(&mut self, handle: VQueueHandle) -> Gone {
        let slot = &mut self.slots[handle.slot as usize];
        let vqueue = slot.vqueue.take().expect("the handle was checked");
        let kept = match std::mem::replace(&mut slot.state, SlotState::Active) {
            SlotState::Active => false,
            SlotState::Passivating(buffer) => !buffer.is_empty(),
            SlotState::Waiting => {
                self.waiting -= 1;
                false
            }
        };
        let kept = kept || !slot.notes.is_empty();
        slot.notes = Vec::new();
        self.noted.retain(|noted| *noted != handle.slot);
        self.by_id.remove(&vqueue);
        self.free.push(handle.slot);
        if kept { Gone::Restart(vqueue) } else { Gone::Cold }
    }

    /// Stops all of them, without asking.
    pub(super) fn clear(&mut self, effects: &mut Vec<PartitionEffect>) {
        let mut slots: Vec<u32> = self.by_id.drain().map(|(_, slot)| slot).collect();
        slots.sort_unstable();
        for slot in slots {
            if !matches!(self.slots[slot as usize].state, SlotState::Waiting) {
                effects.push(PartitionEffect::StopVQueue(self.handle(slot)));
            }
            let entry = &mut self.slots[slot as usize];
            entry.vqueue = None;
            entry.state = SlotState::Active;
            entry.notes = Vec::new();
            self.free.push(slot);
        }
        self.noted.clear();
        self.waiting = 0;
    }

    pub(super) fn check(&self) {
        for (vqueue, slot) in &self.by_id {
            assert_eq!(
                self.slots[*slot as usize].vqueue,
                Some(*vqueue),
                "P5: slots have their vqueue"
            );
        }
        let used = self.slots.iter().filter(|slot| slot.vqueue.is_some()).count();
        assert_eq!(used, self.by_id.len(), "P5: every used slot is found by its id");
        let named = self.slots.iter().filter(|slot| slot.vqueue.is_some());
        let waits = |slot: &&Slot| matches!(slot.state, SlotState::Waiting);
        let waiting: Vec<_> = named.filter(waits).collect();
        assert_eq!(waiting.len(), self.waiting, "count of waiting vqueues");
        assert!(waiting.iter().all(|slot| slot.notes.is_empty()), "notes without a receiver");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the 2^32nd incarnation of a slot panicked and ended the partition's leadership.
    #[test]
    fn a_slot_wraps_around_after_its_last_generation() {
        let mut registry = Registry::default();
        let vqueue = VQueueId::default();
        let first = registry.activate(vqueue);
        registry.slots[first.slot as usize].generation = Generation(u32::MAX);
        let last = registry.find(vqueue).unwrap();
        assert_eq!(registry.remove(last), Gone::Cold);
        let next = registry.activate(vqueue);
        assert_eq!((next.slot, next.generation), (last.slot, Generation(0)));
        assert_eq!(registry.vqueue(last), None, "the former incarnation is stale");
        registry.check();
    }
}
