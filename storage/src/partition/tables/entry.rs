//! Table `entry`: the state of every entry that has not ended.
//!
//! Key: `en`, entry id (24). Row: bilrost [`EntryRow`]; the payload has its own table, so that a
//! stage move rewrites little.

use bytes::Bytes;
use forebay_engine::partition::rows::{EntryRow, RunningRow};
use forebay_messages::EntryId;

use super::{Table, message, payload::Payload, put_message, running::Running};

pub(crate) struct Entry;

/// Rows attached to an entry while only memory has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    /// Its row of table `payload`.
    pub(crate) payload: Option<Bytes>,
    /// Its row of table `running`.
    pub(crate) running: Option<RunningRow>,
}

impl Table for Entry {
    const NAME: &'static str = "entry";
    const KIND: [u8; 2] = *b"en";

    type Key = EntryId;
    type Row = EntryRow;
    type Attached = Attached;

    fn put_key_body(key: &EntryId, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_bytes());
    }

    fn key(body: &[u8]) -> Option<EntryId> {
        body.try_into().ok().map(EntryId::from_bytes)
    }

    fn put_row(row: &EntryRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<EntryRow, String> {
        message(bytes)
    }

    fn weight_attached(attached: &Attached) -> usize {
        attached.payload.as_ref().map_or(0, Bytes::len)
    }

    fn put_attached(
        key: &EntryId,
        row: &EntryRow,
        attached: &Attached,
        put: &mut dyn FnMut(&[u8], &[u8]),
    ) {
        if let Some(payload) = &attached.payload {
            put(&Payload::key_bytes(key), payload);
        }
        if let Some(running) = &attached.running {
            let mut bytes = Vec::new();
            Running::put_row(running, &mut bytes);
            put(&Running::key_bytes(&(row.vqueue, *key)), &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_engine::partition::rows::{FailedAttempt, Stage};
    use forebay_messages::{AttemptToken, Epoch, Timestamp, command::RetryPolicy};
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn sample() -> EntryRow {
        EntryRow {
            vqueue: vqueue_id(2),
            stage: Stage::Paused,
            key: forebay_messages::EntryKey { entry: entry_id(1), ..Default::default() },
            attempts: 3,
            token: AttemptToken { epoch: Epoch(4), seq: 5 },
            created_at: Timestamp(6),
            started_at: Timestamp(7),
            retry: Some(RetryPolicy::NONE),
            retention_ms: Some(8),
            idempotency_key: Some("key".into()),
            last_failure: "boom".into(),
            cancel_requested: true,
            interrupted: 0,
            extra: None,
        }
    }

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(
            a in entry_ids(), b in entry_ids(), vqueue in vqueue_ids(), key in entry_keys(),
            attempts in any::<u32>(), retention_ms in proptest::option::of(numbers()),
            text in ".{0,20}",
        ) {
            check_keys::<Entry>(a, b);
            let last_failure = text.into();
            let row = EntryRow { vqueue, key, attempts, retention_ms, last_failure, ..sample() };
            check_row::<Entry>(&row);
            check_row::<Entry>(&EntryRow::default());
        }
    }

    #[test]
    fn golden_bytes_of_failed_attempts() {
        let mut row = sample();
        row.keep_failure(FailedAttempt {
            number: 1,
            started_at: Timestamp(2),
            ended_at: Timestamp(300),
            text: "no".into(),
        });
        check_row::<Entry>(&row);
        insta::assert_snapshot!(golden::<Entry>(&entry_id(1), &row), @r"
        656e010203040506070801010101010101010101010101010101
        0518010203040506070802020202020202020202020202020202040305290100000000000000000000000000000000010203040506070801010101010101010101010101010101040305040404040504060407050404010c64040805036b65790504626f6f6d0401090d050b0401040204ac0105026e6f
        ");
    }

    #[test]
    fn golden_bytes() {
        insta::assert_snapshot!(golden::<Entry>(&entry_id(1), &sample()), @r"
        656e010203040506070801010101010101010101010101010101
        0518010203040506070802020202020202020202020202020202040305290100000000000000000000000000000000010203040506070801010101010101010101010101010101040305040404040504060407050404010c64040805036b65790504626f6f6d0401
        ");
        let row = EntryRow { interrupted: 3, ..sample() };
        insta::assert_snapshot!(golden::<Entry>(&entry_id(1), &row), @r"
        656e010203040506070801010101010101010101010101010101
        0518010203040506070802020202020202020202020202020202040305290100000000000000000000000000000000010203040506070801010101010101010101010101010101040305040404040504060407050404010c64040805036b65790504626f6f6d04010403
        ");
    }
}
