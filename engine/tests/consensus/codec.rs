//! Bytes of messages, rows and writes: valid ones round-trip, invalid ones are refused.

use bytes::Bytes;
use forebay_engine::consensus::{
    Barrier, Body, ChainHash, DecodeError, Entry, Envelope, Heartbeat, Hello, Member, PeerMemory,
    Row, RunningHash, Seal, Segment, Session, Standing, StorageId, Write,
};
use omnipaxos::ballot_leader_election::Ballot;
use omnipaxos::messages::ballot_leader_election::{HeartbeatMsg, HeartbeatReply, HeartbeatRequest};
use omnipaxos::messages::sequence_paxos::{
    AcceptDecide, AcceptSync, Accepted, Decide, NotAccepted, PaxosMsg, Prepare, PrepareReq, Promise,
};
use omnipaxos::util::{LogSync, SequenceNumber};
use proptest::prelude::*;

use crate::random::Random;

fn wide(random: &mut Random) -> u128 {
    u128::from(random.next()) << 64 | u128::from(random.next())
}

fn ballot(random: &mut Random) -> Ballot {
    Ballot {
        config_id: random.next() as u32,
        n: random.next() as u32,
        priority: random.next() as u32,
        pid: random.next(),
    }
}

fn member(random: &mut Random) -> Member {
    let name = "näme-of-a-node".chars().take(random.below(15) as usize).collect::<String>();
    Member { name: name.into(), storage: StorageId(wide(random)) }
}

fn members(random: &mut Random) -> Vec<Member> {
    (0..random.below(5)).map(|_| member(random)).collect()
}

fn entry(random: &mut Random) -> Entry {
    match random.below(3) {
        0 => Entry::Block(Bytes::from(vec![random.next() as u8; random.below(40) as usize])),
        1 => Entry::Barrier(Barrier {
            boot: random.next(),
            nonce: random.next(),
            number: random.next(),
        }),
        _ => Entry::Seal(Seal { version: random.next(), members: members(random) }),
    }
}

fn entries(random: &mut Random) -> Vec<Entry> {
    (0..random.below(4)).map(|_| entry(random)).collect()
}

fn row(random: &mut Random) -> Row {
    Row { entry: entry(random), hash: RunningHash(wide(random)) }
}

fn standing(random: &mut Random) -> Standing {
    let mut number = || (random.next() as u32, random.next() as u32, random.next());
    let (promised, round) = (number(), number());
    let (segment, adopted) = (random.next(), random.next());
    Standing { segment, promised, adopted, round, accepted: random.next() }
}

fn sync(random: &mut Random) -> LogSync<Entry> {
    let (suffix, sync_idx) = (entries(random), random.next() as usize);
    LogSync { decided_snapshot: None, suffix, sync_idx, stopsign: None }
}

fn sequence(random: &mut Random) -> SequenceNumber {
    SequenceNumber { session: random.next(), counter: random.next() }
}

fn paxos(random: &mut Random) -> PaxosMsg<Entry> {
    let n = ballot(random);
    let (decided_idx, accepted_idx) = (random.next() as usize, random.next() as usize);
    match random.below(8) {
        0 => PaxosMsg::PrepareReq(PrepareReq { n }),
        1 => {
            let n_accepted = ballot(random);
            PaxosMsg::Prepare(Prepare { n, decided_idx, n_accepted, accepted_idx })
        }
        2 => {
            let log_sync = random.permille(500).then(|| sync(random));
            let n_accepted = ballot(random);
            PaxosMsg::Promise(Promise { n, n_accepted, decided_idx, accepted_idx, log_sync })
        }
        3 => {
            let (seq_num, log_sync) = (sequence(random), sync(random));
            PaxosMsg::AcceptSync(AcceptSync { n, seq_num, decided_idx, log_sync })
        }
        4 => {
            let (seq_num, entries) = (sequence(random), entries(random));
            PaxosMsg::AcceptDecide(AcceptDecide { n, seq_num, decided_idx, entries })
        }
        5 => PaxosMsg::Accepted(Accepted { n, accepted_idx }),
        6 => PaxosMsg::NotAccepted(NotAccepted { n }),
        _ => PaxosMsg::Decide(Decide { n, seq_num: sequence(random), decided_idx }),
    }
}

fn heartbeat(random: &mut Random) -> HeartbeatMsg {
    let round = random.next() as u32;
    if random.permille(500) {
        return HeartbeatMsg::Request(HeartbeatRequest { round });
    }
    let (ballot, leader) = (ballot(random), ballot(random));
    HeartbeatMsg::Reply(HeartbeatReply { round, ballot, leader, happy: random.permille(500) })
}

fn body(random: &mut Random) -> Body {
    match random.below(10) {
        0 => Body::Hello(Hello {
            member: member(random),
            boot: random.next(),
            nonce: random.next(),
            standing: standing(random),
            decided: random.next(),
        }),
        1 => Body::Welcome,
        2 => Body::Heartbeat(Heartbeat { message: heartbeat(random), standing: standing(random) }),
        3 => Body::Behind { decided: random.next() },
        4 => Body::Copy { from: random.next(), durable: random.next() },
        5 => Body::Rows {
            first: random.next(),
            rows: (0..random.below(4)).map(|_| row(random)).collect(),
            decided: random.next(),
        },
        6 => Body::TooOld { oldest: random.next() },
        7 => Body::TakeOver,
        _ => Body::Paxos(paxos(random)),
    }
}

fn envelope(random: &mut Random) -> Envelope {
    Envelope {
        cluster: wide(random),
        incarnation: random.next() as u32,
        group: random.next() as u32,
        segment: ChainHash(wide(random)),
        from: StorageId(wide(random)),
        to: StorageId(wide(random)),
        session: Session(random.next()),
        body: body(random),
    }
}

fn write(random: &mut Random) -> Write {
    match random.below(10) {
        0 => Write::Segment {
            segment: Box::new(Segment {
                number: random.next(),
                hash: ChainHash(wide(random)),
                base: random.next(),
                base_hash: RunningHash(wide(random)),
                members: members(random),
                version: random.next(),
            }),
            votes: random.permille(500),
        },
        1 => Write::Promise(ballot(random)),
        2 => Write::Round(ballot(random)),
        3 => Write::Adopted(random.next()),
        4 => Write::Decided(random.next()),
        5 => Write::Append { index: random.next(), row: row(random) },
        6 => Write::Truncate { from: random.next() },
        7 => Write::Peer(PeerMemory {
            storage: StorageId(wide(random)),
            boot: random.next(),
            nonce: random.next(),
            standing: standing(random),
        }),
        8 => Write::Forget(StorageId(wide(random))),
        _ => Write::Drop { below: random.next() },
    }
}

fn bytes_of(envelope: &Envelope) -> Vec<u8> {
    let mut bytes = Vec::new();
    envelope.encode(&mut bytes);
    bytes
}

/// `bytes` as a faulty network or disk would change them.
fn corrupt(mut bytes: Vec<u8>, changes: &[(u16, u8)], cut: Option<u16>) -> Bytes {
    for (at, value) in changes {
        let length = bytes.len();
        bytes[usize::from(*at) % length] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(usize::from(cut) % (bytes.len() + 1));
    }
    Bytes::from(bytes)
}

proptest! {
    #[test]
    fn an_envelope_round_trips(seed: u64) {
        let envelope = envelope(&mut Random::new(seed));
        let bytes = bytes_of(&envelope);
        let back = Envelope::decode(Bytes::from(bytes.clone())).unwrap();
        prop_assert_eq!(format!("{:?}", &back), format!("{:?}", envelope));
        prop_assert_eq!(bytes_of(&back), bytes);
    }

    #[test]
    fn writes_and_rows_round_trip(seed: u64) {
        let random = &mut Random::new(seed);
        let writes: Vec<_> = (0..random.below(6)).map(|_| write(random)).collect();
        let mut bytes = Vec::new();
        Write::encode_all(&writes, &mut bytes);
        prop_assert_eq!(&Write::decode_all(Bytes::from(bytes)).unwrap(), &writes);
        for write in writes {
            let mut bytes = Vec::new();
            write.encode(&mut bytes);
            prop_assert_eq!(Write::decode(Bytes::from(bytes)).unwrap(), write);
        }
        let row = row(random);
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        prop_assert_eq!(Row::decode(Bytes::from(bytes)).unwrap(), row);
    }

    /// Corrupted bytes are an error, or another value that encodes to the same bytes.
    #[test]
    fn spoiled_bytes_never_panic(seed: u64, changes: Vec<(u16, u8)>, cut: Option<u16>) {
        let random = &mut Random::new(seed);
        let bytes = corrupt(bytes_of(&envelope(random)), &changes, cut);
        if let Ok(back) = Envelope::decode(bytes.clone()) {
            prop_assert_eq!(&bytes_of(&back)[..], &bytes[..]);
        }
        let mut written = Vec::new();
        Write::encode_all(&[write(random), write(random)], &mut written);
        let bytes = corrupt(written, &changes, cut);
        if let Ok(back) = Write::decode_all(bytes.clone()) {
            let mut again = Vec::new();
            Write::encode_all(&back, &mut again);
            prop_assert_eq!(&again[..], &bytes[..]);
        }
        let mut written = Vec::new();
        write(random).encode(&mut written);
        let bytes = corrupt(written, &changes, cut);
        if let Ok(back) = Write::decode(bytes.clone()) {
            let mut again = Vec::new();
            back.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..]);
        }
        let mut written = Vec::new();
        row(random).encode(&mut written);
        let bytes = corrupt(written, &changes, cut);
        if let Ok(back) = Row::decode(bytes.clone()) {
            let mut again = Vec::new();
            back.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..]);
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Envelope::decode(Bytes::from(bytes.clone()));
        let _ = Write::decode_all(Bytes::from(bytes.clone()));
        let _ = Write::decode(Bytes::from(bytes.clone()));
        let _ = Row::decode(Bytes::from(bytes));
    }
}

#[test]
fn an_impossible_count_allocates_nothing() {
    let rows = Body::Rows { first: 0, rows: Vec::new(), decided: 0 };
    let envelope = Envelope { body: rows, ..envelope(&mut Random::new(1)) };
    let mut bytes = bytes_of(&envelope);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(Envelope::decode(Bytes::from(bytes)).unwrap_err(), DecodeError::Truncated);
}

#[test]
fn a_newer_format_is_refused_with_advice() {
    let mut bytes = bytes_of(&envelope(&mut Random::new(1)));
    bytes[0] += 1;
    assert_eq!(Envelope::decode(Bytes::from(bytes)).unwrap_err(), DecodeError::NewerFormat(2));
}

#[test]
fn a_block_is_a_slice_of_its_message() {
    let row = Row { entry: Entry::Block(Bytes::from_static(&[7; 100])), hash: RunningHash(1) };
    let mut bytes = Vec::new();
    row.encode(&mut bytes);
    let bytes = Bytes::from(bytes);
    let Entry::Block(block) = Row::decode(bytes.clone()).unwrap().entry else { panic!() };
    assert!(bytes.as_ptr_range().contains(&block.as_ptr()));
}

/// The format must not change: stored rows and members of other versions use it.
#[test]
fn golden_bytes() {
    let mut all = Vec::new();
    for seed in 0..64 {
        let random = &mut Random::new(seed);
        envelope(random).encode(&mut all);
        Write::encode_all(&[write(random), write(random)], &mut all);
        row(random).encode(&mut all);
    }
    let hash = all.iter().fold(RunningHash::default(), |hash, byte| {
        hash.after(&Entry::Block(Bytes::from(vec![*byte])))
    });
    assert_eq!(format!("{:032x} of {} bytes", hash.0, all.len()), GOLDEN);
    let mut row = Vec::new();
    let barrier = Barrier { boot: 1, nonce: 2, number: 3 };
    Row { entry: Entry::Barrier(barrier), hash: RunningHash(4) }.encode(&mut row);
    let expected: Vec<u8> = [
        &[1, 2][..],
        &1u64.to_be_bytes(),
        &2u64.to_be_bytes(),
        &3u64.to_be_bytes(),
        &4u128.to_be_bytes(),
    ]
    .concat();
    assert_eq!(row, expected);
}

const GOLDEN: &str = "261afee949c146e2126e95d8391b3462 of 16604 bytes";
