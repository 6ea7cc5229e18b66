//! Requests: proposals, reads and their answers.
//!
//! Must always hold: a request is answered once; a read is answered only after a barrier that was
//! proposed after the read arrived.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::consensus::entry::{Barrier, Entry};
use crate::consensus::input::{Answer, Effect, ProposalRefusal, RequestId};

use super::{Group, Role};

/// Pending requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Proposals by ascending index: within an unbroken term an index identifies its proposal.
    proposed: VecDeque<(u64, RequestId)>,
    /// Reads for the next barrier.
    reads: Vec<RequestId>,
    /// Reads of the barrier in flight.
    barrier: Option<(u64, Vec<RequestId>)>,
    /// Number of the last barrier.
    barriers: u64,
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.proposed.is_empty() && self.reads.is_empty() && self.barrier.is_none()
    }

    fn read_count(&self) -> usize {
        self.reads.len() + self.barrier.as_ref().map_or(0, |(_, reads)| reads.len())
    }
}

impl Group {
    pub(super) fn refuse(&mut self, request: RequestId, refusal: ProposalRefusal) {
        self.emit(Effect::Answer(Answer::Refused { request, refusal }));
    }

    /// Why this member accepts no requests, if it accepts none.
    pub(super) fn unable(&self) -> Option<ProposalRefusal> {
        if self.term.is_none() {
            let leader = self.promised().filter(|leader| *leader != self.me());
            return Some(ProposalRefusal::NotLeader(leader));
        }
        let is_rolling = self.rolling_until.is_some() || self.store.get().seal().is_some();
        if is_rolling || self.handing_over_until.is_some() {
            return Some(ProposalRefusal::Rolling);
        }
        (!self.hears_quorum()).then_some(ProposalRefusal::NotLeader(None))
    }

    /// Whether this member leads and accepts no proposals until the next segment begins, or another
    /// member leads. Either happens within a bounded time: proposals can wait for it.
    #[must_use]
    pub fn is_rolling(&self) -> bool {
        self.term.is_some() && self.unable() == Some(ProposalRefusal::Rolling)
    }

    pub(super) fn propose(&mut self, request: RequestId, block: Bytes) {
        let mut refusal = self.unable();
        if block.len() > self.limits.block_bytes_max {
            refusal = Some(ProposalRefusal::TooLong);
        }
        let refusal =
            refusal.or_else(|| self.is_busy(block.len()).then_some(ProposalRefusal::Busy));
        if let Some(refusal) = refusal {
            return self.refuse(request, refusal);
        }
        let index = self.append(Entry::Block(block));
        self.requests.proposed.push_back((index, request));
    }

    fn is_busy(&self, bytes: usize) -> bool {
        let mirror = self.store.get();
        let undecided = mirror.weight_of(mirror.decided, mirror.end());
        let limits = &self.limits;
        let entries = mirror.end() - self.walked;
        let segment_max = limits.segment_bytes_max + limits.undecided_bytes_max;
        entries >= limits.undecided_entries_max as u64
            || undecided + bytes as u64 > limits.undecided_bytes_max as u64
            || mirror.weight() + bytes as u64 > segment_max as u64
    }

    /// Appends as the leader; returns the index.
    pub(super) fn append(&mut self, entry: Entry) -> u64 {
        let index = self.store.get().end();
        if index == self.walked {
            self.watch.decided(self.now);
        }
        if matches!(self.seat, Role::Solo) {
            self.store.get_mut().append(entry);
            self.persist();
        } else {
            self.call(|instance| instance.append(entry).expect("no stop sign is ever used"));
        }
        assert_eq!(self.store.get().end(), index + 1, "a leader appends at once");
        index
    }

    pub(super) fn expect(&mut self, index: u64, request: RequestId) {
        self.requests.proposed.push_back((index, request));
    }

    pub(super) fn read(&mut self, request: RequestId) {
        match self.unable() {
            None | Some(ProposalRefusal::Rolling)
                if self.requests.read_count() < self.limits.reads_max =>
            {
                self.requests.reads.push(request);
            }
            None | Some(ProposalRefusal::Rolling) => self.refuse(request, ProposalRefusal::Busy),
            Some(refusal) => self.refuse(request, refusal),
        }
    }

    /// One barrier at a time answers all reads that arrived before it.
    pub(super) fn propose_barrier(&mut self) {
        let waits = !self.requests.reads.is_empty() && self.requests.barrier.is_none();
        if !waits || self.unable().is_some() {
            return;
        }
        self.requests.barriers += 1;
        let number = self.requests.barriers;
        let barrier = Barrier { boot: self.identity.boot, nonce: self.identity.nonce, number };
        let reads = std::mem::take(&mut self.requests.reads);
        self.requests.barrier = Some((number, reads));
        self.append(Entry::Barrier(barrier));
    }

    /// Answers the requests for these decided entries; `first` is the index of the first entry.
    pub(super) fn answer_decided(&mut self, first: u64, entries: &[Entry]) {
        let end = first + entries.len() as u64;
        while let Some((index, request)) = self.requests.proposed.front().copied()
            && index < end
        {
            self.requests.proposed.pop_front();
            self.emit(Effect::Answer(Answer::Decided { request, index }));
        }
        for (index, entry) in (first..).zip(entries) {
            let Entry::Barrier(barrier) = entry else { continue };
            let is_mine =
                (barrier.boot, barrier.nonce) == (self.identity.boot, self.identity.nonce);
            if let Some((_, reads)) =
                self.requests.barrier.take_if(|(number, _)| is_mine && *number == barrier.number)
            {
                for request in reads {
                    self.emit(Effect::Answer(Answer::ReadAt { request, index: index + 1 }));
                }
            }
        }
    }

    /// Leadership was lost: the outcome of proposals is unknown, and reads were not done.
    pub(super) fn answer_lost(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        self.requests.barriers = requests.barriers;
        for (_, request) in requests.proposed {
            self.emit(Effect::Answer(Answer::Unknown { request }));
        }
        let reads = requests.barrier.into_iter().flat_map(|(_, reads)| reads);
        for request in reads.chain(requests.reads) {
            self.refuse(request, ProposalRefusal::NotLeader(None));
        }
    }
}
