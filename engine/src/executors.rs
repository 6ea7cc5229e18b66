//! Executors beside the handlers of this process: their announcements and their attempts.
//!
//! Owns: the choice of the executor of an attempt. Must always hold:
//!
//! 1. An attempt is handed to one executor, which announced its service and had a free slot.
//! 2. No attempt waits while an executor has a free slot for its service.
//! 3. Attempts of a service are handed over in the order in which they came.
//! 4. Every attempt leaves the table exactly once: by its end, because it was stopped, or with its
//!    executor.
//!
//! Must not know: how attempts reach an executor, when an executor is lost, rows, limits.

use std::collections::{BTreeMap, VecDeque};

use bytestring::ByteString;
use forebay_messages::{AttemptToken, EntryId, command::ExecutorId};

use crate::machine::Map;

/// Identifies an attempt.
pub type AttemptKey = (EntryId, AttemptToken);

/// The slots of an executor for one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Maximum number of attempts at once.
    pub max: u32,
    /// Attempts that it was handed and that have not ended. More than the maximum after it was
    /// lowered.
    pub used: u32,
}

impl Slots {
    /// How many more attempts it takes.
    #[must_use]
    pub fn free(self) -> u32 {
        self.max.saturating_sub(self.used)
    }
}

/// An attempt that an executor was handed.
#[derive(Debug)]
struct Handed<A> {
    attempt: A,
    service: ByteString,
    /// The executor has taken it, and may run it.
    is_taken: bool,
}

#[derive(Debug)]
struct Executor<A> {
    services: BTreeMap<ByteString, Slots>,
    attempts: BTreeMap<AttemptKey, Handed<A>>,
    /// Attempts that it has not taken yet, in order.
    untaken: VecDeque<AttemptKey>,
}

impl<A> Default for Executor<A> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), attempts: BTreeMap::new(), untaken: VecDeque::new() }
    }
}

/// What happened to a new attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Assigned<A> {
    /// This executor has it to take.
    To(ExecutorId),
    /// It waits for a free slot.
    Waits,
    /// No executor announced its service.
    NotServed(A),
}

/// An attempt that has left the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Left<A> {
    /// The attempt.
    pub attempt: A,
    /// Its executor had taken it, and may have begun.
    pub is_taken: bool,
}

/// The executors, their slots and their attempts. `A` is an attempt.
#[derive(Debug)]
pub struct Executors<A> {
    executors: BTreeMap<ExecutorId, Executor<A>>,
    /// The executor of each attempt that was handed over.
    places: Map<AttemptKey, ExecutorId>,
    /// Attempts that wait for a slot, by service. No list is empty.
    waiting: BTreeMap<ByteString, VecDeque<(AttemptKey, A)>>,
    /// Number of executors that announced a service.
    served: BTreeMap<ByteString, usize>,
}

impl<A> Default for Executors<A> {
    fn default() -> Self {
        Self {
            executors: BTreeMap::new(),
            places: Map::default(),
            waiting: BTreeMap::new(),
            served: BTreeMap::new(),
        }
    }
}

impl<A> Executors<A> {
    /// Whether there is an executor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.executors.is_empty()
    }

    /// Whether this executor is known.
    #[must_use]
    pub fn knows(&self, id: ExecutorId) -> bool {
        self.executors.contains_key(&id)
    }

    /// Whether an executor announced a service, with or without slots.
    #[must_use]
    pub fn serves(&self, service: &str) -> bool {
        self.served.contains_key(service)
    }

    /// The slots for a service, of all executors together.
    #[must_use]
    pub fn slots(&self, service: &str) -> Slots {
        let of = self.executors.values().filter_map(|executor| executor.services.get(service));
        of.fold(Slots::default(), |sum, slots| Slots {
            max: sum.max.saturating_add(slots.max),
            used: sum.used.saturating_add(slots.used),
        })
    }

    /// Adds an executor without services. `false` if it is known.
    pub fn add(&mut self, id: ExecutorId) -> bool {
        if self.knows(id) {
            return false;
        }
        self.executors.insert(id, Executor::default());
        true
    }

    /// An executor announces how many attempts of a service it runs at once; 0 means that it takes
    /// none for now. Returns how many attempts that waited it has to take now. `None`: it is not
    /// known.
    pub fn set_slots(&mut self, id: ExecutorId, service: &str, max: u32) -> Option<usize> {
        let executor = self.executors.get_mut(&id)?;
        match executor.services.get_mut(service) {
            Some(slots) => slots.max = max,
            None => {
                let service = ByteString::from(service);
                // It may have withdrawn the service while it ran some.
                let running = executor.attempts.values().filter(|of| of.service == service);
                let used = u32::try_from(running.count()).unwrap_or(u32::MAX);
                executor.services.insert(service.clone(), Slots { max, used });
                *self.served.entry(service).or_default() += 1;
            }
        }
        Some(self.hand_waiting_to(id, service))
    }

    /// An executor no longer serves a service: its attempts continue. Returns the attempts that
    /// waited, if no executor serves the service any more.
    pub fn withdraw(&mut self, id: ExecutorId, service: &str) -> Vec<A> {
        let executor = self.executors.get_mut(&id);
        if executor.and_then(|executor| executor.services.remove(service)).is_none() {
            return Vec::new();
        }
        self.no_longer_serves(service)
    }

    fn no_longer_serves(&mut self, service: &str) -> Vec<A> {
        let count = self.served.get_mut(service).expect("an announced service is counted");
        *count -= 1;
        if *count > 0 {
            return Vec::new();
        }
        self.served.remove(service);
        let waiting = self.waiting.remove(service).unwrap_or_default();
        waiting.into_iter().map(|(_, attempt)| attempt).collect()
    }

    /// Hands a new attempt to an executor that announced its service and has a free slot: to the
    /// one with most free slots, among equals to the one with the lowest id.
    pub fn assign(&mut self, service: &str, key: AttemptKey, attempt: A) -> Assigned<A> {
        let Some((service, _)) = self.served.get_key_value(service) else {
            return Assigned::NotServed(attempt);
        };
        let service = service.clone();
        match self.choose(&service) {
            Some(id) => {
                self.hand_over(id, service, key, attempt);
                Assigned::To(id)
            }
            None => {
                self.waiting.entry(service).or_default().push_back((key, attempt));
                Assigned::Waits
            }
        }
    }

    fn choose(&self, service: &str) -> Option<ExecutorId> {
        let free = |(id, executor): (&ExecutorId, &Executor<A>)| {
            let slots = executor.services.get(service)?;
            (slots.free() > 0).then_some((slots.free(), std::cmp::Reverse(*id)))
        };
        let most = self.executors.iter().filter_map(free).max();
        most.map(|(_, std::cmp::Reverse(id))| id)
    }

    fn hand_over(&mut self, id: ExecutorId, service: ByteString, key: AttemptKey, attempt: A) {
        let executor = self.executors.get_mut(&id).expect("it was chosen just now");
        let slots = executor.services.get_mut(&service).expect("it announced the service");
        assert!(slots.free() > 0, "an attempt is handed to an executor with a free slot");
        slots.used += 1;
        let handed = Handed { attempt, service, is_taken: false };
        let before = executor.attempts.insert(key, handed);
        assert!(before.is_none(), "{key:?} is handed over once");
        executor.untaken.push_back(key);
        self.places.insert(key, id);
    }

    /// Hands waiting attempts to an executor, as far as it has free slots; returns their number.
    fn hand_waiting_to(&mut self, id: ExecutorId, service: &str) -> usize {
        let free = |of: &Self| {
            let slots = of.executors.get(&id).and_then(|of| of.services.get(service));
            slots.is_some_and(|slots| slots.free() > 0)
        };
        let mut count = 0;
        while free(self) {
            let Some(waiting) = self.waiting.get_mut(service) else { break };
            let Some((key, attempt)) = waiting.pop_front() else { break };
            if waiting.is_empty() {
                self.waiting.remove(service);
            }
            self.hand_over(id, ByteString::from(service), key, attempt);
            count += 1;
        }
        count
    }

    /// The next attempt that an executor takes; it stays in the table until its end.
    pub fn take(&mut self, id: ExecutorId) -> Option<&mut A> {
        let executor = self.executors.get_mut(&id)?;
        let key = executor.untaken.pop_front()?;
        let handed = executor.attempts.get_mut(&key).expect("untaken attempts are in the table");
        handed.is_taken = true;
        Some(&mut handed.attempt)
    }

    /// An attempt of an executor ended. Also returns whether that executor has another one to take.
    /// `None`: it does not run that attempt.
    pub fn end(&mut self, id: ExecutorId, key: AttemptKey) -> Option<(A, bool)> {
        if self.places.get(&key) != Some(&id) {
            return None;
        }
        let (left, takes) = self.leave(id, key);
        Some((left.attempt, takes))
    }

    fn leave(&mut self, id: ExecutorId, key: AttemptKey) -> (Left<A>, bool) {
        self.places.remove(&key);
        let executor = self.executors.get_mut(&id).expect("places name known executors");
        let handed = executor.attempts.remove(&key).expect("places name attempts");
        let Handed { attempt, service, is_taken } = handed;
        if !is_taken {
            executor.untaken.retain(|untaken| *untaken != key);
        }
        if let Some(slots) = executor.services.get_mut(&service) {
            slots.used = slots.used.checked_sub(1).expect("a used slot is counted");
        }
        let takes = self.hand_waiting_to(id, &service) > 0;
        (Left { attempt, is_taken }, takes)
    }

    /// An attempt should not run. Returns it if no executor has taken it, with the executor that
    /// has another one to take because of that. An attempt that was taken stays.
    pub fn stop(&mut self, key: AttemptKey) -> Option<(A, Option<ExecutorId>)> {
        if let Some(id) = self.places.get(&key).copied() {
            let is_taken = |of: &Executor<A>| of.attempts.get(&key).is_some_and(|of| of.is_taken);
            if self.executors.get(&id).is_some_and(is_taken) {
                return None;
            }
            let (left, takes) = self.leave(id, key);
            return Some((left.attempt, takes.then_some(id)));
        }
        let is_meant = |(other, _): &(AttemptKey, A)| *other == key;
        let (service, at) = self.waiting.iter().find_map(|(service, waiting)| {
            waiting.iter().position(is_meant).map(|at| (service.clone(), at))
        })?;
        let waiting = self.waiting.get_mut(&service)?;
        let (_, attempt) = waiting.remove(at)?;
        if waiting.is_empty() {
            self.waiting.remove(&service);
        }
        Some((attempt, None))
    }

    /// Removes the attempts for which this is true, taken or not: their executors do not learn it.
    /// Returns them, and the executors that have another one to take because of that.
    pub fn drop_attempts(
        &mut self,
        is_meant: impl Fn(&AttemptKey) -> bool,
    ) -> (Vec<A>, Vec<ExecutorId>) {
        let (mut dropped, mut wake) = (Vec::new(), Vec::new());
        // First the waiting ones: otherwise they would be handed over.
        self.waiting.retain(|_, waiting| {
            for (key, attempt) in std::mem::take(waiting) {
                match is_meant(&key) {
                    true => dropped.push(attempt),
                    false => waiting.push_back((key, attempt)),
                }
            }
            !waiting.is_empty()
        });
        let places = self.places.iter().filter(|(key, _)| is_meant(key));
        let mut meant: Vec<_> = places.map(|(key, id)| (*id, *key)).collect();
        meant.sort_unstable();
        for (id, key) in meant {
            let (left, takes) = self.leave(id, key);
            dropped.push(left.attempt);
            wake.extend(takes.then_some(id));
        }
        (dropped, wake)
    }

    /// Removes an executor. Returns the attempts that it was handed, the attempts that waited for
    /// services that no executor serves any more, and whether it was known.
    pub fn remove(&mut self, id: ExecutorId) -> Option<(Vec<Left<A>>, Vec<A>)> {
        let executor = self.executors.remove(&id)?;
        let mut left = Vec::with_capacity(executor.attempts.len());
        for (key, Handed { attempt, is_taken, .. }) in executor.attempts {
            self.places.remove(&key);
            left.push(Left { attempt, is_taken });
        }
        let services = executor.services.into_keys();
        let unserved = services.flat_map(|service| self.no_longer_serves(&service)).collect();
        Some((left, unserved))
    }

    /// The attempts that an executor has taken and that have not ended.
    #[must_use]
    pub fn running(&self, id: ExecutorId) -> Vec<AttemptKey> {
        let attempts = self.executors.get(&id).into_iter().flat_map(|of| &of.attempts);
        attempts.filter(|(_, handed)| handed.is_taken).map(|(key, _)| *key).collect()
    }

    /// An attempt that an executor was handed.
    #[must_use]
    pub fn find(&self, id: ExecutorId, key: AttemptKey) -> Option<&A> {
        self.executors.get(&id)?.attempts.get(&key).map(|handed| &handed.attempt)
    }

    /// The services that an executor announced, with its slots.
    #[must_use]
    pub fn services(&self, id: ExecutorId) -> Vec<(ByteString, Slots)> {
        let services = self.executors.get(&id).into_iter().flat_map(|of| &of.services);
        services.map(|(service, slots)| (service.clone(), *slots)).collect()
    }

    /// Checks the invariants; panics naming the broken one.
    pub fn check(&self) {
        let mut places = 0;
        let mut served: BTreeMap<&ByteString, usize> = BTreeMap::new();
        for (id, executor) in &self.executors {
            for (service, slots) in &executor.services {
                *served.entry(service).or_default() += 1;
                let is_full = slots.free() == 0 || !self.waiting.contains_key(service);
                assert!(is_full, "2: attempts wait for `{service}` while {id:?} has a free slot");
            }
            for (service, slots) in &executor.services {
                let used = executor.attempts.values().filter(|of| of.service == *service).count();
                assert_eq!(slots.used as usize, used, "used slots of `{service}`");
            }
            for (key, handed) in &executor.attempts {
                assert_eq!(self.places.get(key), Some(id), "1: {key:?} has one executor");
                let waits = executor.untaken.contains(key);
                assert_ne!(handed.is_taken, waits, "{key:?} is taken or waits to be taken");
            }
            places += executor.attempts.len();
        }
        assert_eq!(places, self.places.len(), "1: every place is of an attempt");
        let counted: BTreeMap<_, _> = self.served.iter().map(|(of, count)| (of, *count)).collect();
        assert_eq!(served, counted, "announced services are counted");
        for (service, waiting) in &self.waiting {
            assert!(!waiting.is_empty(), "no list is empty");
            assert!(
                self.serves(service),
                "an attempt waits for `{service}`, which no executor serves"
            );
        }
    }
}
