//! The tables of a partition, one file each.
//!
//! All rows of a partition are in one column family. A key starts with two bytes that identify its
//! table:
//!
//! | kind | table | key | row |
//! |---|---|---|---|
//! | `de` | dedup | producer | highest sequence |
//! | `en` | entry | entry id | state of an entry that has not ended |
//! | `fi` | finished | entry id | result |
//! | `fs` | fsm | slot | bytes of the slot |
//! | `id` | idempotency | domain, key | entry id |
//! | `in` | inbox | vqueue, place | nothing |
//! | `jo` | journal | entry id, journal key | an operation |
//! | `lo` | lock | vqueue | holder |
//! | `ou` | outbox | index | message |
//! | `pa` | payload | entry id | the bytes |
//! | `pk` | parked | vqueue, entry id | nothing |
//! | `pr` | promise | entry id, name | its result, the journal rows that wait |
//! | `ru` | running | vqueue, entry id | attempt |
//! | `sl` | sleep | time, entry id, journal key | nothing |
//! | `ti` | timer | time, entry id | nothing |
//! | `to` | tombstone | entry id of a child | how it was stopped |
//! | `vq` | vqueue meta | vqueue | name, counts |
//!
//! Must always hold: numbers in keys are big-endian, and the byte order of keys is the order of the
//! typed keys (scans rely on it); golden tests pin keys and rows, which never change. Rows are
//! bilrost messages, so fields can be added; anything that an older binary must not misread is
//! preceded by a `VersionBarrier`.

pub(crate) mod dedup;
pub(crate) mod entry;
pub(crate) mod finished;
pub(crate) mod fsm;
pub(crate) mod idempotency;
pub(crate) mod inbox;
pub(crate) mod journal;
pub(crate) mod lock;
pub(crate) mod outbox;
pub(crate) mod parked;
pub(crate) mod payload;
pub(crate) mod promise;
pub(crate) mod running;
pub(crate) mod sleep;
pub(crate) mod timer;
pub(crate) mod tombstone;
pub(crate) mod vqueue_meta;

/// Calls a macro with the list of all tables: module and type of each.
macro_rules! for_tables {
    ($call:ident! $($arguments:tt)*) => {
        $call! {
            [
                dedup: Dedup,
                entry: Entry,
                finished: Finished,
                fsm: Fsm,
                idempotency: Idempotency,
                inbox: Inbox,
                journal: Journal,
                lock: Lock,
                outbox: Outbox,
                parked: Parked,
                payload: Payload,
                promise: Promise,
                running: Running,
                sleep: Sleep,
                timer: Timer,
                tombstone: Tombstone,
                vqueue_meta: VQueueMetas,
            ]
            $($arguments)*
        }
    };
}

pub(crate) use for_tables;

use std::hash::Hash;

use bytes::Bytes;
use forebay_messages::{EntryId, VQueueId, journal::JournalKey};

/// A table: its name, and its keys and rows as bytes.
pub(crate) trait Table {
    /// Used in errors.
    const NAME: &'static str;
    /// The first bytes of every key.
    const KIND: [u8; 2];
    /// A row is put only where none exists and deleted only where one exists (the state machine
    /// guarantees it). Its deletions are RocksDB's *single deletes*, which leave no tombstone once
    /// they meet their put; a second put over a row would break them.
    const STRICT: bool = false;
    /// A deleted row often returns under the same key: its absence is remembered, to save the
    /// lookup.
    const REUSES_KEYS: bool = false;

    /// The keys of rows in memory are kept in order, so that the cost of a scan depends only on the
    /// rows it finds.
    const ORDERED: bool = false;

    /// The typed key. Its order is the order of the bytes.
    type Key: Clone + Ord + Hash + std::fmt::Debug;
    /// The typed row.
    type Row: Clone;
    /// Rows of other tables attached to it while only memory has them: they are found with it, and
    /// most are deleted with it before they reach RocksDB.
    type Attached: Clone + Default;

    /// Appends the bytes of a key, kind first.
    fn put_key(key: &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&Self::KIND);
        Self::put_key_body(key, out);
    }

    /// Appends the bytes of a key after its kind.
    fn put_key_body(key: &Self::Key, out: &mut Vec<u8>);

    /// Reads the bytes of a key after its kind.
    fn key(body: &[u8]) -> Option<Self::Key>;

    /// Appends the bytes of a row.
    fn put_row(row: &Self::Row, out: &mut Vec<u8>);

    /// Reads the bytes of a row, or says why they are not one.
    fn row(bytes: &[u8]) -> Result<Self::Row, String>;

    /// Bytes that a row holds beyond its own size: only tables with clients' bytes report them.
    fn weight(_: &Self::Row) -> usize {
        0
    }

    /// The same for attached rows.
    fn weight_attached(_: &Self::Attached) -> usize {
        0
    }

    /// Puts attached rows, key and row of each.
    fn put_attached(
        _: &Self::Key,
        _: &Self::Row,
        _: &Self::Attached,
        _put: &mut dyn FnMut(&[u8], &[u8]),
    ) {
    }

    /// The bytes of a key.
    fn key_bytes(key: &Self::Key) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        Self::put_key(key, &mut out);
        out
    }

    /// First bytes above all keys of the table.
    fn end() -> Vec<u8> {
        vec![Self::KIND[0], Self::KIND[1] + 1]
    }
}

/// The first bytes above everything that starts with `prefix`. The prefix starts with a kind, whose
/// letters are below 0xff, so they always exist.
pub(crate) fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.last() == Some(&0xff) {
        prefix.pop();
    }
    let last = prefix.last_mut().expect("a kind is not 0xff");
    *last += 1;
    prefix
}

/// A row that is a bilrost message.
fn put_message(row: &impl bilrost::Message, out: &mut Vec<u8>) {
    row.encode(out).expect("a Vec grows as needed");
}

fn message<M: bilrost::OwnedMessage>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(|error| error.to_string())
}

/// An empty row: its key has all the information.
fn nothing(bytes: &[u8]) -> Result<(), String> {
    match bytes.is_empty() {
        true => Ok(()),
        false => Err(format!("{} bytes instead of none", bytes.len())),
    }
}

/// Ids as rows.
fn entry_id(bytes: &[u8]) -> Result<EntryId, String> {
    let bytes = bytes.try_into().map_err(|_| format!("an id has {} bytes", bytes.len()))?;
    Ok(EntryId::from_bytes(bytes))
}

fn split<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8])> {
    bytes.split_first_chunk::<N>()
}

/// Two ids as a key.
fn vqueue_and_entry(body: &[u8]) -> Option<(VQueueId, EntryId)> {
    let (vqueue, entry) = split(body)?;
    Some((VQueueId::from_bytes(*vqueue), EntryId::from_bytes(entry.try_into().ok()?)))
}

/// The key of an operation of an entry.
fn entry_and_key(body: &[u8]) -> Option<(EntryId, JournalKey)> {
    let (entry, key) = split(body)?;
    let key = JournalKey::from_bytes(Bytes::copy_from_slice(key)).ok()?;
    Some((EntryId::from_bytes(*entry), key))
}

#[cfg(test)]
pub(crate) mod testing {
    //! Helpers for every table's tests.

    use forebay_messages::{
        EntryId, EntryKey, InboxSeq, PartitionKey, Timestamp, VQueueId,
        journal::{BranchElement, BranchKind, JournalKey, KeyParts},
    };
    use proptest::prelude::*;

    use super::Table;

    pub(crate) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Key and row as hex, one line each.
    pub(crate) fn golden<T: Table>(key: &T::Key, row: &T::Row) -> String {
        let mut bytes = Vec::new();
        T::put_row(row, &mut bytes);
        format!("{}\n{}", hex(&T::key_bytes(key)), hex(&bytes))
    }

    /// Runs a property test on its own thread: unoptimized, the frames of that many strategies do
    /// not fit on the stack of a test.
    pub(crate) fn on_large_stack(property: fn()) {
        const STACK_BYTES: usize = 32 << 20;
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(property);
        if let Err(panic) = thread.unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Keys decode to themselves and sort like their bytes; foreign bytes are refused.
    pub(crate) fn check_keys<T: Table>(a: T::Key, b: T::Key) {
        let (bytes_a, bytes_b) = (T::key_bytes(&a), T::key_bytes(&b));
        assert_eq!(a.cmp(&b), bytes_a.cmp(&bytes_b), "{a:?} and {b:?}");
        assert_eq!(T::key(&bytes_a[2..]), Some(a));
        assert!(bytes_a.starts_with(&T::KIND) && bytes_a < T::end());
    }

    pub(crate) fn check_row<T: Table<Row: PartialEq + std::fmt::Debug>>(row: &T::Row) {
        let mut bytes = Vec::new();
        T::put_row(row, &mut bytes);
        assert_eq!(&T::row(&bytes).unwrap(), row);
    }

    pub(crate) fn entry_id(n: u8) -> EntryId {
        EntryId { partition_key: PartitionKey(0x0102_0304_0506_0708), uuid: [n; 16] }
    }

    pub(crate) fn vqueue_id(n: u8) -> VQueueId {
        VQueueId { partition_key: PartitionKey(0x0102_0304_0506_0708), hash: [n; 16] }
    }

    /// Few values per byte, so that prefixes are often equal.
    fn bytes16() -> impl Strategy<Value = [u8; 16]> {
        proptest::array::uniform16(prop_oneof![Just(0u8), Just(1), Just(255)])
    }

    pub(crate) fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![0..4u64, 254..260u64, any::<u64>(), Just(u64::MAX)]
    }

    pub(crate) fn entry_ids() -> impl Strategy<Value = EntryId> {
        (numbers(), bytes16())
            .prop_map(|(key, uuid)| EntryId { partition_key: PartitionKey(key), uuid })
    }

    pub(crate) fn vqueue_ids() -> impl Strategy<Value = VQueueId> {
        (numbers(), bytes16())
            .prop_map(|(key, hash)| VQueueId { partition_key: PartitionKey(key), hash })
    }

    pub(crate) fn journal_key(name: &str) -> JournalKey {
        KeyParts::named(name, 0).key().unwrap()
    }

    pub(crate) fn journal_keys() -> impl Strategy<Value = JournalKey> {
        let branch = prop_oneof![
            (0..3u32, 0..3u32).prop_map(|(n, at)| BranchElement::at(BranchKind::Join, n, at)),
            (0..3u32, "[ab]{0,2}").prop_map(|(n, key)| BranchElement::keyed(n, &key)),
        ];
        (proptest::collection::vec(branch, 0..2), "[ab]{1,2}", 0..3u32).prop_map(
            |(branch, name, occurrence)| {
                KeyParts { branch, name: name.into(), occurrence }.key().unwrap()
            },
        )
    }

    pub(crate) fn entry_keys() -> impl Strategy<Value = EntryKey> {
        (any::<bool>(), numbers(), numbers(), entry_ids()).prop_map(
            |(has_lock, run_at, seq, entry)| EntryKey {
                has_lock,
                run_at: Timestamp(run_at),
                seq: InboxSeq(seq),
                entry,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_right_above_it() {
        assert_eq!(after_prefix(b"in\x01".to_vec()), b"in\x02");
        assert_eq!(after_prefix(b"in\xff\xff".to_vec()), b"io");
    }

    #[test]
    fn kinds_are_distinct() {
        let kinds = [
            dedup::Dedup::KIND,
            entry::Entry::KIND,
            finished::Finished::KIND,
            fsm::Fsm::KIND,
            idempotency::Idempotency::KIND,
            inbox::Inbox::KIND,
            journal::Journal::KIND,
            lock::Lock::KIND,
            outbox::Outbox::KIND,
            payload::Payload::KIND,
            parked::Parked::KIND,
            promise::Promise::KIND,
            running::Running::KIND,
            sleep::Sleep::KIND,
            timer::Timer::KIND,
            tombstone::Tombstone::KIND,
            vqueue_meta::VQueueMetas::KIND,
        ];
        assert!(kinds.is_sorted_by(|a, b| a < b), "{kinds:?}");
    }
}
