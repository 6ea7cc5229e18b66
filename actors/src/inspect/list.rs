//! Listing entries page by page, and counting them.
//!
//! Must always hold: entries come in the order of their ids, over all partitions; a page
//! is made from a bounded number of rows; a cursor goes on only with the filter that it
//! came from.

use std::{fmt, str::FromStr};

use bilrost::Message;
use forebay_messages::{EntryId, command::EntrySelector};
use forebay_storage::partition::{Ended, LISTED_ROWS_MAX, ListQuery, Listed, ListedRow};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::{FilterError, NodeError},
    node::Node,
    registry::PartitionEntry,
};

use super::{
    EntryFilter, EntryView,
    query::{view_finished, view_live},
};

/// Most entries of one page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
/// Most rows, of entries and of vqueues together, that are read for one page or one count.
pub const PAGE_ROWS_MAX: usize = LISTED_ROWS_MAX;

/// Most bytes of a payload, and of a result, that a list gives of each entry.
pub const LISTED_BYTES_MAX: usize = 4 << 10;

/// Where a listing goes on: after an entry, with the same filter. Printed and read as text
/// (`ent_…` and 16 hexadecimal digits, with a dot between).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCursor {
    after: EntryId,
    /// Of the filter.
    hash: u64,
}

impl EntryCursor {
    fn new(after: EntryId, filter: &EntryFilter) -> Self {
        Self { after, hash: filter.hash() }
    }

    /// The id to go on after.
    ///
    /// # Errors
    /// [`FilterError::OtherFilter`].
    fn after(self, filter: &EntryFilter) -> Result<EntryId, FilterError> {
        if self.hash == filter.hash() { Ok(self.after) } else { Err(FilterError::OtherFilter) }
    }
}

impl fmt::Display for EntryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.after, self.hash)
    }
}

impl FromStr for EntryCursor {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let damaged = || FilterError::Cursor(text.to_owned());
        let (after, hash) = text.split_once('.').ok_or_else(damaged)?;
        let after = after.parse().map_err(|_| damaged())?;
        let hash = Some(hash).filter(|hash| hash.len() == 16).ok_or_else(damaged)?;
        Ok(Self { after, hash: u64::from_str_radix(hash, 16).map_err(|_| damaged())? })
    }
}

impl Serialize for EntryCursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryCursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Entries in the order of their ids, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPage {
    /// Entries that match. There may be none although others follow.
    pub entries: Vec<EntryView>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<EntryCursor>,
    /// Rows that were read for it.
    pub looked_at: usize,
}

/// How many entries match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryCount {
    /// So many were found.
    pub count: u64,
    /// There are no others. Otherwise there are at least so many.
    pub is_exact: bool,
    /// Rows that were read for it.
    pub looked_at: usize,
}

impl fmt::Display for EntryCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_exact { "" } else { "at least " }, self.count)
    }
}

impl EntryFilter {
    /// The same for filters that want the same entries.
    fn hash(&self) -> u64 {
        let outcome = self.outcome.map_or(u8::MAX, |outcome| outcome as u8);
        let mut bytes = vec![outcome];
        self.selector().encode(&mut bytes).expect("a Vec grows as needed");
        xxh3_64(&bytes)
    }

    fn query<'a>(
        &self,
        selector: &'a EntrySelector,
        wants_finished: &'a dyn Fn(&forebay_engine::partition::rows::FinishedRow) -> bool,
        after: Option<EntryId>,
        rows_max: usize,
    ) -> ListQuery<'a> {
        let ended = if self.outcome.is_some() { Ended::Yes } else { Ended::Either };
        ListQuery {
            filter: selector,
            ended,
            wants_finished,
            after,
            rows_max,
            bytes_max: self.bytes_max.min(LISTED_BYTES_MAX),
        }
    }
}

fn view(listed: &Listed) -> EntryView {
    let mut view = match &listed.row {
        ListedRow::Live(row) => view_live(listed.id, row, &listed.name),
        ListedRow::Finished(row) => view_finished(listed.id, row, &listed.name),
    };
    view.payload = listed.payload.clone().map(Into::into);
    view.result = listed.result.clone().map(Into::into);
    view
}

/// One page from these partitions, which are in the order of their keys. Blocks.
fn page(
    partitions: &[PartitionEntry],
    filter: &EntryFilter,
    after: Option<EntryId>,
) -> Result<EntryPage, NodeError> {
    let limit = match filter.limit {
        0 => PAGE_ENTRIES_MAX,
        limit => limit.min(PAGE_ENTRIES_MAX),
    };
    let selector = filter.selector();
    let wants_finished = |row: &_| filter.wants_finished(row);
    let mut page = EntryPage { entries: Vec::new(), next: None, looked_at: 0 };
    let mut last = after;
    for partition in partitions {
        let (first_key, last_key) = partition.range;
        if after.is_some_and(|after| after.partition_key > last_key) {
            continue;
        }
        let (room, rows) = (limit - page.entries.len(), PAGE_ROWS_MAX - page.looked_at);
        if room == 0 || rows == 0 {
            page.next = last.map(|last| EntryCursor::new(last, filter));
            return Ok(page);
        }
        let from = after.filter(|after| after.partition_key >= first_key);
        let query = filter.query(&selector, &wants_finished, from, rows);
        let listing = partition.store.list(&query, room)?;
        page.looked_at += listing.looked_at;
        page.entries.extend(listing.entries.iter().map(view));
        if let Some(next) = listing.next {
            page.next = Some(EntryCursor::new(next, filter));
            return Ok(page);
        }
        last = Some(EntryId { partition_key: last_key, uuid: [u8::MAX; 16] });
    }
    Ok(page)
}

/// How many match in these partitions. Blocks.
fn count(partitions: &[PartitionEntry], filter: &EntryFilter) -> Result<EntryCount, NodeError> {
    let selector = filter.selector();
    let wants_finished = |row: &_| filter.wants_finished(row);
    let mut total = EntryCount { count: 0, is_exact: true, looked_at: 0 };
    for partition in partitions {
        let rows = PAGE_ROWS_MAX - total.looked_at;
        if rows == 0 {
            total.is_exact = false;
            break;
        }
        let query = filter.query(&selector, &wants_finished, None, rows);
        let counted = partition.store.count(&query, filter.outcome.is_some())?;
        total.count += counted.count;
        total.looked_at += counted.looked_at;
        total.is_exact &= counted.is_exact;
    }
    Ok(total)
}

impl Node {
    fn partitions_by_key(&self) -> Result<Vec<PartitionEntry>, NodeError> {
        Ok(self.entries_in_order()?.into_iter().map(|(_, partition)| partition).collect())
    }

    /// A page of the entries that a filter wants, from the start or where another page
    /// ended: at most [`PAGE_ENTRIES_MAX`] of them (or the filter's limit), from at most
    /// [`PAGE_ROWS_MAX`] rows. Entries that change meanwhile may be seen or not.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`FilterError::OtherFilter`] for a cursor of another filter; when a read fails.
    pub async fn entry_page(
        &self,
        filter: &EntryFilter,
        from: Option<EntryCursor>,
    ) -> Result<EntryPage, NodeError> {
        let after = from.map(|cursor| cursor.after(filter)).transpose()?;
        let (partitions, filter) = (self.partitions_by_key()?, filter.clone());
        self.blocking(move || page(&partitions, &filter, after)).await?
    }

    /// The entries that a filter wants, as many as its limit says, and where to go on.
    /// Reads page after page until there are so many. Cancel-safe.
    ///
    /// # Errors
    /// As [`Node::entry_page`].
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
            if all.next.is_none() || filter.is_full(all.entries.len()) {
                return Ok(all);
            }
        }
    }

    /// The entries that a filter wants, in the order of their ids. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn list(&self, filter: EntryFilter) -> Result<Vec<EntryView>, NodeError> {
        Ok(self.list_from(&filter, None).await?.entries)
    }

    /// How many entries a filter wants; its limit does not count. Exact when that can be
    /// told from [`PAGE_ROWS_MAX`] rows: filters without a time or an outcome read one row
    /// for each vqueue, others one for each entry. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn count_entries(&self, filter: &EntryFilter) -> Result<EntryCount, NodeError> {
        let (partitions, filter) = (self.partitions_by_key()?, filter.clone());
        self.blocking(move || count(&partitions, &filter)).await?
    }

    /// As [`Node::list`]. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails.
    pub fn entries(&self, filter: &EntryFilter) -> Result<Vec<EntryView>, NodeError> {
        let partitions = self.partitions_by_key()?;
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
                Some(next) if !filter.is_full(found.len()) => after = Some(next.after),
                _ => return Ok(found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::PartitionKey;

    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_printed_and_belongs_to_its_filter() {
        let of = |scope: &str| EntryFilter { scope: Some(scope.into()), ..EntryFilter::default() };
        let id = EntryId { partition_key: PartitionKey(7), uuid: [9; 16] };
        let cursor = EntryCursor::new(id, &of("a"));
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        let other_limit = EntryFilter { limit: 5, ..of("a") };
        assert_eq!(cursor.after(&other_limit), Ok(id), "pages may differ in length");
        assert_eq!(cursor.after(&of("b")), Err(FilterError::OtherFilter));
        for text in ["", "ent_", "x.0000000000000000", &cursor.to_string()[..40]] {
            let read: Result<EntryCursor, _> = text.parse();
            assert_eq!(read, Err(FilterError::Cursor(text.to_owned())));
        }
    }
}
