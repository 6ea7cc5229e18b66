//! Table `idempotency`: the entry of each idempotency key.
//!
//! Key: `id`, domain (16), the client's key (the rest). Row: bilrost [`IdempotencyRow`].

use bytestring::ByteString;
use forebay_engine::partition::rows::{IdempotencyKey, IdempotencyRow};

use super::{Table, message, put_message, split};

pub(crate) struct Idempotency;

impl Table for Idempotency {
    const NAME: &'static str = "idempotency";
    const KIND: [u8; 2] = *b"id";
    const STRICT: bool = true;

    type Key = IdempotencyKey;
    type Row = IdempotencyRow;
    type Attached = ();

    fn put_key_body(key: &IdempotencyKey, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.domain);
        out.extend_from_slice(key.key.as_bytes());
    }

    fn key(body: &[u8]) -> Option<IdempotencyKey> {
        let (domain, key) = split(body)?;
        let key = ByteString::from(std::str::from_utf8(key).ok()?);
        Some(IdempotencyKey { domain: *domain, key })
    }

    fn put_row(row: &IdempotencyRow, out: &mut Vec<u8>) {
        put_message(row, out);
    }

    fn row(bytes: &[u8]) -> Result<IdempotencyRow, String> {
        message(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    fn keys() -> impl Strategy<Value = IdempotencyKey> {
        let domain = proptest::array::uniform16(prop_oneof![Just(0u8), Just(255)]);
        (domain, "[ab\u{0}é]{0,4}")
            .prop_map(|(domain, key)| IdempotencyKey { domain, key: key.into() })
    }

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_decode);
    }

    proptest! {
        fn rows_and_keys_decode(a in keys(), b in keys(), entry in entry_ids()) {
            check_keys::<Idempotency>(a, b);
            check_row::<Idempotency>(&IdempotencyRow { entry, payload_hash: None });
        }
    }

    #[test]
    fn golden_bytes() {
        let key = IdempotencyKey { domain: [7; 16], key: "order-1".into() };
        let row = IdempotencyRow { entry: entry_id(1), payload_hash: None };
        insta::assert_snapshot!(golden::<Idempotency>(&key, &row), @r"
        6964070707070707070707070707070707076f726465722d31
        0518010203040506070801010101010101010101010101010101
        ");
        let row = IdempotencyRow { payload_hash: Some(0x1122_3344_5566_7788), ..row };
        insta::assert_snapshot!(golden::<Idempotency>(&key, &row), @r"
        6964070707070707070707070707070707076f726465722d31
        05180102030405060708010101010101010101010101010101010488ee98aac4e78b9010
        ");
    }
}
