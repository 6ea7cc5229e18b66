//! Listing entries by filter, for people.
//!
//! Must always hold: a call looks at a bounded number of rows, matching or not, and
//! says where to go on; entries that change meanwhile may be seen or not.

use std::{collections::BTreeMap, sync::Arc};

use forebay_engine::partition::rows::{EntryRow, FinishedRow, Stage};
use forebay_messages::{EntryId, Timestamp, VQueueId, VQueueName, command::EntrySelector};

use super::{
    PartitionStore, StoreError,
    tables::{Table, entry::Entry, finished::Finished, vqueue_meta::VQueueMetas},
};

/// Rows that one call looks at.
const SCAN_MAX: usize = 10_000;

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
    /// What is kept of it.
    pub row: FinishedRow,
    /// Its vqueue's name.
    pub name: Arc<VQueueName>,
}

/// A page of entries that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryListing {
    /// Those that match, in id order.
    pub entries: Vec<ListedEntry>,
    /// Go on after this id; `None` when everything was looked at.
    pub next: Option<EntryId>,
}

/// A page of entries that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinishedListing {
    /// Those that match, in id order.
    pub entries: Vec<ListedFinished>,
    /// Go on after this id; `None` when everything was looked at.
    pub next: Option<EntryId>,
}

/// What a filter is held against.
struct Candidate<'a> {
    id: EntryId,
    stage: Stage,
    created_at: Timestamp,
    name: &'a VQueueName,
}

impl PartitionStore {
    /// Entries that have not ended and match, after an id, at most `limit` of them. A
    /// stage that asks for finished ones matches none here.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn list_entries(
        &self,
        filter: &EntrySelector,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<EntryListing, StoreError> {
        let facts = |row: &EntryRow| (row.vqueue, row.stage, row.created_at);
        let (found, next) = self.list::<Entry>(filter, after, limit, facts)?;
        let entries =
            found.into_iter().map(|(id, row, name)| ListedEntry { id, row, name }).collect();
        Ok(EntryListing { entries, next })
    }

    /// Entries that ended and match, after an id, at most `limit` of them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn list_finished(
        &self,
        filter: &EntrySelector,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<FinishedListing, StoreError> {
        let facts = |row: &FinishedRow| (row.vqueue, Stage::Finished, row.created_at);
        let (found, next) = self.list::<Finished>(filter, after, limit, facts)?;
        let entries =
            found.into_iter().map(|(id, row, name)| ListedFinished { id, row, name }).collect();
        Ok(FinishedListing { entries, next })
    }

    #[expect(clippy::type_complexity, reason = "one private function, two callers above")]
    fn list<T: Table<Key = EntryId>>(
        &self,
        filter: &EntrySelector,
        after: Option<EntryId>,
        limit: usize,
        facts: impl Fn(&T::Row) -> (VQueueId, Stage, Timestamp),
    ) -> Result<(Vec<(EntryId, T::Row, Arc<VQueueName>)>, Option<EntryId>), StoreError> {
        self.settle()?;
        let family = self.family()?;
        let mut names = BTreeMap::new();
        let mut found = Vec::new();
        for (looked_at, row) in self.rows_in::<T>(&family, after.as_ref()).enumerate() {
            let (id, row) = row?;
            let (vqueue, stage, created_at) = facts(&row);
            let name = match names.get(&vqueue) {
                Some(name) => Arc::clone(name),
                None => {
                    let name = Arc::new(self.name(vqueue)?);
                    names.insert(vqueue, Arc::clone(&name));
                    name
                }
            };
            if matches(filter, &Candidate { id, stage, created_at, name: &name }) {
                found.push((id, row, name));
            }
            if found.len() >= limit || looked_at + 1 >= SCAN_MAX {
                return Ok((found, Some(id)));
            }
        }
        Ok((found, None))
    }

    fn name(&self, vqueue: VQueueId) -> Result<VQueueName, StoreError> {
        // A vqueue whose last entry goes while we list has no row any more.
        Ok(self.get::<VQueueMetas>(&vqueue)?.map(|meta| (*meta.name).clone()).unwrap_or_default())
    }
}

fn matches(filter: &EntrySelector, entry: &Candidate<'_>) -> bool {
    let name = entry.name;
    let is = |wanted: &Option<bytestring::ByteString>, found: Option<&bytestring::ByteString>| {
        wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
    };
    (filter.entries.is_empty() || filter.entries.contains(&entry.id))
        && is(&filter.service, Some(&name.service))
        && is(&filter.scope, name.scope.as_ref())
        && filter.limit_key.as_ref().is_none_or(|wanted| is_at_or_below(name, wanted))
        && filter.stage.is_none_or(|wanted| wanted == entry.stage as u32)
        && filter.created_until.is_none_or(|until| entry.created_at <= until)
}

/// `l1` includes everything below it.
fn is_at_or_below(name: &VQueueName, limit_key: &str) -> bool {
    let (l1, l2) = match limit_key.split_once('/') {
        Some((l1, l2)) => (l1, Some(l2)),
        None => (limit_key, None),
    };
    name.l1.as_deref() == Some(l1) && l2.is_none_or(|l2| name.l2.as_deref() == Some(l2))
}
