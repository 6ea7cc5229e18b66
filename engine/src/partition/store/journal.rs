//! The tables of journals: rows that most entries do not have.

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{EntryId, RecordSeq, Timestamp, journal::JournalKey};

use super::{
    super::rows::{JournalRow, PromiseRow, TombstoneRow},
    Read,
};

/// A sleep: its end, its entry, its operation.
pub type SleepKey = (Timestamp, EntryId, JournalKey);

/// Point reads and bounded scans. Scans see committed *and* staged rows, in key order.
pub trait JournalRows {
    /// One operation of an entry's journal.
    fn journal_row(&self, entry: EntryId, key: &JournalKey) -> Read<Option<JournalRow>>;
    /// The operations of an entry after a key, in the order of the keys, at most `limit`.
    fn journal_after(
        &self,
        entry: EntryId,
        after: Option<&JournalKey>,
        limit: usize,
    ) -> Read<Vec<(JournalKey, JournalRow)>>;
    /// One promise of an entry.
    fn promise(&self, entry: EntryId, name: &ByteString) -> Read<Option<PromiseRow>>;
    /// The promises of an entry, by name, at most `limit`.
    fn promises_of(&self, entry: EntryId, limit: usize) -> Read<Vec<(ByteString, PromiseRow)>>;
    /// Sleeps that end up to a time, the earliest first, at most `limit`.
    fn sleeps_until(&self, until: Timestamp, limit: usize) -> Read<Vec<SleepKey>>;
    /// The tombstone of a child that was stopped before it arrived.
    fn tombstone(&self, child: EntryId) -> Read<Option<TombstoneRow>>;
    /// A message of the outbox, encoded.
    fn outbox(&self, index: RecordSeq) -> Read<Option<Bytes>>;
    /// Messages of the outbox after an index, in order, at most `limit`.
    fn outbox_after(&self, after: Option<RecordSeq>, limit: usize)
    -> Read<Vec<(RecordSeq, Bytes)>>;
}

/// Writes of these rows.
pub trait JournalTables: JournalRows {
    /// Writes an operation.
    fn put_journal_row(&mut self, entry: EntryId, key: JournalKey, row: JournalRow);
    /// Deletes it.
    fn delete_journal_row(&mut self, entry: EntryId, key: JournalKey);

    /// Writes a promise.
    fn put_promise(&mut self, entry: EntryId, name: ByteString, row: PromiseRow);
    /// Deletes it.
    fn delete_promise(&mut self, entry: EntryId, name: ByteString);

    /// Writes when a sleep ends.
    fn put_sleep(&mut self, key: SleepKey);
    /// Deletes it.
    fn delete_sleep(&mut self, key: SleepKey);

    /// Writes the tombstone of a child that was stopped before it arrived.
    fn put_tombstone(&mut self, child: EntryId, row: TombstoneRow);
    /// Deletes it.
    fn delete_tombstone(&mut self, child: EntryId);

    /// Writes a message to a partition.
    fn put_outbox(&mut self, index: RecordSeq, message: Bytes);
    /// Deletes a delivered message.
    fn delete_outbox(&mut self, index: RecordSeq);
}
