//! Operations of journals: how one finishes, and what happens to the rows of a run.
//!
//! Must always hold: an operation finishes once; the sequence in which the operations of an entry
//! finished only grows; a suspended entry wakes in the batch in which an operation that it waits
//! for finishes; a deleted journal leaves no row.

use bytestring::ByteString;
use forebay_messages::{
    AttemptToken, EntryId, Timestamp,
    journal::{JournalKey, JournalKind, JournalOutcome},
};

use super::{
    super::{
        rows::{EntryRow, FsmSlot, JournalRow, JournalState, Stage},
        state::{JOURNAL_FORMAT, NewKey},
        store::{Tables, put_fsm_number},
    },
    Applied, ApplyError, Context,
    place::Leaving,
};

/// Rows read at a time.
const PAGE_LEN: usize = 1_024;

/// An operation of a journal that finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationFinished {
    /// Its key.
    pub key: JournalKey,
    /// Its position among all finished operations of this entry.
    pub sequence: u64,
    /// Time of the record.
    pub at: Timestamp,
    /// Its outcome.
    pub outcome: JournalOutcome,
}

impl EntryRow {
    /// The state of its journal, created if it has none.
    pub(super) fn journal_mut(&mut self) -> &mut JournalState {
        self.extra.get_or_insert_default().journal.get_or_insert_default()
    }
}

impl<T: Tables> Context<'_, T> {
    /// From now on binaries that do not know journals must not open this partition.
    pub(super) fn need_journals(&mut self) {
        self.need_format(JOURNAL_FORMAT);
    }

    /// From now on binaries that do not know this format must not open this partition.
    pub(super) fn need_format(&mut self, format: u64) {
        if self.state.min_version < format {
            self.state.min_version = format;
            put_fsm_number(self.tables, FsmSlot::MinVersion, format);
        }
    }

    /// Completes the row of an operation, and reports it. The caller writes the row.
    pub(super) fn fill_in(
        &mut self,
        (entry, token): (EntryId, Option<AttemptToken>),
        key: &JournalKey,
        row: &mut JournalRow,
        outcome: JournalOutcome,
    ) {
        assert!(!row.is_finished(), "{entry}: {key} finishes twice");
        self.finished += 1;
        assert!(self.finished < 1 << 16, "a record finishes a bounded number of operations");
        row.sequence = self.lsn.0 << 16 | self.finished;
        row.finished_at = self.now;
        row.outcome = Some(outcome.clone());
        let finished =
            OperationFinished { key: key.clone(), sequence: row.sequence, at: self.now, outcome };
        let finished = Box::new(finished);
        self.applied.push(Applied::OperationFinished { entry, token, finished });
    }

    /// Finishes an operation that was waited for, if it exists and is unfinished, and wakes its
    /// entry if that waits for it. Returns whether it did.
    pub(super) fn finish(
        &mut self,
        entry: EntryId,
        key: &JournalKey,
        is_meant: impl FnOnce(&JournalRow) -> bool,
        outcome: JournalOutcome,
    ) -> Result<bool, ApplyError> {
        let row = self.tables.journal_row(entry, key)?;
        let Some(mut row) = row.filter(|row| !row.is_finished() && is_meant(row)) else {
            return Ok(false);
        };
        let len = outcome.len() as u64;
        let live = self.tables.change_entry(entry, |row| {
            let journal = row.journal_mut();
            journal.bytes += len;
            let is_awaited = journal.waits_for(key);
            if is_awaited {
                // If it is paused, it returns to its inbox when it is resumed.
                journal.wait_for_nothing();
            }
            let wakes = is_awaited && row.stage == Stage::Suspended;
            ((row.stage == Stage::Running).then_some(row.token), wakes)
        })?;
        let (token, wakes) = live.unwrap_or_default();
        self.fill_in((entry, token), key, &mut row, outcome);
        self.tables.put_journal_row(entry, key.clone(), row);
        if wakes {
            self.wake(entry)?;
        }
        Ok(true)
    }

    /// Returns a suspended entry to its inbox under its old time: before new entries.
    fn wake(&mut self, id: EntryId) -> Result<(), ApplyError> {
        let Some(row) = self.tables.entry(id)? else { return Ok(()) };
        self.back_to_inbox(id, row, false)
    }

    /// Returns an entry in any stage to its inbox under its old time. `abort`: stop its handler, if
    /// one runs.
    pub(super) fn back_to_inbox(
        &mut self,
        id: EntryId,
        mut row: EntryRow,
        abort: bool,
    ) -> Result<(), ApplyError> {
        let has_lock = self.has_lock(row.vqueue)? && self.tables.lock(row.vqueue)? == Some(id);
        self.leave(id, &row, Leaving { keeps_lock: has_lock, abort });
        self.count((id, row.vqueue), Some(row.stage), Some(Stage::Inbox))?;
        let key = NewKey { entry: id, run_at: Some(row.key.run_at), has_lock };
        self.enter_inbox(&mut row, key);
        self.tables.put_entry(id, row);
        Ok(())
    }

    /// Calls a function for each row of a journal, in the order of the keys.
    pub(super) fn each_row(
        &mut self,
        entry: EntryId,
        mut change: impl FnMut(&mut Self, JournalKey, JournalRow) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let mut after = None;
        loop {
            let page = self.tables.journal_after(entry, after.as_ref(), PAGE_LEN)?;
            self.swept += page.len();
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, row) in page {
                change(self, key, row)?;
            }
        }
    }

    /// Deletes a row, and its entries in the tables of waits.
    fn drop_row(
        &mut self,
        entry: EntryId,
        key: JournalKey,
        row: &JournalRow,
    ) -> Result<(), ApplyError> {
        if !row.is_finished() {
            match row.kind {
                JournalKind::Sleep => self.tables.delete_sleep((row.until, entry, key.clone())),
                JournalKind::Promise => self.leave_promise(entry, &key)?,
                JournalKind::Step | JournalKind::Call | JournalKind::Send => {}
            }
        }
        self.tables.delete_journal_row(entry, key);
        Ok(())
    }

    fn leave_promise(&mut self, entry: EntryId, key: &JournalKey) -> Result<(), ApplyError> {
        let name = key.name();
        if let Some(mut promise) = self.tables.promise(entry, &name)? {
            promise.waiting.retain(|waiting| waiting != key);
            self.tables.put_promise(entry, name, promise);
        }
        Ok(())
    }

    /// Begins the next run: rows that finished before `from` stay; called children of the other
    /// rows that have not answered are canceled. The caller writes the entry's row.
    ///
    /// `from` was looked up: its row exists.
    pub(super) fn begin_run(
        &mut self,
        id: EntryId,
        row: &mut EntryRow,
        from: Option<&JournalRow>,
    ) -> Result<(), ApplyError> {
        let kept_below = match from {
            None => 0,
            Some(from) if from.is_finished() => from.sequence,
            Some(_) => u64::MAX,
        };
        let (mut rows, mut bytes) = (0, 0);
        if row.journal().is_some_and(|journal| journal.rows > 0) {
            self.each_row(id, |context, key, row| {
                if row.is_finished() && row.sequence < kept_below {
                    rows += 1;
                    bytes += len_of(&key, &row);
                    return Ok(());
                }
                if row.kind == JournalKind::Call && !row.is_finished() {
                    context.stop_child(&row, false);
                }
                context.drop_row(id, key, &row)
            })?;
        }
        (row.attempts, row.interrupted, row.cancel_requested) = (0, 0, false);
        let journal = row.journal_mut();
        journal.run = journal.run.next();
        (journal.rows, journal.bytes) = (rows, bytes);
        if rows == 0 {
            journal.first_at = Timestamp::default();
        }
        journal.wait_for_nothing();
        Ok(())
    }

    /// Deletes the journal and the promises of an entry that is removed.
    pub(super) fn forget_journal(
        &mut self,
        id: EntryId,
        journal: &JournalState,
    ) -> Result<(), ApplyError> {
        if journal.promises > 0 {
            // All at once: there are few.
            for (name, _) in self.tables.promises_of(id, journal.promises as usize)? {
                self.tables.delete_promise(id, name);
            }
        }
        if journal.rows > 0 {
            self.each_row(id, |context, key, row| {
                if row.kind == JournalKind::Sleep && !row.is_finished() {
                    context.tables.delete_sleep((row.until, id, key.clone()));
                }
                context.tables.delete_journal_row(id, key);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Counts one more promise of a live entry; returns `false` if the entry has the maximum.
    pub(super) fn count_promise(&mut self, entry: EntryId) -> Result<bool, ApplyError> {
        let counted = self.tables.change_entry(entry, |row| {
            let journal = row.journal_mut();
            let has_room = journal.promises < forebay_messages::journal::PROMISES_MAX;
            journal.promises += u32::from(has_room);
            has_room
        })?;
        Ok(counted == Some(true))
    }

    /// The result of a promise, if it was settled; otherwise the operation waits for it.
    pub(super) fn promise_or_wait(
        &mut self,
        entry: EntryId,
        key: &JournalKey,
    ) -> Result<PromiseWait, ApplyError> {
        let name: ByteString = key.name();
        let known = self.tables.promise(entry, &name)?;
        if let Some(promise) = known.as_ref().filter(|promise| promise.is_settled) {
            let nothing = || JournalOutcome::Success(bytes::Bytes::new());
            return Ok(PromiseWait::Settled(promise.outcome.clone().unwrap_or_else(nothing)));
        }
        let is_new = known.is_none();
        let mut promise = known.unwrap_or_default();
        promise.waiting.push(key.clone());
        self.tables.put_promise(entry, name, promise);
        Ok(PromiseWait::Waits { is_new })
    }
}

/// The state of a promise for an operation that waits for it.
pub(super) enum PromiseWait {
    /// It was settled with this result.
    Settled(JournalOutcome),
    /// The operation waits. `is_new`: the promise was not known before, and must be counted.
    Waits { is_new: bool },
}

/// Bytes that a row adds to its journal.
pub(super) fn len_of(key: &JournalKey, row: &JournalRow) -> u64 {
    let outcome = row.outcome.as_ref().map_or(0, JournalOutcome::len);
    (key.as_bytes().len() + outcome) as u64
}
