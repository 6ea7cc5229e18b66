//! Table `outbox`: messages to other partitions without confirmed delivery.
//!
//! Key: `ou`, index (8). Row: the encoded message, opaque here.

use bytes::Bytes;
use forebay_messages::RecordSeq;

use super::Table;

pub(crate) struct Outbox;

impl Table for Outbox {
    const NAME: &'static str = "outbox";
    const KIND: [u8; 2] = *b"ou";
    const STRICT: bool = true;
    const ORDERED: bool = true;

    type Key = RecordSeq;
    type Row = Bytes;
    type Attached = ();

    fn put_key_body(key: &RecordSeq, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.0.to_be_bytes());
    }

    fn key(body: &[u8]) -> Option<RecordSeq> {
        body.try_into().ok().map(u64::from_be_bytes).map(RecordSeq)
    }

    fn put_row(row: &Bytes, out: &mut Vec<u8>) {
        out.extend_from_slice(row);
    }

    fn row(bytes: &[u8]) -> Result<Bytes, String> {
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn weight(row: &Bytes) -> usize {
        row.len()
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
        fn rows_and_keys_decode(a in numbers(), b in numbers()) {
            check_keys::<Outbox>(RecordSeq(a), RecordSeq(b));
            check_row::<Outbox>(&Bytes::from(a.to_be_bytes().to_vec()));
        }
    }

    #[test]
    fn golden_bytes() {
        let row = Bytes::from_static(b"message");
        insta::assert_snapshot!(golden::<Outbox>(&RecordSeq(300), &row), @r"
        6f75000000000000012c
        6d657373616765
        ");
    }
}
