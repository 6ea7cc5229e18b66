//! Decided entries: reporting them in order, answering requests, ending a segment.

use crate::consensus::chain::Segment;
use crate::consensus::entry::{Entry, Seal};
use crate::consensus::input::{Effect, Leadership, Term, Write};
use crate::consensus::message::Standing;
use crate::consensus::store::{Mirror, Store};

use super::{Group, Role};

/// Election timeouts for which a fresh segment waits for the member that sealed the previous one.
const FRESH_TIMEOUTS: u64 = 2;

impl Group {
    /// Reports entries that are decided and durable here. Returns whether there were any.
    pub(super) fn walk(&mut self) -> bool {
        let mut mirror = self.store.get_mut();
        if matches!(self.seat, Role::Solo) {
            let durable = self.durable.end().min(mirror.end());
            mirror.set_decided(durable);
        }
        let end = mirror.decided.min(self.durable.end());
        let first = self.walked;
        if end <= first {
            return false;
        }
        let entries: Vec<Entry> = (first..end)
            .map(|index| mirror.row(index).expect("decided rows are here").entry.clone())
            .collect();
        drop(mirror);
        self.walked = end;
        self.watch.decided(self.now);
        let seal = match entries.last() {
            Some(Entry::Seal(seal)) => Some(seal.clone()),
            _ => None,
        };
        let from = self.skip_below.clamp(first, end);
        if from < end {
            let entries = entries[(from - first) as usize..].to_vec();
            self.emit(Effect::Decided { first: from, entries });
        }
        self.answer_decided(first, &entries);
        if let Some(seal) = seal {
            self.end_segment(&seal);
        }
        true
    }

    /// The seal is decided and durable: so is the base of the next segment.
    fn end_segment(&mut self, seal: &Seal) {
        let mirror = self.store.get();
        let end = self.walked;
        let next = self.segment().next(seal, end, mirror.hash_at(end));
        drop(mirror);
        let votes = next.pid_of(&self.identity.me).is_some();
        self.write_memories();
        let segment = Box::new(next.clone());
        self.store.get_mut().write(Write::Segment { segment, votes });
        self.persist_to(Standing { segment: next.number, accepted: end, ..Standing::default() });
        self.store = Store::new(Mirror::new(end, next.base_hash));
        self.copy = None;
        self.links.values_mut().for_each(super::links::Link::roll);
        self.learners.retain(|learner, _| next.pid_of_storage(*learner).is_none());
        self.seat = if votes { Role::Starting(self.durable.written) } else { Role::Follows };
        if self.term.is_some() {
            let pause = self.limits.roll_timeouts * self.limits.election_ticks;
            self.rolling_until = Some(self.now + pause);
        }
        self.watch.moved(self.now);
        self.segments.push_back(next.clone());
        self.emit(Effect::Rolled(Box::new(next)));
    }

    /// Creates the instance of a segment once its start is durable.
    pub(super) fn start_segment(&mut self) {
        let Role::Starting(after) = self.seat else { return };
        if self.durable.synced < after {
            return;
        }
        self.seat = self.build();
        self.fresh_until = Some(self.now + FRESH_TIMEOUTS * self.limits.election_ticks);
        let segment = self.segment();
        let is_highest = segment.members.last() == Some(&self.identity.me);
        if is_highest && self.rolling_until.is_some() {
            // In the first round the highest pid has the highest ballot: the election of a fresh
            // instance has no leader to replace.
            self.call(omnipaxos::OmniPaxos::try_become_leader);
        }
        // Peers' messages for this segment that arrived before it began here were dropped: ask
        // again.
        let up = self.links.iter().filter(|(_, link)| link.is_up).map(|(peer, _)| *peer);
        for peer in up.collect::<Vec<_>>() {
            if let Some(pid) = self.segment().pid_of_storage(peer) {
                self.call(|instance| instance.reconnected(pid));
            }
        }
    }

    /// Compares the crate's leader with the reported one, and reports changes.
    pub(super) fn update_leadership(&mut self) {
        let leading = match &self.seat {
            Role::Solo => Some((1, (self.identity.boot as u32, 0, 1))),
            _ => self.leading(),
        };
        match (self.term, leading) {
            (Some(term), Some((_, ballot))) => {
                let is_rolled = self.rolling_until.take().is_some();
                let segment = self.segment().number;
                if term.segment == segment && term.ballot != ballot {
                    self.lose();
                } else if is_rolled {
                    // A term continues over a roll; from now on this ballot identifies it.
                    self.term = Some(Term { segment, ballot });
                }
            }
            (Some(_), None) => {
                let is_other = self.promised().is_some_and(|leader| leader != self.me());
                let is_rolling = self.rolling_until.is_some_and(|until| self.now < until);
                let may_lead = !matches!(self.seat, Role::Follows);
                if is_other || !is_rolling || !may_lead {
                    self.lose();
                }
            }
            (None, Some((_, ballot))) => {
                let term = Term { segment: self.segment().number, ballot };
                self.term = Some(term);
                self.handing_over_until = None;
                self.watch.decided(self.now);
                self.tell(Leadership::Leads(term));
            }
            (None, None) => self.tell(Leadership::Follows(self.promised())),
        }
    }

    /// Leadership was lost: all pending requests are answered.
    pub(super) fn lose(&mut self) {
        self.term = None;
        self.rolling_until = None;
        self.handing_over_until = None;
        self.answer_lost();
        self.tell(Leadership::Follows(self.promised().filter(|leader| *leader != self.me())));
    }

    fn tell(&mut self, leadership: Leadership) {
        if self.reported != leadership {
            self.reported = leadership.clone();
            self.emit(Effect::Leadership(leadership));
        }
    }

    /// Drops whole sealed segments that end at or below `index`. The newest of them stays until an
    /// entry of the current segment is decided: members may still lack its seal.
    pub(super) fn drop_below(&mut self, index: u64) {
        let base = self.segment().base;
        let index = index.min(if self.walked > base { base } else { base.saturating_sub(1) });
        let ends = self.segments.iter().skip(1);
        let count = ends.take_while(|after| after.base <= index).count();
        if count > 0 {
            self.segments.drain(..count);
            let below = self.segments.front().map_or(0, |segment: &Segment| segment.number);
            self.store.get_mut().write(Write::Drop { below });
            self.persist();
        }
    }
}
