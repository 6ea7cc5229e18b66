//! Proposing the end of a segment, and handing over leadership.
//!
//! Must always hold: a seal is proposed only when the added members and a majority of the next
//! members are ready, and never after another seal.

use std::collections::BTreeSet;

use crate::consensus::chain::{Member, StorageId};
use crate::consensus::entry::{Entry, Seal};
use crate::consensus::input::{ProposalRefusal, RequestId};
use crate::consensus::message::Body;

use super::{Group, Role};

impl Group {
    pub(super) fn roll(&mut self, request: RequestId, members: &[Member], version: u64) {
        match self.may_roll(members, version) {
            Err(refusal) => self.refuse(request, refusal),
            Ok(()) => {
                let index = self.seal(members, version);
                self.expect(index, request);
            }
        }
    }

    fn may_roll(&self, members: &[Member], version: u64) -> Result<(), ProposalRefusal> {
        if let Some(refusal) = self.unable() {
            return Err(refusal);
        }
        if version < self.segment().version {
            return Err(ProposalRefusal::OldVersion);
        }
        let before: BTreeSet<_> = self.segment().members.iter().collect();
        let after: BTreeSet<_> = members.iter().collect();
        let names: BTreeSet<_> = members.iter().map(|member| &member.name).collect();
        let added: Vec<_> = after.difference(&before).collect();
        let removed = before.difference(&after).count();
        let is_small = added.len() <= 1 && removed <= 1;
        let is_growth = before.len() == 1 && after.len() == 3 && removed == 0;
        let is_set = after.len() == members.len() && names.len() == members.len();
        if !is_set || !(is_small || is_growth) {
            return Err(ProposalRefusal::TooManyChanges);
        }
        if !after.contains(&self.identity.me) {
            return Err(ProposalRefusal::HandOverFirst);
        }
        if let Some(missing) = added.iter().find(|member| !self.is_ready(member.storage)) {
            return Err(ProposalRefusal::NotReady(missing.storage));
        }
        self.has_ready_majority(members).then_some(()).ok_or(ProposalRefusal::NoReadyMajority)
    }

    fn has_ready_majority(&self, members: &[Member]) -> bool {
        let ready = members.iter().filter(|member| self.is_ready(member.storage)).count();
        ready > members.len() / 2
    }

    /// Whether a member or learner is reachable and has nearly everything durable.
    #[must_use]
    pub fn is_ready(&self, member: StorageId) -> bool {
        if member == self.me() {
            return true;
        }
        let Some(link) = self.links.get(&member).filter(|link| link.is_up) else { return false };
        let durable = match self.segment().pid_of_storage(member) {
            Some(_) => link.accepted,
            None => self.learners.get(&member).map_or(0, |learner| learner.durable),
        };
        let mirror = self.store.get();
        let lag_max = self.limits.ready_lag_bytes_max as u64;
        durable >= mirror.base() && mirror.weight_of(durable, mirror.decided) <= lag_max
    }

    /// Proposes the seal, with this member last: that gives it the highest pid.
    fn seal(&mut self, members: &[Member], version: u64) -> u64 {
        let me = &self.identity.me;
        let mut members: Vec<_> = members.iter().filter(|member| *member != me).cloned().collect();
        members.push(me.clone());
        self.append(Entry::Seal(Seal { members, version }))
    }

    /// Seals a segment that is large enough, and keeps its members.
    pub(super) fn roll_when_full(&mut self) {
        let mirror = self.store.get();
        let is_full = mirror.weight() >= self.limits.segment_bytes_max as u64
            || mirror.end() - mirror.base() >= self.limits.segment_entries_max;
        drop(mirror);
        if !is_full || self.unable().is_some() {
            return;
        }
        let members = self.segment().members.clone();
        if self.has_ready_majority(&members) {
            self.seal(&members, self.segment().version);
        }
    }

    pub(super) fn hand_over(&mut self, to: StorageId) {
        let is_member = self.segment().pid_of_storage(to).is_some();
        if self.unable().is_some() || !is_member || matches!(self.seat, Role::Solo) {
            return;
        }
        let pause = self.limits.roll_timeouts * self.limits.election_ticks;
        self.handing_over_until = Some(self.now + pause);
        self.send(to, Body::TakeOver, 0);
    }
}
