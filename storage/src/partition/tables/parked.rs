//! Table `parked`: entries of a vqueue that are suspended or paused.
//!
//! Key: `pk`, vqueue (24), entry id (24). Row: empty.

use forebay_messages::{EntryId, VQueueId};

use super::{Table, nothing, vqueue_and_entry};

pub(crate) struct Parked;

impl Table for Parked {
    const NAME: &'static str = "parked";
    const KIND: [u8; 2] = *b"pk";
    const STRICT: bool = true;

    type Key = (VQueueId, EntryId);
    type Row = ();
    type Attached = ();

    fn put_key_body((vqueue, entry): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&vqueue.to_bytes());
        out.extend_from_slice(&entry.to_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        vqueue_and_entry(body)
    }

    fn put_row((): &(), _: &mut Vec<u8>) {}

    fn row(bytes: &[u8]) -> Result<(), String> {
        nothing(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(a in (vqueue_ids(), entry_ids()), b in (vqueue_ids(), entry_ids())) {
            check_keys::<Parked>((a.0, a.1), (a.0, b.1));
            check_keys::<Parked>(a, b);
        }
    }

    #[test]
    fn golden_bytes() {
        insta::assert_snapshot!(golden::<Parked>(&(vqueue_id(9), entry_id(1)), &()), @r"
        706b010203040506070809090909090909090909090909090909010203040506070801010101010101010101010101010101
        ");
    }
}
