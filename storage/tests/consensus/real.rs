//! A real data directory below a disk of the simulation.
//!
//! A crash drops the database, which loses everything that is in no file, while a block of the
//! journal is lost, torn, or written without an answer.

use std::{fs, sync::Arc};

use forebay_engine::consensus::{GroupRows, Member, Recovered, Row, Segment, Write};
use forebay_storage::{
    DataDir, Medium,
    consensus::{GroupWrites, Groups, Start},
    fault::{JournalFault, JournalFaults, copy_dir},
    log::{LocalLog, LogStore},
};
use tempfile::TempDir;

use crate::random::Random;
use crate::world::GROUP;
use crate::world::disk::Backend;

#[derive(Debug)]
pub(crate) struct Real {
    dir: TempDir,
    member: Member,
    /// Segment for the next start of the group, if it must start again.
    begins: Option<(Segment, bool)>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    groups: Groups,
    faults: Arc<JournalFaults>,
    log: LocalLog,
    data: DataDir,
}

impl Backend for Real {
    fn make(member: &Member, rows: &GroupRows) -> Self {
        let Recovered { segments, votes, .. } = rows.recover();
        let begins = segments.first().map(|segment| (segment.clone(), votes));
        let dir = tempfile::tempdir().unwrap();
        Self { dir, member: member.clone(), begins, open: None }
    }

    fn open(&mut self, boot: u64, nonce: u64, rows: &GroupRows) -> Recovered {
        self.open = None;
        let data = DataDir::open(self.dir.path()).unwrap();
        let log = LocalLog::open_small(&data.log(), &Medium::crashing_disk()).unwrap();
        let faults = Arc::new(JournalFaults::new());
        log.set_journal_faults(&faults);
        let start = Start { name: &self.member.name, fresh_storage: self.member.storage, nonce };
        let groups = Groups::start(&data, &log, &start).unwrap();
        assert_eq!((groups.node().member(), groups.node().boot), (self.member.clone(), boot));
        if let Some((segment, votes)) = self.begins.take() {
            groups.begin_group(GROUP, segment, votes).unwrap();
        }
        let recovered = groups.recover(GROUP).unwrap();
        assert_eq!(recovered, rows.recover(), "{}: the rows on disk", self.member.name);
        self.open = Some(Open { groups, faults, log, data });
        recovered
    }

    fn commit(&mut self, writes: &[Write]) {
        let groups = &self.open.as_ref().unwrap().groups;
        groups.commit(&[GroupWrites { group: GROUP, writes }]).unwrap();
    }

    fn crash(&mut self, writes: &[Write], random: &mut Random) -> bool {
        let Some(open) = self.open.take() else { return false };
        if writes.is_empty() {
            return true;
        }
        let fault = match random.below(4) {
            0 => JournalFault::Lost,
            1 => JournalFault::Unanswered,
            _ => JournalFault::Torn { cells: random.next() | random.next() },
        };
        open.faults.plan(1, fault);
        let failed = open.groups.commit(&[GroupWrites { group: GROUP, writes }]);
        assert!(failed.is_err());
        let again = open.groups.commit(&[GroupWrites { group: GROUP, writes }]).unwrap_err();
        assert!(again.to_string().contains("accepts no writes after one failed"), "{again}");
        open.faults.is_last_whole()
    }

    fn read(&self, first: u64, end: u64, bytes_max: usize, expected: &[Row]) {
        let open = self.open.as_ref().unwrap();
        let rows = open.groups.read(GROUP, first, end, bytes_max).unwrap();
        assert_eq!(rows, expected, "{}: rows from {first} to {end}", self.member.name);
    }

    fn rebase(&mut self, segment: &Segment, votes: bool) {
        self.begins = Some((segment.clone(), votes));
    }

    fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        match &self.open {
            None => copy_dir(self.dir.path(), dir.path()).unwrap(),
            Some(open) => {
                let format = "FORMAT";
                fs::copy(open.data.path().join(format), dir.path().join(format)).unwrap();
                open.log.checkpoint(&dir.path().join("log")).unwrap();
            }
        }
        Self { dir, member: self.member.clone(), begins: self.begins.clone(), open: None }
    }
}
