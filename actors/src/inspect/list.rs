//! Listing entries page by page, and counting them.
//!
//! Must always hold: entries are in the order of their ids, over all partitions; a page reads a
//! bounded number of rows; a cursor can only be continued with the filter that it came from.

use bilrost::Message;
use forebay_api::{
    EntryCount, EntryCursor, EntryFilter, EntryPage, EntryView, LISTED_BYTES_MAX, PAGE_ENTRIES_MAX,
};
use forebay_engine::partition::rows::FinishedRow;
use forebay_messages::{EntryId, command::EntrySelector};
use forebay_storage::partition::{Ended, LISTED_ROWS_MAX, ListQuery, Listed, ListedRow};
use xxhash_rust::xxh3::xxh3_64;

use crate::{error::NodeError, peers::ReplicaRows, table::KeyRange};

use super::{
    Inspect,
    query::{bytes_view, is_full, selector, view_finished, view_live, wants_finished},
};

/// Maximum number of rows, of entries and of vqueues together, read for one page or one count.
pub const PAGE_ROWS_MAX: usize = LISTED_ROWS_MAX;

/// Equal for filters with the same conditions.
fn hash(selector: &EntrySelector, filter: &EntryFilter) -> u64 {
    let outcome = filter.outcome.map_or(u8::MAX, |outcome| outcome as u8);
    let mut bytes = vec![outcome];
    selector.encode(&mut bytes).expect("a Vec grows as needed");
    xxh3_64(&bytes)
}

fn query<'a>(
    filter: &EntryFilter,
    selector: &'a EntrySelector,
    wants_finished: &'a dyn Fn(&FinishedRow) -> bool,
    after: Option<EntryId>,
    rows_max: usize,
) -> ListQuery<'a> {
    let ended = if filter.outcome.is_some() { Ended::Yes } else { Ended::Either };
    ListQuery {
        filter: selector,
        ended,
        wants_finished,
        after,
        rows_max,
        bytes_max: filter.bytes_max.min(LISTED_BYTES_MAX),
    }
}

fn view(listed: &Listed) -> EntryView {
    let mut view = match &listed.row {
        ListedRow::Live(row) => view_live(listed.id, row, &listed.name),
        ListedRow::Finished(row) => view_finished(listed.id, row, &listed.name),
    };
    view.payload = listed.payload.clone().map(bytes_view);
    view.result = listed.result.clone().map(bytes_view);
    view
}

/// One page from these partitions, which are in the order of their keys. Blocks.
fn page(
    partitions: &[ReplicaRows],
    filter: &EntryFilter,
    after: Option<EntryId>,
) -> Result<EntryPage, NodeError> {
    let limit = match filter.limit {
        0 => PAGE_ENTRIES_MAX,
        limit => limit.min(PAGE_ENTRIES_MAX),
    };
    let selector = selector(filter)?;
    let is_wanted = |row: &_| wants_finished(filter, row);
    let hash = hash(&selector, filter);
    let mut page = EntryPage { entries: Vec::new(), next: None, looked_at: 0 };
    let mut last = after;
    for partition in partitions {
        let KeyRange { first: first_key, last: last_key } = partition.range;
        if after.is_some_and(|after| after.partition_key > last_key) {
            continue;
        }
        let (room, rows) = (limit - page.entries.len(), PAGE_ROWS_MAX - page.looked_at);
        if room == 0 || rows == 0 {
            page.next = last.map(|last| EntryCursor::new(last, hash));
            return Ok(page);
        }
        let from = after.filter(|after| after.partition_key >= first_key);
        let query = query(filter, &selector, &is_wanted, from, rows);
        let listing = partition.store.list(&query, room)?;
        page.looked_at += listing.looked_at;
        page.entries.extend(listing.entries.iter().map(view));
        if let Some(next) = listing.next {
            page.next = Some(EntryCursor::new(next, hash));
            return Ok(page);
        }
        last = Some(EntryId { partition_key: last_key, uuid: [u8::MAX; 16] });
    }
    Ok(page)
}

/// The number of matching entries in these partitions. Blocks.
fn count(partitions: &[ReplicaRows], filter: &EntryFilter) -> Result<EntryCount, NodeError> {
    let selector = selector(filter)?;
    let is_wanted = |row: &_| wants_finished(filter, row);
    let mut total = EntryCount { count: 0, is_exact: true, looked_at: 0 };
    for partition in partitions {
        let rows = PAGE_ROWS_MAX - total.looked_at;
        if rows == 0 {
            total.is_exact = false;
            break;
        }
        let query = query(filter, &selector, &is_wanted, None, rows);
        let counted = partition.store.count(&query, filter.outcome.is_some())?;
        total.count += counted.count;
        total.looked_at += counted.looked_at;
        total.is_exact &= counted.is_exact;
    }
    Ok(total)
}

impl Inspect {
    fn partitions_by_key(&self) -> Result<Vec<ReplicaRows>, NodeError> {
        Ok(self.registry.all_newest_rows()?.into_iter().map(|(_, partition)| partition).collect())
    }

    /// A page of the entries that match a filter, from the start or from where another page ended:
    /// at most [`PAGE_ENTRIES_MAX`] of them (or the filter's limit), from at most [`PAGE_ROWS_MAX`]
    /// rows. Entries that change meanwhile may be included or not. Cancel-safe.
    ///
    /// # Errors
    /// [`OtherFilter`](forebay_api::FilterError::OtherFilter) for a cursor of another filter; when
    /// a read fails.
    pub async fn entry_page(
        &self,
        filter: &EntryFilter,
        from: Option<EntryCursor>,
    ) -> Result<EntryPage, NodeError> {
        let hash = hash(&selector(filter)?, filter);
        let after = from.map(|cursor| cursor.after(hash)).transpose()?;
        let (partitions, filter) = (self.partitions_by_key()?, filter.clone());
        self.registry.blocking(move || page(&partitions, &filter, after)).await?
    }

    /// The entries that match a filter, up to its limit, and the position of the next page. Reads
    /// pages until there are enough. Cancel-safe.
    ///
    /// # Errors
    /// As [`Inspect::entry_page`].
    pub async fn list_from(
        &self,
        filter: &EntryFilter,
        from: Option<EntryCursor>,
    ) -> Result<EntryPage, NodeError> {
        let mut all = EntryPage { entries: Vec::new(), next: from, looked_at: 0 };
        loop {
            let limit = match filter.limit {
                0 => 0,
                limit => limit - all.entries.len(),
            };
            let page = self.entry_page(&EntryFilter { limit, ..filter.clone() }, all.next).await?;
            all.entries.extend(page.entries);
            all.looked_at += page.looked_at;
            all.next = page.next;
            if all.next.is_none() || is_full(filter, all.entries.len()) {
                return Ok(all);
            }
        }
    }

    /// The entries that match a filter, in the order of their ids. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn list(&self, filter: EntryFilter) -> Result<Vec<EntryView>, NodeError> {
        Ok(self.list_from(&filter, None).await?.entries)
    }

    /// The number of entries that match a filter, ignoring its limit. Exact if [`PAGE_ROWS_MAX`]
    /// rows are enough: filters without a time or an outcome read one row for each vqueue, others
    /// one for each entry. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn count_entries(&self, filter: &EntryFilter) -> Result<EntryCount, NodeError> {
        let (partitions, filter) = (self.partitions_by_key()?, filter.clone());
        self.registry.blocking(move || count(&partitions, &filter)).await?
    }

    /// As [`Inspect::list`]. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails.
    pub fn entries(&self, filter: &EntryFilter) -> Result<Vec<EntryView>, NodeError> {
        let partitions = self.partitions_by_key()?;
        let hash = hash(&selector(filter)?, filter);
        let mut found: Vec<EntryView> = Vec::new();
        let mut after = None;
        loop {
            let limit = match filter.limit {
                0 => 0,
                limit => limit - found.len(),
            };
            let page = page(&partitions, &EntryFilter { limit, ..filter.clone() }, after)?;
            found.extend(page.entries);
            match page.next {
                Some(next) if !is_full(filter, found.len()) => after = Some(next.after(hash)?),
                _ => return Ok(found),
            }
        }
    }
}
