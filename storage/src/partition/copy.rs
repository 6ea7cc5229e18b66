//! The log a store's rows were built from, and copying the rows of a partition from another store
//! of the same log.
//!
//! Must always hold: rows being copied have no applied LSN before they are complete, so that a
//! crash in between leaves a partition that is copied again.

use forebay_engine::partition::rows::FsmSlot;
use forebay_messages::Lsn;
use rocksdb::{FlushOptions, ReadOptions, WriteBatch};

use super::{
    PartitionStore, Store, StoreError,
    tables::{Table, fsm::Fsm},
};
use crate::log::LogId;

/// Key of the log's id in the default column family, which has no rows.
const LOG_ID: &[u8] = b"log-id";
/// Bytes of rows copied in one write.
const COPY_BYTES: usize = 1 << 20;
const READAHEAD_BYTES: usize = 1 << 20;

impl Store {
    /// The log the rows were built from; `None` if unknown.
    ///
    /// # Errors
    /// [`StoreError::Fault`].
    pub fn log_id(&self) -> Result<Option<LogId>, StoreError> {
        let found = self.shared.db.get_pinned(LOG_ID);
        let found = found.map_err(|error| self.shared.fault("read the partition store", error))?;
        Ok(found.and_then(|bytes| LogId::read(&bytes)))
    }

    /// Durably records the log the rows are built from.
    ///
    /// # Errors
    /// [`StoreError::Fault`].
    pub fn set_log_id(&self, id: LogId) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let written = self.shared.db.put_opt(LOG_ID, id.bytes(), &self.shared.write);
        written
            .and_then(|()| self.shared.db.flush_opt(&options))
            .map_err(|error| self.shared.fault("write the partition store", error).into())
    }

    /// Replaces the rows of a partition with those of another store, as of one moment; returns the
    /// LSN they have applied. Durable when it returns. Blocks. Earlier handles to the partition
    /// must not be used any more.
    ///
    /// # Errors
    /// See [`StoreError`]. Rows copied by then have no applied LSN.
    pub fn take_over(&self, from: &PartitionStore) -> Result<Lsn, StoreError> {
        let to = self.partition(from.id())?;
        drop(to);
        self.delete_partition(from.id())?;
        let to = self.partition(from.id())?;
        from.spill_all()?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READAHEAD_BYTES);
        // An iterator sees the rows of one moment.
        let mut rows = from.shared.db.raw_iterator_cf_opt(&from.family()?, options);
        rows.seek_to_first();
        let applied_key = Fsm::key_bytes(&FsmSlot::AppliedLsn);
        let (mut applied, mut batch) = (None, WriteBatch::default());
        while let Some((key, row)) = rows.item() {
            if key == applied_key {
                applied = Some(row.to_vec());
            } else {
                batch.put_cf(&to.family()?, key, row);
            }
            if batch.size_in_bytes() >= COPY_BYTES {
                to.write(std::mem::take(&mut batch))?;
            }
            rows.next();
        }
        let read = rows.status();
        read.map_err(|error| from.shared.fault("read the partition store", error))?;
        to.write(batch)?;
        if let Some(applied) = applied {
            let mut last = WriteBatch::default();
            last.put_cf(&to.family()?, &applied_key, applied);
            to.write(last)?;
        }
        to.flush()
    }
}

impl PartitionStore {
    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let written = self.shared.db.write_opt(batch, &self.shared.write);
        Ok(written.map_err(|error| self.shared.fault("write the partition store", error))?)
    }
}
