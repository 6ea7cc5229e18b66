//! Table `timer`: when finished entries expire.
//!
//! Key: `ti`, time (8, milliseconds), entry id (24). Row: empty.

use forebay_messages::{EntryId, Timestamp};

use super::{Table, nothing, split};

pub(crate) struct Timer;

impl Table for Timer {
    const NAME: &'static str = "timer";
    const KIND: [u8; 2] = *b"ti";
    const STRICT: bool = true;

    type Key = (Timestamp, EntryId);
    type Row = ();
    type Attached = ();

    fn put_key_body((at, entry): &Self::Key, out: &mut Vec<u8>) {
        out.extend_from_slice(&at.0.to_be_bytes());
        out.extend_from_slice(&entry.to_bytes());
    }

    fn key(body: &[u8]) -> Option<Self::Key> {
        let (at, entry) = split(body)?;
        let at = Timestamp(u64::from_be_bytes(*at));
        Some((at, EntryId::from_bytes(entry.try_into().ok()?)))
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
        fn rows_and_keys_decode(a in (numbers(), entry_ids()), b in (numbers(), entry_ids())) {
            check_keys::<Timer>((Timestamp(a.0), a.1), (Timestamp(a.0), b.1));
            check_keys::<Timer>((Timestamp(a.0), a.1), (Timestamp(b.0), b.1));
        }
    }

    #[test]
    fn golden_bytes() {
        insta::assert_snapshot!(golden::<Timer>(&(Timestamp(300), entry_id(1)), &()), @r"
        7469000000000000012c010203040506070801010101010101010101010101010101
        ");
    }
}
