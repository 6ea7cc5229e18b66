//! Rows on disk equal their model after any writes and crashes.

use forebay_engine::consensus::{GroupRows, Seal};
use omnipaxos::ballot_leader_election::Ballot;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(usize, u8),
    Truncate(u64),
    Decide(u64),
    Promise(u32),
    Round(u32),
    Adopted,
    Peer(u128),
    Forget(u128),
    /// Ends the segment.
    Seal(bool),
    Drop,
    Rebase(u64),
    Crash,
    Torn(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..700_usize, any::<u8>()).prop_map(|(len, fill)| Step::Append(len, fill)),
        2 => (0..4_u64).prop_map(Step::Truncate),
        3 => (0..4_u64).prop_map(Step::Decide),
        1 => any::<u32>().prop_map(Step::Promise),
        1 => any::<u32>().prop_map(Step::Round),
        1 => Just(Step::Adopted),
        1 => (0..4_u128).prop_map(Step::Peer),
        1 => (0..4_u128).prop_map(Step::Forget),
        2 => any::<bool>().prop_map(Step::Seal),
        2 => Just(Step::Drop),
        1 => (0..50_u64).prop_map(Step::Rebase),
        1 => Just(Step::Crash),
        1 => any::<u64>().prop_map(Step::Torn),
    ]
}

fn ballot(n: u32) -> Ballot {
    Ballot { config_id: 1, n, priority: 0, pid: 2 }
}

/// The writes of a step, given these rows.
fn writes_of(step: &Step, rows: &GroupRows) -> Vec<Write> {
    let recovered = rows.recover();
    let current = recovered.segments.last().unwrap();
    let end = rows.end();
    let hash = recovered.rows.last().map_or(current.base_hash, |row| row.hash);
    match *step {
        Step::Append(len, fill) => vec![Write::Append { index: end, row: row(hash, len, fill) }],
        Step::Truncate(back) => {
            // Rows of a sealed segment are never cut off.
            let least = rows.decided().max(current.base);
            vec![Write::Truncate { from: end.saturating_sub(back).max(least) }]
        }
        Step::Decide(more) => vec![Write::Decided((rows.decided() + more).min(end))],
        Step::Promise(n) => vec![Write::Promise(ballot(n))],
        Step::Round(n) => vec![Write::Round(ballot(n))],
        Step::Adopted => vec![Write::Adopted(recovered.adopted + 1)],
        Step::Peer(storage) => vec![Write::Peer(memory(storage, end))],
        Step::Forget(storage) => vec![Write::Forget(StorageId(storage))],
        Step::Seal(votes) => {
            let seal = Seal { members: current.members.clone(), version: end };
            let entry = Entry::Seal(seal.clone());
            let hash = hash.after(&entry);
            let segment = Box::new(current.next(&seal, end + 1, hash));
            vec![
                Write::Append { index: end, row: Row { entry, hash } },
                Write::Decided(end + 1),
                Write::Segment { segment, votes },
            ]
        }
        Step::Drop => vec![Write::Drop { below: rows.newest().saturating_sub(1) }],
        Step::Rebase(_) | Step::Crash | Step::Torn(_) => Vec::new(),
    }
}

fn check(site: &Site, rows: &GroupRows) {
    assert_eq!(site.groups.recover(1).unwrap(), rows.recover());
    let (base, end) = (rows.base(), rows.end());
    let found = site.groups.read(1, base, end, usize::MAX).unwrap();
    assert_eq!(found, rows.read(base, end, usize::MAX));
    let middle = base + (end - base) / 2;
    assert_eq!(site.groups.read(1, middle, end, 900).unwrap(), rows.read(middle, end, 900));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn rows_on_disk_are_those_of_the_model(
        steps in proptest::collection::vec((step(), any::<bool>()), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site::open(dir.path());
        let first = segment(3);
        site.groups.begin_group(1, first.clone(), true).unwrap();
        let mut rows = GroupRows::new(first.clone(), true);
        for (step, reads) in steps {
            match step {
                Step::Rebase(ahead) => {
                    let (number, base) = (rows.newest() + 1, rows.end() + ahead);
                    let segment = Segment { number, base, ..first.clone() };
                    site.groups.begin_group(1, segment.clone(), false).unwrap();
                    rows.rebase(segment, false);
                }
                Step::Crash => {
                    drop(site);
                    site = Site::open(dir.path());
                }
                Step::Torn(cells) => {
                    let writes = writes_of(&Step::Append(2_000, 7), &rows);
                    site.faults.plan(1, JournalFault::Torn { cells });
                    site.groups.commit(&[GroupWrites { group: 1, writes: &writes }]).unwrap_err();
                    if site.faults.is_last_whole() {
                        writes.into_iter().for_each(|write| rows.apply(write));
                    }
                    drop(site);
                    site = Site::open(dir.path());
                }
                step => {
                    let writes = writes_of(&step, &rows);
                    site.commit(1, &writes);
                    writes.into_iter().for_each(|write| rows.apply(write));
                }
            }
            if reads {
                check(&site, &rows);
            }
        }
        drop(site);
        check(&Site::open(dir.path()), &rows);
    }
}
