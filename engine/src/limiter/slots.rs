//! This partition's share of the slots of executors beside the handlers, by service.
//!
//! A service that executors announced is limited by their slots: each permit for it needs one that
//! was leased to this partition, as with the node's capacity. Services cut across the tree of
//! counters, so a vqueue without a slot waits in its service's list and in no counter's list. Must
//! always hold: while a vqueue waits for a slot of a service, none is free. Must not know:
//! executors, the other partitions.

use std::num::NonZeroU32;

use bytestring::ByteString;
use forebay_messages::{Timestamp, actor::SlotChange};

use crate::machine::Map;

use super::{
    Effects, Limiter, LimiterEffect,
    client::{Client, ClientIndex, Waits},
    counter::UNLIMITED,
    lease::{Balance, CapacityMode, Lease},
    list::List,
    slab::Slab,
};

/// An announced service: its place in the list, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotIndex(NonZeroU32);

#[derive(Debug)]
struct ServiceSlots {
    service: ByteString,
    lease: Lease,
    waiters: List<Client>,
}

/// The announced services. Without other executors there are none.
#[derive(Debug, Default)]
pub(super) struct Slots {
    services: Vec<ServiceSlots>,
    by_name: Map<ByteString, SlotIndex>,
}

impl Slots {
    fn of(&self, SlotIndex(index): SlotIndex) -> &ServiceSlots {
        &self.services[index.get() as usize - 1]
    }

    fn of_mut(&mut self, SlotIndex(index): SlotIndex) -> &mut ServiceSlots {
        &mut self.services[index.get() as usize - 1]
    }

    #[inline]
    pub(super) fn find(&self, service: &str) -> Option<SlotIndex> {
        if self.services.is_empty() { None } else { self.by_name.get(service).copied() }
    }

    /// From now on permits of this service need a slot.
    pub(super) fn announce(&mut self, service: ByteString) {
        if self.by_name.contains_key(&service) {
            return;
        }
        let lease = Lease::new(CapacityMode::Leased, 0);
        self.services.push(ServiceSlots {
            service: service.clone(),
            lease,
            waiters: List::default(),
        });
        let count = u32::try_from(self.services.len()).ok().and_then(NonZeroU32::new);
        self.by_name.insert(service, SlotIndex(count.expect("few services are announced")));
    }

    pub(super) fn take(&mut self, slot: SlotIndex, count: u32, now: Timestamp) {
        self.of_mut(slot).lease.take(count, now);
    }

    /// A permit returned its slot. Returns the slots for other partitions.
    pub(super) fn put(&mut self, slot: SlotIndex) -> Option<LimiterEffect> {
        let of = self.of_mut(slot);
        of.lease.put().map(|slots| of.returns(slots))
    }

    pub(super) fn change(&mut self, service: &str, change: SlotChange) -> Option<LimiterEffect> {
        let slot = self.find(service)?;
        let of = self.of_mut(slot);
        match change {
            SlotChange::Leased(slots) => of.lease.add(slots),
            SlotChange::Recalled => of.lease.recall(),
            SlotChange::Claimed => return of.lease.claim().map(|slots| of.returns(slots)),
        }
        None
    }

    /// Used and leased slots of a service without a free one, and since when there is none.
    pub(super) fn lacking(&self, service: &str) -> Option<(u32, u32, Timestamp)> {
        let lease = &self.of(self.find(service)?).lease;
        (lease.free() == 0).then(|| (lease.used(), lease.leased(), lease.full_since()))
    }

    pub(super) fn unqueue(&mut self, clients: &mut Slab<Client>, index: ClientIndex) {
        let slot = self.find(&clients[index].name.service);
        let slot = slot.expect("clients wait only for slots of announced services");
        self.of_mut(slot).waiters.remove(clients, index);
    }

    /// The messages for the pools of slots.
    pub(super) fn balance(&mut self, effects: &mut Effects) {
        for of in &mut self.services {
            let Balance { want, give_back } = of.lease.balance(of.waiters.len());
            let service = &of.service;
            effects.extend(
                want.map(|slots| LimiterEffect::WantSlots { service: service.clone(), slots }),
            );
            effects.extend(give_back.map(|slots| of.returns(slots)));
        }
    }

    pub(super) fn all_waiters<'a>(
        &'a self,
        clients: &'a Slab<Client>,
    ) -> impl Iterator<Item = ClientIndex> + 'a {
        self.services.iter().flat_map(|of| of.waiters.iter(clients))
    }

    /// `held`: number of permits with a slot of this service.
    pub(super) fn check(&self, held: impl Fn(SlotIndex) -> u32) {
        for (service, slot) in &self.by_name {
            let used = self.of(*slot).lease.used();
            assert_eq!(used, held(*slot), "slots of `{service}` in use and permits held");
        }
    }
}

impl ServiceSlots {
    fn returns(&self, slots: u32) -> LimiterEffect {
        LimiterEffect::ReturnSlots { service: self.service.clone(), slots }
    }
}

impl Limiter {
    /// The slots that a client needs; `None` if its service needs none.
    #[inline]
    pub(super) fn slot_of(&self, client: &Client) -> Option<SlotIndex> {
        // Mostly no service needs slots: then the client's name is not read.
        if self.slots.services.is_empty() { None } else { self.slots.find(&client.name.service) }
    }

    /// How many more permits the slots of a client's service allow.
    #[inline]
    pub(super) fn free_slots(&self, client: &Client) -> u32 {
        self.slot_of(client).map_or(UNLIMITED, |slot| self.slots.of(slot).lease.free())
    }

    pub(super) fn wait_for_slot(&mut self, index: ClientIndex) {
        let slot = self.slot_of(&self.clients.slab[index]);
        let slot = slot.expect("clients wait only for slots of announced services");
        self.clients.slab[index].waits = Waits::Slot;
        self.slots.of_mut(slot).waiters.push_back(&mut self.clients.slab, index);
    }

    /// Lets vqueues that wait for slots proceed, one after the other, while there are free ones. A
    /// vqueue that lacks something else then waits for that, and uses no slot.
    pub(super) fn offer_slots(&mut self, effects: &mut Effects) {
        for at in 0..self.slots.services.len() {
            loop {
                let of = &mut self.slots.services[at];
                let Some(index) = of.waiters.front().filter(|_| of.lease.free() > 0) else { break };
                of.waiters.remove(&mut self.clients.slab, index);
                self.clients.slab[index].waits = Waits::No;
                self.wait_for_rules(index);
                let home = self.clients.slab[index].home;
                self.counters.update_ready(&self.clients.slab, home, self.now);
                self.grant_ready(None, effects);
            }
        }
    }
}
