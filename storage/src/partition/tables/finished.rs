//! Table `finished`: the results of ended entries.
//!
//! Key: `fi`, entry id (24). Row: bilrost [`FinishedRow`]. Its expiry is in the timer table.

use forebay_engine::partition::rows::FinishedRow;
use forebay_messages::EntryId;

use super::{Table, message, put_message};

pub(crate) struct Finished;

impl Table for Finished {
    const NAME: &'static str = "finished";
    const KIND: [u8; 2] = *b"fi";

    type Key = EntryId;
    type Row = FinishedRow;
    type Attached = ();

    fn put_key_body(key: &EntryId, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_bytes());
    }

    fn key(body: &[u8]) -> Option<EntryId> {
        body.try_into().ok().map(EntryId::from_bytes)
    }

    fn put_row(row: &FinishedRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<FinishedRow, String> {
        message(bytes)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_messages::{FailureKind, Outcome, Timestamp};
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn sample(outcome: Outcome) -> FinishedRow {
        FinishedRow {
            vqueue: vqueue_id(2),
            outcome: Some(outcome.into()),
            created_at: Timestamp(1),
            finished_at: Timestamp(300),
            expires_at: Timestamp::MAX,
            attempts: 2,
            idempotency_key: Some("key".into()),
            retry: Some(Default::default()),
            retention_ms: Some(5),
            started_at: Timestamp(6),
            extra: None,
        }
    }

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(
            a in entry_ids(), b in entry_ids(), at in numbers(), message in ".{0,20}",
            result in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            check_keys::<Finished>(a, b);
            let success = sample(Outcome::Success(Bytes::from(result)));
            check_row::<Finished>(&FinishedRow { expires_at: Timestamp(at), ..success });
            check_row::<Finished>(&sample(Outcome::failure(FailureKind::Exhausted, &message)));
        }
    }

    #[test]
    fn golden_bytes() {
        let success = sample(Outcome::Success(Bytes::from_static(b"ok")));
        insta::assert_snapshot!(golden::<Finished>(&entry_id(1), &success), @r"
        6669010203040506070801010101010101010101010101010101
        051801020304050607080202020202020202020202020202020209026f6b080104ac0104fffefefefefefefefe040205036b6579050d040a046404e0d30204c800041404050406
        ");
        let failure = sample(Outcome::failure(FailureKind::Killed, "why"));
        insta::assert_snapshot!(golden::<Finished>(&entry_id(1), &failure), @r"
        6669010203040506070801010101010101010101010101010101
        05180102030405060708020202020202020202020202020202020d0704030503776879040104ac0104fffefefefefefefefe040205036b6579050d040a046404e0d30204c800041404050406
        ");
    }
}
