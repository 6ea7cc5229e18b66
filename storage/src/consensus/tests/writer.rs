//! The thread that syncs.

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Persisted(u32, u64),
    Stopped(String),
}

struct TestListener(Sender<Event>);

impl Listener for TestListener {
    fn persisted(&mut self, group: u32, upto: u64) {
        let _ = self.0.send(Event::Persisted(group, upto));
    }

    fn stopped(&mut self, why: &ConsensusError) {
        let _ = self.0.send(Event::Stopped(why.to_string()));
    }
}

fn spawn(site: &Site) -> (Writer, Receiver<Event>) {
    for group in 1..=3 {
        site.groups.begin_group(group, segment(3), true).unwrap();
    }
    let (sender, events) = unbounded();
    (Writer::spawn(Arc::clone(&site.groups), TestListener(sender)).unwrap(), events)
}

/// Writes one row after another to three groups in turn.
struct Load {
    hash: RunningHash,
    next: u64,
}

impl Load {
    fn write(&mut self, writer: &Writer) {
        let writes = appends(self.next, self.hash, 1, 50);
        let Some(Write::Append { row, .. }) = writes.last() else { panic!() };
        self.hash = row.hash;
        self.next += 1;
        for group in 1..=3 {
            writer.write(group, self.next, writes.clone());
        }
    }
}

#[test]
fn waiting_writes_of_all_groups_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    let (writer, events) = spawn(&site);
    let mut load = Load { hash: RunningHash::default(), next: 0 };
    let before = site.faults.blocks();
    let (release, slow) = unbounded();
    site.faults.plan(1, JournalFault::Slow(slow));
    load.write(&writer);
    while site.faults.blocks() == before {
        std::thread::yield_now();
    }
    assert!(events.is_empty(), "nothing is reported before its sync");
    for _ in 0..20 {
        load.write(&writer);
    }
    release.send(()).unwrap();
    drop(writer);
    let events: Vec<_> = events.iter().collect();
    for group in 1..=3 {
        let is_mine = |events: &&Event| matches!(events, Event::Persisted(of, _) if *of == group);
        let last = events.iter().rfind(is_mine);
        assert_eq!(last, Some(&Event::Persisted(group, 21)), "{events:?}");
        assert_eq!(site.groups.recover(group).unwrap().rows.len(), 21);
    }
    // The first sync may have contained writes of one group only.
    let syncs = site.faults.blocks() - before;
    assert!((2..=3).contains(&syncs), "{syncs} syncs for 63 writes");
}

#[test]
fn a_failed_sync_stops_all_groups_once_with_the_reason() {
    for fault in [JournalFault::Lost, JournalFault::Unanswered, JournalFault::Torn { cells: 1 }] {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::open(dir.path());
        let (writer, events) = spawn(&site);
        let mut load = Load { hash: RunningHash::default(), next: 0 };
        site.faults.plan(1, fault);
        load.write(&writer);
        let Event::Stopped(why) = events.recv().unwrap() else { panic!("nothing is durable") };
        assert!(why.contains("write consensus rows") && why.contains("injected"), "{why}");
        load.write(&writer);
        let error = site
            .groups
            .commit(&[GroupWrites { group: 1, writes: &appends(0, RunningHash::default(), 1, 1) }]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("accepts no writes after one failed"), "{error}");
        let error = site.log.fence(forebay_messages::PartitionId(1), forebay_messages::Epoch(1));
        assert!(error.is_err(), "the log is in the same journal");
        drop(writer);
        assert!(events.iter().next().is_none(), "it is reported once");
    }
}

#[test]
fn a_write_with_a_gap_stops_the_groups_and_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    let (writer, events) = spawn(&site);
    writer.write(1, 1, appends(7, RunningHash::default(), 1, 1));
    let Event::Stopped(why) = events.recv().unwrap() else { panic!("it was written") };
    assert!(why.contains("a row is appended at the end"), "{why}");
    drop(writer);
    assert!(site.groups.recover(1).unwrap().rows.is_empty());
}

#[test]
fn dropping_the_writer_waits_for_its_writes() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::open(dir.path());
    let (writer, events) = spawn(&site);
    let mut load = Load { hash: RunningHash::default(), next: 0 };
    for _ in 0..50 {
        load.write(&writer);
    }
    drop(writer);
    assert_eq!(events.iter().last(), Some(Event::Persisted(3, 50)));
    drop(site);
    let site = Site::open(dir.path());
    assert_eq!(site.groups.recover(3).unwrap().rows.len(), 50);
}
