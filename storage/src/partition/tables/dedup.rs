//! Table `dedup`: the highest sequence seen of each producer.
//!
//! Key: `de`, kind of producer (1: 0 leader, 1 external, 2 partition), then nothing, the
//! producer's id (8) or the partition (4). Row: bilrost [`DedupRow`].

use forebay_engine::partition::rows::{DedupKey, DedupRow};

use super::{Table, message, put_message, split};

const LEADER: u8 = 0;
const EXTERNAL: u8 = 1;
const PARTITION: u8 = 2;

pub(crate) struct Dedup;

impl Table for Dedup {
    const NAME: &'static str = "dedup";
    const KIND: [u8; 2] = *b"de";

    type Key = DedupKey;
    type Row = DedupRow;
    type Attached = ();

    fn put_key_body(key: &DedupKey, out: &mut Vec<u8>) {
        match key {
            DedupKey::Leader => out.push(LEADER),
            DedupKey::External(id) => {
                out.push(EXTERNAL);
                out.extend_from_slice(&id.to_be_bytes());
            }
            DedupKey::Partition(id) => {
                out.push(PARTITION);
                out.extend_from_slice(&id.to_be_bytes());
            }
        }
    }

    fn key(body: &[u8]) -> Option<DedupKey> {
        let ([kind], id) = split(body)?;
        match *kind {
            LEADER => id.is_empty().then_some(DedupKey::Leader),
            EXTERNAL => Some(DedupKey::External(u64::from_be_bytes(id.try_into().ok()?))),
            PARTITION => Some(DedupKey::Partition(u32::from_be_bytes(id.try_into().ok()?))),
            _ => None,
        }
    }

    fn put_row(row: &DedupRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<DedupRow, String> {
        message(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn keys() -> impl Strategy<Value = DedupKey> {
        prop_oneof![
            Just(DedupKey::Leader),
            numbers().prop_map(DedupKey::External),
            any::<u32>().prop_map(DedupKey::Partition),
        ]
    }

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(a in keys(), b in keys(), epoch in numbers(), seq in numbers()) {
            check_keys::<Dedup>(a, b);
            check_row::<Dedup>(&DedupRow { epoch, seq });
        }
    }

    #[test]
    fn golden_bytes() {
        let row = DedupRow { epoch: 3, seq: 300 };
        insta::assert_snapshot!(golden::<Dedup>(&DedupKey::Leader, &row), @r"
        646500
        040304ac01
        ");
        insta::assert_snapshot!(golden::<Dedup>(&DedupKey::External(7), &row), @r"
        6465010000000000000007
        040304ac01
        ");
        insta::assert_snapshot!(golden::<Dedup>(&DedupKey::Partition(7), &row), @r"
        64650200000007
        040304ac01
        ");
    }
}
