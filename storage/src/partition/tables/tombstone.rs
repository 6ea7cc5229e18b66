//! Table `tombstone`: children that were canceled or killed before they arrived.
//!
//! Key: `to`, entry id of the child (24). Row: bilrost [`TombstoneRow`].

use forebay_engine::partition::rows::TombstoneRow;
use forebay_messages::EntryId;

use super::{Table, message, put_message};

pub(crate) struct Tombstone;

impl Table for Tombstone {
    const NAME: &'static str = "tombstone";
    const KIND: [u8; 2] = *b"to";

    type Key = EntryId;
    type Row = TombstoneRow;
    type Attached = ();

    fn put_key_body(key: &EntryId, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_bytes());
    }

    fn key(body: &[u8]) -> Option<EntryId> {
        body.try_into().ok().map(EntryId::from_bytes)
    }

    fn put_row(row: &TombstoneRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<TombstoneRow, String> {
        message(bytes)
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::Timestamp;
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_come_back);
    }

    proptest! {
        fn rows_and_keys_come_back(
            a in entry_ids(), b in entry_ids(), is_kill in any::<bool>(), at in numbers(),
        ) {
            check_keys::<Tombstone>(a, b);
            check_row::<Tombstone>(&TombstoneRow { is_kill, expires_at: Timestamp(at) });
        }
    }

    #[test]
    fn golden_bytes() {
        let row = TombstoneRow { is_kill: true, expires_at: Timestamp(300) };
        insta::assert_snapshot!(golden::<Tombstone>(&entry_id(1), &row), @r"
        746f010203040506070801010101010101010101010101010101
        040104ac01
        ");
    }
}
