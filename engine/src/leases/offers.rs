//! Attempts that wait for a worker.
//!
//! Must always hold: an offer is in exactly one of three places: in the queue of its service, with
//! the others of a held key, or held back until a time; a key is held by one offer or lease, and an
//! offer with a key is in the queue of its service only if it holds the key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytestring::ByteString;
use forebay_messages::VQueueName;

use super::{Due, LeaseBook, LeaseEffect, LeaseId, Millis};
use crate::machine::Map;

/// An attempt to be leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The attempt.
    pub id: LeaseId,
    /// Its service.
    pub service: ByteString,
    /// Its vqueue, if entries of it must not overlap.
    pub key: Option<Arc<VQueueName>>,
    /// A process ended while the entry ran: a worker may still have it.
    pub is_interrupted: bool,
}

/// Where an offer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the queue of its service.
    Ready,
    /// Its key is held.
    Key,
    /// Held back until a time.
    Back,
}

#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) offer: Offer,
    pub(super) place: Place,
    /// When it is due.
    pub(super) at: Millis,
}

/// The offers, by number: in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Offers {
    pub(super) all: BTreeMap<u64, Waiting>,
    pub(super) by_id: Map<LeaseId, u64>,
    /// Their number per service.
    pub(super) count: Map<ByteString, u32>,
    pub(super) ready: Map<ByteString, BTreeSet<u64>>,
    pub(super) by_key: Map<Arc<VQueueName>, BTreeSet<u64>>,
    /// The offer or lease that holds a key.
    pub(super) held: Map<Arc<VQueueName>, LeaseId>,
    next: u64,
}

impl Offers {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn insert(&mut self, number: u64, waiting: Waiting) {
        let place = waiting.place;
        if let (Place::Ready | Place::Back, Some(key)) = (place, &waiting.offer.key) {
            self.held.insert(Arc::clone(key), waiting.offer.id);
        }
        self.by_id.insert(waiting.offer.id, number);
        *self.count.entry(waiting.offer.service.clone()).or_default() += 1;
        self.all.insert(number, waiting);
        self.enter(number, place);
    }

    fn enter(&mut self, number: u64, place: Place) {
        let Some(waiting) = self.all.get_mut(&number) else { return };
        waiting.place = place;
        match (place, &waiting.offer.key) {
            (Place::Ready, _) => {
                let queue = self.ready.entry(waiting.offer.service.clone()).or_default();
                queue.insert(number);
            }
            (Place::Key, Some(key)) => {
                self.by_key.entry(Arc::clone(key)).or_default().insert(number);
            }
            (Place::Key | Place::Back, _) => {}
        }
    }

    /// Takes it out of its queue.
    fn leave(&mut self, number: u64) {
        let Some(waiting) = self.all.get(&number) else { return };
        match (waiting.place, &waiting.offer.key) {
            (Place::Ready, _) => {
                if let Some(queue) = self.ready.get_mut(&waiting.offer.service) {
                    queue.remove(&number);
                    if queue.is_empty() {
                        self.ready.remove(&waiting.offer.service);
                    }
                }
            }
            (Place::Key, Some(key)) => {
                if let Some(queue) = self.by_key.get_mut(key) {
                    queue.remove(&number);
                    if queue.is_empty() {
                        self.by_key.remove(key);
                    }
                }
            }
            (Place::Key | Place::Back, _) => {}
        }
    }

    /// Its key stays held.
    pub(super) fn remove(&mut self, number: u64) -> Option<Waiting> {
        self.leave(number);
        let waiting = self.all.remove(&number)?;
        self.by_id.remove(&waiting.offer.id);
        if let Some(count) = self.count.get_mut(&waiting.offer.service) {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&waiting.offer.service);
            }
        }
        Some(waiting)
    }

    /// If this offer or lease holds the key: the first offer that waits for the key gets it.
    pub(super) fn free(&mut self, key: Option<&Arc<VQueueName>>, id: LeaseId) {
        let Some(key) = key.filter(|key| self.held.get(*key) == Some(&id)) else { return };
        self.held.remove(key);
        let first = self.by_key.get(key).and_then(|queue| queue.first().copied());
        let Some(number) = first else { return };
        self.leave(number);
        if let Some(waiting) = self.all.get(&number) {
            self.held.insert(Arc::clone(key), waiting.offer.id);
        }
        self.enter(number, Place::Ready);
    }
}

impl LeaseBook {
    /// Attempts wait for workers. The same attempt is offered once.
    pub fn offer(&mut self, now: Millis, offers: Vec<Offer>, effects: &mut Vec<LeaseEffect>) {
        self.tick(now, effects);
        for offer in offers {
            let is_full = self.offers.all.len() >= self.limits.offers_max;
            let is_served = self.services.contains_key(&offer.service);
            if self.is_closed || is_full || !is_served {
                effects.push(LeaseEffect::GiveBack(offer.id));
            } else {
                self.insert_offer(now, offer);
            }
        }
        self.grant(now, effects);
        self.announce(effects);
    }

    pub(super) fn insert_offer(&mut self, now: Millis, offer: Offer) {
        let number = self.offers.number();
        let is_held = offer.key.as_ref().is_some_and(|key| self.offers.held.contains_key(key));
        let (place, at) = match is_held {
            true => (Place::Key, now + self.limits.offer_wait),
            false if offer.is_interrupted && offer.key.is_some() && now < self.quiet_until => {
                (Place::Back, self.quiet_until)
            }
            false => (Place::Ready, now + self.limits.offer_wait),
        };
        self.put_offer(number, Waiting { offer, place, at });
    }

    pub(super) fn put_offer(&mut self, number: u64, waiting: Waiting) {
        self.due.insert((waiting.at, Due::Offer(number)));
        self.changed.insert(waiting.offer.service.clone());
        self.offers.insert(number, waiting);
    }

    /// Takes an offer back.
    pub(super) fn take_offer(&mut self, id: LeaseId) -> Option<(u64, Waiting)> {
        let number = self.offers.by_id.get(&id).copied()?;
        let waiting = self.offers.remove(number)?;
        self.changed.insert(waiting.offer.service.clone());
        self.due.remove(&(waiting.at, Due::Offer(number)));
        Some((number, waiting))
    }

    /// Gives back an offer that no worker has.
    pub(super) fn give_back(&mut self, id: LeaseId, effects: &mut Vec<LeaseEffect>) {
        if let Some((_, waiting)) = self.take_offer(id) {
            self.offers.free(waiting.offer.key.as_ref(), id);
            effects.push(LeaseEffect::GiveBack(id));
        }
    }

    /// The offers of a service, or all of them, in their order.
    pub(super) fn offers_of(&self, service: Option<&ByteString>) -> Vec<LeaseId> {
        let all = self.offers.all.values().map(|waiting| &waiting.offer);
        let of = all.filter(|offer| service.is_none_or(|service| offer.service == *service));
        of.map(|offer| offer.id).collect()
    }

    pub(super) fn offer_is_due(
        &mut self,
        now: Millis,
        number: u64,
        effects: &mut Vec<LeaseEffect>,
    ) {
        let Some(mut waiting) = self.offers.remove(number) else { return };
        self.changed.insert(waiting.offer.service.clone());
        let id = waiting.offer.id;
        match waiting.place {
            Place::Back => {
                waiting.offer.is_interrupted = false;
                let at = now + self.limits.offer_wait;
                self.put_offer(number, Waiting { place: Place::Ready, at, ..waiting });
            }
            Place::Ready | Place::Key => {
                self.offers.free(waiting.offer.key.as_ref(), id);
                effects.push(LeaseEffect::GiveBack(id));
            }
        }
        self.grant(now, effects);
    }
}
