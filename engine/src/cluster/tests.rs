//! Which members are next; bytes of the configuration, requests and answers.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::consensus::{DecodeError, Member, Segment, StorageId};
use crate::metadata::{Change, ClientId, Command, Expected, Outcome, Row};

fn node(name: &str, storage: u128) -> NodeEntry {
    let address = format!("{name}:7000").into();
    NodeEntry {
        name: name.into(),
        storage: StorageId(storage),
        address,
        is_removed: false,
        is_drained: false,
    }
}

fn member(name: &str, storage: u128) -> Member {
    Member { name: name.into(), storage: StorageId(storage) }
}

fn config(wanted: u32, names: &[&str]) -> NodesConfig {
    let nodes = (1..).zip(names).map(|(storage, name)| node(name, storage)).collect();
    NodesConfig { wanted, nodes, ..NodesConfig::default() }
}

fn segment(members: &[(&str, u128)]) -> Segment {
    Segment::first(1, 1, members.iter().map(|(name, storage)| member(name, *storage)).collect())
}

fn next(config: &NodesConfig, segment: &Segment, ready: &[u128]) -> Option<Vec<String>> {
    next_without(config, segment, ready, &[])
}

fn next_without(
    config: &NodesConfig,
    segment: &Segment,
    ready: &[u128],
    dead: &[u128],
) -> Option<Vec<String>> {
    let is_dead = |storage: StorageId| dead.contains(&storage.0);
    let members = config.next_members(segment, |storage| ready.contains(&storage.0), is_dead)?;
    Some(members.iter().map(|member| format!("{}{}", member.name, member.storage.0)).collect())
}

fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn one_grows_to_three_at_once_when_both_are_ready() {
    let (config, one) = (config(3, &["a", "b", "c"]), segment(&[("a", 1)]));
    assert_eq!(next(&config, &one, &[1]), None);
    assert_eq!(next(&config, &one, &[1, 2]), None, "two members tolerate less than one");
    assert_eq!(next(&config, &one, &[1, 2, 3]), names(&["a1", "b2", "c3"]));
}

#[test]
fn two_members_only_when_asked_for() {
    let one = segment(&[("a", 1)]);
    assert_eq!(next(&config(2, &["a", "b"]), &one, &[1, 2]), names(&["a1", "b2"]));
    assert_eq!(next(&config(1, &["a", "b"]), &one, &[1, 2]), None);
}

#[test]
fn further_nodes_are_added_in_pairs_up_to_five() {
    let three = segment(&[("a", 1), ("b", 2), ("c", 3)]);
    let all = config(3, &["a", "b", "c", "d", "e", "f"]);
    assert_eq!(next(&all, &three, &[1, 2, 3, 4]), None, "it is a standby");
    assert_eq!(next(&all, &three, &[1, 2, 3, 4, 5]), names(&["a1", "b2", "c3", "d4"]));
    let four = segment(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    assert_eq!(next(&all, &four, &[1, 2, 3, 4, 5]), names(&["a1", "b2", "c3", "d4", "e5"]));
    let five = segment(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]);
    assert_eq!(next(&all, &five, &[1, 2, 3, 4, 5, 6]), None);
}

#[test]
fn a_lost_disk_is_replaced_in_place_when_the_new_one_is_ready() {
    let three = segment(&[("a", 1), ("b", 2), ("c", 3)]);
    let mut config = config(3, &["a", "b", "c"]);
    assert_eq!(config.join(&"b".into(), StorageId(9), &"b:1".into()), Ok(true));
    assert_eq!(config.join(&"b".into(), StorageId(9), &"b:1".into()), Ok(false));
    assert_eq!(next(&config, &three, &[1, 3]), None);
    assert_eq!(next(&config, &three, &[1, 3, 9]), names(&["a1", "b9", "c3"]));
}

#[test]
fn a_dead_member_is_replaced_by_a_standby_and_stands_by_when_it_returns() {
    let three = segment(&[("a", 1), ("b", 2), ("c", 3)]);
    let all = config(3, &["a", "b", "c", "d"]);
    assert_eq!(next_without(&all, &three, &[1, 2, 4], &[]), None, "it may return soon");
    assert_eq!(next_without(&all, &three, &[1, 2], &[3]), None, "no standby is ready");
    assert_eq!(next_without(&all, &three, &[1, 2, 4], &[3]), names(&["a1", "b2", "d4"]));
    let new = segment(&[("a", 1), ("b", 2), ("d", 4)]);
    assert_eq!(next(&all, &new, &[1, 2, 3, 4]), None);
    // A new disk of the dead node is no other node.
    let mut config = all;
    config.join(&"c".into(), StorageId(9), &"c:1".into()).unwrap();
    assert_eq!(next_without(&config, &three, &[1, 2, 9], &[3]), names(&["a1", "b2", "c9"]));
}

#[test]
fn a_removed_node_leaves_and_joins_again_only_with_an_empty_disk() {
    let three = segment(&[("a", 1), ("b", 2), ("c", 3)]);
    let mut config = config(3, &["a", "b", "c"]);
    config.nodes[1].is_removed = true;
    assert_eq!(next(&config, &three, &[1, 2, 3]), names(&["a1", "c3"]));
    let two = segment(&[("a", 1), ("c", 3)]);
    assert_eq!(next(&config, &two, &[1, 2, 3]), None);
    let refused = config.join(&"b".into(), StorageId(2), &"b:1".into());
    assert_eq!(refused, Err(JoinError::Removed("b".into())));
    config.join(&"b".into(), StorageId(8), &"b:1".into()).unwrap();
    assert_eq!(next(&config, &two, &[1, 3, 8]), names(&["a1", "c3", "b8"]));
}

#[test]
fn the_last_member_is_not_removed() {
    let mut config = config(1, &["a"]);
    config.nodes[0].is_removed = true;
    assert_eq!(next(&config, &segment(&[("a", 1)]), &[1]), None);
}

#[test]
fn there_is_a_limit_of_nodes() {
    let mut config = NodesConfig::default();
    for number in 0..NODES_MAX {
        let name = format!("n{number}").into();
        config.join(&name, StorageId(number as u128), &"".into()).unwrap();
    }
    let more = config.join(&"more".into(), StorageId(99), &"".into());
    assert_eq!(more, Err(JoinError::TooMany));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_the_configuration() {
    let mut config = config(3, &["a"]);
    config.nodes[0].is_removed = true;
    let golden =
        "01000000030000000100000001610000000000000000000000000000000100000006613a3730303001";
    assert_eq!(hex(&config.encode()), golden);
    assert_eq!(NodesConfig::decode(config.encode()).unwrap(), config);
    config.format = CLUSTER_FORMAT;
    config.nodes[0].is_drained = true;
    let golden =
        "02000000030000000100000001610000000000000000000000000000000100000006613a3730303003";
    assert_eq!(hex(&config.encode()), golden);
    assert_eq!(NodesConfig::decode(config.encode()).unwrap(), config);
    let newer = Bytes::from_static(&[3, 0, 0, 0, 0]);
    assert_eq!(NodesConfig::decode(newer), Err(DecodeError::NewerFormat(3)));
}

fn requests() -> Vec<NodeRequest> {
    let change = Change { key: "k".into(), value: None, expected: Expected::Absent };
    let command = Command { client: ClientId(1), since: 2, request: 3, changes: vec![change] };
    vec![
        NodeRequest::Probe,
        NodeRequest::Reserve { provision: 5 },
        NodeRequest::Join { name: "a".into(), storage: StorageId(7), address: "a:1".into() },
        NodeRequest::Change(command),
        NodeRequest::Get { key: "k".into() },
        NodeRequest::List { prefix: "p".into(), after: "".into() },
        NodeRequest::Refused { reason: "r".into() },
        NodeRequest::Status,
        NodeRequest::Base,
        NodeRequest::GetAll { keys: vec!["k".into(), "l".into()] },
        NodeRequest::Relay(Box::new(NodeRequest::Get { key: "k".into() })),
        NodeRequest::HandOver { to: "a".into() },
        NodeRequest::Clock,
        NodeRequest::Control(Bytes::from_static(b"{}")),
    ]
}

fn answers() -> Vec<NodeAnswer> {
    let base = Base { segment: 4, bytes: 9 };
    let row = Row { version: 2, value: Some(Bytes::from_static(b"v")) };
    vec![
        NodeAnswer::Done,
        NodeAnswer::Refused("no".into()),
        NodeAnswer::Unavailable("later".into()),
        NodeAnswer::NotLeader { leader: None },
        NodeAnswer::NotLeader { leader: Some("b".into()) },
        NodeAnswer::Unknown,
        NodeAnswer::Probed { cluster: 6, incarnation: 1 },
        NodeAnswer::Joined {
            cluster: 6,
            peers: vec![Peer { name: "a".into(), address: "a:1".into() }],
            base,
        },
        NodeAnswer::Outcome(Outcome::Full),
        NodeAnswer::Rows { rows: vec![("k".into(), row)], more: true },
        NodeAnswer::Status(Bytes::from_static(b"{}")),
        NodeAnswer::Base(base),
        NodeAnswer::Clock { unix_ms: 7 },
        NodeAnswer::Control(Bytes::from_static(b"{}")),
    ]
}

const REQUESTS: [&str; 14] = [
    "0101",
    "010200000000000000000000000000000005",
    "010300000001610000000000000000000000000000000700000003613a31",
    "0104000000300100000001000000000000000000000000000000010000000000000002000000000000000300000001000000016b0100",
    "0105000000016b",
    "0106000000017000000000",
    "01070000000172",
    "0108",
    "0109",
    "010a00000002000000016b000000016c",
    "0110000000070105000000016b",
    "010b0000000161",
    "010c",
    "010d000000027b7d",
];
const ANSWERS: [&str; 14] = [
    "0101",
    "0102000000026e6f",
    "0103000000056c61746572",
    "010400000000",
    "01040000000162",
    "0105",
    "01060000000000000000000000000000000600000001",
    "0107000000000000000000000000000000060000000000000004000000000000000900000001000000016100000003613a31",
    "01080000000104",
    "01090100000001000000016b0000000000000002010000000176",
    "010a000000027b7d",
    "010b00000000000000040000000000000009",
    "010c0000000000000007",
    "010d000000027b7d",
];

#[test]
fn golden_bytes_of_requests_and_answers() {
    let requests: Vec<_> = requests().iter().map(|request| hex(&request.encode())).collect();
    assert_eq!(requests, REQUESTS);
    let answers: Vec<_> = answers().iter().map(|answer| hex(&answer.encode())).collect();
    assert_eq!(answers, ANSWERS);
}

#[test]
fn requests_and_answers_round_trip_and_no_shorter_bytes_decode() {
    for request in requests() {
        let bytes = request.encode();
        assert_eq!(NodeRequest::decode(bytes.clone()).unwrap(), request);
        for len in 0..bytes.len() {
            assert!(NodeRequest::decode(bytes.slice(..len)).is_err(), "{request:?}, {len}");
        }
    }
    for answer in answers() {
        let bytes = answer.encode();
        assert_eq!(NodeAnswer::decode(bytes.clone()).unwrap(), answer);
        for len in 0..bytes.len() {
            assert!(NodeAnswer::decode(bytes.slice(..len)).is_err(), "{answer:?}, {len}");
        }
    }
}

#[test]
fn a_relayed_request_is_not_relayed_again() {
    let once = NodeRequest::Relay(Box::new(NodeRequest::Probe));
    let twice = NodeRequest::Relay(Box::new(once)).encode();
    let unknown = DecodeError::UnknownKind { what: "a relayed request", tag: 16 };
    assert_eq!(NodeRequest::decode(twice), Err(unknown));
}

proptest! {
    #[test]
    fn other_bytes_are_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for first in [0, 1, 2] {
            if let Some(format) = bytes.first_mut() {
                *format = first;
            }
            let bytes = Bytes::from(bytes.clone());
            let _ = NodeRequest::decode(bytes.clone());
            let _ = NodeAnswer::decode(bytes.clone());
            let _ = NodesConfig::decode(bytes);
        }
    }

    /// Mutated bytes are an error, or another value.
    #[test]
    fn mutated_bytes_never_panic(
        which in any::<prop::sample::Index>(), changes: Vec<(prop::sample::Index, u8)>,
        cut in any::<prop::sample::Index>(),
    ) {
        let mutated = |bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            for (at, with) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *with;
            }
            bytes.truncate(cut.index(2 * bytes.len() + 1));
            Bytes::from(bytes)
        };
        let (requests, answers) = (requests(), answers());
        if let Ok(read) = NodeRequest::decode(mutated(which.get(&requests).encode())) {
            prop_assert_eq!(NodeRequest::decode(read.encode()).unwrap(), read);
        }
        if let Ok(read) = NodeAnswer::decode(mutated(which.get(&answers).encode())) {
            prop_assert_eq!(NodeAnswer::decode(read.encode()).unwrap(), read);
        }
        if let Ok(read) = NodesConfig::decode(mutated(config(3, &["a", "b"]).encode())) {
            prop_assert_eq!(NodesConfig::decode(read.encode()).unwrap(), read);
        }
    }
}
