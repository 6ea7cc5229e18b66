//! Table `lock`: which entry holds the lock of a vqueue with an object key.
//!
//! Key: `lo`, vqueue (24). Row: entry id (24).

use forebay_messages::{EntryId, VQueueId};

use super::{Table, entry_id};

pub(crate) struct Lock;

impl Table for Lock {
    const NAME: &'static str = "lock";
    const KIND: [u8; 2] = *b"lo";
    const STRICT: bool = true;
    const REUSES_KEYS: bool = true;

    type Key = VQueueId;
    type Row = EntryId;
    type Attached = ();

    fn put_key_body(key: &VQueueId, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_bytes());
    }

    fn key(body: &[u8]) -> Option<VQueueId> {
        body.try_into().ok().map(VQueueId::from_bytes)
    }

    fn put_row(row: &EntryId, out: &mut Vec<u8>) {
        out.extend_from_slice(&row.to_bytes());
    }

    fn row(bytes: &[u8]) -> Result<EntryId, String> {
        entry_id(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::testing::{self, *},
        *,
    };

    #[test]
    fn round_trip() {
        testing::on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(a in vqueue_ids(), b in vqueue_ids(), holder in entry_ids()) {
            check_keys::<Lock>(a, b);
            check_row::<Lock>(&holder);
        }
    }

    #[test]
    fn golden_bytes() {
        insta::assert_snapshot!(golden::<Lock>(&vqueue_id(9), &testing::entry_id(1)), @r"
        6c6f010203040506070809090909090909090909090909090909
        010203040506070801010101010101010101010101010101
        ");
        assert!(Lock::row(b"x").is_err());
    }
}
