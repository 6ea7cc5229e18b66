//! Returned permits and locks.

use forebay_messages::{EntryId, PermitId, VQueueId, actor::Release};

use super::{
    Effects, Limiter, LimiterEffect,
    client::{PermitIndex, Waits},
    counter::CounterIndex,
    locks::Woken,
};

impl Limiter {
    pub(super) fn release(&mut self, release: Release, effects: &mut Effects) {
        let Some(permit) = self.find_held(release.permit) else { return };
        self.stats.released += 1;
        let freed = self.give_back(permit, release.keep_lock, effects);
        self.grant_ready(freed, effects);
    }

    /// From now on the permit is not returned with its client.
    pub(super) fn hand_over(&mut self, permit: PermitId) {
        if let Some(permit) = self.find_held(permit) {
            self.leave_client(permit);
        }
    }

    pub(super) fn free_lock(&mut self, vqueue: VQueueId, entry: EntryId) {
        let mut woken = Woken { clients: &mut self.clients.slab, indices: Vec::new() };
        self.locks.free_of(vqueue, entry, &mut woken);
        let woken = woken.indices;
        self.lock_is_free_for(&woken);
    }

    /// Finds a held permit. Unknown ones are counted.
    fn find_held(&mut self, permit: PermitId) -> Option<PermitIndex> {
        if permit.incarnation != self.incarnation {
            self.stats.refused_incarnation += 1;
            return None;
        }
        let found = self.permits.find(permit.serial);
        self.stats.refused_unknown += u64::from(found.is_none());
        found
    }

    /// Gives back everything that was taken with a permit. Returns the counter where a slot with
    /// waiters became free; the caller grants.
    pub(super) fn give_back(
        &mut self,
        permit: PermitIndex,
        keep_lock: Option<EntryId>,
        effects: &mut Effects,
    ) -> Option<CounterIndex> {
        let unused = self.leave_client(permit);
        let permit = self.permits.remove(permit);
        let freed = self.counters.put(permit.home, unused, self.now);
        effects.extend(self.lease.put().map(LimiterEffect::ReturnCapacity));
        effects.extend(permit.slot.and_then(|slot| self.slots.put(slot)));
        if let Some(vqueue) = permit.lock {
            let mut woken = Woken { clients: &mut self.clients.slab, indices: Vec::new() };
            self.locks.give_back(vqueue, permit.serial, keep_lock, unused, &mut woken);
            let woken = woken.indices;
            self.lock_is_free_for(&woken);
        }
        self.counters.update_ready_if_awaited(&self.clients.slab, permit.home, self.now);
        self.counters.release_hold(permit.home, self.now);
        freed
    }

    /// Takes a permit from the client it was granted to. Returns whether it was still there, that
    /// is, never handed over.
    fn leave_client(&mut self, permit: PermitIndex) -> bool {
        let Some(index) = self.permits.slab[permit].client.take() else { return false };
        let client = &mut self.clients.slab[index];
        client.granted.remove(&mut self.permits.slab, permit);
        if client.waits == Waits::No && client.granted.is_empty() {
            self.dismiss(index);
        }
        true
    }

    /// Clients whose lock is free proceed to what they need next.
    fn lock_is_free_for(&mut self, woken: &[super::client::ClientIndex]) {
        for index in woken {
            self.wait_for_rules(*index);
            let home = self.clients.slab[*index].home;
            self.counters.update_ready(&self.clients.slab, home, self.now);
        }
    }
}
