//! Table `inbox`: the waiting entries of a vqueue, in start order.
//!
//! Key: `in`, vqueue (24), place (41, see [`EntryKey`]). Row: empty. A queue on RocksDB: rows are
//! added at the end of a vqueue's range and removed from its front.

use forebay_messages::{EntryKey, VQueueId};

use super::{Table, nothing, split};

pub(crate) struct Inbox;

impl Inbox {
    /// First bytes of all rows of a vqueue.
    pub(crate) fn prefix(vqueue: VQueueId) -> Vec<u8> {
        let mut prefix = Vec::with_capacity(2 + VQueueId::LEN + EntryKey::LEN + 1);
        prefix.extend_from_slice(&Self::KIND);
        prefix.extend_from_slice(&vqueue.to_bytes());
        prefix
    }
}

impl Table for Inbox {
    const NAME: &'static str = "inbox";
    const KIND: [u8; 2] = *b"in";
    const STRICT: bool = true;

    type Key = (VQueueId, EntryKey);
    type Row = ();
    type Attached = ();

    fn put_key_body((vqueue, place): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&vqueue.to_bytes());
        out.extend_from_slice(&place.to_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        let (vqueue, place) = split(body)?;
        let bytes: [u8; EntryKey::LEN] = place.try_into().ok()?;
        let place = EntryKey::from_bytes(bytes);
        // The first byte of a place has only two valid values.
        (place.to_bytes() == bytes).then_some((VQueueId::from_bytes(*vqueue), place))
    }

    fn put_row((): &(), _: &mut Vec<u8>) {}

    fn row(bytes: &[u8]) -> Result<(), String> {
        nothing(bytes)
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::{InboxSeq, Timestamp};
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(
            a in (vqueue_ids(), entry_keys()), b in (vqueue_ids(), entry_keys()),
        ) {
            prop_assert!(Inbox::key_bytes(&a).starts_with(&Inbox::prefix(a.0)));
            check_keys::<Inbox>((a.0, a.1), (a.0, b.1));
            check_keys::<Inbox>(a, b);
        }
    }

    #[test]
    fn golden_bytes() {
        let mut place = EntryKey {
            has_lock: false,
            run_at: Timestamp(300),
            seq: InboxSeq(2),
            entry: entry_id(1),
        };
        insta::assert_snapshot!(golden::<Inbox>(&(vqueue_id(9), place), &()), @r"
        696e01020304050607080909090909090909090909090909090901000000000000012c0000000000000002010203040506070801010101010101010101010101010101
        ");
        place.has_lock = true;
        insta::assert_snapshot!(golden::<Inbox>(&(vqueue_id(9), place), &()), @r"
        696e01020304050607080909090909090909090909090909090900000000000000012c0000000000000002010203040506070801010101010101010101010101010101
        ");
        assert!(Inbox::row(b"x").is_err());
    }
}
