//! A limiter with one counter and one lock, for one vqueue.
//!
//! Implements what the vqueue machine relies on: a permit of a vqueue with a lock always holds that
//! lock; `Take` waits until it is free, `Held(entry)` until it is free or kept by that entry.
//! Panics if a permit is used that is not held.

use std::collections::{BTreeMap, VecDeque};

use forebay_messages::{
    EntryId, Generation, PermitId,
    actor::{LockWish, Permits},
};

/// Messages to the limiter; like `LimiterMessage`, for one vqueue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ToLimiter {
    Acquire { incarnation: u32, count: u32, lock: LockWish },
    Release { permit: PermitId, keep_lock: Option<EntryId> },
    HandedOver(PermitId),
    Withdraw(u32),
    FreeLock(EntryId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Free,
    WithPermit(PermitId),
    KeptBy(EntryId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    VQueue(u32),
    Partition,
}

#[derive(Debug)]
pub(crate) struct FakeLimiter {
    pub(crate) mailbox: VecDeque<ToLimiter>,
    has_lock: bool,
    limit: usize,
    lock: Lock,
    waiting: Option<(u32, u32, LockWish)>,
    held: BTreeMap<u64, Holder>,
    serial: u64,
}

impl FakeLimiter {
    pub(crate) fn new(has_lock: bool, limit: usize) -> Self {
        Self {
            mailbox: VecDeque::new(),
            has_lock,
            limit,
            lock: Lock::Free,
            waiting: None,
            held: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Processes one message.
    pub(crate) fn deliver(&mut self) -> bool {
        let Some(message) = self.mailbox.pop_front() else {
            return false;
        };
        match message {
            ToLimiter::Acquire { incarnation, count, lock } => {
                self.waiting = Some((incarnation, count, lock));
            }
            ToLimiter::Release { permit, keep_lock } => {
                assert!(self.held.remove(&permit.serial).is_some(), "{permit:?} is not held");
                if self.lock == Lock::WithPermit(permit) {
                    self.lock = keep_lock.map_or(Lock::Free, Lock::KeptBy);
                }
            }
            ToLimiter::HandedOver(permit) => {
                let before = self.held.insert(permit.serial, Holder::Partition);
                assert!(matches!(before, Some(Holder::VQueue(_))), "{permit:?} was {before:?}");
            }
            ToLimiter::Withdraw(incarnation) => self.withdraw(incarnation),
            ToLimiter::FreeLock(entry) if self.lock == Lock::KeptBy(entry) => {
                self.lock = Lock::Free;
            }
            ToLimiter::FreeLock(_) => {}
        }
        true
    }

    fn withdraw(&mut self, incarnation: u32) {
        self.waiting = self.waiting.filter(|(who, ..)| *who != incarnation);
        self.held.retain(|_, holder| *holder != Holder::VQueue(incarnation));
        if let Lock::WithPermit(permit) = self.lock
            && !self.held.contains_key(&permit.serial)
        {
            self.lock = Lock::Free;
        }
    }

    /// Grants the outstanding request, if possible, and returns the incarnation.
    pub(crate) fn grant(&mut self) -> Option<(u32, Permits)> {
        let (incarnation, count, wish) = self.waiting?;
        let free = self.limit - self.held.len();
        let lock_is_there = match wish {
            LockWish::None => true,
            LockWish::Take => self.lock == Lock::Free,
            LockWish::Held(entry) => self.lock == Lock::Free || self.lock == Lock::KeptBy(entry),
        };
        if free == 0 || !lock_is_there {
            return None;
        }
        self.waiting = None;
        let count = count.min(u32::try_from(free).unwrap());
        let first = PermitId { incarnation: Generation(1), serial: self.serial + 1 };
        self.serial += u64::from(count);
        let permits = Permits { first, count };
        for permit in permits.iter() {
            self.held.insert(permit.serial, Holder::VQueue(incarnation));
        }
        if self.has_lock {
            assert_eq!(count, 1, "with a lock one permit at a time");
            self.lock = Lock::WithPermit(first);
        }
        Some((incarnation, permits))
    }

    /// Nothing is held and nothing waits.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.mailbox.is_empty()
            && self.held.is_empty()
            && self.waiting.is_none()
            && self.lock == Lock::Free
    }
}
