//! What a store is of: which log its rows were made from; and taking the rows of a
//! partition over from another store of the same log.
//!
//! Must always hold: rows that are being taken over have no applied LSN before they are
//! whole, so that a crash on the way leaves a partition that is taken over again.

use forebay_engine::partition::rows::FsmSlot;
use forebay_messages::Lsn;
use rocksdb::{FlushOptions, ReadOptions, WriteBatch};

use super::{
    PartitionStore, Store, StoreError,
    tables::{Table, fsm::Fsm},
};
use crate::log::LogId;

/// Where the default column family, which has no rows, keeps the log's id.
const LOG_ID: &[u8] = b"log-id";
/// Bytes of rows that are taken over in one write.
const COPY_BYTES: usize = 1 << 20;
const READAHEAD_BYTES: usize = 1 << 20;

impl Store {
    /// The log that the rows were made from; `None` when that is not known.
    ///
    /// # Errors
    /// [`StoreError::Fault`].
    pub fn log_id(&self) -> Result<Option<LogId>, StoreError> {
        let found = self.shared.db.get_pinned(LOG_ID);
        let found = found.map_err(|error| self.shared.fault("read the partition store", error))?;
        Ok(found.and_then(|bytes| LogId::read(&bytes)))
    }

    /// Notes the log that the rows are made from, durably.
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

    /// Takes over the rows of a partition from another store, as of one moment, in place
    /// of those that are here; the LSN that they have applied. Durable when it returns.
    /// Blocks. Handles to the partition from before must not be used any more.
    ///
    /// # Errors
    /// See [`StoreError`]. What was taken over by then has applied nothing.
    pub fn take_over(&self, from: &PartitionStore) -> Result<Lsn, StoreError> {
        let to = self.partition(from.id())?;
        drop(to);
        self.delete_partition(from.id())?;
        let to = self.partition(from.id())?;
        from.settle()?;
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
