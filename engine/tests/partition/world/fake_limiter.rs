//! A limiter that is as strict and simple as possible: one limit per scope, locks, and a panic for
//! every message that a partition or a vqueue must not send.

use std::collections::BTreeMap;

use forebay_messages::{
    EntryId, Generation, PermitId, VQueueHandle, VQueueId, VQueueName,
    actor::{Acquire, Granted, LimiterMessage, LockWish, Permits, Release, Seed},
};

use super::any_limiter::LimiterOutput;

/// Maximum number of running entries of a scope.
pub(super) const SCOPE_LIMIT: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Holder {
    /// A permit, and the entry that had kept the lock before.
    Permit(u64, Option<EntryId>),
    Entry(EntryId),
}

#[derive(Debug)]
struct Permit {
    vqueue: VQueueId,
    name: VQueueName,
    /// The vqueue that it was granted to, until it is handed over.
    client: Option<VQueueHandle>,
}

#[derive(Debug)]
pub(crate) struct FakeLimiter {
    pub(super) incarnation: Generation,
    is_seeded: bool,
    serial: u64,
    permits: BTreeMap<u64, Permit>,
    locks: BTreeMap<VQueueId, Holder>,
    waiting: Vec<Acquire>,
}

impl FakeLimiter {
    pub(super) fn new(incarnation: Generation) -> Self {
        Self {
            incarnation,
            is_seeded: false,
            serial: 0,
            permits: BTreeMap::new(),
            locks: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn held(&self) -> usize {
        self.permits.len()
    }

    pub(super) fn locks(&self) -> usize {
        self.locks.len()
    }

    pub(super) fn step(&mut self, message: LimiterMessage, outcomes: &mut Vec<LimiterOutput>) {
        let seeds = matches!(message, LimiterMessage::Seed(_));
        assert_ne!(seeds, self.is_seeded, "seeded once, and before all else: {message:?}");
        match message {
            LimiterMessage::Seed(seed) => self.seed(*seed, outcomes),
            LimiterMessage::Acquire(ask) => {
                self.waiting.retain(|other| other.handle != ask.handle);
                self.waiting.push(ask);
            }
            LimiterMessage::Release(all) => all.into_iter().for_each(|one| self.release(one)),
            LimiterMessage::FreeLock { vqueue, entry } => match self.locks.get_mut(&vqueue) {
                Some(Holder::Entry(holder)) if *holder == entry => {
                    self.locks.remove(&vqueue);
                }
                Some(Holder::Permit(_, kept)) if *kept == Some(entry) => *kept = None,
                _ => {}
            },
            LimiterMessage::LockHeld { vqueue, entry } => {
                self.locks.entry(vqueue).or_insert(Holder::Entry(entry));
            }
            LimiterMessage::Withdraw(handle) => {
                self.waiting.retain(|ask| ask.handle != handle);
                let granted = self.permits.iter().filter(|(_, held)| held.client == Some(handle));
                let granted: Vec<_> = granted.map(|(serial, _)| *serial).collect();
                for serial in granted {
                    self.give_back(serial, None);
                }
            }
            LimiterMessage::HandedOver(permits) => {
                for permit in permits.iter() {
                    let held = self.held_permit(permit);
                    assert!(held.client.take().is_some(), "{permit:?} is handed over once");
                }
            }
            LimiterMessage::RulesUpdated(_) | LimiterMessage::Tick => {}
            other => panic!("unexpected message: {other:?}"),
        }
        self.grant(outcomes);
    }

    fn seed(&mut self, seed: Seed, outcomes: &mut Vec<LimiterOutput>) {
        self.is_seeded = true;
        for (vqueue, entry) in seed.locks {
            self.locks.insert(vqueue, Holder::Entry(entry));
        }
        let mut permits = Vec::new();
        for running in seed.running {
            self.serial += 1;
            if running.name.has_lock() {
                let holder = self.locks.get(&running.vqueue);
                if holder.is_none_or(|holder| *holder == Holder::Entry(running.entry)) {
                    self.locks.insert(running.vqueue, Holder::Permit(self.serial, None));
                }
            }
            let name = VQueueName::clone(&running.name);
            let permit = Permit { vqueue: running.vqueue, name, client: None };
            self.permits.insert(self.serial, permit);
            permits.push(PermitId { incarnation: self.incarnation, serial: self.serial });
        }
        outcomes.push(LimiterOutput::Seeded(permits));
    }

    fn held_permit(&mut self, permit: PermitId) -> &mut Permit {
        assert_eq!(permit.incarnation, self.incarnation, "a permit of this limiter");
        let held = self.permits.get_mut(&permit.serial);
        held.unwrap_or_else(|| panic!("{permit:?} is not held: it was already returned"))
    }

    fn release(&mut self, release: Release) {
        self.held_permit(release.permit);
        self.give_back(release.permit.serial, release.keep_lock);
    }

    fn give_back(&mut self, serial: u64, keep: Option<EntryId>) {
        let permit = self.permits.remove(&serial).unwrap();
        let Some(Holder::Permit(holder, kept)) = self.locks.get(&permit.vqueue).copied() else {
            return;
        };
        if holder != serial {
            return;
        }
        let is_unused = permit.client.is_some();
        match keep.or(kept.filter(|_| is_unused)) {
            Some(entry) => self.locks.insert(permit.vqueue, Holder::Entry(entry)),
            None => self.locks.remove(&permit.vqueue),
        };
    }

    fn is_free(&self, vqueue: VQueueId, wish: LockWish) -> bool {
        match (self.locks.get(&vqueue), wish) {
            (_, LockWish::None) | (None, _) => true,
            (Some(Holder::Entry(holder)), LockWish::Held(entry)) => *holder == entry,
            _ => false,
        }
    }

    fn room(&self, name: &VQueueName) -> usize {
        let Some(scope) = &name.scope else { return usize::MAX };
        let same = |held: &&Permit| held.name.scope.as_ref() == Some(scope);
        SCOPE_LIMIT.saturating_sub(self.permits.values().filter(same).count())
    }

    fn grant(&mut self, outcomes: &mut Vec<LimiterOutput>) {
        let mut at = 0;
        while let Some(ask) = self.waiting.get(at).cloned() {
            let count = self.room(&ask.name).min(ask.count as usize);
            if count == 0 || !self.is_free(ask.vqueue, ask.lock) {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            let first = self.serial + 1;
            for _ in 0..count {
                self.serial += 1;
                let name = VQueueName::clone(&ask.name);
                let permit = Permit { vqueue: ask.vqueue, name, client: Some(ask.handle) };
                self.permits.insert(self.serial, permit);
            }
            if ask.lock != LockWish::None {
                assert_eq!(count, 1, "a lock is taken with one permit");
                let kept = match self.locks.get(&ask.vqueue) {
                    Some(Holder::Entry(entry)) => Some(*entry),
                    _ => None,
                };
                self.locks.insert(ask.vqueue, Holder::Permit(first, kept));
            }
            let first = PermitId { incarnation: self.incarnation, serial: first };
            let permits = Permits { first, count: u32::try_from(count).unwrap() };
            outcomes.push(LimiterOutput::Granted(Granted { handle: ask.handle, permits }));
        }
    }
}
