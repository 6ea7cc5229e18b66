//! Journal rows through the state machine's tables: those of the current batch for its writer, and
//! committed ones for all other readers.

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::partition::{
    rows::{JournalRow, PromiseRow, TombstoneRow},
    store::{JournalRows, JournalTables, Read, SleepKey},
};
use forebay_messages::{EntryId, RecordSeq, Timestamp, journal::JournalKey};

use super::{
    PartitionStore, Txn,
    scan::Span,
    tables::{
        Table, journal::Journal, outbox::Outbox, promise::Promise, sleep::Sleep,
        tombstone::Tombstone,
    },
};

/// The journal of an entry after a key. Every key is above the default one.
fn journal_of(entry: EntryId, after: Option<&JournalKey>) -> Span<Journal> {
    let after = (entry, after.cloned().unwrap_or_default());
    Span::within(after, &entry.to_bytes(), move |(of, _)| *of == entry)
}

fn promises_of(entry: EntryId) -> Span<Promise> {
    let after = (entry, ByteString::new());
    Span::within(after, &entry.to_bytes(), move |(of, _)| *of == entry)
}

fn sleeps(until: Timestamp) -> Span<Sleep> {
    let end = until.0.checked_add(1);
    let end = end.map_or_else(Sleep::end, |end| [&Sleep::KIND[..], &end.to_be_bytes()].concat());
    Span { after: None, end, is_within: Box::new(move |(at, ..)| *at <= until) }
}

macro_rules! journal_rows {
    ($reader:ty, $get:ident, $scan:ident) => {
        impl JournalRows for $reader {
            fn journal_row(&self, entry: EntryId, key: &JournalKey) -> Read<Option<JournalRow>> {
                self.$get::<Journal>(&(entry, key.clone()))
            }

            fn journal_after(
                &self,
                entry: EntryId,
                after: Option<&JournalKey>,
                limit: usize,
            ) -> Read<Vec<(JournalKey, JournalRow)>> {
                let page = self.$scan(&journal_of(entry, after), limit)?;
                Ok(page.into_iter().map(|((_, key), row)| (key, row)).collect())
            }

            fn promise(&self, entry: EntryId, name: &ByteString) -> Read<Option<PromiseRow>> {
                self.$get::<Promise>(&(entry, name.clone()))
            }

            fn promises_of(
                &self,
                entry: EntryId,
                limit: usize,
            ) -> Read<Vec<(ByteString, PromiseRow)>> {
                let page = self.$scan(&promises_of(entry), limit)?;
                Ok(page.into_iter().map(|((_, name), row)| (name, row)).collect())
            }

            fn sleeps_until(&self, until: Timestamp, limit: usize) -> Read<Vec<SleepKey>> {
                let page = self.$scan(&sleeps(until), limit)?;
                Ok(page.into_iter().map(|(key, ())| key).collect())
            }

            fn tombstone(&self, child: EntryId) -> Read<Option<TombstoneRow>> {
                self.$get::<Tombstone>(&child)
            }

            fn outbox(&self, index: RecordSeq) -> Read<Option<Bytes>> {
                self.$get::<Outbox>(&index)
            }

            fn outbox_after(
                &self,
                after: Option<RecordSeq>,
                limit: usize,
            ) -> Read<Vec<(RecordSeq, Bytes)>> {
                self.$scan(&Span::<Outbox>::after(after), limit)
            }
        }
    };
}

journal_rows!(Txn<'_>, get, scan_span);
journal_rows!(PartitionStore, read_row, read_span);

impl PartitionStore {
    /// Operations of all journals after one of them, in the order of entries and keys, at most
    /// `limit`.
    ///
    /// # Errors
    /// If the rows cannot be read.
    pub fn operations_after(
        &self,
        after: Option<(EntryId, JournalKey)>,
        limit: usize,
    ) -> Read<Vec<((EntryId, JournalKey), JournalRow)>> {
        self.read_span(&Span::<Journal>::after(after), limit)
    }
}

impl JournalTables for Txn<'_> {
    fn put_journal_row(&mut self, entry: EntryId, key: JournalKey, row: JournalRow) {
        self.put::<Journal>((entry, key), row);
    }

    fn delete_journal_row(&mut self, entry: EntryId, key: JournalKey) {
        self.delete::<Journal>((entry, key));
    }

    fn put_promise(&mut self, entry: EntryId, name: ByteString, row: PromiseRow) {
        self.put::<Promise>((entry, name), row);
    }

    fn delete_promise(&mut self, entry: EntryId, name: ByteString) {
        self.delete::<Promise>((entry, name));
    }

    fn put_sleep(&mut self, key: SleepKey) {
        self.put::<Sleep>(key, ());
    }

    fn delete_sleep(&mut self, key: SleepKey) {
        self.delete::<Sleep>(key);
    }

    fn put_tombstone(&mut self, child: EntryId, row: TombstoneRow) {
        self.put::<Tombstone>(child, row);
    }

    fn delete_tombstone(&mut self, child: EntryId) {
        self.delete::<Tombstone>(child);
    }

    fn put_outbox(&mut self, index: RecordSeq, message: Bytes) {
        self.put::<Outbox>(index, message);
    }

    fn delete_outbox(&mut self, index: RecordSeq) {
        self.delete::<Outbox>(index);
    }
}
