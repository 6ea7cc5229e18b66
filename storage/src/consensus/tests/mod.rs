//! Rows of groups compared with their model, after crashes, torn blocks and damage.

mod damage;
mod model;
mod writer;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use forebay_engine::consensus::{
    Barrier, Entry, Member, PeerMemory, Row, RunningHash, Segment, Standing, StorageId, Write,
};

use super::*;
use crate::{
    Medium,
    fault::{JournalFault, JournalFaults},
    log::LogStore,
};

/// An open data directory.
struct Site {
    groups: Arc<Groups>,
    faults: Arc<JournalFaults>,
    log: LocalLog,
    #[expect(dead_code, reason = "it holds the lock")]
    data: DataDir,
}

fn start(nonce: u64) -> Start<'static> {
    Start { name: "node-1", fresh_storage: StorageId(77), nonce }
}

impl Site {
    fn try_open(path: &Path, start: &Start<'_>) -> Result<Self, ConsensusError> {
        let data = DataDir::open(path).unwrap();
        let log = LocalLog::open_small(&data.log(), &Medium::crashing_disk())?;
        let faults = Arc::new(JournalFaults::new());
        let groups = Arc::new(Groups::start(&data, &log, start)?);
        log.set_journal_faults(&faults);
        Ok(Self { groups, faults, log, data })
    }

    fn open(path: &Path) -> Self {
        Self::try_open(path, &start(5)).unwrap()
    }

    fn commit(&self, group: u32, writes: &[Write]) {
        self.groups.commit(&[GroupWrites { group, writes }]).unwrap();
    }
}

fn segment(members: u128) -> Segment {
    let member = |at| Member { name: format!("node-{at}").into(), storage: StorageId(at) };
    Segment::first(9, 1, (1..=members).map(member).collect())
}

/// A row that follows the history with this hash.
fn row(before: RunningHash, len: usize, fill: u8) -> Row {
    let entry = Entry::Block(Bytes::from(vec![fill; len]));
    let hash = before.after(&entry);
    Row { entry, hash }
}

/// Appends of consecutive rows.
fn appends(mut index: u64, mut hash: RunningHash, count: usize, len: usize) -> Vec<Write> {
    let mut writes = Vec::new();
    for n in 0..count {
        let row = row(hash, len, n as u8);
        hash = row.hash;
        writes.push(Write::Append { index, row });
        index += 1;
    }
    writes
}

fn memory(storage: u128, accepted: u64) -> PeerMemory {
    let standing = Standing { accepted, ..Standing::default() };
    PeerMemory { storage: StorageId(storage), boot: 1, nonce: 2, standing }
}

#[test]
fn golden_keys() {
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let all = [
        hex(keys::IDENTITY),
        hex(&keys::of_group(keys::Kind::Adopted, 0x0102)),
        hex(&keys::of_group(keys::Kind::Decided, 0x0102)),
        hex(&keys::numbered(keys::Kind::Entry, 0x0102, 0x0304)),
        hex(&keys::memory(0x0102, StorageId(0x0506))),
        hex(&keys::of_group(keys::Kind::Promise, 0x0102)),
        hex(&keys::of_group(keys::Kind::Round, 0x0102)),
        hex(&keys::numbered(keys::Kind::Segment, 0x0102, 0x0304)),
        hex(&keys::end_of_group(keys::Kind::Entry, u32::MAX)),
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
    6369
    636100000102
    636400000102
    6365000001020000000000000304
    636d0000010200000000000000000000000000000506
    637000000102
    637200000102
    6373000001020000000000000304
    6366
    ");
}

#[test]
fn golden_identity() {
    let node = Node { name: "node".into(), storage: StorageId(0x0102), boot: 3, nonce: 4 };
    let hex: String = node.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    insta::assert_snapshot!(
        hex,
        @"0100000000000000000000000000000102000000000000000300000000000000046e6f6465"
    );
    assert_eq!(Node::decode(&node.encode()).unwrap(), node);
}

#[test]
fn each_start_is_counted_and_the_directory_keeps_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    for boot in 1..4 {
        let fresh_storage = StorageId(100 + u128::from(boot));
        let begun = Start { name: "node-1", fresh_storage, nonce: boot * 10 };
        let site = Site::try_open(dir.path(), &begun).unwrap();
        let node = site.groups.node();
        assert_eq!((node.storage, node.boot, node.nonce), (StorageId(101), boot, boot * 10));
        // The start is durable although the process crashes here.
    }
}

#[test]
fn a_directory_of_another_node_is_refused_and_the_start_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    drop(Site::open(dir.path()));
    let other = Start { name: "node-2", ..start(6) };
    let Err(error) = Site::try_open(dir.path(), &other) else { panic!("it is node-1's") };
    assert!(error.to_string().contains("belongs to the node `node-1`"), "{error}");
    let nameless = Start { name: "", ..start(6) };
    let Err(error) = Site::try_open(dir.path(), &nameless) else { panic!("it has no name") };
    assert!(matches!(error, ConsensusError::BadName { len: 0, .. }), "{error}");
    assert_eq!(Site::open(dir.path()).groups.node().boot, 2);
}

/// An old directory opens, and an older forebay refuses it only once it has consensus rows.
#[test]
fn the_format_is_raised_by_the_first_start_with_groups() {
    let dir = tempfile::tempdir().unwrap();
    let format = || std::fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let log = LocalLog::open(&data.log(), &Medium::disk()).unwrap();
    let partition = forebay_messages::PartitionId(3);
    log.fence(partition, forebay_messages::Epoch(8)).unwrap();
    drop((log, data));
    assert_eq!(format(), "forebay data directory, version 1\n", "a node alone stays as it was");
    let site = Site::open(dir.path());
    assert_eq!(site.log.fenced(partition), forebay_messages::Epoch(8));
    drop(site);
    assert_eq!(format(), "forebay data directory, version 2\n");
    drop(DataDir::open(dir.path()).unwrap());
    assert_eq!(format(), "forebay data directory, version 2\n");
}

#[test]
fn a_node_alone_has_no_rows_of_consensus() {
    let dir = tempfile::tempdir().unwrap();
    let log = LocalLog::open(dir.path(), &Medium::disk()).unwrap();
    log.fence(forebay_messages::PartitionId(1), forebay_messages::Epoch(1)).unwrap();
    log.identify(crate::log::LogId(4)).unwrap();
    log.finish_appends().unwrap();
    let mut rows = log.database().db().raw_iterator();
    rows.seek(b"c");
    assert!(rows.key().is_none_or(|key| key[0] != b'c'), "{:?}", rows.key());
}

#[test]
fn the_writes_of_all_groups_go_with_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    for group in 1..=3 {
        site.groups.begin_group(group, segment(3), true).unwrap();
    }
    let before = site.faults.blocks();
    let writes = appends(0, RunningHash::default(), 20, 100);
    let all: Vec<_> = (1..=3).map(|group| GroupWrites { group, writes: &writes }).collect();
    site.groups.commit(&all).unwrap();
    assert_eq!(site.faults.blocks(), before + 1);
    drop(site);
    let site = Site::open(dir.path());
    assert_eq!(site.groups.groups(), [1, 2, 3]);
    for group in 1..=3 {
        assert_eq!(site.groups.recover(group).unwrap().rows.len(), 20);
    }
}

/// Every possible tear of a block that contains writes of two groups.
#[test]
fn a_torn_block_has_all_writes_of_all_groups_or_none() {
    let writes = appends(0, RunningHash::default(), 4, 200);
    let mut whole = 0;
    for cells in 0..16_u64 {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::open(dir.path());
        for group in 1..=2 {
            site.groups.begin_group(group, segment(3), true).unwrap();
        }
        site.faults.plan(1, JournalFault::Torn { cells: cells | u64::MAX << 4 });
        let all: Vec<_> = (1..=2).map(|group| GroupWrites { group, writes: &writes }).collect();
        site.groups.commit(&all).unwrap_err();
        let is_whole = site.faults.is_last_whole();
        whole += u32::from(is_whole);
        drop(site);
        let site = Site::open(dir.path());
        for group in 1..=2 {
            let rows = site.groups.recover(group).unwrap().rows.len();
            assert_eq!(rows, if is_whole { 4 } else { 0 }, "cells {cells:b}");
        }
    }
    assert_eq!(whole, 1);
}

#[test]
fn sealed_segments_are_dropped_as_wholes_and_are_gone_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    let first = segment(1);
    site.groups.begin_group(1, first.clone(), true).unwrap();
    let mut segments = vec![first];
    let mut hash = RunningHash::default();
    for _ in 0..3 {
        let current = segments.last().unwrap().clone();
        let mut writes = appends(current.base, hash, 10, 300);
        let Some(Write::Append { row, .. }) = writes.last() else { panic!() };
        hash = row.hash;
        let seal = forebay_engine::consensus::Seal { members: current.members.clone(), version: 1 };
        let next = current.next(&seal, current.base + 10, hash);
        writes.push(Write::Decided(current.base + 10));
        writes.push(Write::Segment { segment: Box::new(next.clone()), votes: true });
        site.commit(1, &writes);
        segments.push(next);
    }
    site.commit(1, &[Write::Drop { below: 3 }]);
    let check = |site: &Site| {
        let error = site.groups.read(1, 5, 15, usize::MAX).unwrap_err();
        assert!(matches!(error, ConsensusError::Gone { index: 5, oldest: 20, .. }), "{error}");
        assert_eq!(site.groups.read(1, 20, 30, usize::MAX).unwrap().len(), 10);
        let recovered = site.groups.recover(1).unwrap();
        assert_eq!(recovered.segments, segments[2..]);
        let mut rows = site.log.database().db().raw_iterator();
        rows.seek(keys::of_group(keys::Kind::Entry, 1));
        assert_eq!(keys::number_in(keys::Kind::Entry, rows.key().unwrap()), Some(20));
    };
    check(&site);
    drop(site);
    check(&Site::open(dir.path()));
}

#[test]
fn reading_stops_at_its_limits_and_checks_the_history_before() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    site.groups.begin_group(1, segment(3), true).unwrap();
    site.commit(1, &appends(0, RunningHash::default(), 10, 100));
    let read = |first, end, bytes| site.groups.read(1, first, end, bytes).unwrap().len();
    assert_eq!(read(0, 10, usize::MAX), 10);
    assert_eq!(read(4, 9, usize::MAX), 5);
    assert_eq!(read(4, 9, 0), 1, "one row at least");
    assert_eq!(read(4, 9, 400), 2);
    assert_eq!(read(9, 90, usize::MAX), 1);
    assert_eq!((read(10, 90, 1), read(12, 90, 1), read(5, 5, 1)), (0, 0, 0));
    let error = site.groups.read(2, 0, 1, 1).unwrap_err();
    assert!(matches!(error, ConsensusError::NoGroup { group: 2 }), "{error}");
}

#[test]
fn data_about_peers_is_kept_when_a_group_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    site.groups.begin_group(1, segment(3), true).unwrap();
    let mut writes = appends(0, RunningHash::default(), 3, 10);
    writes.push(Write::Peer(memory(2, 3)));
    writes.push(Write::Peer(memory(3, 3)));
    writes.push(Write::Forget(StorageId(3)));
    site.commit(1, &writes);
    let next = Segment { number: 9, base: 500, base_hash: RunningHash(8), ..segment(3) };
    site.groups.begin_group(1, next.clone(), false).unwrap();
    drop(site);
    let recovered = Site::open(dir.path()).groups.recover(1).unwrap();
    assert_eq!(recovered.segments, [next]);
    assert_eq!((recovered.decided, recovered.rows.len(), recovered.votes), (500, 0, false));
    assert_eq!(recovered.peers, [memory(2, 3)]);
}

#[test]
fn after_a_lost_quorum_a_group_continues_alone_with_its_accepted_rows() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    site.groups.begin_group(1, segment(3), true).unwrap();
    let mut writes = appends(0, RunningHash::default(), 6, 10);
    writes.push(Write::Decided(2));
    site.commit(1, &writes);
    site.groups.continue_alone(1).unwrap();
    drop(site);
    let site = Site::open(dir.path());
    let recovered = site.groups.recover(1).unwrap();
    assert_eq!(recovered.segments.last().unwrap().members, [site.groups.node().member()]);
    assert_eq!((recovered.decided, recovered.votes), (6, true));
    let barrier = Entry::Barrier(Barrier { boot: 1, nonce: 2, number: 3 });
    let hash = recovered.segments[1].base_hash.after(&barrier);
    site.commit(1, &[Write::Append { index: 6, row: Row { entry: barrier, hash } }]);
    assert_eq!(site.groups.read(1, 0, 7, usize::MAX).unwrap().len(), 7);
}
