//! How far the log may be trimmed.
//!
//! Must always hold: never above the position that every replica has in files; never while a
//! snapshot is being taken.

use std::collections::BTreeMap;

use forebay_messages::{Lsn, PartitionId};

/// Which records the log keeps beyond the ones that a restart needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrimLog {
    /// Nothing: records are dropped once their rows are in the files of every replica.
    #[default]
    Flushed,
    /// Everything since the newest snapshot: if the rows are lost or damaged, that snapshot and the
    /// log restore everything. Without a snapshot it keeps all records.
    Snapshotted,
    /// Everything.
    Never,
}

/// The records to keep.
pub(super) struct Trimming {
    policy: TrimLog,
    /// Number of snapshots being taken.
    holds: u32,
    snapshots: BTreeMap<PartitionId, Lsn>,
}

impl Trimming {
    pub(super) fn new(policy: TrimLog) -> Self {
        Self { policy, holds: 0, snapshots: BTreeMap::new() }
    }

    /// Last position to trim, given that everything up to `durable` is in files everywhere; 0 for
    /// nothing.
    pub(super) fn through(&self, partition: PartitionId, durable: Lsn) -> Lsn {
        let snapshot = self.snapshots.get(&partition).copied().unwrap_or_default();
        match self.policy {
            _ if self.holds > 0 => Lsn::default(),
            TrimLog::Flushed => durable,
            TrimLog::Snapshotted => durable.min(snapshot),
            TrimLog::Never => Lsn::default(),
        }
    }

    pub(super) fn hold(&mut self) {
        self.holds += 1;
    }

    pub(super) fn release(&mut self) {
        self.holds = self.holds.checked_sub(1).expect("a hold is released once");
    }

    pub(super) fn snapshotted(&mut self, partition: PartitionId, through: Lsn) {
        let known = self.snapshots.entry(partition).or_default();
        *known = through.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(1);

    #[test]
    fn each_policy_keeps_what_it_says() {
        let mut flushed = Trimming::new(TrimLog::Flushed);
        let mut snapshotted = Trimming::new(TrimLog::Snapshotted);
        let never = Trimming::new(TrimLog::Never);
        let through = |trimming: &Trimming| trimming.through(P, Lsn(9)).0;
        assert_eq!((through(&flushed), through(&snapshotted), through(&never)), (9, 0, 0));
        snapshotted.snapshotted(P, Lsn(5));
        snapshotted.snapshotted(P, Lsn(3));
        assert_eq!(through(&snapshotted), 5);
        flushed.hold();
        flushed.hold();
        flushed.release();
        assert_eq!(through(&flushed), 0, "a snapshot is still being taken");
        flushed.release();
        assert_eq!(through(&flushed), 9);
    }
}
