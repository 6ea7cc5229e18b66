//! Table `fsm`: the partition's own state, in numbered slots.
//!
//! Key: `fs`, slot (2). Row: the bytes of the slot ([`FsmSlot`] says which: most are one
//! number, 8 bytes, big-endian).

use bytes::Bytes;
use forebay_engine::partition::rows::FsmSlot;

use super::Table;

/// All slots.
const SLOTS: [FsmSlot; 13] = [
    FsmSlot::AppliedLsn,
    FsmSlot::InboxSeq,
    FsmSlot::OutboxSeq,
    FsmSlot::MinVersion,
    FsmSlot::DurableLsn,
    FsmSlot::LeaderEpoch,
    FsmSlot::KeyRange,
    FsmSlot::Created,
    FsmSlot::RuleBook,
    FsmSlot::LastRunAt,
    FsmSlot::LatestRecordAt,
    FsmSlot::Incarnation,
    FsmSlot::CheckedTable,
];

pub(crate) struct Fsm;

impl Table for Fsm {
    const NAME: &'static str = "fsm";
    const KIND: [u8; 2] = *b"fs";

    type Key = FsmSlot;
    type Row = Bytes;
    type Attached = ();

    fn put_key_body(key: &FsmSlot, out: &mut Vec<u8>) {
        out.extend_from_slice(&(*key as u16).to_be_bytes());
    }

    fn key(body: &[u8]) -> Option<FsmSlot> {
        let slot = u16::from_be_bytes(body.try_into().ok()?);
        SLOTS.into_iter().find(|known| *known as u16 == slot)
    }

    fn put_row(row: &Bytes, out: &mut Vec<u8>) {
        out.extend_from_slice(row);
    }

    fn row(bytes: &[u8]) -> Result<Bytes, String> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    #[test]
    fn round_trip() {
        for a in SLOTS {
            for b in SLOTS {
                check_keys::<Fsm>(a, b);
            }
        }
        check_row::<Fsm>(&Bytes::from_static(&[1, 2, 3]));
        assert_eq!(Fsm::key(&[0, 99]), None);
    }

    #[test]
    fn golden_bytes() {
        let number = Bytes::copy_from_slice(&300u64.to_be_bytes());
        let rows: Vec<_> = SLOTS.iter().map(|slot| golden::<Fsm>(slot, &number)).collect();
        insta::assert_snapshot!(rows.join("\n"), @r"
        66730001
        000000000000012c
        66730002
        000000000000012c
        66730003
        000000000000012c
        66730004
        000000000000012c
        66730005
        000000000000012c
        66730006
        000000000000012c
        66730007
        000000000000012c
        66730008
        000000000000012c
        66730009
        000000000000012c
        6673000a
        000000000000012c
        6673000b
        000000000000012c
        6673000c
        000000000000012c
        6673000d
        000000000000012c
        ");
    }
}
