//! Granting: clients that can proceed get permits at once.
//!
//! Must always hold: a grant is checked at every level before anything is taken, and then taken as
//! a whole.

use forebay_messages::{
    PermitId,
    actor::{Granted, LockWish, Permits},
};

use super::{
    Effects, Limiter, LimiterEffect,
    client::{ClientIndex, Waits},
    counter::CounterIndex,
};

impl Limiter {
    /// Grants until capacity is used up or no client can proceed. `freed` is the deepest counter of
    /// a slot that was just returned: the slot is offered there first.
    pub(super) fn grant_ready(&mut self, mut freed: Option<CounterIndex>, effects: &mut Effects) {
        while let Some(group) = self.counters.ring.front() {
            let free = self.lease.free();
            if free == 0 {
                return;
            }
            let clients = &mut self.clients.slab;
            let index = self.counters.choose(clients, group, freed.take());
            self.counters.unqueue(clients, index);
            let client = &self.clients.slab[index];
            let home = client.home;
            let mut count = 0;
            if self.locks.blocks(client.vqueue, client.wish) {
                self.wait_for_lock(index);
            } else if self.free_slots(client) == 0 {
                self.wait_for_slot(index);
            } else {
                // One at a time while others of the group wait.
                let alone = self.counters.slab[group].waiting == 0;
                let requested = if alone { client.count } else { 1 };
                let turn = self.counters.turn(group);
                let free = free.min(self.free_slots(client));
                count = requested.min(turn).min(free).min(self.counters.room(home, self.now));
                self.grant(index, count, effects);
            }
            self.counters.update_ready(&self.clients.slab, home, self.now);
            self.counters.took(group, count);
        }
    }

    /// Gives `count` permits to a client that is in no list. The caller has done all checks.
    pub(super) fn grant(&mut self, index: ClientIndex, count: u32, effects: &mut Effects) {
        assert!(count > 0, "a grant of no permits");
        let slot = self.slot_of(&self.clients.slab[index]);
        let client = &mut self.clients.slab[index];
        assert_eq!(client.waits, Waits::No, "a client in a list was granted permits");
        let (home, wish) = (client.home, client.wish);
        let first = self.permits.next_serial();
        let lock = (wish != LockWish::None).then_some(client.vqueue);
        for _ in 0..count {
            let permit = self.permits.insert(home, Some(index), lock, slot);
            client.granted.push_back(&mut self.permits.slab, permit);
            self.counters.hold(home);
        }
        if let Some(vqueue) = lock {
            self.locks.take(vqueue, wish, first, self.now);
        }
        self.counters.take(home, count, self.now);
        self.lease.take(count, self.now);
        if let Some(slot) = slot {
            self.slots.take(slot, count, self.now);
        }
        self.stats.granted += u64::from(count);
        let first = PermitId { incarnation: self.incarnation, serial: first };
        let permits = Permits { first, count };
        effects.push(LimiterEffect::Granted(Granted { handle: client.handle, permits }));
    }

    /// A client starts to wait behind its counters, or for capacity. The caller updates the ready
    /// clients.
    pub(super) fn wait_for_counters(&mut self, index: ClientIndex) {
        self.last_ticket += 1;
        self.counters.queue(&mut self.clients.slab, index, self.last_ticket);
    }

    pub(super) fn wait_for_lock(&mut self, index: ClientIndex) {
        let client = &mut self.clients.slab[index];
        client.waits = Waits::Lock;
        let lock = self.locks.held.get_mut(&client.vqueue);
        let lock = lock.expect("clients wait only for held locks");
        lock.waiters.push_back(&mut self.clients.slab, index);
    }
}
