//! Refill reads: the next entries of a vqueue's inbox.
//!
//! Must always hold: every refill has an iterator of its own (one that lives on is not
//! safe over memtable flushes), bounded to the vqueue and to what lies above the anchor.

use forebay_messages::{
    EntryKey, VQueueId,
    actor::{RefillDone, RefillRequest},
};
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadTier};

use super::{
    PartitionStore, StoreError, resident,
    rows::bounded,
    tables::{after_prefix, inbox::Inbox},
};
use crate::medium::would_block;

/// Tombstones that a read which must not block steps over; with more it would block.
pub(super) const SKIP_MAX: u64 = 4096;

/// Answer of a refill that must not block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryRefill {
    /// The rows.
    Done(RefillDone),
    /// A block would have to be read from disk (or too many tombstones be stepped over):
    /// let a worker do it.
    WouldBlock,
}

/// Where a scan ended.
enum Scan {
    Rows { rows: Vec<EntryKey>, reached_end: bool },
    WouldBlock,
    Canceled,
}

impl PartitionStore {
    /// Reads the inbox rows asked for as far as memory has them. Never reads from disk.
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

    /// Reads the inbox rows asked for; blocks on disk. `None` when the request was
    /// canceled meanwhile (looked at between rows).
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

    /// How many rows of a vqueue's inbox sort before a place. Reads them all; blocks on
    /// disk.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn inbox_before(&self, vqueue: VQueueId, place: EntryKey) -> Result<u64, StoreError> {
        self.settle()?;
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
        // In a statement of its own: the guard must be gone before the rows are settled.
        let resident = self.resident().refill(request);
        match resident {
            resident::Inbox::Here(RefillDone { rows, reached_end, .. }) => {
                return Ok(Scan::Rows { rows, reached_end });
            }
            resident::Inbox::Stored => {}
            resident::Inbox::Split => self.settle()?,
        }
        let prefix = Inbox::prefix(request.vqueue);
        let mut from = prefix.clone();
        if let Some(anchor) = request.after {
            from.extend_from_slice(&anchor.to_bytes());
            // The least key above the anchor.
            from.push(0);
        }
        let mut options = bounded(from, after_prefix(prefix));
        options.set_background_purge_on_iterator_cleanup(true);
        if !may_block {
            options.set_read_tier(ReadTier::BlockCache);
            options.set_max_skippable_internal_keys(SKIP_MAX);
        }
        let mut rows = self.shared.db.raw_iterator_cf_opt(&self.family()?, options);
        rows.seek_to_first();
        self.collect_inbox(rows, request, may_block)
    }

    fn collect_inbox(
        &self,
        mut rows: DBRawIteratorWithThreadMode<'_, DB>,
        request: &RefillRequest,
        may_block: bool,
    ) -> Result<Scan, StoreError> {
        let mut found = Vec::with_capacity(request.limit);
        while found.len() < request.limit {
            if request.cancel.is_canceled() {
                return Ok(Scan::Canceled);
            }
            let Some((key, row)) = rows.item() else { break };
            let ((_, place), ()) = self.decode::<Inbox>(key, row)?;
            found.push(place);
            rows.next();
        }
        // With all rows found, `rows` stands on the one after them, if there is one.
        let more = rows.valid();
        match rows.status() {
            Ok(()) => Ok(Scan::Rows { rows: found, reached_end: !more }),
            // What was asked for is there, only what lies behind is not known.
            Err(error) if would_block(&error) && found.len() == request.limit => {
                Ok(Scan::Rows { rows: found, reached_end: false })
            }
            Err(error) if would_block(&error) && !may_block => Ok(Scan::WouldBlock),
            Err(error) => Err(self.read_error::<Inbox>(error)),
        }
    }
}
