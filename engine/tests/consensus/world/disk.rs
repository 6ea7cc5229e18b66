//! A disk of the simulation. Writes are durable when their sync ends; a crash loses later ones,
//! except a prefix that the disk happened to write.
//!
//! The rows are a model. Below it is a [`Backend`]: none, or a real storage, which must have the
//! same rows whenever it is opened.

use std::collections::VecDeque;

use forebay_engine::consensus::{GroupRows, Member, Recovered, Row, Segment, StorageId, Write};

use crate::random::Random;

/// The storage of one data directory.
pub(crate) trait Backend: Sized {
    /// A fresh data directory.
    fn make(member: &Member, rows: &GroupRows) -> Self;

    /// Opens it for start number `boot`, which must be durable afterwards, with its nonce. Returns
    /// its data: equal to `rows`, unless the disk lost data.
    fn open(&mut self, boot: u64, nonce: u64, rows: &GroupRows) -> Recovered;

    /// Makes writes durable, all or none, in one sync.
    fn commit(&mut self, writes: &[Write]);

    /// The process dies while these writes are in progress; returns whether they survive.
    fn crash(&mut self, writes: &[Write], random: &mut Random) -> bool;

    /// Reads decided rows, which must equal `expected`.
    fn read(&self, first: u64, end: u64, bytes_max: usize, expected: &[Row]);

    /// The applied state of a peer was copied: the group starts again with this segment.
    fn rebase(&mut self, segment: &Segment, votes: bool);

    /// A copy of the directory in its current state.
    fn copy(&self) -> Self;
}

/// No storage: the model is the disk.
#[derive(Debug)]
pub(crate) struct Model;

impl Backend for Model {
    fn make(_: &Member, _: &GroupRows) -> Self {
        Self
    }

    fn open(&mut self, _: u64, _: u64, rows: &GroupRows) -> Recovered {
        rows.recover()
    }

    fn commit(&mut self, _: &[Write]) {}

    fn crash(&mut self, _: &[Write], _: &mut Random) -> bool {
        true
    }

    fn read(&self, _: u64, _: u64, _: usize, _: &[Row]) {}

    fn rebase(&mut self, _: &Segment, _: bool) {}

    fn copy(&self) -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Disk<B> {
    pub(crate) storage: StorageId,
    /// Number of starts so far; durable before anything else in a start.
    pub(crate) boots: u64,
    pub(crate) rows: GroupRows,
    backend: B,
    /// End of the entries that the driver has applied and flushed.
    pub(crate) applied: u64,
    unsynced: VecDeque<(u64, Vec<Write>)>,
    /// The sync in progress: its last write, and when it ends.
    sync: Option<(u64, u64)>,
    /// Maximum number of ticks of a sync.
    pub(crate) sync_ticks_max: u64,
}

impl<B: Backend> Disk<B> {
    pub(crate) fn new(member: &Member, rows: GroupRows) -> Self {
        let applied = rows.decided();
        Self {
            storage: member.storage,
            boots: 0,
            backend: B::make(member, &rows),
            rows,
            applied,
            unsynced: VecDeque::new(),
            sync: None,
            sync_ticks_max: 0,
        }
    }

    /// The next start: its number, and the data from which the group is opened.
    pub(crate) fn open(&mut self, nonce: u64) -> (u64, Recovered) {
        self.boots += 1;
        (self.boots, self.backend.open(self.boots, nonce, &self.rows))
    }

    /// A copy of the directory in its current state, without unsynced writes.
    pub(crate) fn copy(&self) -> Self {
        Self {
            backend: self.backend.copy(),
            rows: self.rows.clone(),
            unsynced: self.unsynced.clone(),
            ..*self
        }
    }

    pub(crate) fn read(&self, first: u64, end: u64, bytes_max: usize) -> Vec<Row> {
        let rows = self.rows.read(first, end, bytes_max);
        self.backend.read(first, end, bytes_max, &rows);
        rows
    }

    pub(crate) fn rebase(&mut self, segment: Segment, votes: bool) {
        self.backend.rebase(&segment, votes);
        self.rows.rebase(segment, votes);
        self.applied = self.rows.decided();
    }

    pub(crate) fn write(&mut self, upto: u64, writes: Vec<Write>) {
        self.unsynced.push_back((upto, writes));
    }

    /// Number of the last write that became durable now, if any.
    pub(crate) fn poll_sync(&mut self, now: u64, random: &mut Random) -> Option<u64> {
        if let Some((upto, at)) = self.sync {
            if now < at {
                return None;
            }
            self.sync = None;
            self.sync(upto);
            return Some(upto);
        }
        let upto = self.unsynced.back()?.0;
        let ticks =
            if self.sync_ticks_max == 0 { 0 } else { random.below(self.sync_ticks_max + 1) };
        if ticks == 0 {
            self.sync(upto);
            return Some(upto);
        }
        self.sync = Some((upto, now + ticks));
        None
    }

    fn sync(&mut self, upto: u64) {
        let writes = self.take(upto);
        self.backend.commit(&writes);
        writes.into_iter().for_each(|write| self.rows.apply(write));
    }

    fn take(&mut self, upto: u64) -> Vec<Write> {
        let mut writes = Vec::new();
        while self.unsynced.front().is_some_and(|(number, _)| *number <= upto) {
            writes.extend(self.unsynced.pop_front().unwrap().1);
        }
        writes
    }

    pub(crate) fn crash(&mut self, random: &mut Random) {
        let survive = random.below(self.unsynced.len() as u64 + 1);
        let mut writes = Vec::new();
        if survive > 0 && random.permille(500) {
            let upto = self.unsynced[survive as usize - 1].0;
            writes = self.take(upto);
        }
        if self.backend.crash(&writes, random) {
            writes.into_iter().for_each(|write| self.rows.apply(write));
        }
        self.unsynced.clear();
        self.sync = None;
    }
}
