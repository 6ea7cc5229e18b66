//! The storage that the crate uses: the whole current segment in memory, and the writes of the
//! crate's calls, collected for one sync.
//!
//! Must always hold: reads see every write at once, durable or not, because the crate reads in the
//! same call that wrote. [`Durable`] tracks durability.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{NoSnapshot, StopSign, Storage, StorageOp, StorageResult};

use super::entry::{Entry, RunningHash};
use super::input::Write;
use super::message::{Row, Standing, number_of};
use super::rows::Recovered;

/// The current segment in memory. Indexes count from the start of the group.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    base: u64,
    base_hash: RunningHash,
    log: Vec<Row>,
    /// For each row, the total weight of the log up to and including it.
    weights: Vec<u64>,
    /// Index of the seal in the log; there is at most one.
    seal: Option<u64>,
    /// End of the entries known to be decided.
    pub(super) decided: u64,
    pub(super) promise: Option<Ballot>,
    pub(super) round: Option<Ballot>,
    adopted: u64,
    writes: Vec<Write>,
    /// Some write must be synced.
    urgent: bool,
    /// Lowest index that was cut off since the writes were last taken.
    cut: Option<u64>,
    is_decided_written: bool,
}

impl Mirror {
    pub(super) fn new(base: u64, base_hash: RunningHash) -> Self {
        Self { base, base_hash, decided: base, is_decided_written: true, ..Self::default() }
    }

    /// Restores stored data; writes nothing.
    pub(super) fn restore(&mut self, recovered: Recovered) {
        for row in recovered.rows {
            self.keep(row);
        }
        self.promise = recovered.promise;
        self.round = recovered.round;
        self.adopted = recovered.adopted;
        self.decided = recovered.decided.max(self.base);
    }

    /// Takes over rows from `first` on that were decided elsewhere. Accepted rows that differ are
    /// removed. The ballot of the last accept stays: docs/decisions/0026 explains why this is safe.
    pub(super) fn adopt(&mut self, first: u64, rows: Vec<Row>) {
        let end = first + rows.len() as u64;
        self.adopted += 1;
        self.writes.push(Write::Adopted(self.adopted));
        for (index, row) in (first..).zip(rows) {
            if self.row(index).is_some_and(|known| known.hash == row.hash) {
                continue;
            }
            self.truncate(index);
            self.writes.push(Write::Append { index, row: row.clone() });
            self.keep(row);
        }
        self.urgent = true;
        self.set_decided(end);
    }

    /// The position of the storage once everything written is durable.
    pub(super) fn standing(&self, segment: u64) -> Standing {
        Standing {
            segment,
            promised: self.promise.map(number_of).unwrap_or_default(),
            adopted: self.adopted,
            round: self.round.map(number_of).unwrap_or_default(),
            accepted: self.end(),
        }
    }

    fn keep(&mut self, row: Row) {
        if row.entry.is_seal() && self.seal.is_none() {
            self.seal = Some(self.end());
        }
        self.weights.push(self.weight() + row.entry.weight() as u64);
        self.log.push(row);
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    pub(super) fn seal(&self) -> Option<u64> {
        self.seal
    }

    pub(super) fn weight(&self) -> u64 {
        self.weights.last().copied().unwrap_or(0)
    }

    /// The weight of the rows in `from..to` that are in memory.
    pub(super) fn weight_of(&self, from: u64, to: u64) -> u64 {
        let upto = |index: u64| {
            let count = index.saturating_sub(self.base).min(self.log.len() as u64);
            count.checked_sub(1).map_or(0, |at| self.weights[at as usize])
        };
        upto(to).saturating_sub(upto(from))
    }

    pub(super) fn row(&self, index: u64) -> Option<&Row> {
        self.log.get(index.checked_sub(self.base)? as usize)
    }

    /// The running hash of everything before `index`.
    pub(super) fn hash_at(&self, index: u64) -> RunningHash {
        index.checked_sub(1).and_then(|at| self.row(at)).map_or(self.base_hash, |row| row.hash)
    }

    pub(super) fn append(&mut self, entry: Entry) {
        let hash = self.hash_at(self.end()).after(&entry);
        let row = Row { entry, hash };
        self.writes.push(Write::Append { index: self.end(), row: row.clone() });
        self.urgent = true;
        self.keep(row);
    }

    pub(super) fn truncate(&mut self, from: u64) {
        if from >= self.end() {
            return;
        }
        assert!(from >= self.decided, "decided entries are never cut off");
        let count = (from - self.base) as usize;
        self.log.truncate(count);
        self.weights.truncate(count);
        self.seal = self.seal.filter(|seal| *seal < from);
        self.cut = Some(self.cut.map_or(from, |cut| cut.min(from)));
        self.writes.push(Write::Truncate { from });
        self.urgent = true;
    }

    pub(super) fn set_decided(&mut self, index: u64) {
        if index > self.decided {
            self.decided = index;
            self.is_decided_written = false;
        }
    }

    fn set_promise(&mut self, ballot: Ballot) {
        // A fresh instance writes an empty promise, which would trigger its recovery.
        if ballot != Ballot::default() && self.promise != Some(ballot) {
            self.promise = Some(ballot);
            self.writes.push(Write::Promise(ballot));
            self.urgent = true;
        }
    }

    fn set_round(&mut self, ballot: Ballot) {
        if self.round != Some(ballot) {
            self.round = Some(ballot);
            self.writes.push(Write::Round(ballot));
            self.urgent = true;
        }
    }

    pub(super) fn write(&mut self, write: Write) {
        self.writes.push(write);
        self.urgent = true;
    }

    /// Queues a write for the next sync.
    pub(super) fn write_later(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// The writes that must be synced, and the lowest index that they cut off.
    pub(super) fn take_writes(&mut self) -> Option<(Vec<Write>, Option<u64>)> {
        if !self.urgent {
            return None;
        }
        self.urgent = false;
        if !self.is_decided_written {
            self.is_decided_written = true;
            self.writes.push(Write::Decided(self.decided));
        }
        Some((std::mem::take(&mut self.writes), self.cut.take()))
    }

    fn slice(&self, from: usize, to: usize) -> Vec<Entry> {
        let rows = self.log.get(from..to.min(self.log.len())).unwrap_or_default();
        rows.iter().map(|row| row.entry.clone()).collect()
    }
}

/// A handle to the mirror; the crate's instance holds another one.
#[derive(Clone, Debug)]
pub(super) struct Store(Rc<RefCell<Mirror>>);

impl Store {
    pub(super) fn new(mirror: Mirror) -> Self {
        Self(Rc::new(RefCell::new(mirror)))
    }

    pub(super) fn get(&self) -> Ref<'_, Mirror> {
        self.0.borrow()
    }

    pub(super) fn get_mut(&self) -> RefMut<'_, Mirror> {
        self.0.borrow_mut()
    }
}

impl Storage<Entry> for Store {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Entry>>) -> StorageResult<()> {
        // The crate passes the decided index before the entries that it covers.
        let mut decided = None;
        for op in ops {
            match op {
                StorageOp::AppendEntry(entry) => self.append_entry(entry)?,
                StorageOp::AppendEntries(entries) => self.append_entries(entries)?,
                StorageOp::AppendOnPrefix(from, entries) => self.append_on_prefix(from, entries)?,
                StorageOp::SetPromise(ballot) => self.set_promise(ballot)?,
                StorageOp::SetDecidedIndex(index) => decided = Some(index),
                StorageOp::SetAcceptedRound(ballot) => self.set_accepted_round(ballot)?,
                StorageOp::SetCompactedIdx(_)
                | StorageOp::Trim(_)
                | StorageOp::SetStopsign(_)
                | StorageOp::SetSnapshot(_) => return Err(UNUSED.into()),
            }
        }
        decided.map_or(Ok(()), |index| self.set_decided_idx(index))
    }

    fn append_entry(&mut self, entry: Entry) -> StorageResult<()> {
        self.get_mut().append(entry);
        Ok(())
    }

    fn append_entries(&mut self, entries: Vec<Entry>) -> StorageResult<()> {
        let mut mirror = self.get_mut();
        entries.into_iter().for_each(|entry| mirror.append(entry));
        Ok(())
    }

    /// Keeps existing entries: an equal row is not written again.
    fn append_on_prefix(&mut self, from: usize, entries: Vec<Entry>) -> StorageResult<()> {
        let mut mirror = self.get_mut();
        let from = mirror.base + from as u64;
        let known = (from..).zip(&entries).take_while(|(index, entry)| {
            mirror.row(*index).is_some_and(|row| row.entry == **entry)
        });
        let known = known.count();
        mirror.truncate(from + known as u64);
        entries.into_iter().skip(known).for_each(|entry| mirror.append(entry));
        Ok(())
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.get_mut().set_promise(ballot);
        Ok(())
    }

    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        let mut mirror = self.get_mut();
        let index = mirror.base + index as u64;
        mirror.set_decided(index);
        Ok(())
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        let mirror = self.get();
        Ok((mirror.decided - mirror.base) as usize)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.get_mut().set_round(ballot);
        Ok(())
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.get().round)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Entry>> {
        Ok(self.get().slice(from, to))
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        Ok(self.get().log.len())
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Entry>> {
        Ok(self.get().slice(from, usize::MAX))
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.get().promise)
    }

    fn set_stopsign(&mut self, _: Option<StopSign>) -> StorageResult<()> {
        Err(UNUSED.into())
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(None)
    }

    fn trim(&mut self, _: usize) -> StorageResult<()> {
        Err(UNUSED.into())
    }

    fn set_compacted_idx(&mut self, _: usize) -> StorageResult<()> {
        Err(UNUSED.into())
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(0)
    }

    fn set_snapshot(&mut self, _: Option<NoSnapshot>) -> StorageResult<()> {
        Err(UNUSED.into())
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}

const UNUSED: &str = "trimming, snapshots and stop signs of the crate are not used";

/// Which writes are durable, and the end of the durable log.
///
/// Must always hold: an entry below [`Durable::end`] is on disk as it is in the mirror, even if
/// rows were cut off and written again since.
#[derive(Debug)]
pub(super) struct Durable {
    /// Number of the last write, and of the last durable one.
    pub(super) written: u64,
    pub(super) synced: u64,
    /// End of the durable log, excluding entries that a later write cuts off.
    end: u64,
    /// The current position of the storage.
    standing: Standing,
    pending: VecDeque<Pending>,
}

/// A write in flight to the disk.
#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    /// End of the log after it.
    end: u64,
    /// Index from which it cut off rows.
    cut: Option<u64>,
    standing: Standing,
}

impl Durable {
    pub(super) fn new(end: u64, standing: Standing) -> Self {
        Self { written: 0, synced: 0, end, standing, pending: VecDeque::new() }
    }

    /// The position of the storage.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Records a write; `end` is the end of the log after it.
    pub(super) fn write(&mut self, end: u64, cut: Option<u64>, standing: Standing) -> u64 {
        self.written += 1;
        self.end = self.end.min(cut.unwrap_or(u64::MAX));
        self.pending.push_back(Pending { number: self.written, end, cut, standing });
        self.written
    }

    pub(super) fn sync(&mut self, upto: u64) {
        assert!(upto <= self.written, "only written entries can be durable");
        while let Some(write) = self.pending.front().copied()
            && write.number <= upto
        {
            self.pending.pop_front();
            self.synced = write.number;
            self.standing = write.standing;
            self.end = write.end;
        }
        let cuts = self.pending.iter().filter_map(|write| write.cut);
        self.end = cuts.fold(self.end, u64::min);
    }
}
