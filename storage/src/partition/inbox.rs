//! Refill reads: the next entries of a vqueue's inbox.
//!
//! Must always hold: every refill has its own iterator (a long-lived one is not safe across
//! memtable flushes), bounded to the vqueue and to the keys above the anchor.

use std::sync::Arc;

use forebay_messages::{
    EntryKey, VQueueId,
    actor::{RefillDone, RefillRequest},
};
use rocksdb::{BoundColumnFamily, DB, DBRawIteratorWithThreadMode, ReadTier};

use super::{
    PartitionStore, StoreError,
    resident::{self, Resident},
    rows::bounded,
    tables::{after_prefix, inbox::Inbox},
};
use crate::medium::would_block;

/// Maximum number of deleted rows that a non-blocking read skips; beyond that it would block.
pub(super) const SKIP_MAX: u64 = 4096;

/// Answer of a non-blocking refill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryRefill {
    /// The rows.
    Done(RefillDone),
    /// A block must be read from disk (or too many tombstones skipped): a worker should do it.
    WouldBlock,
}

/// Where a scan ended.
enum Scan {
    Rows { rows: Vec<EntryKey>, reached_end: bool },
    WouldBlock,
    Canceled,
}

impl PartitionStore {
    /// Reads the requested inbox rows as far as memory has them. Never reads from disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn try_refill(&self, request: &RefillRequest) -> Result<TryRefill, StoreError> {
        Ok(match self.scan_inbox(request, false)? {
            Scan::Rows { rows, reached_end } => {
                TryRefill::Done(RefillDone { id: request.id, rows, reached_end })
            }
            Scan::WouldBlock | Scan::Canceled => TryRefill::WouldBlock,
        })
    }

    /// Reads the requested inbox rows; blocks on disk. `None` if the request was canceled meanwhile
    /// (checked between rows).
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn refill(&self, request: &RefillRequest) -> Result<Option<RefillDone>, StoreError> {
        Ok(match self.scan_inbox(request, true)? {
            Scan::Rows { rows, reached_end } => {
                Some(RefillDone { id: request.id, rows, reached_end })
            }
            Scan::WouldBlock | Scan::Canceled => None,
        })
    }

    /// Number of rows of a vqueue's inbox that sort before a key. Reads them all; blocks on disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn inbox_before(&self, vqueue: VQueueId, place: EntryKey) -> Result<u64, StoreError> {
        self.spill_all()?;
        let prefix = Inbox::prefix(vqueue);
        let mut end = prefix.clone();
        end.extend_from_slice(&place.to_bytes());
        let mut options = bounded(prefix, end);
        options.set_background_purge_on_iterator_cleanup(true);
        options.fill_cache(false);
        let mut rows = self.shared.db.raw_iterator_cf_opt(&self.family()?, options);
        rows.seek_to_first();
        let mut count = 0;
        while rows.valid() {
            count += 1;
            rows.next();
        }
        rows.status().map_err(|error| self.read_error::<Inbox>(error))?;
        Ok(count)
    }

    fn scan_inbox(&self, request: &RefillRequest, may_block: bool) -> Result<Scan, StoreError> {
        assert!(request.limit > 0, "a refill for no rows");
        if request.cancel.is_canceled() {
            return Ok(Scan::Canceled);
        }
        let resident = self.resident();
        match resident.refill(request) {
            resident::Inbox::Here(RefillDone { rows, reached_end, .. }) => {
                return Ok(Scan::Rows { rows, reached_end });
            }
            resident::Inbox::Split if !may_block => {
                return self.collect_inbox(request, may_block, Some(&resident));
            }
            resident::Inbox::Split => {
                drop(resident);
                self.spill_all()?;
            }
            resident::Inbox::Stored => drop(resident),
        }
        self.collect_inbox(request, may_block, None)
    }

    /// The rows above the anchor: rows in memory merged with those in RocksDB; without `resident`
    /// only the latter.
    fn collect_inbox(
        &self,
        request: &RefillRequest,
        may_block: bool,
        resident: Option<&Resident>,
    ) -> Result<Scan, StoreError> {
        let family = self.family()?;
        let mut stored = self.inbox_rows(&family, request, may_block);
        let here = resident.map(|resident| resident.inbox_here(request.vqueue, request.after));
        let mut here = here.into_iter().flatten().peekable();
        let is_gone = |place| {
            resident.is_some_and(|resident| resident.is_gone_from_inbox(request.vqueue, place))
        };
        let mut found = Vec::with_capacity(request.limit);
        let mut skipped = 0;
        loop {
            if request.cancel.is_canceled() {
                return Ok(Scan::Canceled);
            }
            let stored_place = match stored.item() {
                Some((key, row)) => Some(self.decode::<Inbox>(key, row)?.0.1),
                None => match stored.status() {
                    Ok(()) => None,
                    // The requested rows are complete, only what follows is unknown.
                    Err(error) if would_block(&error) && found.len() == request.limit => {
                        return Ok(Scan::Rows { rows: found, reached_end: false });
                    }
                    Err(error) if would_block(&error) && !may_block => {
                        return Ok(Scan::WouldBlock);
                    }
                    Err(error) => return Err(self.read_error::<Inbox>(error)),
                },
            };
            if stored_place.is_some_and(is_gone) {
                skipped += 1;
                if skipped > SKIP_MAX {
                    return Ok(Scan::WouldBlock);
                }
                stored.next();
                continue;
            }
            let here_place = here.peek().copied();
            let Some(next) = stored_place.into_iter().chain(here_place).min() else {
                return Ok(Scan::Rows { rows: found, reached_end: true });
            };
            if found.len() == request.limit {
                return Ok(Scan::Rows { rows: found, reached_end: false });
            }
            found.push(next);
            if stored_place == Some(next) {
                stored.next();
            }
            here.next_if_eq(&next);
        }
    }

    /// The rows of an inbox above the anchor that are in RocksDB.
    fn inbox_rows<'a>(
        &'a self,
        family: &Arc<BoundColumnFamily<'a>>,
        request: &RefillRequest,
        may_block: bool,
    ) -> DBRawIteratorWithThreadMode<'a, DB> {
        let prefix = Inbox::prefix(request.vqueue);
        let mut from = prefix.clone();
        if let Some(anchor) = request.after {
            from.extend_from_slice(&anchor.to_bytes());
            // The smallest key above the anchor.
            from.push(0);
        }
        let mut options = bounded(from, after_prefix(prefix));
        options.set_background_purge_on_iterator_cleanup(true);
        if !may_block {
            options.set_read_tier(ReadTier::BlockCache);
            options.set_max_skippable_internal_keys(SKIP_MAX);
        }
        let mut rows = self.shared.db.raw_iterator_cf_opt(family, options);
        rows.seek_to_first();
        rows
    }
}
