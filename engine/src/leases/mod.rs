//! Leases of pull workers: which attempt is with which worker, and for how long.
//!
//! Owns: waiting polls, offered attempts, leases, and the keys that leases hold. Must always hold:
//! an attempt is leased to one worker, and its lease ends once; entries of one key are not leased
//! at the same time, also when the runtime took an attempt back from a worker that may not know it
//! yet; everything kept has a maximum. Must not know: how attempts start and end, HTTP, payloads.
//!
//! Time is that of a clock that only goes forward, in milliseconds. Nothing of this is stored: a
//! heartbeat costs no record.

mod check;
mod limits;
mod offers;
mod polls;

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use bytestring::ByteString;
use forebay_messages::{AttemptToken, EntryId, Epoch, VQueueName};

use crate::machine::Map;

pub use limits::{LeaseLimits, NAME_LEN_MAX, SERVICES_PER_POLL_MAX, digest};
pub use offers::Offer;
pub use polls::Poll;

use offers::{Offers, Place, Waiting};
use polls::{Polls, Requests};

/// A time of the book's clock, in milliseconds.
pub type Millis = u64;

/// Identifies a waiting request for leases. A later one has a greater number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollId(pub u64);

/// Identifies a lease: the attempt that is leased. The default one is never leased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The entry.
    pub entry: EntryId,
    /// Its attempt.
    pub token: AttemptToken,
}

/// Begins the text of a lease.
const PREFIX: &str = "lse_";

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry.to_string();
        let bare = entry.split_once('_').map_or(entry.as_str(), |(_, bare)| bare);
        write!(f, "{PREFIX}{bare}.{}", self.token)
    }
}

/// The text is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lease: it begins with `lse_` and comes from an answer")]
pub struct NoLease;

impl FromStr for LeaseId {
    type Err = NoLease;

    fn from_str(text: &str) -> Result<Self, NoLease> {
        let mut parts = text.strip_prefix(PREFIX).ok_or(NoLease)?.split('.');
        let (Some(entry), Some(epoch), Some(seq), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoLease);
        };
        let entry = format!("ent_{entry}").parse().map_err(|_| NoLease)?;
        let epoch = Epoch(epoch.parse().map_err(|_| NoLease)?);
        let seq = seq.parse().map_err(|_| NoLease)?;
        Ok(Self { entry, token: AttemptToken { epoch, seq } })
    }
}

/// A lease in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease.
    pub lease: LeaseId,
    /// When it runs out, without a heartbeat.
    pub until: Millis,
}

/// What the caller has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEffect {
    /// Answer a poll. Exactly once for each poll that was accepted, unless it disconnects before.
    Answer {
        /// The poll.
        poll: PollId,
        /// Its leases; none if its wait is over or it was replaced by a repetition.
        leases: Vec<Granted>,
    },
    /// Return an attempt that no worker had: it did not begin. Once per offer at most.
    GiveBack(LeaseId),
    /// The lease ran out: end the attempt as one that was cut short. Once per lease at most.
    CutShort(LeaseId),
    /// This many attempts of a service can be with workers, or wait for one, at once: the ones that
    /// do now, and as many as the waiting polls ask for.
    Slots {
        /// The service.
        service: ByteString,
        /// The number.
        slots: u32,
    },
    /// No worker has asked for a service for a while, and none has a lease of it.
    Close(ByteString),
}

/// Why a poll was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollRefusal {
    /// Too many polls wait.
    TooManyPolls,
    /// Workers ask for too many services.
    TooManyServices,
}

/// The state of a lease, for its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is held until this time.
    Held(Millis),
    /// As `Held`; the worker should stop, because the entry was canceled.
    Stop(Millis),
    /// It has ended, or never existed: the worker must stop.
    Lost,
}

/// What reporting the end of an attempt did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedLease {
    /// The lease ended now.
    First,
    /// The same was reported before.
    Again,
    /// The lease had ended otherwise: nothing was done.
    Lost,
}

/// A lease that has not ended, or that was taken back from a worker that may not know it.
#[derive(Clone, Debug)]
struct Lease {
    until: Millis,
    /// The number of its offer.
    number: u64,
    service: ByteString,
    /// Its vqueue, if entries of it must not overlap.
    key: Option<Arc<VQueueName>>,
    /// The worker should stop.
    is_stopping: bool,
    /// The runtime took the attempt back: only its key is held.
    is_revoked: bool,
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The wait of a poll is over.
    Poll(PollId),
    /// A lease runs out.
    Lease(LeaseId),
    /// An offer was held back, or has waited for long enough.
    Offer(u64),
    /// An answered request or a reported end is forgotten.
    Forget,
    /// Services that nothing asks for are closed.
    Services,
}

/// Interest of workers in a service.
#[derive(Clone, Copy, Debug, Default)]
struct Interest {
    /// Polls that wait for it.
    polls: u32,
    /// The leases that these polls ask for together.
    wanted: u32,
    /// The last [`LeaseEffect::Slots`].
    announced: Option<u32>,
    /// Leases of it, also revoked ones.
    leases: u32,
    /// When a poll last asked for it, or a lease of it ended.
    last_at: Millis,
}

impl Interest {
    fn is_idle(&self, now: Millis, close_after: Millis) -> bool {
        self.polls == 0 && self.leases == 0 && now >= self.last_at + close_after
    }
}

/// The lease book: polls, offers and leases of workers.
#[derive(Debug)]
pub struct LeaseBook {
    limits: LeaseLimits,
    polls: Polls,
    requests: Requests,
    offers: Offers,
    leases: Map<LeaseId, Lease>,
    /// Reported ends, for repetitions of a lost answer.
    ended: Map<LeaseId, u64>,
    /// `ended` in the order of time.
    ended_at: std::collections::VecDeque<(Millis, LeaseId)>,
    services: Map<ByteString, Interest>,
    /// Services whose slots may have changed.
    changed: BTreeSet<ByteString>,
    due: BTreeSet<(Millis, Due)>,
    /// Attempts that another process may have leased are held back until then.
    quiet_until: Millis,
    is_closed: bool,
}

impl LeaseBook {
    /// An empty book. Attempts that were interrupted by the end of another process are leased only
    /// after the longest lease of that process.
    #[must_use]
    pub fn new(now: Millis, limits: LeaseLimits) -> Self {
        Self {
            quiet_until: now + limits.lease,
            limits,
            polls: Polls::default(),
            requests: Requests::default(),
            offers: Offers::default(),
            leases: Map::default(),
            ended: Map::default(),
            ended_at: std::collections::VecDeque::new(),
            services: Map::default(),
            changed: BTreeSet::new(),
            due: BTreeSet::new(),
            is_closed: false,
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &LeaseLimits {
        &self.limits
    }

    /// When [`LeaseBook::tick`] has something to do.
    #[must_use]
    pub fn next_at(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Number of leases, without revoked ones.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.leases.values().filter(|lease| !lease.is_revoked).count()
    }

    /// Number of waiting polls.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.polls.len()
    }

    /// Keeps leases of an answer alive; the state of each, in order.
    pub fn heartbeat(&mut self, now: Millis, leases: &[LeaseId]) -> Vec<LeaseState> {
        let until = now + self.limits.lease;
        let states = leases.iter().map(|id| match self.leases.get_mut(id) {
            // Due, and not yet noticed.
            Some(lease) if lease.until <= now => LeaseState::Lost,
            Some(lease) if !lease.is_revoked => {
                self.due.remove(&(lease.until, Due::Lease(*id)));
                self.due.insert((until, Due::Lease(*id)));
                lease.until = until;
                let is_stopping = lease.is_stopping;
                if is_stopping { LeaseState::Stop(until) } else { LeaseState::Held(until) }
            }
            _ => LeaseState::Lost,
        });
        states.collect()
    }

    /// A worker reports the end of an attempt; `digest` identifies the report in repetitions. After
    /// [`EndedLease::First`] the caller ends the attempt.
    pub fn end(
        &mut self,
        now: Millis,
        id: LeaseId,
        digest: u64,
        effects: &mut Vec<LeaseEffect>,
    ) -> EndedLease {
        self.tick(now, effects);
        match self.leases.get(&id) {
            Some(lease) => {
                // The worker of a revoked lease has stopped: its key is free.
                let is_revoked = lease.is_revoked;
                self.remove(now, id, effects);
                self.announce(effects);
                if is_revoked {
                    return EndedLease::Lost;
                }
                self.remember_end(now, id, digest);
                EndedLease::First
            }
            None if self.ended.get(&id) == Some(&digest) => EndedLease::Again,
            None => EndedLease::Lost,
        }
    }

    fn remember_end(&mut self, now: Millis, id: LeaseId, digest: u64) {
        if self.ended_at.len() == self.limits.remembered_max
            && let Some((_, oldest)) = self.ended_at.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.ended.insert(id, digest);
        let until = now + self.limits.remembered;
        self.ended_at.push_back((until, id));
        self.due.insert((until, Due::Forget));
    }

    /// Asks the worker of an attempt to stop: it learns so with its next heartbeat. An attempt that
    /// no worker has is given back.
    pub fn stop(&mut self, now: Millis, id: LeaseId, effects: &mut Vec<LeaseEffect>) {
        match self.leases.get_mut(&id) {
            Some(lease) => lease.is_stopping = true,
            None => self.give_back(id, effects),
        }
        self.grant(now, effects);
        self.announce(effects);
    }

    /// The runtime took an attempt back. If a worker may have it, its key stays held until the
    /// worker reports its end, or until the lease has run out.
    pub fn revoke(&mut self, now: Millis, id: LeaseId, effects: &mut Vec<LeaseEffect>) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.is_revoked = true;
            return;
        }
        let Some((number, Waiting { offer, place, at })) = self.take_offer(id) else { return };
        if place == Place::Back {
            // A worker of an earlier process may have it.
            let Offer { service, key, .. } = offer;
            let (is_stopping, is_revoked) = (true, true);
            let lease = Lease { until: at, number, service, key, is_stopping, is_revoked };
            self.insert_lease(id, lease);
        } else {
            self.offers.free(offer.key.as_ref(), id);
        }
        self.grant(now, effects);
        self.announce(effects);
    }

    fn insert_lease(&mut self, id: LeaseId, lease: Lease) {
        self.due.insert((lease.until, Due::Lease(id)));
        if let Some(interest) = self.services.get_mut(&lease.service) {
            interest.leases += 1;
            self.changed.insert(lease.service.clone());
        }
        self.leases.insert(id, lease);
    }

    /// Its key stays held.
    fn take_lease(&mut self, now: Millis, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.due.remove(&(lease.until, Due::Lease(id)));
        if let Some(interest) = self.services.get_mut(&lease.service) {
            interest.leases -= 1;
        }
        self.touch(now, &lease.service);
        Some(lease)
    }

    /// The answer with these leases did not reach its worker: they are offered again, in their old
    /// places.
    pub fn undelivered(
        &mut self,
        now: Millis,
        granted: &[Granted],
        effects: &mut Vec<LeaseEffect>,
    ) {
        for Granted { lease: id, .. } in granted {
            self.requests.remove_lease(*id);
            let Some(Lease { number, service, key, is_stopping, is_revoked, .. }) =
                self.take_lease(now, *id)
            else {
                continue;
            };
            if is_revoked {
                self.offers.free(key.as_ref(), *id);
                continue;
            }
            let offer = Offer { id: *id, service, key, is_interrupted: false };
            let at = now + self.limits.offer_wait;
            self.put_offer(number, Waiting { offer, place: Place::Ready, at });
            if self.is_closed || is_stopping {
                self.give_back(*id, effects);
            }
        }
        self.grant(now, effects);
        self.announce(effects);
    }

    /// Ends a lease in whatever state; a waiting offer of its key may be leased then.
    fn remove(&mut self, now: Millis, id: LeaseId, effects: &mut Vec<LeaseEffect>) {
        let Some(lease) = self.take_lease(now, id) else { return };
        self.offers.free(lease.key.as_ref(), id);
        self.grant(now, effects);
    }

    /// Notes that a service was in use until now.
    fn touch(&mut self, now: Millis, service: &ByteString) {
        let Some(interest) = self.services.get_mut(service) else { return };
        interest.last_at = now;
        self.changed.insert(service.clone());
        if interest.polls == 0 && interest.leases == 0 {
            self.due.insert((now + self.limits.close_after, Due::Services));
        }
    }

    /// Announces the slots that have changed.
    fn announce(&mut self, effects: &mut Vec<LeaseEffect>) {
        while let Some(service) = self.changed.pop_first() {
            let Some(interest) = self.services.get_mut(&service) else { continue };
            let offers = self.offers.count.get(&service).copied().unwrap_or(0);
            let room = self.limits.leases_max.saturating_sub(self.leases.len());
            let wanted = interest.wanted.min(u32::try_from(room).unwrap_or(u32::MAX));
            let slots = interest.leases + offers + wanted;
            if interest.announced != Some(slots) {
                interest.announced = Some(slots);
                effects.push(LeaseEffect::Slots { service, slots });
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Millis, effects: &mut Vec<LeaseEffect>) {
        while let Some((at, due)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            match due {
                Due::Poll(poll) => {
                    if self.remove_poll(now, poll) {
                        effects.push(LeaseEffect::Answer { poll, leases: Vec::new() });
                    }
                }
                Due::Lease(id) => {
                    let is_revoked = self.leases.get(&id).is_none_or(|lease| lease.is_revoked);
                    if !is_revoked {
                        effects.push(LeaseEffect::CutShort(id));
                    }
                    self.remove(now, id, effects);
                }
                Due::Offer(number) => self.offer_is_due(now, number, effects),
                Due::Forget => self.forget(now),
                Due::Services => self.close_services(now, effects),
            }
        }
        self.announce(effects);
    }

    fn forget(&mut self, now: Millis) {
        self.requests.forget(now);
        while let Some((until, id)) = self.ended_at.front().copied()
            && until <= now
        {
            self.ended_at.pop_front();
            self.ended.remove(&id);
        }
    }

    fn close_services(&mut self, now: Millis, effects: &mut Vec<LeaseEffect>) {
        let close_after = self.limits.close_after;
        let idle = self.services.iter().filter(|(_, known)| known.is_idle(now, close_after));
        let mut idle: Vec<_> = idle.map(|(service, _)| service.clone()).collect();
        idle.sort_unstable();
        for service in idle {
            self.services.remove(&service);
            for id in self.offers_of(Some(&service)) {
                self.give_back(id, effects);
            }
            effects.push(LeaseEffect::Close(service));
        }
    }

    /// Answers all polls, refuses new ones, and gives back what no worker has. Leases stay.
    pub fn close(&mut self, now: Millis, effects: &mut Vec<LeaseEffect>) {
        self.is_closed = true;
        for poll in self.polls.ids() {
            self.remove_poll(now, poll);
            effects.push(LeaseEffect::Answer { poll, leases: Vec::new() });
        }
        for id in self.offers_of(None) {
            self.give_back(id, effects);
        }
        self.announce(effects);
    }

    /// Revokes the leases that workers have; returns each with its remaining time.
    pub fn revoke_all(&mut self, now: Millis) -> Vec<(LeaseId, Millis)> {
        let live = self.leases.iter_mut().filter(|(_, lease)| !lease.is_revoked);
        let mut left: Vec<_> = live
            .map(|(id, lease)| {
                lease.is_revoked = true;
                (*id, lease.until.saturating_sub(now))
            })
            .collect();
        left.sort_unstable();
        left
    }
}
