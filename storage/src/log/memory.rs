//! A log in memory, for tests and for runtimes without persistence.
//!
//! Must always hold: it answers as the local log does. It distinguishes synced from unsynced
//! records, so that a test can crash it: [`MemoryLog::crash`] drops the unsynced ones.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use forebay_messages::{Epoch, Lsn, PartitionId, Record};

use super::{
    Append, Appended, Batch, LogError, LogId, LogStats, LogStore, Position, RECORD_LEN_MAX,
    stats::Counters,
};
use crate::sync;

/// The name used in errors.
const NAME: &str = "(memory)";

/// A log in memory. Share it (in an `Arc`) so that a restarted runtime finds it again.
#[derive(Debug)]
pub struct MemoryLog {
    partitions: Mutex<BTreeMap<PartitionId, Partition>>,
    identity: Mutex<Option<LogId>>,
    /// Appends are answered without being synced.
    sync_withheld: AtomicBool,
    counters: Counters,
    record_len_max: usize,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::with_record_len_max(RECORD_LEN_MAX)
    }
}

#[derive(Debug, Default)]
struct Partition {
    position: Position,
    /// The state that survives a crash. Trimming counts as durable at once.
    durable: Position,
    /// The records after `position.trimmed`, through `position.end`.
    records: VecDeque<Arc<Record>>,
}

impl Partition {
    fn sync(&mut self) {
        self.durable = self.position;
    }

    fn crash(&mut self) {
        let lost = self.position.end.0 - self.durable.end.0;
        let kept = self.records.len() - usize::try_from(lost).expect("they are in memory");
        self.records.truncate(kept);
        self.position = self.durable;
    }
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log with another limit for its records, in bytes as stored.
    #[must_use]
    pub fn with_record_len_max(record_len_max: usize) -> Self {
        Self {
            partitions: Mutex::default(),
            identity: Mutex::default(),
            sync_withheld: AtomicBool::default(),
            counters: Counters::default(),
            record_len_max,
        }
    }

    /// Refuses a call with a record that is too large before anything of it is written. Records of
    /// a fenced-off append are not examined, as in the local log.
    fn check_lengths(
        &self,
        partitions: &BTreeMap<PartitionId, Partition>,
        appends: &[Append<'_>],
    ) -> Result<(), LogError> {
        let len_max = self.record_len_max;
        let mut fences = BTreeMap::new();
        for append in appends {
            let partition = append.partition;
            let fence = fences.entry(partition).or_insert_with(|| {
                partitions.get(&partition).map(|known| known.position.fence).unwrap_or_default()
            });
            if append.epoch < *fence {
                continue;
            }
            *fence = append.epoch;
            let mut lens = append.records.iter().map(|record| record.stored_len());
            if let Some(len) = lens.find(|len| *len > len_max) {
                return Err(LogError::TooLarge { partition, len, len_max });
            }
        }
        Ok(())
    }

    /// Simulates a disk that lies: while this is on, appends and fences are answered although none
    /// of them survives a [`Self::crash`]. Switching it off syncs.
    pub fn withhold_sync(&self, withheld: bool) {
        self.sync_withheld.store(withheld, Ordering::Relaxed);
        if !withheld {
            self.sync();
        }
    }

    /// Makes everything durable.
    pub fn sync(&self) {
        sync::lock(&self.partitions).values_mut().for_each(Partition::sync);
    }

    /// Simulates a power failure: everything that was not synced is gone.
    pub fn crash(&self) {
        sync::lock(&self.partitions).values_mut().for_each(Partition::crash);
    }

    fn with<T>(&self, partition: PartitionId, f: impl FnOnce(&mut Partition) -> T) -> T {
        f(sync::lock(&self.partitions).entry(partition).or_default())
    }

    fn synced(&self) -> bool {
        !self.sync_withheld.load(Ordering::Relaxed)
    }
}

impl LogStore for MemoryLog {
    fn identity(&self) -> Result<Option<LogId>, LogError> {
        Ok(*sync::lock(&self.identity))
    }

    fn identify(&self, id: LogId) -> Result<LogId, LogError> {
        Ok(*sync::lock(&self.identity).get_or_insert(id))
    }

    fn append(&self, appends: &[Append<'_>]) -> Result<Vec<Appended>, LogError> {
        let mut partitions = sync::lock(&self.partitions);
        self.check_lengths(&partitions, appends)?;
        let mut answers = Vec::with_capacity(appends.len());
        let (mut records, mut bytes, mut wrote) = (0, 0, false);
        for append in appends {
            let partition = partitions.entry(append.partition).or_default();
            let position = &mut partition.position;
            if append.epoch < position.fence {
                answers.push(Appended::Fenced { current: position.fence });
                continue;
            }
            answers.push(Appended::At(position.end.next()));
            wrote |= append.epoch > position.fence || !append.records.is_empty();
            position.fence = append.epoch;
            for record in append.records {
                position.end = position.end.next();
                partition.records.push_back(Arc::clone(record));
                bytes += record.stored_len();
            }
            records += append.records.len();
            if self.synced() {
                partition.sync();
            }
        }
        if wrote {
            self.counters.wrote(records as u64, bytes as u64);
        }
        Ok(answers)
    }

    fn fence(&self, partition: PartitionId, epoch: Epoch) -> Result<Epoch, LogError> {
        let synced = self.synced();
        let fence = self.with(partition, |partition| {
            if epoch > partition.position.fence {
                partition.position.fence = epoch;
                if synced {
                    partition.sync();
                }
                self.counters.wrote(0, 0);
            }
            partition.position.fence
        });
        Ok(fence)
    }

    fn fenced(&self, partition: PartitionId) -> Epoch {
        self.with(partition, |partition| partition.position.fence)
    }

    fn read(
        &self,
        partition: PartitionId,
        from: Lsn,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Batch, LogError> {
        let requested = from.max(Lsn(1));
        self.with(partition, |log| {
            let first = log.position.trimmed.next();
            if requested < first {
                let log = NAME.to_owned();
                return Err(LogError::Trimmed { log, partition, requested, first });
            }
            let skip = usize::try_from(requested.0 - first.0).unwrap_or(usize::MAX);
            let mut batch = Batch::new();
            let mut bytes = 0;
            for (i, record) in log.records.iter().enumerate().skip(skip) {
                if batch.len() >= limit_records.max(1) || (bytes >= limit_bytes && bytes > 0) {
                    break;
                }
                bytes += record.stored_len();
                batch.push((Lsn(first.0 + i as u64), Arc::clone(record)));
            }
            Ok(batch)
        })
    }

    fn end(&self, partition: PartitionId) -> Lsn {
        self.with(partition, |partition| partition.position.end)
    }

    fn trim(&self, partition: PartitionId, through: Lsn) -> Result<(), LogError> {
        self.with(partition, |log| {
            let end = log.position.end;
            if through > end {
                let name = NAME.to_owned();
                return Err(LogError::BeyondEnd { log: name, partition, requested: through, end });
            }
            while log.position.trimmed < through {
                log.position.trimmed = log.position.trimmed.next();
                log.records.pop_front();
            }
            // Only durable records may be trimmed, so this keeps `durable` in order.
            log.durable.trimmed = log.position.trimmed;
            log.durable.end = log.durable.end.max(log.position.trimmed);
            Ok(())
        })
    }

    fn trimmed(&self, partition: PartitionId) -> Lsn {
        self.with(partition, |partition| partition.position.trimmed)
    }

    fn record_len_max(&self) -> usize {
        self.record_len_max
    }

    fn stats(&self) -> LogStats {
        self.counters.read()
    }
}
