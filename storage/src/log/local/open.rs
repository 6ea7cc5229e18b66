//! Finding the position of every partition when a log is opened.
//!
//! Must always hold: a partition whose first records are missing does not open.

use std::path::Path;

use forebay_messages::{Epoch, Lsn, PartitionId};
use rocksdb::{DB, ReadOptions};

use super::{FENCE, Positions, RECORD, TRIM, decode_record_key, record_key};
use crate::{
    Fault,
    log::{Damage, LogError, Position},
};

/// Finds the position of every partition when a log is opened.
pub(super) struct Opening<'a> {
    pub(super) db: &'a DB,
    pub(super) name: &'a str,
    pub(super) path: &'a Path,
}

impl Opening<'_> {
    pub(super) fn positions(&self) -> Result<Positions, LogError> {
        let mut positions = Positions::new();
        for (partition, epoch) in self.rows(FENCE, "fence")? {
            positions.entry(partition).or_default().fence = Epoch(epoch);
        }
        for (partition, through) in self.rows(TRIM, "trim")? {
            let position = positions.entry(partition).or_default();
            (position.trimmed, position.end) = (Lsn(through), Lsn(through));
        }
        let mut next = Some(PartitionId(0));
        while let Some(from) = next {
            let Some(partition) = self.first_with_records(from)? else { break };
            let position = positions.entry(partition).or_default();
            self.ends(partition, position)?;
            next = partition.0.checked_add(1).map(PartitionId);
        }
        Ok(positions)
    }

    fn fault(&self, error: rocksdb::Error) -> LogError {
        Fault::from_rocksdb("read the log", self.path, error).into()
    }

    /// The rows of a kind that stores one number per partition.
    fn rows(&self, kind: u8, row: &'static str) -> Result<Vec<(PartitionId, u64)>, LogError> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(vec![kind]..vec![kind + 1]);
        let mut found = Vec::new();
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let partition = key.get(1..).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes);
            let number = value.try_into().ok().map(u64::from_be_bytes);
            let (Some(partition), Some(number)) = (partition, number) else {
                return Err(LogError::Corrupt {
                    log: self.name.to_owned(),
                    partition: PartitionId(partition.unwrap_or_default()),
                    lsn: Lsn(0),
                    damage: Damage::Row { row, len: value.len() },
                });
            };
            found.push((PartitionId(partition), number));
            rows.next();
        }
        rows.status().map_err(|error| self.fault(error))?;
        Ok(found)
    }

    fn first_with_records(&self, from: PartitionId) -> Result<Option<PartitionId>, LogError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(vec![RECORD + 1]);
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(record_key(from, Lsn(0)));
        rows.status().map_err(|error| self.fault(error))?;
        Ok(rows.key().and_then(decode_record_key).map(|(partition, _)| partition))
    }

    /// Reads the first and last LSN of a partition with records.
    fn ends(&self, partition: PartitionId, position: &mut Position) -> Result<(), LogError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(record_key(partition, Lsn(0)));
        let mut rows = self.db.raw_iterator_opt(options);
        let lsn_at = |key: Option<&[u8]>| {
            key.and_then(decode_record_key).filter(|(id, _)| *id == partition).map(|(_, lsn)| lsn)
        };
        rows.seek_to_first();
        let first = lsn_at(rows.key());
        rows.seek_for_prev(record_key(partition, Lsn(u64::MAX)));
        let last = lsn_at(rows.key());
        rows.status().map_err(|error| self.fault(error))?;
        let (Some(first), Some(last)) = (first, last) else { return Ok(()) };
        if first != position.trimmed.next() {
            return Err(LogError::Corrupt {
                log: self.name.to_owned(),
                partition,
                lsn: position.trimmed.next(),
                damage: Damage::Missing,
            });
        }
        position.end = last;
        Ok(())
    }
}
