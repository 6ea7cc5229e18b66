//! The bytes of blocks, outcomes and snapshots are a promise.

use ::bytes::Bytes;
use forebay_engine::consensus::{DecodeError, Member, Segment, StorageId};
use forebay_engine::metadata::{
    Expected, Outcome, Snapshot, SnapshotError, State, decode_block, encode_block,
};

use super::{apply, change, command, versions};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn commands() -> Vec<forebay_engine::metadata::Command> {
    let mut first = command(
        0x0102,
        3,
        vec![
            change("a", Some("one"), Expected::Anything),
            change("b", None, Expected::Absent),
            change("c", Some(""), Expected::Version(5)),
        ],
    );
    first.since = 9;
    vec![first, command(7, 1, vec![change("d", Some("x"), Expected::Absent)])]
}

fn snapshot() -> Snapshot {
    let mut state = State::default();
    apply(&mut state, 4, &commands()[1]);
    apply(&mut state, 5, &commands()[0]);
    let member = Member { name: "n1".into(), storage: StorageId(0xabcd) };
    let segment = Segment::first(77, 1, vec![member]);
    Snapshot { cluster: 77, incarnation: 2, segment, state }
}

#[test]
fn golden_bytes_of_a_block() {
    let bytes = encode_block(&commands());
    assert_eq!(
        hex(&bytes),
        "0100000002\
         000000000000000000000000000001020000000000000009000000000000000300000003\
         0000000161000100000003 6f6e65\
         00000001620100\
         00000001630200000000000000050100000000\
         00000000000000000000000000000007000000000000000000000000000000010000000\
         1000000016401010000000178"
            .replace(' ', "")
    );
    assert_eq!(decode_block(bytes.clone()).unwrap(), commands());
    let mut newer = bytes.to_vec();
    newer[0] = 2;
    assert_eq!(decode_block(newer.into()), Err(DecodeError::NewerFormat(2)));
    assert_eq!(decode_block(bytes.slice(..20)), Err(DecodeError::Truncated));
}

#[test]
fn golden_bytes_of_outcomes() {
    let outcomes = [
        (versions(&[1, 2]), "010000000200000000000000010000000000000002"),
        (Outcome::Conflict { at: 1, found: None }, "0200000001"),
        (Outcome::Conflict { at: 1, found: Some(3) }, "03000000010000000000000003"),
        (Outcome::Full, "04"),
        (Outcome::TooOld { oldest: 6 }, "050000000000000006"),
    ];
    for (outcome, golden) in outcomes {
        let mut bytes = Vec::new();
        outcome.encode(&mut bytes);
        assert_eq!(hex(&bytes), golden);
        assert_eq!(Outcome::decode(bytes.into()).unwrap(), outcome);
    }
}

#[test]
fn golden_bytes_of_a_snapshot() {
    let bytes = snapshot().encode();
    insta::assert_snapshot!(hex(&bytes), @"010000000000000000000000000000004d000000020000000000000001e5d0a4a9287fcbdb4389fdcfdf13251d000000000000000000000000000000000000000000000000000000000000000000000001000000026e310000000000000000000000000000abcd00000001000000016400000000000000010100000001780000000000000000000000020000000000000000000000000000000700000000000000000000000000000004000000000000000000000001000000000000000101000000010000000000000001000000000000000000000000000001020000000000000009000000000000000500000000000000000000000100000000000000030200000002f3390bbadb8847ef2d2bf91cdcb142f6");
    assert_eq!(Snapshot::decode(bytes).unwrap(), snapshot());
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let bytes = snapshot().encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        assert_eq!(Snapshot::decode(damaged.into()), Err(SnapshotError::Damaged), "byte {at}");
    }
    assert!(Snapshot::decode(Bytes::new()).is_err());
}
