//! The limiter's invariants, recounted from scratch.
//!
//! Must always hold: no check trusts the state it checks: usage is recounted from the permits,
//! rules are resolved again, and every waiting vqueue must lack something.

use crate::machine::{Map, Set};

use super::{
    Limiter,
    client::{Client, ClientIndex, Waits},
    counter::{CounterIndex, InList},
};

/// The expected values of a counter.
#[derive(Default)]
struct Recount {
    usage: u32,
    waiting: u32,
    users: u32,
    children: u32,
}

impl Limiter {
    /// Panics, naming the broken invariant. Takes time proportional to the limiter's state.
    pub(super) fn check_invariants(&self) {
        self.check_counters();
        self.check_readiness();
        self.check_permits();
        self.check_waiters();
    }

    fn recount(&self) -> Map<CounterIndex, Recount> {
        let mut recounts: Map<CounterIndex, Recount> = Map::default();
        let count = |recounts: &mut Map<_, Recount>, home, usage, waiting| {
            recounts.entry(home).or_default().users += 1;
            for index in self.counters.path(home) {
                let recount = recounts.entry(index).or_default();
                recount.usage += usage;
                recount.waiting += waiting;
            }
        };
        for (_, permit) in self.permits.slab.iter() {
            count(&mut recounts, permit.home, 1, 0);
        }
        for (_, client) in self.clients.slab.iter() {
            count(&mut recounts, client.home, 0, u32::from(client.waits == Waits::Counter));
        }
        for (_, counter) in self.counters.slab.iter() {
            if let Some(parent) = counter.parent {
                recounts.entry(parent).or_default().children += 1;
            }
        }
        recounts
    }

    fn check_counters(&self) {
        let recounts = self.recount();
        for (index, counter) in self.counters.slab.iter() {
            let key = self.counters.key(index);
            let nothing = Recount::default();
            let recount = recounts.get(&index).unwrap_or(&nothing);
            assert_eq!(
                counter.usage, recount.usage,
                "usage of {key:?} differs from the permits held below"
            );
            assert_eq!(counter.waiting, recount.waiting, "waiting at {key:?}");
            assert_eq!(counter.users, recount.users, "users of {key:?}");
            assert_eq!(counter.children, recount.children, "children of {key:?}");
            let kept = matches!(counter.in_list, InList::Idle | InList::Lingering(_));
            assert_eq!(
                counter.is_unused(),
                kept,
                "{key:?} is unused but not in a list, or the reverse"
            );
            let governing = self.rules.resolve(&key[..usize::from(counter.depth)]);
            assert_eq!(counter.rule, governing, "{key:?} is governed by an outdated rule");
            let limits = governing.map(|slot| self.rules.rule(slot).limits).unwrap_or_default();
            let paused = self.rules.paused_by(&key[..usize::from(counter.depth)]);
            assert_eq!(counter.paused, paused, "{key:?} has an outdated pause");
            let limit = limits.concurrency.map_or(u32::MAX, u32::from);
            let limit = if paused.is_some() { 0 } else { limit };
            assert_eq!(counter.limit, limit, "limit of {key:?}");
            assert_eq!(counter.bucket.is_some(), limits.rate.is_some(), "bucket of {key:?}");
        }
        let (idle, idle_max) = (self.counters.idle_len(), self.counters.idle_max());
        assert!(idle <= idle_max, "{idle} idle counters are kept, at most {idle_max} should be");
    }

    fn check_readiness(&self) {
        let mut ring = 0;
        for (index, counter) in self.counters.slab.iter() {
            let key = self.counters.key(index);
            let first = self.counters.first_ticket(&self.clients.slab, index);
            let room = counter.room(self.now) > 0;
            assert_eq!(counter.ready_at, first.filter(|_| room), "readiness of {key:?}");
            match counter.parent {
                Some(parent) => {
                    let ready = &self.counters.slab[parent].ready;
                    let ticket = ready.iter().find(|(_, child)| *child == index);
                    let ticket = ticket.map(|(ticket, _)| *ticket);
                    assert_eq!(ticket, counter.ready_at, "position of {key:?} at its parent");
                }
                None => {
                    let in_ring = counter.in_list == InList::Ring;
                    assert_eq!(
                        in_ring,
                        counter.ready_at.is_some(),
                        "position of {key:?} in the ring"
                    );
                    ring += u32::from(in_ring);
                }
            }
            let only_a_token_is_missing = first.is_some() && !room && !counter.is_full();
            let timer = counter.bucket.as_ref().and_then(|bucket| bucket.timer);
            assert_eq!(timer.is_some(), only_a_token_is_missing, "timer of {key:?}");
            let listed = timer.is_none_or(|time| self.counters.timers.contains(&(time, index)));
            assert!(listed, "the timer of {key:?} is not in the list of timers");
        }
        assert_eq!(ring, self.counters.ring.len(), "groups in the ring");
        let next = self.counters.timers.first().map(|(time, _)| *time);
        assert!(
            next.is_none_or(|next| self.timer.is_some_and(|set| set <= next)),
            "no timer is set"
        );
    }

    fn check_permits(&self) {
        let used = u32::try_from(self.permits.slab.len()).expect("few permits");
        assert_eq!(self.lease.used(), used, "slots in use and permits held");
        self.slots.check(|slot| {
            let held = self.permits.slab.iter().filter(|(_, permit)| permit.slot == Some(slot));
            u32::try_from(held.count()).expect("few permits")
        });
        let mut listed = Set::default();
        for (index, client) in self.clients.slab.iter() {
            for permit in client.granted.iter(&self.permits.slab) {
                let granted_to = self.permits.slab[permit].client;
                assert_eq!(granted_to, Some(index), "{permit:?} is in another client's list");
                listed.insert(permit);
            }
            let needed = client.waits != Waits::No || !client.granted.is_empty();
            assert!(needed, "{:?} neither waits nor holds permits", client.handle);
            assert_eq!(self.clients.find(client.handle), Some(index), "index of clients");
        }
        assert_eq!(self.clients.found_len(), self.clients.slab.len(), "clients and their handles");
        for (index, permit) in self.permits.slab.iter() {
            let in_list = listed.contains(&index);
            assert_eq!(permit.client.is_some(), in_list, "{permit:?} and its client's list");
            assert_eq!(self.permits.find(permit.serial), Some(index), "index of permits");
        }
    }

    /// No vqueue waits while everything it needs is free.
    fn check_waiters(&self) {
        let mut at_locks: Set<ClientIndex> = Set::default();
        for lock in self.locks.held.values() {
            at_locks.extend(lock.waiters.iter(&self.clients.slab));
        }
        let mut at_services: Set<ClientIndex> = Set::default();
        for (service, paused) in &self.pauses.services {
            let rule = self.rules.service_paused_by(service);
            assert_eq!(Some(paused.rule), rule, "`{service}` is paused by an outdated rule");
            at_services.extend(paused.waiters.iter(&self.clients.slab));
        }
        let at_slots: Set<ClientIndex> = self.slots.all_waiters(&self.clients.slab).collect();
        for (index, client) in self.clients.slab.iter() {
            let handle = client.handle;
            let at_slot = at_slots.contains(&index);
            assert_eq!(client.waits == Waits::Slot, at_slot, "{handle:?} and its slots");
            let is_free = at_slot && self.free_slots(client) > 0;
            assert!(!is_free, "{handle:?} waits for a slot while one is free");
            let at_service = at_services.contains(&index);
            assert_eq!(client.waits == Waits::Service, at_service, "{handle:?} and its service");
            let paused = self.rules.service_paused_by(&client.name.service).is_some();
            assert_eq!(self.is_paused(client), paused, "{handle:?}: the pause of its service");
            let strays = paused && client.waits == Waits::Counter;
            assert!(!strays, "{handle:?} waits at a counter although its service is paused");
            let at_lock = at_locks.contains(&index);
            assert_eq!(client.waits == Waits::Lock, at_lock, "{handle:?} and its lock's list");
            if client.waits != Waits::No {
                assert!(self.lacks_something(client), "{handle:?} waits but lacks nothing");
            }
            if client.waits == Waits::Lock {
                let blocked = self.locks.blocks(client.vqueue, client.wish);
                assert!(blocked, "{handle:?} waits for a lock it could take");
            }
        }
    }

    fn lacks_something(&self, client: &Client) -> bool {
        self.locks.blocks(client.vqueue, client.wish)
            || self.is_paused(client)
            || self.free_slots(client) == 0
            || self.counters.room(client.home, self.now) == 0
            || self.lease.free() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::super::{
        client::{Permit, Slot},
        counter::Counter,
    };
    use super::Client;

    #[test]
    fn a_million_waiting_vqueues_fit_in_their_share_of_memory() {
        let (counter, client) = (size_of::<Counter>(), size_of::<Client>());
        assert!(counter <= 208, "a counter takes {counter} bytes");
        assert!(client <= 136, "a waiting vqueue takes {client} bytes");
        assert!(size_of::<Slot>() <= 56, "a slot takes {} bytes", size_of::<Slot>());
        assert!(size_of::<Permit>() <= 72, "a permit takes {} bytes", size_of::<Permit>());
    }
}
