//! Table `sleep`: when the sleeps of entries end.
//!
//! Key: `sl`, time (8, milliseconds), entry id (24), journal key. Row: nothing.

use forebay_engine::partition::store::SleepKey;
use forebay_messages::Timestamp;

use super::{Table, entry_and_key, nothing, split};

pub(crate) struct Sleep;

impl Table for Sleep {
    const NAME: &'static str = "sleep";
    const KIND: [u8; 2] = *b"sl";
    const STRICT: bool = true;
    const ORDERED: bool = true;

    type Key = SleepKey;
    type Row = ();
    type Attached = ();

    fn put_key_body((at, entry, key): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&at.0.to_be_bytes());
        out.extend_from_slice(&entry.to_bytes());
        out.extend_from_slice(key.as_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        let (at, rest) = split(body)?;
        let (entry, key) = entry_and_key(rest)?;
        Some((Timestamp(u64::from_be_bytes(*at)), entry, key))
    }

    fn put_row((): &(), _: &mut Vec<u8>) {}

    fn row(bytes: &[u8]) -> Result<(), String> {
        nothing(bytes)
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::journal::JournalKey;
    use proptest::prelude::*;

    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        on_large_stack(rows_and_keys_come_back);
    }

    proptest! {
        fn rows_and_keys_come_back(
            a in (numbers(), entry_ids(), journal_keys()),
            b in (numbers(), entry_ids(), journal_keys()),
        ) {
            let key = |at, entry, key: &JournalKey| (Timestamp(at), entry, key.clone());
            check_keys::<Sleep>(key(a.0, a.1, &a.2), key(a.0, a.1, &b.2));
            check_keys::<Sleep>(key(a.0, a.1, &a.2), key(a.0, b.1, &b.2));
            check_keys::<Sleep>(key(a.0, a.1, &a.2), key(b.0, b.1, &b.2));
        }
    }

    #[test]
    fn golden_bytes() {
        let key = (Timestamp(300), entry_id(1), journal_key("cool"));
        insta::assert_snapshot!(golden::<Sleep>(&key, &()), @r"
        736c000000000000012c010203040506070801010101010101010101010101010101000004636f6f6c00000000
        ");
    }
}
