//! Workers that wait for leases, and the answers they got.
//!
//! Must always hold: a free attempt and a poll for its service do not both wait; in one step no
//! poll gets a second lease while another one for the same service has none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytestring::ByteString;

use super::{
    Due, Granted, Interest, Lease, LeaseBook, LeaseEffect, LeaseId, Millis, Offer, PollId,
    PollRefusal,
};
use crate::machine::Map;

/// A request for leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The worker.
    pub worker: ByteString,
    /// The worker's name for this request: a repetition gets the same leases.
    pub request: ByteString,
    /// What it can run, without duplicates.
    pub services: Vec<ByteString>,
    /// Maximum number of leases, at least 1.
    pub max: usize,
    /// Until when it waits.
    pub until: Millis,
}

type RequestName = (ByteString, ByteString);

#[derive(Debug)]
struct WaitingPoll {
    poll: Poll,
    granted: Vec<Granted>,
}

/// The polls that wait.
#[derive(Debug, Default)]
pub(super) struct Polls {
    all: BTreeMap<PollId, WaitingPoll>,
    by_request: Map<RequestName, PollId>,
    /// Per service: polls that can take more, those with the fewest leases first.
    takers: Map<ByteString, BTreeSet<(usize, PollId)>>,
}

impl Polls {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn ids(&self) -> Vec<PollId> {
        self.all.keys().copied().collect()
    }

    fn insert(&mut self, id: PollId, poll: Poll) {
        for service in &poll.services {
            self.takers.entry(service.clone()).or_default().insert((0, id));
        }
        self.by_request.insert((poll.worker.clone(), poll.request.clone()), id);
        self.all.insert(id, WaitingPoll { poll, granted: Vec::new() });
    }

    fn remove(&mut self, id: PollId) -> Option<WaitingPoll> {
        let waiting = self.all.remove(&id)?;
        for service in &waiting.poll.services {
            if let Some(takers) = self.takers.get_mut(service) {
                takers.remove(&(waiting.granted.len(), id));
                if takers.is_empty() {
                    self.takers.remove(service);
                }
            }
        }
        let Poll { worker, request, .. } = &waiting.poll;
        self.by_request.remove(&(worker.clone(), request.clone()));
        Some(waiting)
    }

    /// The poll that gets the next lease of a service.
    fn taker(&self, service: &ByteString) -> Option<(usize, PollId)> {
        self.takers.get(service)?.first().copied()
    }

    fn add(&mut self, id: PollId, granted: Granted) {
        let Some(waiting) = self.all.get_mut(&id) else { return };
        let before = waiting.granted.len();
        waiting.granted.push(granted);
        for service in &waiting.poll.services {
            let Some(takers) = self.takers.get_mut(service) else { continue };
            takers.remove(&(before, id));
            if before + 1 < waiting.poll.max {
                takers.insert((before + 1, id));
            }
        }
    }

    pub(super) fn is_waiting_for(&self, service: &ByteString) -> bool {
        self.takers.get(service).is_some_and(|takers| !takers.is_empty())
    }
}

/// Answers with leases, for repetitions.
#[derive(Debug, Default)]
pub(super) struct Requests {
    answers: Map<RequestName, Vec<LeaseId>>,
    of_lease: Map<LeaseId, RequestName>,
    in_time: VecDeque<(Millis, RequestName)>,
}

impl Requests {
    fn remember(&mut self, until: Millis, max: usize, name: RequestName, leases: Vec<LeaseId>) {
        if self.in_time.len() == max
            && let Some((_, oldest)) = self.in_time.pop_front()
        {
            self.drop_answer(&oldest);
        }
        for lease in &leases {
            self.of_lease.insert(*lease, name.clone());
        }
        self.answers.insert(name.clone(), leases);
        self.in_time.push_back((until, name));
    }

    fn drop_answer(&mut self, name: &RequestName) {
        for lease in self.answers.remove(name).unwrap_or_default() {
            self.of_lease.remove(&lease);
        }
    }

    /// An answer with this lease did not arrive: a repetition gets others.
    pub(super) fn remove_lease(&mut self, lease: LeaseId) {
        if let Some(name) = self.of_lease.remove(&lease)
            && let Some(leases) = self.answers.get_mut(&name)
        {
            leases.retain(|known| *known != lease);
            if leases.is_empty() {
                self.answers.remove(&name);
                self.in_time.retain(|(_, known)| *known != name);
            }
        }
    }

    pub(super) fn forget(&mut self, now: Millis) {
        while let Some((until, _)) = self.in_time.front()
            && *until <= now
            && let Some((_, name)) = self.in_time.pop_front()
        {
            self.drop_answer(&name);
        }
    }

    /// Number of remembered answers.
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }
}

impl LeaseBook {
    /// A worker asks for leases. Accepted polls are answered by an effect, now or later.
    ///
    /// # Errors
    /// [`PollRefusal`]: nothing was done.
    pub fn poll(
        &mut self,
        now: Millis,
        id: PollId,
        mut poll: Poll,
        effects: &mut Vec<LeaseEffect>,
    ) -> Result<(), PollRefusal> {
        self.tick(now, effects);
        let name = (poll.worker.clone(), poll.request.clone());
        // Its worker no longer waits for the answer.
        if let Some(before) = self.polls.by_request.get(&name).copied() {
            self.remove_poll(now, before);
            effects.push(LeaseEffect::Answer { poll: before, leases: Vec::new() });
        }
        if let Some(leases) = self.requests.answers.get(&name) {
            let live = leases.iter().filter_map(|lease| Some((*lease, self.leases.get(lease)?)));
            let live = live.filter(|(_, found)| !found.is_revoked);
            let granted = live.map(|(lease, found)| Granted { lease, until: found.until });
            effects.push(LeaseEffect::Answer { poll: id, leases: granted.collect() });
            return Ok(());
        }
        if self.is_closed {
            effects.push(LeaseEffect::Answer { poll: id, leases: Vec::new() });
            return Ok(());
        }
        if self.polls.len() >= self.limits.polls_max {
            return Err(PollRefusal::TooManyPolls);
        }
        let new = poll.services.iter().filter(|service| !self.services.contains_key(*service));
        let new: Vec<_> = new.cloned().collect();
        if self.services.len() + new.len() > self.limits.services_max {
            return Err(PollRefusal::TooManyServices);
        }
        for service in &new {
            self.services.insert(service.clone(), Interest::default());
        }
        for service in &poll.services {
            if let Some(interest) = self.services.get_mut(service) {
                interest.polls += 1;
                interest.wanted += u32::try_from(poll.max).unwrap_or(u32::MAX);
            }
            self.touch(now, service);
        }
        poll.until = poll.until.max(now);
        self.due.insert((poll.until, Due::Poll(id)));
        self.polls.insert(id, poll);
        self.grant(now, effects);
        // It does not wait at all.
        self.tick(now, effects);
        Ok(())
    }

    /// The worker of a waiting poll has gone: it gets nothing. `false` if the poll was answered.
    pub fn disconnect(
        &mut self,
        now: Millis,
        poll: PollId,
        effects: &mut Vec<LeaseEffect>,
    ) -> bool {
        let did_wait = self.remove_poll(now, poll);
        self.announce(effects);
        did_wait
    }

    pub(super) fn remove_poll(&mut self, now: Millis, id: PollId) -> bool {
        self.take_poll(now, id).is_some()
    }

    fn take_poll(&mut self, now: Millis, id: PollId) -> Option<WaitingPoll> {
        let waiting = self.polls.remove(id)?;
        self.due.remove(&(waiting.poll.until, Due::Poll(id)));
        for service in &waiting.poll.services {
            if let Some(interest) = self.services.get_mut(service) {
                interest.polls -= 1;
                interest.wanted -= u32::try_from(waiting.poll.max).unwrap_or(u32::MAX);
            }
            self.touch(now, service);
        }
        Some(waiting)
    }

    /// Leases what is ready to the polls that wait, and answers them.
    pub(super) fn grant(&mut self, now: Millis, effects: &mut Vec<LeaseEffect>) {
        let mut answered = BTreeSet::new();
        let mut services: Vec<_> = self.offers.ready.keys().cloned().collect();
        services.sort_unstable();
        // In turn, so that a service with many attempts does not fill all polls.
        while !services.is_empty() {
            services.retain(|service| {
                let granted = self.grant_one(now, service);
                answered.extend(granted);
                granted.is_some()
            });
        }
        for poll in answered {
            let Some(waiting) = self.take_poll(now, poll) else { continue };
            let name = (waiting.poll.worker, waiting.poll.request);
            let leases = waiting.granted.iter().map(|granted| granted.lease).collect();
            let until = now + self.limits.remembered;
            self.requests.remember(until, self.limits.remembered_max, name, leases);
            self.due.insert((until, Due::Forget));
            effects.push(LeaseEffect::Answer { poll, leases: waiting.granted });
        }
    }

    /// Leases the first attempt of a service to the poll whose turn it is.
    fn grant_one(&mut self, now: Millis, service: &ByteString) -> Option<PollId> {
        if self.leases.len() >= self.limits.leases_max {
            return None;
        }
        let (_, poll) = self.polls.taker(service)?;
        let number = *self.offers.ready.get(service)?.first()?;
        let waiting = self.offers.remove(number)?;
        self.due.remove(&(waiting.at, Due::Offer(number)));
        // Its key, if there is one, is held by this id already.
        let Offer { id, service, key, .. } = waiting.offer;
        let until = now + self.limits.lease;
        let (is_stopping, is_revoked) = (false, false);
        self.insert_lease(id, Lease { until, number, service, key, is_stopping, is_revoked });
        self.polls.add(poll, Granted { lease: id, until });
        Some(poll)
    }
}
