//! Services paused by a rule: their vqueues wait here, whatever their scope.
//!
//! Counters form a tree of scopes, and services cut across it: a vqueue that waits for its service
//! to be resumed is in a list of its own and in no counter's list. A pause of `a` also holds for
//! services below it, such as `a.b`; the nearest pause has the waiters. Must always hold: no vqueue
//! of a paused service waits at a counter. Must not know: counters, capacity. (A pause of a scope
//! or a limit key makes its counter full, see `counter`.)

use bytestring::ByteString;
use forebay_messages::{Timestamp, rule::RuleUpdate};

use crate::{
    machine::Map,
    rules::{RuleSlot, service_and_above},
};

use super::{
    Limiter,
    client::{Client, ClientIndex, Waits},
    list::List,
};

/// A paused service.
#[derive(Debug)]
pub(super) struct PausedService {
    /// The rule that pauses it.
    pub(super) rule: RuleSlot,
    pub(super) since: Timestamp,
    pub(super) waiters: List<Client>,
}

/// The paused services. Empty most of the time.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    pub(super) services: Map<ByteString, PausedService>,
}

impl Pauses {
    pub(super) fn get(&self, service: &str) -> Option<&PausedService> {
        self.services.get(self.name_of(service)?)
    }

    pub(super) fn get_mut(&mut self, service: &str) -> Option<&mut PausedService> {
        self.services.get_mut(self.name_of(service)?)
    }

    /// The name under which a service is paused: its own, or one it is below.
    fn name_of<'a>(&self, service: &'a str) -> Option<&'a str> {
        if self.services.is_empty() {
            return None;
        }
        service_and_above(service).find(|name| self.services.contains_key(*name))
    }
}

impl Limiter {
    /// A client whose lock is free starts to wait for its service or its counters. The caller
    /// updates the ready clients at its home.
    pub(super) fn wait_for_rules(&mut self, index: ClientIndex) {
        let client = &mut self.clients.slab[index];
        if let Some(paused) = self.pauses.get_mut(&client.name.service) {
            client.waits = Waits::Service;
            paused.waiters.push_back(&mut self.clients.slab, index);
            return;
        }
        self.wait_for_counters(index);
    }

    /// Whether a client's service is paused.
    #[inline]
    pub(super) fn is_paused(&self, client: &Client) -> bool {
        // Mostly no service is paused: then the client's name is not read.
        !self.pauses.services.is_empty() && self.pauses.get(&client.name.service).is_some()
    }

    /// Updates the pauses after the rules of these services may have changed.
    pub(super) fn update_pauses(&mut self, updates: &[RuleUpdate]) {
        for service in updates.iter().filter_map(|update| update.pattern().service()) {
            let rule = self.rules.pause_of(service);
            let Some(rule) = rule else {
                self.resume_service(service);
                continue;
            };
            match self.pauses.services.get_mut(service) {
                Some(paused) => paused.rule = rule,
                None => self.pause_service(service, rule),
            }
        }
    }

    fn pause_service(&mut self, service: &ByteString, rule: RuleSlot) {
        let paused = PausedService { rule, since: self.now, waiters: List::default() };
        // Clients may wait for a service above to be resumed: the nearest pause takes them.
        let is_nearest = |client: &Client| {
            let above = self.pauses.name_of(&client.name.service);
            let is_below = service_and_above(&client.name.service).any(|name| name == &**service);
            is_below && above.is_none_or(|above| above.len() < service.len())
        };
        let waits =
            |client: &Client| matches!(client.waits, Waits::Counter | Waits::Service | Waits::Slot);
        let all = self.clients.slab.iter();
        let concerned: Vec<(u64, ClientIndex)> = all
            .filter(|(_, client)| waits(client) && is_nearest(client))
            .map(|(index, client)| (client.ticket, index))
            .collect();
        for (_, index) in &concerned {
            self.stop_waiting(*index);
        }
        self.pauses.services.insert(service.clone(), paused);
        self.wait_again(concerned);
    }

    fn resume_service(&mut self, service: &ByteString) {
        let Some(paused) = self.pauses.services.get(service) else { return };
        let waiters = paused.waiters.iter(&self.clients.slab);
        let concerned: Vec<(u64, ClientIndex)> = (0..).zip(waiters).collect();
        for (_, index) in &concerned {
            self.stop_waiting(*index);
        }
        self.pauses.services.remove(service);
        self.wait_again(concerned);
    }

    /// Moves these clients to the list of what they wait for now, in the order of their numbers.
    fn wait_again(&mut self, mut concerned: Vec<(u64, ClientIndex)>) {
        concerned.sort_unstable();
        for (_, index) in concerned {
            self.stop_waiting(index);
            self.wait_for_rules(index);
            let home = self.clients.slab[index].home;
            self.counters.update_ready(&self.clients.slab, home, self.now);
        }
    }
}
