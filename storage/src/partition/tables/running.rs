//! Table `running`: entries of a vqueue with a running attempt.
//!
//! Key: `ru`, vqueue (24), entry id (24). Row: bilrost [`RunningRow`].

use forebay_engine::partition::rows::RunningRow;
use forebay_messages::{EntryId, VQueueId};

use super::{Table, message, put_message, vqueue_and_entry};

pub(crate) struct Running;

impl Table for Running {
    const NAME: &'static str = "running";
    const KIND: [u8; 2] = *b"ru";
    const STRICT: bool = true;

    type Key = (VQueueId, EntryId);
    type Row = RunningRow;
    type Attached = ();

    fn put_key_body((vqueue, entry): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&vqueue.to_bytes());
        out.extend_from_slice(&entry.to_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        vqueue_and_entry(body)
    }

    fn put_row(row: &RunningRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<RunningRow, String> {
        message(bytes)
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::{AttemptToken, Epoch, NodeId, command::ExecutorId};
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(
            a in (vqueue_ids(), entry_ids()), b in (vqueue_ids(), entry_ids()),
            epoch in numbers(), seq in numbers(),
        ) {
            check_keys::<Running>((a.0, a.1), (a.0, b.1));
            check_keys::<Running>(a, b);
            let token = AttemptToken { epoch: Epoch(epoch), seq };
            check_row::<Running>(&RunningRow { token, executor: None });
        }
    }

    #[test]
    fn golden_bytes() {
        let row = RunningRow { token: AttemptToken { epoch: Epoch(3), seq: 300 }, executor: None };
        insta::assert_snapshot!(golden::<Running>(&(vqueue_id(9), entry_id(1)), &row), @r"
        7275010203040506070809090909090909090909090909090909010203040506070801010101010101010101010101010101
        0505040304ac01
        ");
        let executor = ExecutorId { node: NodeId(2), boot: 7, is_lease: true };
        let row = RunningRow { executor: Some(executor), ..row };
        insta::assert_snapshot!(golden::<Running>(&(vqueue_id(9), entry_id(1)), &row), @r"
        7275010203040506070809090909090909090909090909090909010203040506070801010101010101010101010101010101
        0505040304ac010506040204070401
        ");
    }
}
