//! The tables of journals in memory.

use std::ops::Bound;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{EntryId, RecordSeq, Timestamp, journal::JournalKey};

use super::{
    super::{
        rows::{JournalRow, PromiseRow, TombstoneRow},
        store::{JournalRows, JournalTables, Read, SleepKey},
    },
    Digest, MemTables, bytes_of, page,
};

impl MemTables {
    pub(super) fn digest_journals(&self, hash: &mut Digest) {
        let named = |id: &EntryId, name: &[u8]| [&id.to_bytes()[..], name].concat();
        hash.table(
            self.journal.iter().map(|((id, key), row)| (named(id, key.as_bytes()), bytes_of(row))),
        );
        hash.table(
            self.promises
                .iter()
                .map(|((id, name), row)| (named(id, name.as_bytes()), bytes_of(row))),
        );
        hash.table(
            self.sleeps
                .iter()
                .map(|(at, id, key)| (at.0.to_be_bytes().to_vec(), named(id, key.as_bytes()))),
        );
        hash.table(self.tombstones.iter().map(|(id, row)| (id.to_bytes().to_vec(), bytes_of(row))));
        hash.table(
            self.outbox.iter().map(|(index, row)| (index.0.to_be_bytes().to_vec(), row.to_vec())),
        );
    }
}

impl JournalRows for MemTables {
    fn journal_row(&self, entry: EntryId, key: &JournalKey) -> Read<Option<JournalRow>> {
        Ok(self.journal.get(&(entry, key.clone())).cloned())
    }

    fn journal_after(
        &self,
        entry: EntryId,
        after: Option<&JournalKey>,
        limit: usize,
    ) -> Read<Vec<(JournalKey, JournalRow)>> {
        let start = (entry, after.cloned().unwrap_or_default());
        let rows = self.journal.range((Bound::Excluded(start), Bound::Unbounded));
        let rows = rows.take_while(|((of, _), _)| *of == entry).take(limit);
        Ok(rows.map(|((_, key), row)| (key.clone(), row.clone())).collect())
    }

    fn promise(&self, entry: EntryId, name: &ByteString) -> Read<Option<PromiseRow>> {
        Ok(self.promises.get(&(entry, name.clone())).cloned())
    }

    fn promises_of(&self, entry: EntryId, limit: usize) -> Read<Vec<(ByteString, PromiseRow)>> {
        let rows = self.promises.range((entry, ByteString::default())..);
        let rows = rows.take_while(|((of, _), _)| *of == entry).take(limit);
        Ok(rows.map(|((_, name), row)| (name.clone(), row.clone())).collect())
    }

    fn sleeps_until(&self, until: Timestamp, limit: usize) -> Read<Vec<SleepKey>> {
        Ok(self.sleeps.iter().take_while(|(at, ..)| *at <= until).take(limit).cloned().collect())
    }

    fn tombstone(&self, child: EntryId) -> Read<Option<TombstoneRow>> {
        Ok(self.tombstones.get(&child).copied())
    }

    fn outbox(&self, index: RecordSeq) -> Read<Option<Bytes>> {
        Ok(self.outbox.get(&index).cloned())
    }

    fn outbox_after(
        &self,
        after: Option<RecordSeq>,
        limit: usize,
    ) -> Read<Vec<(RecordSeq, Bytes)>> {
        Ok(page(&self.outbox, after, limit))
    }
}

impl JournalTables for MemTables {
    fn put_journal_row(&mut self, entry: EntryId, key: JournalKey, row: JournalRow) {
        self.journal.insert((entry, key), row);
    }

    fn delete_journal_row(&mut self, entry: EntryId, key: JournalKey) {
        let before = self.journal.remove(&(entry, key));
        assert!(before.is_some(), "{entry} loses an operation that it had not");
    }

    fn put_promise(&mut self, entry: EntryId, name: ByteString, row: PromiseRow) {
        self.promises.insert((entry, name), row);
    }

    fn delete_promise(&mut self, entry: EntryId, name: ByteString) {
        let before = self.promises.remove(&(entry, name));
        assert!(before.is_some(), "{entry} loses a promise that it had not");
    }

    fn put_sleep(&mut self, key: SleepKey) {
        assert!(self.sleeps.insert(key), "a sleep begins twice");
    }

    fn delete_sleep(&mut self, key: SleepKey) {
        assert!(self.sleeps.remove(&key), "{key:?} ends and had not begun");
    }

    fn put_tombstone(&mut self, child: EntryId, row: TombstoneRow) {
        self.tombstones.insert(child, row);
    }

    fn delete_tombstone(&mut self, child: EntryId) {
        assert!(self.tombstones.remove(&child).is_some(), "{child} had no tombstone");
    }

    fn put_outbox(&mut self, index: RecordSeq, message: Bytes) {
        let before = self.outbox.insert(index, message);
        assert_eq!(before, None, "two messages have index {index}");
    }

    fn delete_outbox(&mut self, index: RecordSeq) {
        assert!(self.outbox.remove(&index).is_some(), "message {index} was not there");
    }
}
