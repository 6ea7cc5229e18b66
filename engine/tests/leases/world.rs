//! Workers and a runtime around a lease book. The workers keep to their contract: they stop when
//! their lease ends, as far as they know.

use std::{collections::BTreeMap, sync::Arc};

use bytestring::ByteString;
use forebay_engine::leases::{
    EndedLease, Granted, LeaseBook, LeaseEffect, LeaseId, LeaseLimits, LeaseState, Millis, Offer,
    Poll, PollId,
};
use forebay_messages::{AttemptToken, EntryId, Epoch, VQueueName};
use proptest::sample::Index;

pub(crate) const LEASE: Millis = 100;

pub(crate) fn limits() -> LeaseLimits {
    LeaseLimits {
        lease: LEASE,
        leases_max: 12,
        offers_max: 8,
        polls_max: 4,
        services_max: 2,
        offer_wait: 150,
        close_after: 200,
        remembered: 300,
        remembered_max: 4,
        ..LeaseLimits::default()
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Poll { worker: u8, max: usize, services: u8, wait: Millis },
    Repeat { worker: u8 },
    Disconnect { worker: u8 },
    Offer(Vec<(u8, u8, bool)>),
    Heartbeat(Index),
    End(Index),
    EndAgain(Index),
    Revoke(Index),
    Stop(Index),
    Undelivered(Index),
    Wait(Millis),
}

/// Where an attempt is, as the runtime sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Offered,
    Leased,
    GivenBack,
    CutShort,
    Ended,
    Revoked,
}

/// What a worker believes of a lease.
#[derive(Clone, Copy, Debug)]
struct Belief {
    until: Millis,
}

pub(crate) struct World {
    pub(crate) book: LeaseBook,
    pub(crate) now: Millis,
    polls: BTreeMap<PollId, (Poll, Option<Vec<Granted>>)>,
    last_poll: BTreeMap<u8, PollId>,
    attempts: BTreeMap<LeaseId, (Attempt, Option<Arc<VQueueName>>)>,
    services: BTreeMap<LeaseId, ByteString>,
    beliefs: BTreeMap<LeaseId, Belief>,
    reported: BTreeMap<LeaseId, Millis>,
    open: BTreeMap<ByteString, u32>,
    next: u64,
}

pub(crate) fn name(service: u8) -> ByteString {
    format!("service-{service}").into()
}

pub(crate) fn lease(number: u64) -> LeaseId {
    let entry = EntryId { partition_key: Default::default(), ..EntryId::default() };
    LeaseId { entry, token: AttemptToken { epoch: Epoch(1), seq: number } }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            book: LeaseBook::new(0, limits()),
            now: 0,
            polls: BTreeMap::new(),
            last_poll: BTreeMap::new(),
            attempts: BTreeMap::new(),
            services: BTreeMap::new(),
            beliefs: BTreeMap::new(),
            reported: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn step(&mut self, op: Op) {
        let mut effects = Vec::new();
        match op {
            Op::Poll { worker, max, services, wait } => {
                let services = match services {
                    0 => vec![name(0)],
                    1 => vec![name(1)],
                    _ => vec![name(0), name(1)],
                };
                let number = self.number();
                let request = number.to_string().into();
                let (worker_name, until) = (format!("w{worker}").into(), self.now + wait);
                let poll = Poll { worker: worker_name, request, services, max, until };
                self.poll(worker, poll, &mut effects);
            }
            Op::Repeat { worker } => self.repeat(worker, &mut effects),
            Op::Disconnect { worker } => {
                if let Some(id) = self.last_poll.get(&worker)
                    && self.book.disconnect(self.now, *id, &mut effects)
                {
                    let (_, answer) = self.polls.remove(id).unwrap();
                    assert!(answer.is_none(), "it was answered");
                }
            }
            Op::Offer(of) => self.offer(&of, &mut effects),
            Op::Heartbeat(index) => self.heartbeat(index),
            Op::End(index) => self.end(index, &mut effects),
            Op::EndAgain(index) => self.end_again(index, &mut effects),
            Op::Revoke(index) => {
                if let Some(id) = self.pick(index, &[Attempt::Offered, Attempt::Leased]) {
                    self.attempts.get_mut(&id).unwrap().0 = Attempt::Revoked;
                    self.book.revoke(self.now, id, &mut effects);
                }
            }
            Op::Stop(index) => {
                if let Some(id) = self.pick(index, &[Attempt::Offered, Attempt::Leased]) {
                    self.book.stop(self.now, id, &mut effects);
                }
            }
            Op::Undelivered(index) => self.undelivered(index, &mut effects),
            Op::Wait(millis) => {
                self.now += millis;
                self.book.tick(self.now, &mut effects);
            }
        }
        self.perform(&effects);
        self.check();
    }

    fn poll(&mut self, worker: u8, poll: Poll, effects: &mut Vec<LeaseEffect>) {
        let id = PollId(self.number());
        // The effects of a refused poll may concern others.
        let accepted = self.book.poll(self.now, id, poll.clone(), effects);
        if accepted.is_ok() {
            self.polls.insert(id, (poll, None));
            self.last_poll.insert(worker, id);
        }
    }

    fn repeat(&mut self, worker: u8, effects: &mut Vec<LeaseEffect>) {
        let Some(before) = self.last_poll.get(&worker).copied() else { return };
        let Some((poll, answer)) = self.polls.get(&before).cloned() else { return };
        let fresh_until = self.now;
        self.poll(worker, Poll { until: fresh_until, ..poll }, effects);
        let after = self.last_poll[&worker];
        let Some(granted) = answer.filter(|granted| !granted.is_empty()) else { return };
        let answered = effects.iter().find_map(|effect| match effect {
            LeaseEffect::Answer { poll, leases } if *poll == after => Some(leases),
            _ => None,
        });
        // A remembered request is answered with the leases granted before, nothing else.
        for lease in answered.into_iter().flatten() {
            let is_known = granted.iter().any(|known| known.lease == lease.lease);
            let is_new = self.attempts[&lease.lease].0 == Attempt::Offered;
            assert!(is_known || is_new, "a lease of another request");
        }
    }

    fn offer(&mut self, of: &[(u8, u8, bool)], effects: &mut Vec<LeaseEffect>) {
        let offers: Vec<_> = of
            .iter()
            .map(|(service, key, is_interrupted)| {
                let id = lease(self.number());
                let key = (*key > 0).then(|| {
                    let name = VQueueName::service(&name(*service));
                    Arc::new(name.with_object_key(&format!("k{key}")))
                });
                self.attempts.insert(id, (Attempt::Offered, key.clone()));
                self.services.insert(id, name(*service));
                Offer { id, service: name(*service), key, is_interrupted: *is_interrupted }
            })
            .collect();
        self.book.offer(self.now, offers, effects);
    }

    /// One of the attempts in these states.
    fn pick(&self, index: Index, states: &[Attempt]) -> Option<LeaseId> {
        let of = self.attempts.iter().filter(|(_, (state, _))| states.contains(state));
        let of: Vec<_> = of.map(|(id, _)| *id).collect();
        (!of.is_empty()).then(|| of[index.index(of.len())])
    }

    fn pick_believed(&self, index: Index) -> Option<LeaseId> {
        let of: Vec<_> = self.beliefs.keys().copied().collect();
        (!of.is_empty()).then(|| of[index.index(of.len())])
    }

    fn heartbeat(&mut self, index: Index) {
        let Some(id) = self.pick_believed(index) else { return };
        match self.book.heartbeat(self.now, &[id])[0] {
            LeaseState::Held(until) | LeaseState::Stop(until) => {
                assert_eq!(self.attempts[&id].0, Attempt::Leased);
                self.beliefs.insert(id, Belief { until });
            }
            LeaseState::Lost => {
                assert!(
                    self.attempts[&id].0 != Attempt::Leased || self.beliefs[&id].until <= self.now,
                    "it has the lease"
                );
                self.beliefs.remove(&id);
            }
        }
    }

    fn end(&mut self, index: Index, effects: &mut Vec<LeaseEffect>) {
        let Some(id) = self.pick_believed(index) else { return };
        let is_in_time = self.beliefs[&id].until > self.now;
        self.beliefs.remove(&id);
        let state = self.attempts[&id].0;
        match self.book.end(self.now, id, 1, effects) {
            EndedLease::First => {
                assert_eq!(state, Attempt::Leased);
                assert!(is_in_time);
                self.attempts.get_mut(&id).unwrap().0 = Attempt::Ended;
                self.reported.insert(id, self.now);
            }
            EndedLease::Again => panic!("it was reported once"),
            EndedLease::Lost => assert!(state != Attempt::Leased || !is_in_time),
        }
    }

    fn end_again(&mut self, index: Index, effects: &mut Vec<LeaseEffect>) {
        let of: Vec<_> = self.reported.iter().map(|(id, at)| (*id, *at)).collect();
        if of.is_empty() {
            return;
        }
        let (id, at) = of[index.index(of.len())];
        let is_last = of.iter().filter(|(_, other)| *other >= at).count() < 4;
        let again = self.book.end(self.now, id, 1, effects);
        assert_ne!(again, EndedLease::First, "a lease ends once");
        if is_last && self.now < at + limits().remembered {
            assert_eq!(again, EndedLease::Again);
        }
        assert_eq!(self.book.end(self.now, id, 2, effects), EndedLease::Lost);
    }

    fn undelivered(&mut self, index: Index, effects: &mut Vec<LeaseEffect>) {
        let answered = self.polls.iter().filter_map(|(id, (_, answer))| {
            let granted = answer.as_ref().filter(|granted| !granted.is_empty())?;
            let all = granted.iter().all(|of| self.beliefs.contains_key(&of.lease));
            all.then_some(*id)
        });
        let answered: Vec<_> = answered.collect();
        if answered.is_empty() {
            return;
        }
        let id = answered[index.index(answered.len())];
        let granted = self.polls.get_mut(&id).unwrap().1.replace(Vec::new()).unwrap();
        for of in &granted {
            self.beliefs.remove(&of.lease);
            let state = &mut self.attempts.get_mut(&of.lease).unwrap().0;
            if *state == Attempt::Leased {
                *state = Attempt::Offered;
            }
        }
        self.book.undelivered(self.now, &granted, effects);
    }

    fn perform(&mut self, effects: &[LeaseEffect]) {
        let mut many = Vec::new();
        for effect in effects {
            match effect {
                LeaseEffect::Answer { poll, leases } => {
                    let Some((asked, answer)) = self.polls.get_mut(poll) else {
                        panic!("a poll that does not wait is answered")
                    };
                    assert!(answer.is_none(), "a poll is answered once");
                    assert!(leases.len() <= asked.max);
                    *answer = Some(leases.clone());
                    let mut fresh = 0;
                    for Granted { lease, until } in leases {
                        let state = &mut self.attempts.get_mut(lease).unwrap().0;
                        fresh += usize::from(*state == Attempt::Offered);
                        assert!(matches!(state, Attempt::Offered | Attempt::Leased), "{state:?}");
                        *state = Attempt::Leased;
                        self.beliefs.insert(*lease, Belief { until: *until });
                    }
                    if fresh > 1 && asked.services.len() == 1 {
                        many.push(asked.services[0].clone());
                    }
                }
                LeaseEffect::GiveBack(id) => self.leaves(*id, Attempt::Offered, Attempt::GivenBack),
                LeaseEffect::CutShort(id) => self.leaves(*id, Attempt::Leased, Attempt::CutShort),
                LeaseEffect::Slots { service, slots } => {
                    self.open.insert(service.clone(), *slots);
                }
                LeaseEffect::Close(service) => assert!(self.open.remove(service).is_some()),
            }
        }
        // While a poll waits with no lease, no other one got two.
        let waiting = self.polls.values().filter(|(_, answer)| answer.is_none());
        for (poll, _) in waiting {
            assert!(!poll.services.iter().any(|service| many.contains(service)), "unfair");
        }
    }

    fn leaves(&mut self, id: LeaseId, from: Attempt, to: Attempt) {
        let state = &mut self.attempts.get_mut(&id).unwrap().0;
        assert_eq!(*state, from, "{id}");
        *state = to;
    }

    fn check(&mut self) {
        self.book.check();
        for (service, slots) in &self.open {
            let of = self.attempts.iter().filter(|(id, (state, _))| {
                matches!(state, Attempt::Offered | Attempt::Leased) && self.services[id] == *service
            });
            assert!(*slots as usize >= of.count(), "fewer slots of {service} than attempts");
        }
        // Workers stop at their lease's end: no two of them are at the same key.
        let mut keys = BTreeMap::new();
        for (id, belief) in self.beliefs.iter().filter(|(_, belief)| belief.until > self.now) {
            if let Some(key) = &self.attempts[id].1
                && let Some(other) = keys.insert(Arc::clone(key), *id)
            {
                panic!("{other} and {id} run {key:?}, until {}", belief.until);
            }
        }
    }

    /// Everything that was offered ends, and nothing is kept.
    pub(crate) fn finish(&mut self) {
        for _ in 0..20 {
            self.step(Op::Wait(200));
        }
        for (id, (state, _)) in &self.attempts {
            assert!(!matches!(state, Attempt::Offered | Attempt::Leased), "{id} is {state:?}");
        }
        assert!(self.polls.values().all(|(_, answer)| answer.is_some()), "a poll is forgotten");
        assert!(self.open.is_empty(), "services stay open");
        assert_eq!(self.book.next_at(), None);
    }
}
