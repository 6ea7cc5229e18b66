//! Iterating over the entries a filter may match, in id order.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use forebay_engine::partition::rows::{EntryRow, Stage};
use forebay_messages::{EntryId, PartitionKey, VQueueId, VQueueName, command::CompleteOutcome};

use super::{
    super::{
        PartitionStore, StoreError,
        rows::Seeker,
        tables::{
            Table, entry::Entry, finished::Finished, parked::Parked, running::Running,
            vqueue_meta::VQueueMetas,
        },
    },
    BytesHead, ListQuery, Listed, ListedRow,
};

/// Maximum number of running (or parked) entries under one partition key for a page of them to be
/// sorted in memory. With more, all live entries under the key are read in order.
const SORTED_MAX: usize = 2_048;

impl PartitionStore {
    /// Visits matching entries until the visitor stops it; returns where to continue, and the
    /// number of rows examined.
    pub(super) fn walk(
        &self,
        query: &ListQuery<'_>,
        visit: &mut dyn FnMut(Listed) -> ControlFlow<()>,
    ) -> Result<(Option<EntryId>, usize), StoreError> {
        self.spill_all()?;
        let family = self.family()?;
        let moment = self.shared.db.snapshot();
        let (live, ended) = query.tables();
        let small = match query.filter.stage {
            Some(stage) if stage == Stage::Running as u32 => Small::Running,
            Some(stage) if stage == Stage::Paused as u32 => Small::Parked,
            Some(stage) if stage == Stage::Suspended as u32 => Small::Parked,
            _ => Small::None,
        };
        let mut walk = Walk {
            store: self,
            query,
            small,
            live: live.then(|| Seeker::new(self, &family, &moment)),
            ended: ended.then(|| Seeker::new(self, &family, &moment)),
            vqueues: Seeker::new(self, &family, &moment),
            running: Seeker::new(self, &family, &moment),
            parked: Seeker::new(self, &family, &moment),
            names: BTreeMap::new(),
            looked_at: 0,
            visit,
        };
        let next = match walk.all()? {
            ControlFlow::Continue(()) => None,
            ControlFlow::Break(after) => Some(after),
        };
        Ok((next, walk.looked_at))
    }
}

/// The table that contains only matching stages, by vqueue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Small {
    None,
    Running,
    Parked,
}

/// Breaks with the id after which the next page continues.
type Step = Result<ControlFlow<EntryId>, StoreError>;

struct Walk<'a, 'q> {
    store: &'a PartitionStore,
    query: &'q ListQuery<'q>,
    small: Small,
    live: Option<Seeker<'a, Entry>>,
    ended: Option<Seeker<'a, Finished>>,
    vqueues: Seeker<'a, VQueueMetas>,
    running: Seeker<'a, Running>,
    parked: Seeker<'a, Parked>,
    /// Names of the vqueues of visited entries: at most as many as examined rows.
    names: BTreeMap<VQueueId, Arc<VQueueName>>,
    looked_at: usize,
    visit: &'q mut dyn FnMut(Listed) -> ControlFlow<()>,
}

impl Walk<'_, '_> {
    fn all(&mut self) -> Step {
        if self.live.is_none() && self.ended.is_none() {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(from) = self.query.after.map_or(Some(first_of(PartitionKey(0))), after) else {
            return Ok(ControlFlow::Continue(()));
        };
        if !self.query.filter.names_vqueues() && self.small == Small::None {
            return self.in_order(from, PartitionKey(u64::MAX));
        }
        let (first, last) = self.query.keys();
        // A page after the first continues without examining the vqueues again.
        let mut key = first;
        if self.query.after.is_some() && from.partition_key >= first {
            if from.partition_key > last {
                return Ok(ControlFlow::Continue(()));
            }
            match self.under_key(from)? {
                ControlFlow::Continue(()) => {}
                stopped => return Ok(stopped),
            }
            let Some(next) = from.partition_key.0.checked_add(1) else {
                return Ok(ControlFlow::Continue(()));
            };
            key = PartitionKey(next);
        }
        while key <= last {
            let Some(found) = (match self.next_key(key, last)? {
                ControlFlow::Continue(found) => found,
                ControlFlow::Break(after) => return Ok(ControlFlow::Break(after)),
            }) else {
                break;
            };
            match self.under_key(first_of(found))? {
                ControlFlow::Continue(()) => {}
                stopped => return Ok(stopped),
            }
            let Some(next) = found.0.checked_add(1) else { break };
            key = PartitionKey(next);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether one more row may be examined; counts it.
    fn may_look(&mut self) -> bool {
        let may = self.looked_at < self.query.rows_max.max(1);
        self.looked_at += usize::from(may);
        may
    }

    /// The first partition key of a range that may have matches.
    fn next_key(
        &mut self,
        from: PartitionKey,
        last: PartitionKey,
    ) -> Result<ControlFlow<EntryId, Option<PartitionKey>>, StoreError> {
        if !self.query.filter.names_vqueues() {
            let body = from.0.to_be_bytes();
            let found = match self.small {
                Small::Running => {
                    self.running.seek(&body);
                    self.running.key()?
                }
                Small::Parked | Small::None => {
                    self.parked.seek(&body);
                    self.parked.key()?
                }
            };
            return Ok(ControlFlow::Continue(found.map(|(vqueue, _)| vqueue.partition_key)));
        }
        self.vqueues.seek(&from.0.to_be_bytes());
        let mut excluded = None;
        while let Some(id) = self.vqueues.key()?
            && id.partition_key <= last
        {
            if !self.may_look() {
                // A key whose vqueues were not all examined is not excluded: the next page reads
                // its entries.
                let place = match excluded {
                    Some(key) if key != id.partition_key => last_of(key),
                    Some(key) => before(first_of(key)).unwrap_or(first_of(key)),
                    None => before(first_of(from)).unwrap_or(first_of(from)),
                };
                return Ok(ControlFlow::Break(place));
            }
            if let Some(meta) = self.vqueues.row()?
                && self.query.filter.matches_name(&meta.name)
                && self.query.counted(&meta) > 0
            {
                return Ok(ControlFlow::Continue(Some(id.partition_key)));
            }
            excluded = Some(id.partition_key);
            self.vqueues.advance();
        }
        Ok(ControlFlow::Continue(None))
    }

    /// The matches under one partition key, from an id on.
    fn under_key(&mut self, from: EntryId) -> Step {
        match self.small_under_key(from)? {
            Some(ids) => self.these(ids),
            None => self.in_order(from, from.partition_key),
        }
    }

    /// Ids of running or parked entries under one partition key, from an id on, in order; `None` if
    /// there are too many to sort, or other stages are wanted.
    fn small_under_key(&mut self, from: EntryId) -> Result<Option<Vec<EntryId>>, StoreError> {
        let key = from.partition_key;
        let ids = match self.small {
            Small::None => return Ok(None),
            Small::Running => ids_under(&mut self.running, key)?,
            Small::Parked => ids_under(&mut self.parked, key)?,
        };
        Ok(ids.map(|mut ids| {
            ids.retain(|id| *id >= from);
            ids.sort_unstable();
            ids
        }))
    }

    fn these(&mut self, ids: Vec<EntryId>) -> Step {
        for id in ids {
            if !self.may_look() {
                return Ok(ControlFlow::Break(before(id).unwrap_or(id)));
            }
            let Some(row) = self.store.entry(id)? else { continue };
            if self.tell_live(id, row)?.is_break() {
                return Ok(ControlFlow::Break(id));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// All entries from an id to the last one of a partition key.
    fn in_order(&mut self, from: EntryId, last: PartitionKey) -> Step {
        let body = from.to_bytes();
        if let Some(live) = &mut self.live {
            live.seek(&body);
        }
        if let Some(ended) = &mut self.ended {
            ended.seek(&body);
        }
        loop {
            let live = self.live.as_ref().map_or(Ok(None), Seeker::key)?;
            let ended = self.ended.as_ref().map_or(Ok(None), Seeker::key)?;
            let live = live.filter(|id| id.partition_key <= last);
            let ended = ended.filter(|id| id.partition_key <= last);
            let (id, is_live) = match (live, ended) {
                (None, None) => return Ok(ControlFlow::Continue(())),
                (Some(live), Some(ended)) if live > ended => (ended, false),
                (Some(live), _) => (live, true),
                (None, Some(ended)) => (ended, false),
            };
            if !self.may_look() {
                return Ok(ControlFlow::Break(before(id).unwrap_or(id)));
            }
            let next = if is_live { self.next_live(id)? } else { self.next_ended(id)? };
            if next.is_break() {
                return Ok(ControlFlow::Break(id));
            }
        }
    }

    fn next_live(&mut self, id: EntryId) -> Result<ControlFlow<()>, StoreError> {
        let Some(rows) = &mut self.live else { return Ok(ControlFlow::Continue(())) };
        let row = rows.row()?;
        rows.advance();
        row.map_or(Ok(ControlFlow::Continue(())), |row| self.tell_live(id, row))
    }

    fn next_ended(&mut self, id: EntryId) -> Result<ControlFlow<()>, StoreError> {
        let Some(rows) = &mut self.ended else { return Ok(ControlFlow::Continue(())) };
        let row = rows.row()?;
        rows.advance();
        let Some(mut row) = row else { return Ok(ControlFlow::Continue(())) };
        let name = self.name(row.vqueue)?;
        if !self.query.matches(id, Stage::Finished, row.created_at, &name)
            || !(self.query.wants_finished)(&row)
        {
            return Ok(ControlFlow::Continue(()));
        }
        let mut result = None;
        // Without its bytes: a page of large results would take much memory.
        if let Some(CompleteOutcome::Success(bytes)) = &mut row.outcome {
            result = self.head(bytes);
            bytes.clear();
        }
        let has_payload = matches!(row.outcome, Some(CompleteOutcome::Failure(_)));
        let payload = if has_payload { self.payload(id)? } else { None };
        Ok((self.visit)(Listed { id, row: ListedRow::Finished(row), name, payload, result }))
    }

    fn tell_live(&mut self, id: EntryId, row: EntryRow) -> Result<ControlFlow<()>, StoreError> {
        let name = self.name(row.vqueue)?;
        if !self.query.matches(id, row.stage, row.created_at, &name) {
            return Ok(ControlFlow::Continue(()));
        }
        let payload = self.payload(id)?;
        Ok((self.visit)(Listed { id, row: ListedRow::Live(row), name, payload, result: None }))
    }

    fn head(&self, bytes: &Bytes) -> Option<BytesHead> {
        (self.query.bytes_max > 0).then(|| BytesHead::of(bytes, self.query.bytes_max))
    }

    fn payload(&self, id: EntryId) -> Result<Option<BytesHead>, StoreError> {
        if self.query.bytes_max == 0 {
            return Ok(None);
        }
        Ok(self.store.payload(id)?.and_then(|payload| self.head(&payload)))
    }

    fn name(&mut self, vqueue: VQueueId) -> Result<Arc<VQueueName>, StoreError> {
        if let Some(name) = self.names.get(&vqueue) {
            return Ok(Arc::clone(name));
        }
        let name = Arc::new(self.store.name(vqueue)?);
        self.names.insert(vqueue, Arc::clone(&name));
        Ok(name)
    }
}

/// Entry ids of a table by vqueue, under one partition key; `None` if there are too many to sort.
fn ids_under<T: Table<Key = (VQueueId, EntryId)>>(
    rows: &mut Seeker<'_, T>,
    key: PartitionKey,
) -> Result<Option<Vec<EntryId>>, StoreError> {
    let mut ids = Vec::new();
    rows.seek(&key.0.to_be_bytes());
    while let Some((vqueue, id)) = rows.key()?
        && vqueue.partition_key == key
    {
        if ids.len() == SORTED_MAX {
            return Ok(None);
        }
        ids.push(id);
        rows.advance();
    }
    Ok(Some(ids))
}

fn first_of(partition_key: PartitionKey) -> EntryId {
    EntryId { partition_key, uuid: [0; 16] }
}

fn last_of(partition_key: PartitionKey) -> EntryId {
    EntryId { partition_key, uuid: [u8::MAX; 16] }
}

/// The next id in byte order; `None` after the last.
fn after(id: EntryId) -> Option<EntryId> {
    let EntryId { partition_key, uuid } = id;
    match u128::from_be_bytes(uuid).checked_add(1) {
        Some(uuid) => Some(EntryId { partition_key, uuid: uuid.to_be_bytes() }),
        None => partition_key.0.checked_add(1).map(|key| first_of(PartitionKey(key))),
    }
}

/// The previous id in byte order; `None` before the first.
fn before(id: EntryId) -> Option<EntryId> {
    let EntryId { partition_key, uuid } = id;
    match u128::from_be_bytes(uuid).checked_sub(1) {
        Some(uuid) => Some(EntryId { partition_key, uuid: uuid.to_be_bytes() }),
        None => partition_key.0.checked_sub(1).map(|key| last_of(PartitionKey(key))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_and_after_are_neighbours_in_byte_order() {
        let id = |key, uuid: u128| EntryId {
            partition_key: PartitionKey(key),
            uuid: uuid.to_be_bytes(),
        };
        for (one, next) in [
            (id(1, 5), id(1, 6)),
            (id(1, 255), id(1, 256)),
            (id(1, u128::MAX), id(2, 0)),
            (id(0, 0), id(0, 1)),
        ] {
            assert_eq!((after(one), before(next)), (Some(next), Some(one)));
            assert!(one.to_bytes() < next.to_bytes());
        }
        assert_eq!((before(id(0, 0)), after(id(u64::MAX, u128::MAX))), (None, None));
    }
}
