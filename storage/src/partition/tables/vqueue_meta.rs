//! Table `vqueue_meta`: name and row counts of every vqueue that has rows.
//!
//! Key: `vq`, vqueue (24). Row: bilrost [`StoredVQueueMeta`].

use forebay_engine::partition::rows::{StoredVQueueMeta, VQueueMeta};
use forebay_messages::VQueueId;

use super::{Table, message, put_message};

pub(crate) struct VQueueMetas;

impl Table for VQueueMetas {
    const NAME: &'static str = "vqueue_meta";
    const KIND: [u8; 2] = *b"vq";
    const REUSES_KEYS: bool = true;

    type Key = VQueueId;
    type Row = VQueueMeta;
    type Attached = ();

    fn put_key_body(key: &VQueueId, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_bytes());
    }

    fn key(body: &[u8]) -> Option<VQueueId> {
        body.try_into().ok().map(VQueueId::from_bytes)
    }

    fn put_row(row: &VQueueMeta, out: &mut Vec<u8>) {
        put_message(&StoredVQueueMeta::from(row), out);
    }

    fn row(bytes: &[u8]) -> Result<VQueueMeta, String> {
        message::<StoredVQueueMeta>(bytes).map(VQueueMeta::from)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_messages::{Timestamp, VQueueName};
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn sample() -> VQueueMeta {
        let name = VQueueName::service("resize").with_scope("tenant-a").with_object_key("img");
        VQueueMeta {
            name: Arc::new(name.with_limit_key("gold/u-7").unwrap()),
            inbox: 300,
            running: 1,
            suspended: 2,
            paused: 3,
            finished: 4,
            is_paused: true,
            created_at: Timestamp(5),
        }
    }

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(a in vqueue_ids(), b in vqueue_ids(), inbox in numbers(), key in ".{0,9}") {
            check_keys::<VQueueMetas>(a, b);
            let name = Arc::new(VQueueName::service("s").with_object_key(&key));
            check_row::<VQueueMetas>(&VQueueMeta { name, inbox, ..sample() });
        }
    }

    #[test]
    fn golden_bytes() {
        insta::assert_snapshot!(golden::<VQueueMetas>(&vqueue_id(9), &sample()), @r"
        7671010203040506070809090909090909090909090909090909
        05220506726573697a65050874656e616e742d610504676f6c640503752d370503696d6704ac01040104020403040404010405
        ");
    }
}
