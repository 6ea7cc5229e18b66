//! Table `promise`: promises of entries, settled or waited for.
//!
//! Key: `pr`, entry id (24), name. Row: bilrost [`PromiseRow`].

use bytestring::ByteString;
use forebay_engine::partition::rows::PromiseRow;
use forebay_messages::EntryId;

use super::{Table, message, put_message, split};

pub(crate) struct Promise;

impl Table for Promise {
    const NAME: &'static str = "promise";
    const KIND: [u8; 2] = *b"pr";
    const ORDERED: bool = true;

    type Key = (EntryId, ByteString);
    type Row = PromiseRow;
    type Attached = ();

    fn put_key_body((entry, name): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&entry.to_bytes());
        out.extend_from_slice(name.as_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        let (entry, name) = split(body)?;
        let name = std::str::from_utf8(name).ok()?;
        Some((EntryId::from_bytes(*entry), ByteString::from(name)))
    }

    fn put_row(row: &PromiseRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<PromiseRow, String> {
        message(bytes)
    }

    fn weight(row: &PromiseRow) -> usize {
        row.outcome.as_ref().map_or(0, forebay_messages::journal::JournalOutcome::len)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_messages::{Timestamp, journal::JournalOutcome};
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_come_back);
    }

    proptest! {
        fn rows_and_keys_come_back(
            a in (entry_ids(), "[aé\u{0}]{0,3}"), b in (entry_ids(), "[aé\u{0}]{0,3}"),
        ) {
            let key = |entry, name: &str| (entry, ByteString::from(name));
            check_keys::<Promise>(key(a.0, &a.1), key(a.0, &b.1));
            check_keys::<Promise>(key(a.0, &a.1), key(b.0, &b.1));
            check_row::<Promise>(&PromiseRow::default());
        }
    }

    #[test]
    fn golden_bytes() {
        let key = (entry_id(1), ByteString::from("approved"));
        let waiting = PromiseRow { waiting: vec![journal_key("approved")], ..Default::default() };
        let settled = PromiseRow {
            is_settled: true,
            settled_at: Timestamp(300),
            waiting: Vec::new(),
            outcome: Some(JournalOutcome::Success(Bytes::from_static(b"true"))),
        };
        let rows = [waiting, settled].map(|row| golden::<Promise>(&key, &row));
        insta::assert_snapshot!(rows.join("\n"), @r"
        7072010203040506070801010101010101010101010101010101617070726f766564
        0d0f000008617070726f76656400000000
        7072010203040506070801010101010101010101010101010101617070726f766564
        040104ac01310474727565
        ");
    }
}
