//! Copies decided entries by index, for learners and for members that are far behind or missed a
//! roll.
//!
//! Must always hold: copied rows continue the local running hash; a row that does not is discarded.

use crate::consensus::chain::StorageId;
use crate::consensus::input::Effect;
use crate::consensus::message::{BallotNumber, Body, Row, Session, number_of};
use omnipaxos::messages::sequence_paxos::PaxosMsg;

use super::{Group, Role};
use crate::consensus::entry::Entry;

/// Copying from one peer, one request at a time.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) peer: StorageId,
    /// Index of the first row in `rows`.
    first: u64,
    /// Rows that a voting member has copied and not yet taken over. A follower takes them over at
    /// once.
    rows: Vec<Row>,
    weight: u64,
    /// Tick of the last request.
    asked: u64,
}

impl Copying {
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    fn next(&self) -> u64 {
        self.first + self.rows.len() as u64
    }
}

/// A node that copies and does not vote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learner {
    /// End of its durable entries.
    pub(super) durable: u64,
    /// Tick of the last request.
    asked: u64,
}

impl Group {
    /// The peer has decided entries that this member lacks, and does not send them.
    pub(super) fn behind(&mut self, peer: StorageId, decided: u64) {
        if self.copy.is_none() && decided > self.store.get().decided {
            self.copy_from(peer);
        }
    }

    fn copy_from(&mut self, peer: StorageId) {
        let mirror = self.store.get();
        let first = mirror.decided;
        if mirror.seal().is_some_and(|seal| seal < first) {
            // The next segment begins here when the seal is durable.
            return;
        }
        drop(mirror);
        let copy = Copying { peer, first, rows: Vec::new(), weight: 0, asked: self.now };
        self.copy = Some(copy);
        self.ask();
    }

    fn ask(&mut self) {
        let Some(copy) = &mut self.copy else { return };
        copy.asked = self.now;
        let (peer, from) = (copy.peer, copy.next());
        self.send(peer, Body::Copy { from, durable: self.durable.end() }, 0);
    }

    /// A follower asks its peers in turn; a copying member that gets no answer tries another peer.
    pub(super) fn tick_copy(&mut self) {
        let timeout = self.limits.election_ticks;
        if let Some(copy) = &self.copy {
            if self.now < copy.asked + timeout {
                return;
            }
            self.copy = None;
        }
        let is_polling =
            matches!(self.seat, Role::Follows) && self.now.is_multiple_of(timeout.div_ceil(2));
        if !is_polling {
            return;
        }
        let up: Vec<_> =
            self.links.iter().filter(|(_, link)| link.is_up).map(|(peer, _)| *peer).collect();
        if !up.is_empty() {
            let turn = self.now / timeout.div_ceil(2) % up.len() as u64;
            self.copy_from(up[turn as usize]);
        }
    }

    /// Serves a copying peer, and records its durable position.
    pub(super) fn copy_asked(&mut self, from: StorageId, first: u64, durable: u64) {
        if self.segment().pid_of_storage(from).is_none() {
            self.note_learner(from, durable);
        }
        let mirror = self.store.get();
        let (base, decided) = (mirror.base(), mirror.decided);
        if first >= base {
            let mut rows = Vec::new();
            let mut bytes = 0;
            while let Some(row) = mirror.row(first + rows.len() as u64)
                && first + (rows.len() as u64) < decided
                && (rows.is_empty() || bytes < self.limits.copy_bytes_max)
            {
                bytes += row.entry.weight();
                rows.push(row.clone());
            }
            drop(mirror);
            self.send(from, Body::Rows { first, rows, decided }, 0);
            return;
        }
        drop(mirror);
        let oldest = self.segments.front().map_or(base, |segment| segment.base);
        if first < oldest {
            self.send(from, Body::TooOld { oldest }, 0);
            return;
        }
        let after = self.segments.iter().find(|segment| segment.base > first);
        let end = after.map_or(base, |segment| segment.base);
        let session = self.links.get(&from).and_then(|link| link.session);
        let bytes_max = self.limits.copy_bytes_max;
        if let Some(session) = session {
            self.emit(Effect::Read { to: from, session, first, bytes_max, end });
        }
    }

    fn note_learner(&mut self, from: StorageId, durable: u64) {
        let asked = self.now;
        self.learners.insert(from, Learner { durable, asked });
        if self.learners.len() > self.limits.learners_max {
            let oldest = self.learners.iter().min_by_key(|(_, learner)| learner.asked);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.learners.remove(&oldest);
            }
        }
    }

    /// Sends rows that the driver read for a copying peer.
    pub(super) fn serve(&mut self, to: StorageId, session: Session, first: u64, rows: Vec<Row>) {
        if self.links.get(&to).is_some_and(|link| link.session == Some(session)) {
            let decided = self.store.get().decided;
            self.send(to, Body::Rows { first, rows, decided }, 0);
        }
    }

    pub(super) fn too_old(&mut self, from: StorageId) {
        if self.copy.take_if(|copy| copy.peer == from).is_some() {
            self.emit(Effect::CopyState { from });
        }
    }

    pub(super) fn copied(&mut self, from: StorageId, first: u64, rows: Vec<Row>, decided: u64) {
        let expected = self.copy.as_ref().is_some_and(|c| c.peer == from && c.next() == first);
        if !expected {
            self.dropped += 1;
            return;
        }
        self.watch.moved(self.now);
        let mut copy = self.copy.take().expect("it was expected");
        let mut hash = match copy.rows.last() {
            Some(row) => row.hash,
            None => self.store.get().hash_at(first),
        };
        for row in rows {
            hash = hash.after(&row.entry);
            if hash != row.hash {
                // Damaged in transit or at the peer: discard all of it.
                self.dropped += 1;
                self.reset(from);
                return;
            }
            let is_seal = row.entry.is_seal();
            copy.weight += row.entry.weight() as u64;
            copy.rows.push(row);
            if is_seal {
                return self.take_over(copy);
            }
        }
        let is_through = copy.next() >= decided;
        let is_full = copy.weight > self.limits.segment_bytes_max as u64;
        if is_through || is_full || matches!(self.seat, Role::Follows) {
            let next = (!is_through).then_some(from);
            self.take_over(copy);
            if let Some(peer) = next.filter(|_| matches!(self.seat, Role::Follows)) {
                self.copy_from(peer);
            }
            return;
        }
        self.copy = Some(copy);
        self.ask();
    }

    /// Decided rows become this member's own. A voting member's instance is recreated over
    /// them, unless they end its segment.
    fn take_over(&mut self, copy: Copying) {
        let mut mirror = self.store.get_mut();
        let known = mirror.decided.saturating_sub(copy.first) as usize;
        let first = copy.first + known as u64;
        let rows: Vec<_> = copy.rows.into_iter().skip(known).collect();
        if rows.is_empty() {
            return;
        }
        let is_sealed = rows.last().is_some_and(|row| row.entry.is_seal());
        let was_voting = matches!(self.seat, Role::Votes(_));
        mirror.adopt(first, rows);
        drop(mirror);
        if was_voting && is_sealed {
            self.seat = Role::Follows;
        } else if was_voting {
            self.rebuild();
        }
        self.persist();
    }

    /// Whether the answer to this message would be a suffix too long to send at once. Checked only
    /// while this member leads: before that it needs every promise.
    pub(super) fn lacks_too_much(&self, from: StorageId, message: &PaxosMsg<Entry>) -> bool {
        let Some((_, ballot)) = self.leading() else { return false };
        let base = self.segment().base;
        let Some(link) = self.links.get(&from) else { return false };
        let (decided, round, accepted): (u64, BallotNumber, u64) = match message {
            PaxosMsg::PrepareReq(_) => (link.decided, link.standing.round, link.standing.accepted),
            PaxosMsg::Promise(promise) => (
                base + promise.decided_idx as u64,
                number_of(promise.n_accepted),
                base + promise.accepted_idx as u64,
            ),
            _ => return false,
        };
        // Entries accepted from this leader are a prefix of the leader's own log.
        let has = if round == ballot { accepted } else { decided };
        let mirror = self.store.get();
        mirror.weight_of(has, mirror.decided) > self.limits.sync_bytes_max as u64
    }
}
