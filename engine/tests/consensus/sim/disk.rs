//! A disk of the simulation: writes are durable when their sync ends; a crash loses the
//! others, but for some that the disk had written on its own, in order.

use std::collections::VecDeque;

use forebay_engine::consensus::{Rows, StorageId, Write};

use crate::random::Random;

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) storage: StorageId,
    /// Starts so far; durable before anything else of a start.
    pub(super) boots: u64,
    pub(super) rows: Rows,
    /// What the driver had applied and flushed.
    pub(super) applied: u64,
    unsynced: VecDeque<(u64, Vec<Write>)>,
    /// The sync that runs: up to which write, and when it ends.
    sync: Option<(u64, u64)>,
    /// Ticks that a sync takes at most.
    pub(super) sync_ticks_max: u64,
}

impl Disk {
    pub(super) fn new(storage: StorageId, rows: Rows) -> Self {
        let applied = rows.decided();
        Self {
            storage,
            boots: 0,
            rows,
            applied,
            unsynced: VecDeque::new(),
            sync: None,
            sync_ticks_max: 0,
        }
    }

    pub(super) fn write(&mut self, upto: u64, writes: Vec<Write>) {
        self.unsynced.push_back((upto, writes));
    }

    /// What became durable by now, if anything did.
    pub(super) fn turn(&mut self, now: u64, random: &mut Random) -> Option<u64> {
        if let Some((upto, at)) = self.sync {
            if now < at {
                return None;
            }
            self.sync = None;
            self.apply(upto);
            return Some(upto);
        }
        let upto = self.unsynced.back()?.0;
        let ticks =
            if self.sync_ticks_max == 0 { 0 } else { random.below(self.sync_ticks_max + 1) };
        if ticks == 0 {
            self.apply(upto);
            return Some(upto);
        }
        self.sync = Some((upto, now + ticks));
        None
    }

    fn apply(&mut self, upto: u64) {
        while self.unsynced.front().is_some_and(|(number, _)| *number <= upto) {
            let (_, writes) = self.unsynced.pop_front().unwrap();
            writes.into_iter().for_each(|write| self.rows.apply(write));
        }
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        let survive = random.below(self.unsynced.len() as u64 + 1);
        if survive > 0 && random.permille(500) {
            let upto = self.unsynced[survive as usize - 1].0;
            self.apply(upto);
        }
        self.unsynced.clear();
        self.sync = None;
    }
}
