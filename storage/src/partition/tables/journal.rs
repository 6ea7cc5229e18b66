//! Table `journal`: the operations of entries.
//!
//! Key: `jo`, entry id (24), journal key. Row: bilrost [`JournalRow`].

use forebay_engine::partition::rows::JournalRow;
use forebay_messages::{EntryId, journal::JournalKey};

use super::{Table, entry_and_key, message, put_message};

pub(crate) struct Journal;

impl Table for Journal {
    const NAME: &'static str = "journal";
    const KIND: [u8; 2] = *b"jo";
    const ORDERED: bool = true;

    type Key = (EntryId, JournalKey);
    type Row = JournalRow;
    type Attached = ();

    fn put_key_body((entry, key): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&entry.to_bytes());
        out.extend_from_slice(key.as_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        entry_and_key(body)
    }

    fn put_row(row: &JournalRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<JournalRow, String> {
        message(bytes)
    }

    fn weight(row: &JournalRow) -> usize {
        row.outcome.as_ref().map_or(0, forebay_messages::journal::JournalOutcome::len)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_messages::{
        Run, Timestamp,
        journal::{JournalKind, JournalOutcome},
    };
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn sample() -> JournalRow {
        JournalRow {
            kind: JournalKind::Call,
            fingerprint: 7,
            run: Run(2),
            child: Some(entry_id(3)),
            until: Timestamp(4),
            is_attached: true,
            sequence: 5 << 16 | 1,
            finished_at: Timestamp(6),
            outcome: Some(JournalOutcome::Success(Bytes::from_static(b"done"))),
        }
    }

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_come_back);
    }

    proptest! {
        fn rows_and_keys_come_back(
            a in (entry_ids(), journal_keys()), b in (entry_ids(), journal_keys()),
            fingerprint in numbers(), sequence in numbers(),
        ) {
            check_keys::<Journal>((a.0, a.1.clone()), (a.0, b.1.clone()));
            check_keys::<Journal>(a, b);
            check_row::<Journal>(&JournalRow { fingerprint, sequence, ..sample() });
            check_row::<Journal>(&JournalRow::default());
        }
    }

    #[test]
    fn golden_bytes() {
        let key = (entry_id(1), journal_key("charge"));
        insta::assert_snapshot!(golden::<Journal>(&key, &sample()), @r"
        6a6f01020304050607080101010101010101010101010101010100000663686172676500000000
        040107070000000000000004020518010203040506070803030303030303030303030303030303040404010481ff1204061904646f6e65
        ");
    }
}
