//! Listing and counting entries by filter, for display.
//!
//! Entry ids and vqueue ids begin with the partition key, so both tables of entries and the table
//! of vqueues are ordered by partition key. A filter on names first searches for matching vqueues
//! with entries in the wanted stage, and then reads only the entries under their partition keys; a
//! scope has one partition key.
//!
//! Must always hold: entries are returned in the order of their ids; a call examines a bounded
//! number of rows, matching or not, and returns where to continue; it sees the rows of one moment,
//! and entries that change between two calls may or may not be included.

mod walk;

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use forebay_engine::partition::rows::{EntryRow, FinishedRow, Stage, VQueueMeta};
use forebay_messages::{
    EntryId, PartitionKey, Timestamp, VQueueId, VQueueName, command::EntrySelector,
};

use super::{PartitionStore, StoreError, rows::Seeker, tables::vqueue_meta::VQueueMetas};

/// Maximum number of rows that one call examines, entries and vqueues together.
pub const LISTED_ROWS_MAX: usize = 10_000;

/// Which tables a listing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Entries that have not ended.
    No,
    /// Entries that ended.
    Yes,
    /// Both.
    Either,
}

/// State of a listed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedRow {
    /// It has not ended.
    Live(EntryRow),
    /// It ended. The bytes of a successful result are left out.
    Finished(FinishedRow),
}

/// A listed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: EntryId,
    /// Its state.
    pub row: ListedRow,
    /// Its vqueue's name.
    pub name: Arc<VQueueName>,
    /// Its payload, if requested and still stored.
    pub payload: Option<BytesHead>,
    /// The value its handler returned on success, if requested.
    pub result: Option<BytesHead>,
}

/// A prefix of some bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BytesHead {
    /// The prefix.
    pub bytes: Bytes,
    /// The full length.
    pub len: u64,
}

impl BytesHead {
    /// At most the first `bytes_max` of some bytes. A shorter prefix is copied, so that it does not
    /// keep the rest in memory.
    #[must_use]
    pub fn of(bytes: &Bytes, bytes_max: usize) -> Self {
        let head = match bytes.get(..bytes_max) {
            Some(head) => Bytes::copy_from_slice(head),
            None => bytes.clone(),
        };
        Self { bytes: head, len: bytes.len() as u64 }
    }
}

/// A page of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Matching entries, in id order.
    pub entries: Vec<Listed>,
    /// Continue after this id; `None` if everything was examined.
    pub next: Option<EntryId>,
    /// Number of rows read.
    pub looked_at: usize,
}

/// Number of matching entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Number found.
    pub count: u64,
    /// Whether that is all of them.
    pub is_exact: bool,
    /// Number of rows read.
    pub looked_at: usize,
}

/// An entry that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Its id.
    pub id: EntryId,
    /// Its state.
    pub row: EntryRow,
    /// Its vqueue's name.
    pub name: Arc<VQueueName>,
}

/// An entry that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFinished {
    /// Its id.
    pub id: EntryId,
    /// Its stored state, without the bytes of a successful result.
    pub row: FinishedRow,
    /// Its vqueue's name.
    pub name: Arc<VQueueName>,
}

/// A page of entries that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryListing {
    /// Matching entries, in id order.
    pub entries: Vec<ListedEntry>,
    /// Continue after this id; `None` if everything was examined.
    pub next: Option<EntryId>,
}

/// A page of entries that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinishedListing {
    /// Matching entries, in id order.
    pub entries: Vec<ListedFinished>,
    /// Continue after this id; `None` if everything was examined.
    pub next: Option<EntryId>,
}

/// A listing query.
#[derive(Clone, Copy)]
pub struct ListQuery<'a> {
    /// Which entries match.
    pub filter: &'a EntrySelector,
    /// Which tables are read.
    pub ended: Ended,
    /// Additional filter for ended entries.
    pub wants_finished: &'a dyn Fn(&FinishedRow) -> bool,
    /// Only entries after this id.
    pub after: Option<EntryId>,
    /// Maximum number of rows to examine; at least one.
    pub rows_max: usize,
    /// How many bytes of each entry's payload and result to read; 0: none.
    pub bytes_max: usize,
}

impl ListQuery<'_> {
    /// The tables that may contain matches.
    fn tables(&self) -> (bool, bool) {
        let stage = self.filter.stage;
        let live = self.ended != Ended::Yes && stage != Some(Stage::Finished as u32);
        let ended =
            self.ended != Ended::No && stage.is_none_or(|stage| stage == Stage::Finished as u32);
        (live, ended)
    }

    /// Number of entries of a vqueue that may match, judging by its counts.
    fn counted(&self, meta: &VQueueMeta) -> u64 {
        let wants = |stage: Stage| self.filter.stage.is_none_or(|wanted| wanted == stage as u32);
        let (live, ended) = self.tables();
        let of = |is_read, stage, count| if is_read && wants(stage) { count } else { 0 };
        of(live, Stage::Inbox, meta.inbox)
            + of(live, Stage::Running, meta.running)
            + of(live, Stage::Suspended, meta.suspended)
            + of(live, Stage::Paused, meta.paused)
            + of(ended, Stage::Finished, meta.finished)
    }

    fn matches(&self, id: EntryId, stage: Stage, at: Timestamp, name: &VQueueName) -> bool {
        let filter = self.filter;
        (filter.entries.is_empty() || filter.entries.contains(&id))
            && filter.matches(stage, at, name)
    }

    /// The first and the last partition key that may contain matches.
    fn keys(&self) -> (PartitionKey, PartitionKey) {
        match &self.filter.scope {
            Some(scope) => (VQueueName::scope_key(scope), VQueueName::scope_key(scope)),
            None => (PartitionKey(0), PartitionKey(u64::MAX)),
        }
    }
}

impl PartitionStore {
    /// Matching entries, at most `limit` of them. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn list(&self, query: &ListQuery<'_>, limit: usize) -> Result<Listing, StoreError> {
        let mut entries = Vec::new();
        let (next, looked_at) = self.walk(query, &mut |listed| {
            entries.push(listed);
            if entries.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(Listing { entries, next, looked_at })
    }

    /// Number of matching entries if this many rows are enough to tell, otherwise a lower bound.
    /// Sums the counts of vqueues where the filter allows it. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn count(&self, query: &ListQuery<'_>, by_rows: bool) -> Result<Counted, StoreError> {
        let filter = query.filter;
        if by_rows || !filter.entries.is_empty() || filter.created_until.is_some() {
            let mut count = 0;
            let (next, looked_at) = self.walk(query, &mut |_| {
                count += 1;
                ControlFlow::Continue(())
            })?;
            return Ok(Counted { count, is_exact: next.is_none(), looked_at });
        }
        self.spill_all()?;
        let family = self.family()?;
        let moment = self.shared.db.snapshot();
        let mut vqueues = Seeker::<VQueueMetas>::new(self, &family, &moment);
        let (first, last) = query.keys();
        vqueues.seek(&first.0.to_be_bytes());
        let mut counted = Counted { is_exact: true, ..Counted::default() };
        while let Some(id) = vqueues.key()?
            && id.partition_key <= last
        {
            if counted.looked_at == query.rows_max {
                counted.is_exact = false;
                break;
            }
            counted.looked_at += 1;
            if let Some(meta) = vqueues.row()?
                && filter.matches_name(&meta.name)
            {
                counted.count += query.counted(&meta);
            }
            vqueues.advance();
        }
        Ok(counted)
    }

    /// Matching entries that have not ended, after an id, at most `limit` of them. A filter for the
    /// finished stage matches none here. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn list_entries(
        &self,
        filter: &EntrySelector,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<EntryListing, StoreError> {
        let Listing { entries, next, .. } = self.list(&all(filter, Ended::No, after), limit)?;
        let entries = entries.into_iter().filter_map(|Listed { id, row, name, .. }| match row {
            ListedRow::Live(row) => Some(ListedEntry { id, row, name }),
            ListedRow::Finished(_) => None,
        });
        Ok(EntryListing { entries: entries.collect(), next })
    }

    /// Matching entries that ended, after an id, at most `limit` of them. Blocks.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn list_finished(
        &self,
        filter: &EntrySelector,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<FinishedListing, StoreError> {
        let Listing { entries, next, .. } = self.list(&all(filter, Ended::Yes, after), limit)?;
        let entries = entries.into_iter().filter_map(|Listed { id, row, name, .. }| match row {
            ListedRow::Finished(row) => Some(ListedFinished { id, row, name }),
            ListedRow::Live(_) => None,
        });
        Ok(FinishedListing { entries: entries.collect(), next })
    }

    fn name(&self, vqueue: VQueueId) -> Result<VQueueName, StoreError> {
        // A vqueue whose last entry is removed while we list has no row any more.
        Ok(self.get::<VQueueMetas>(&vqueue)?.map(|meta| (*meta.name).clone()).unwrap_or_default())
    }
}

/// A query without an outcome, over as many rows as one call may examine.
pub(super) fn all(filter: &EntrySelector, ended: Ended, after: Option<EntryId>) -> ListQuery<'_> {
    let (rows_max, bytes_max) = (LISTED_ROWS_MAX, 0);
    ListQuery { filter, ended, wants_finished: &|_| true, after, rows_max, bytes_max }
}
