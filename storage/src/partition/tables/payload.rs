//! Table `payload`: the input of the entries' handlers.
//!
//! Key: `pa`, entry id (24). Row: the client's bytes. Strict: an entry's payload is put once, when
//! the entry is new, and deleted once, when it is no longer needed.

use bytes::Bytes;
use forebay_messages::EntryId;

use super::Table;

pub(crate) struct Payload;

impl Table for Payload {
    const NAME: &'static str = "payload";
    const KIND: [u8; 2] = *b"pa";
    const STRICT: bool = true;

    type Key = EntryId;
    type Row = Bytes;
    type Attached = ();

    fn put_key_body(key: &EntryId, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_bytes());
    }

    fn key(body: &[u8]) -> Option<EntryId> {
        body.try_into().ok().map(EntryId::from_bytes)
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
        fn rows_and_keys_decode(
            a in entry_ids(), b in entry_ids(),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            check_keys::<Payload>(a, b);
            check_row::<Payload>(&Bytes::from(payload));
        }
    }

    #[test]
    fn golden_bytes() {
        let row = Bytes::from_static(b"{}");
        insta::assert_snapshot!(golden::<Payload>(&entry_id(1), &row), @r"
        7061010203040506070801010101010101010101010101010101
        7b7d
        ");
    }
}
