//! The order of waiting clients, and whose turn is next.
//!
//! A waiting client is in the list of its home counter and never moves. A counter with room and
//! waiters is *ready*: it is among its parent's ready children under the ticket of its oldest
//! eligible waiter; a ready group (scope or service) is in the ring and wants capacity. So a client
//! is queued behind exactly one counter, the narrowest one without room, and a change of one
//! counter moves all clients behind it in a few steps, not one by one: a slot that flickers in
//! front of 100,000 waiters costs the same as in front of one.
//!
//! Must always hold after `update_ready`: exactly the counters that meet the definition are ready.
//! Hence, with capacity to spare the ring is empty, and no client waits while everything it needs
//! is free.
//!
//! Turns: between groups deficit round robin by weight (Shreedhar and Varghese, 1995: a group takes
//! as many permits per turn as its weight); within a group first come, first served across all its
//! levels. A freed slot goes first to the deepest counter that was full and has waiters, but it may
//! overtake an older waiter of the group at most [`OVERTAKES_MAX`] times in a row: a counter that
//! is always full must not starve clients that wait above it.

use forebay_messages::Timestamp;

use super::{
    client::{Client, ClientIndex, Ticket, Waits},
    counter::{CounterIndex, InList},
    counters::Counters,
    slab::Slab,
};

/// How many times in a row a freed slot may pass the oldest waiter of a group.
pub(super) const OVERTAKES_MAX: u32 = 4;

impl Counters {
    /// A client begins to wait at its home, at the end of the queue.
    pub(super) fn queue(&mut self, clients: &mut Slab<Client>, index: ClientIndex, ticket: Ticket) {
        let client = &mut clients[index];
        client.waits = Waits::Counter;
        client.ticket = ticket;
        let home = client.home;
        self.slab[home].waiters.push_back(clients, index);
        self.add_waiting(home, 1);
    }

    /// A client no longer waits at its home.
    pub(super) fn unqueue(&mut self, clients: &mut Slab<Client>, index: ClientIndex) {
        assert_eq!(clients[index].waits, Waits::Counter, "{index:?} does not wait for a counter");
        clients[index].waits = Waits::No;
        let home = clients[index].home;
        self.slab[home].waiters.remove(clients, index);
        self.add_waiting(home, -1);
    }

    fn add_waiting(&mut self, home: CounterIndex, change: i32) {
        let mut at = Some(home);
        while let Some(index) = at {
            let counter = &mut self.slab[index];
            let waiting = counter.waiting.checked_add_signed(change);
            counter.waiting = waiting.expect("fewer than no clients wait");
            at = counter.parent;
        }
    }

    /// Re-establishes readiness from a counter upwards, after any change of those counters.
    pub(super) fn update_ready(
        &mut self,
        clients: &Slab<Client>,
        from: CounterIndex,
        now: Timestamp,
    ) {
        let mut at = Some(from);
        while let Some(index) = at {
            let first = self.first_ticket(clients, index);
            let has_room = self.has_room(index, first.is_some(), now);
            let ready_at = first.filter(|_| has_room);
            let counter = &mut self.slab[index];
            at = counter.parent;
            let before = std::mem::replace(&mut counter.ready_at, ready_at);
            if before == ready_at {
                continue;
            }
            match counter.parent {
                Some(parent) => {
                    let ready = &mut self.slab[parent].ready;
                    before.map(|ticket| ready.remove(&(ticket, index)));
                    ready_at.map(|ticket| ready.insert((ticket, index)));
                }
                None if before.is_none() => self.enter_ring(index),
                None if ready_at.is_none() => {
                    self.ring.remove(&mut self.slab, index);
                    self.slab[index].in_list = InList::None;
                }
                None => {}
            }
        }
    }

    /// Like [`Self::update_ready`], if any client waits in the group; otherwise nothing can have
    /// changed.
    pub(super) fn update_ready_if_awaited(
        &mut self,
        clients: &Slab<Client>,
        from: CounterIndex,
        now: Timestamp,
    ) {
        if self.slab[self.group(from)].waiting > 0 {
            self.update_ready(clients, from, now);
        }
    }

    /// Ticket of the oldest client at a counter or behind its ready children.
    pub(super) fn first_ticket(
        &self,
        clients: &Slab<Client>,
        index: CounterIndex,
    ) -> Option<Ticket> {
        let counter = &self.slab[index];
        let direct = counter.waiters.front().map(|front| clients[front].ticket);
        let below = counter.ready.first().map(|(ticket, _)| *ticket);
        direct.into_iter().chain(below).min()
    }

    /// The oldest eligible client at a ready counter or below it.
    fn oldest(&self, clients: &Slab<Client>, from: CounterIndex) -> ClientIndex {
        let mut counter = &self.slab[from];
        loop {
            let direct = counter.waiters.front().map(|front| (clients[front].ticket, front));
            match (direct, counter.ready.first()) {
                (Some((ticket, _)), Some((below, child))) if *below < ticket => {
                    counter = &self.slab[*child];
                }
                (Some((_, client)), _) => return client,
                (None, Some((_, child))) => counter = &self.slab[*child],
                (None, None) => unreachable!("a ready counter has waiters"),
            }
        }
    }

    /// The client whose turn it is in a group of the ring. `freed` is the deepest counter of the
    /// slot that was just returned.
    pub(super) fn choose(
        &mut self,
        clients: &Slab<Client>,
        group: CounterIndex,
        freed: Option<CounterIndex>,
    ) -> ClientIndex {
        let oldest = self.oldest(clients, group);
        let local = freed.filter(|freed| {
            self.group(*freed) == group
                && self.path(*freed).all(|index| self.slab[index].ready_at.is_some())
        });
        let local = local.map_or(oldest, |freed| self.oldest(clients, freed));
        let overtakes = &mut self.slab[group].overtakes;
        if local == oldest || *overtakes >= OVERTAKES_MAX {
            *overtakes = 0;
            return oldest;
        }
        *overtakes += 1;
        local
    }

    /// How many permits a group may take at once in its turn: all of them if it is alone.
    pub(super) fn turn(&mut self, group: CounterIndex) -> u32 {
        if self.ring.len() == 1 {
            return u32::MAX;
        }
        let counter = &mut self.slab[group];
        if counter.deficit == 0 {
            counter.deficit = counter.weight;
        }
        counter.deficit
    }

    /// A group took permits in its turn. If it used up its turn, the next group follows. A group
    /// that left the ring continues its turn when it returns (it may have left only because its
    /// single vqueue must ask again).
    pub(super) fn took(&mut self, group: CounterIndex, count: u32) {
        let counter = &mut self.slab[group];
        counter.deficit = counter.deficit.saturating_sub(count);
        if counter.deficit == 0 && counter.in_list == InList::Ring {
            self.ring.remove(&mut self.slab, group);
            self.ring.push_back(&mut self.slab, group);
        }
    }

    fn enter_ring(&mut self, group: CounterIndex) {
        assert_eq!(self.slab[group].in_list, InList::None, "a ready group is already in a list");
        self.slab[group].in_list = InList::Ring;
        if self.slab[group].deficit > 0 {
            self.ring.push_front(&mut self.slab, group);
        } else {
            self.ring.push_back(&mut self.slab, group);
        }
    }

    /// Whether a counter has room. Arms its timer if it has waiters and only a token is missing,
    /// and disarms it otherwise.
    fn has_room(&mut self, index: CounterIndex, awaited: bool, now: Timestamp) -> bool {
        let counter = &mut self.slab[index];
        let Some(bucket) = &mut counter.bucket else { return counter.usage < counter.limit };
        let dry = bucket.tokens(now) == 0;
        let full = counter.usage >= counter.limit;
        let timer = (awaited && dry && !full).then(|| bucket.next_token(now));
        let before = std::mem::replace(&mut bucket.timer, timer);
        if before != timer {
            before.map(|time| self.timers.remove(&(time, index)));
            timer.map(|time| self.timers.insert((time, index)));
        }
        !dry && !full
    }

    /// Counters whose token is available become ready again.
    pub(super) fn fire_timers(&mut self, clients: &Slab<Client>, now: Timestamp) -> bool {
        let mut fired = false;
        while let Some(&(time, index)) = self.timers.first() {
            if time > now {
                break;
            }
            self.update_ready(clients, index, now);
            fired = true;
        }
        fired
    }
}
