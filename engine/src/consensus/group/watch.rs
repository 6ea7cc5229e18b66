//! Time: elections, the watchdog, and giving up a leadership that makes no progress.

use omnipaxos::messages::ballot_leader_election::{HeartbeatMsg, HeartbeatRequest};

use crate::consensus::chain::StorageId;
use crate::consensus::input::Effect;
use crate::consensus::message::Standing;

use super::{Group, Role};

/// Ticks of the latest progress, by kind.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// A message that advances the protocol, or a part of one.
    moved: u64,
    /// A decision, or the first proposal after everything was decided.
    decided: u64,
    /// The driver applied entries.
    applied: u64,
    applied_index: u64,
}

impl Watch {
    pub(super) fn moved(&mut self, now: u64) {
        self.moved = now;
    }

    pub(super) fn decided(&mut self, now: u64) {
        self.decided = now;
    }

    pub(super) fn applied(&mut self, index: u64, now: u64) {
        self.applied_index = index;
        self.applied = now;
    }
}

impl Group {
    pub(super) fn tick(&mut self) {
        self.now += 1;
        if self.may_elect() {
            self.call(omnipaxos::OmniPaxos::tick);
        }
        if self.now.is_multiple_of(self.limits.election_ticks) {
            self.write_memories();
        }
        if self.handing_over_until.is_some_and(|until| self.now >= until) {
            self.handing_over_until = None;
        }
        self.tick_copy();
        self.watch_phase();
        self.watch_leadership();
    }

    /// Whether the election timer runs. In a fresh segment it stops until the member with the
    /// highest pid, which sealed the previous segment, sends a heartbeat; for that member itself,
    /// until a quorum does. Members begin a segment one after the other: without this, heartbeat
    /// rounds that no member can answer yet would make the leader look for its own replacement.
    fn may_elect(&mut self) -> bool {
        if !self.is_welcome() {
            return false;
        }
        let Some(until) = self.fresh_until else { return true };
        let segment = self.segment();
        let mine = segment.pid_of(&self.identity.me);
        let highest = segment.members.len() as u64;
        let silent: Vec<_> = segment
            .members
            .iter()
            .filter(|member| !self.links.get(&member.storage).is_some_and(|link| link.is_heard))
            .map(|member| member.storage)
            .filter(|member| *member != self.me())
            .collect();
        let is_heard = if mine == Some(highest) {
            segment.members.len() - silent.len() >= segment.quorum()
        } else {
            segment.member(highest).is_some_and(|member| !silent.contains(&member.storage))
        };
        if is_heard || self.now >= until || !matches!(self.seat, Role::Votes(_)) {
            self.fresh_until = None;
            return true;
        }
        // A member that began the segment after the round was sent has not seen it.
        for member in silent {
            let request = HeartbeatRequest { round: self.heartbeat_round };
            self.send_heartbeat(member, HeartbeatMsg::Request(request));
        }
        false
    }

    pub(super) fn progressed(&mut self, peer: StorageId) {
        if self.segment().pid_of_storage(peer).is_some() {
            self.watch.moved(self.now);
        }
    }

    pub(super) fn applied(&mut self, index: u64) {
        if index > self.watch.applied_index {
            self.watch.applied(index, self.now);
        }
    }

    /// Whether enough members answer heartbeats.
    #[must_use]
    pub fn hears_quorum(&self) -> bool {
        let segment = self.segment();
        let fresh = 2 * self.limits.election_ticks + 1;
        let others = segment.members.iter().filter(|member| {
            let link = self.links.get(&member.storage);
            link.and_then(|link| link.alive).is_some_and(|alive| self.now <= alive + fresh)
        });
        others.count() + 1 >= segment.quorum()
    }

    /// A member that is outside the accept phase and receives nothing campaigns: it may hold a
    /// promise that keeps it from ever joining the leader. The member that is furthest ahead goes
    /// first.
    fn watch_phase(&mut self) {
        if self.is_in_accept_phase() {
            self.watch.moved(self.now);
            return;
        }
        let timeout = self.limits.election_ticks;
        let mirror = self.store.get();
        let ahead = |standing: Standing| (standing.segment, standing.round, standing.accepted);
        let mine = ahead(mirror.standing(self.segment().number));
        drop(mirror);
        let members = &self.segment().members;
        let links = members.iter().filter_map(|member| self.links.get(&member.storage));
        let rank = links.filter(|link| ahead(link.standing) > mine).count() as u64;
        let pid = self.segment().pid_of(&self.identity.me).unwrap_or_default();
        let count = members.len() as u64;
        let stagger = rank * timeout + (count - pid) * timeout / count;
        let pause = self.limits.watchdog_timeouts * timeout + stagger;
        if self.now >= self.watch.moved + pause && self.hears_quorum() && self.is_welcome() {
            self.watch.moved(self.now);
            self.call(omnipaxos::OmniPaxos::try_become_leader);
        }
    }

    /// A leader that decides nothing despite requests, or whose driver applies nothing, gives up
    /// its leadership: the crate on its own would keep it forever.
    fn watch_leadership(&mut self) {
        if self.term.is_none() || !matches!(self.seat, Role::Votes(_)) {
            return;
        }
        let pause = self.limits.yield_timeouts * self.limits.election_ticks;
        let is_asked = self.store.get().end() > self.walked;
        let applies = self.watch.applied_index >= self.walked;
        if is_asked && self.now >= self.watch.decided + pause {
            self.yield_leadership("nothing was decided for several election timeouts");
        } else if applies {
            self.watch.applied = self.now;
        } else if self.now >= self.watch.applied + pause {
            self.yield_leadership("nothing was applied for several election timeouts");
        }
    }

    fn yield_leadership(&mut self, why: &'static str) {
        self.emit(Effect::Yielded(why));
        self.rebuild();
        self.lose();
    }
}
