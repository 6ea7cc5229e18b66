//! A storage for the bare crate in memory; every write is durable at once.

use std::cell::{Ref, RefCell, RefMut};
use std::rc::Rc;

use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::storage::{Entry, NoSnapshot, StopSign, Storage, StorageOp, StorageResult};

/// An entry: a number. The test defines its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value(pub(super) u64);

impl Entry for Value {
    type Snapshot = NoSnapshot;
}

/// Data that outlives an instance. A clone shares the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Rc<RefCell<Rows>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) log: Vec<Value>,
    promise: Option<Ballot>,
    round: Option<Ballot>,
    decided: usize,
    /// Decided entries were overwritten.
    pub(super) is_damaged: bool,
    /// Every write fails.
    pub(super) broken: bool,
}

impl Disk {
    pub(super) fn rows(&self) -> Ref<'_, Rows> {
        self.0.borrow()
    }

    /// Another disk with the same rows.
    pub(super) fn copied(&self) -> Self {
        Self(Rc::new(RefCell::new(self.rows().clone())))
    }

    pub(super) fn break_it(&self) {
        self.0.borrow_mut().broken = true;
    }

    fn write(&self) -> StorageResult<RefMut<'_, Rows>> {
        let rows = self.0.borrow_mut();
        if rows.broken { Err("the disk is broken".into()) } else { Ok(rows) }
    }
}

impl Storage<Value> for Disk {
    fn write_atomically(&mut self, ops: Vec<StorageOp<Value>>) -> StorageResult<()> {
        let mut rows = self.write()?;
        let decided = rows.decided;
        for op in ops {
            match op {
                StorageOp::AppendEntry(entry) => rows.log.push(entry),
                StorageOp::AppendEntries(entries) => rows.log.extend(entries),
                StorageOp::AppendOnPrefix(from, entries) => {
                    rows.is_damaged |= from < decided;
                    rows.log.truncate(from);
                    rows.log.extend(entries);
                }
                StorageOp::SetPromise(ballot) => rows.promise = Some(ballot),
                StorageOp::SetDecidedIndex(index) => rows.decided = index,
                StorageOp::SetAcceptedRound(ballot) => rows.round = Some(ballot),
                other => panic!("not used: {other:?}"),
            }
        }
        Ok(())
    }

    fn append_entry(&mut self, entry: Value) -> StorageResult<()> {
        self.write()?.log.push(entry);
        Ok(())
    }

    fn append_entries(&mut self, entries: Vec<Value>) -> StorageResult<()> {
        self.write()?.log.extend(entries);
        Ok(())
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Value>) -> StorageResult<()> {
        let mut rows = self.write()?;
        rows.log.truncate(from);
        rows.log.extend(entries);
        Ok(())
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.write()?.promise = Some(ballot);
        Ok(())
    }

    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        self.write()?.decided = index;
        Ok(())
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.rows().decided)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.write()?.round = Some(ballot);
        Ok(())
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.rows().round)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Value>> {
        Ok(self.rows().log.get(from..to).unwrap_or_default().to_vec())
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        Ok(self.rows().log.len())
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Value>> {
        Ok(self.rows().log.get(from..).unwrap_or_default().to_vec())
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.rows().promise)
    }

    fn set_stopsign(&mut self, _: Option<StopSign>) -> StorageResult<()> {
        Ok(())
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(None)
    }

    fn trim(&mut self, _: usize) -> StorageResult<()> {
        Ok(())
    }

    fn set_compacted_idx(&mut self, _: usize) -> StorageResult<()> {
        Ok(())
    }

    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(0)
    }

    fn set_snapshot(&mut self, _: Option<NoSnapshot>) -> StorageResult<()> {
        Ok(())
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}
