//! Listing vqueues page by page.
//!
//! Must always hold: vqueues are in the order of their ids, over all partitions; a page reads a
//! bounded number of rows.

use forebay_api::{EntryFilter, LISTED_BYTES_MAX, PAGE_ENTRIES_MAX, UnservedView, VQueueView};
use forebay_engine::partition::{rows::VQueueMeta, store::SeedRows};
use forebay_messages::{EntryId, PartitionId, VQueueId};
use forebay_storage::partition::{BytesHead, Head};

use crate::{error::NodeError, peers::ReplicaRows, table::KeyRange, unserved::UnservedService};

use super::{
    Inspect, PAGE_ROWS_MAX,
    query::{bytes_view, limit_key, selector, text},
};

/// Rows read at a time.
const ROWS_AT_A_TIME: usize = 512;

/// Vqueues in the order of their ids, and the position of the next page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VQueuePage {
    /// Matching vqueues. There may be none although more follow.
    pub vqueues: Vec<VQueueView>,
    /// Continue after this one; `None` at the end.
    pub next: Option<VQueueId>,
}

/// A filter for vqueues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VQueueFilter {
    /// Vqueues whose entries can match this; its `limit` and `bytes_max` apply.
    pub entries: EntryFilter,
    /// Includes queues without work.
    pub all: bool,
}

fn view(id: VQueueId, meta: &VQueueMeta) -> VQueueView {
    VQueueView {
        id,
        service: meta.name.service.to_string(),
        scope: text(meta.name.scope.as_ref()),
        limit_key: limit_key(&meta.name),
        key: text(meta.name.object_key.as_ref()),
        inbox: meta.inbox,
        running: meta.running,
        parked: meta.suspended + meta.paused,
        finished: meta.finished,
        is_paused: meta.is_paused,
        has_handler: None,
        head: None,
        payload: None,
    }
}

/// Adds the running or next entry, with its payload.
fn add_head(
    partition: &ReplicaRows,
    view: &mut VQueueView,
    bytes_max: usize,
) -> Result<(), NodeError> {
    let store = &partition.store;
    if view.running > 0 {
        let before = EntryId::default();
        let running = store.running_after(Some((view.id, before)), 1)?;
        view.head = running.first().filter(|((of, _), _)| *of == view.id).map(|((_, id), _)| *id);
    }
    if view.head.is_none() && view.inbox > 0 {
        let heads = store.inbox_heads(&[view.id])?;
        view.head = heads.first().and_then(|head| match head {
            Head::Row(place) => Some(place.entry),
            Head::Empty | Head::Unknown => None,
        });
    }
    if let Some(id) = view.head {
        let payload = store.payload(id)?;
        view.payload = payload.map(|payload| bytes_view(BytesHead::of(&payload, bytes_max)));
    }
    Ok(())
}

/// One page from these partitions, which are in the order of their keys. Blocks.
fn page(
    partitions: &[(PartitionId, ReplicaRows)],
    filter: &VQueueFilter,
    after: Option<VQueueId>,
) -> Result<VQueuePage, NodeError> {
    let limit = match filter.entries.limit {
        0 => PAGE_ENTRIES_MAX,
        limit => limit.min(PAGE_ENTRIES_MAX),
    };
    let bytes_max = filter.entries.bytes_max.min(LISTED_BYTES_MAX);
    let selector = selector(&filter.entries)?;
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for (_, partition) in partitions {
        let KeyRange { first, last } = partition.range;
        if after.is_some_and(|after| after.partition_key > last) {
            continue;
        }
        let mut from = after.filter(|after| after.partition_key >= first);
        loop {
            let rows = partition.store.vqueues_after(from, ROWS_AT_A_TIME)?;
            if rows.is_empty() {
                break;
            }
            for (id, meta) in rows {
                from = Some(id);
                looked_at += 1;
                let mut view = view(id, &meta);
                if selector.matches_name(&meta.name) && (filter.all || view.has_work()) {
                    if bytes_max > 0 {
                        add_head(partition, &mut view, bytes_max)?;
                    }
                    found.push(view);
                }
                if found.len() == limit || looked_at == PAGE_ROWS_MAX {
                    return Ok(VQueuePage { vqueues: found, next: from });
                }
            }
        }
    }
    Ok(VQueuePage { vqueues: found, next: None })
}

impl Inspect {
    /// Services with waiting entries and without a handler here. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn unserved(&self) -> Result<Vec<UnservedView>, NodeError> {
        let services = self.registry.unserved.services();
        let mut found = Vec::new();
        for UnservedService { service, since, vqueues, has_more } in services {
            let mut partitions = Vec::new();
            for (partition, vqueue) in vqueues {
                // A partition dropped meanwhile has no waiting entries here.
                partitions.extend(self.registry.newest_rows(partition).ok().map(|of| (of, vqueue)));
            }
            let count = move || -> Result<u64, NodeError> {
                let mut waiting = 0;
                for (partition, vqueue) in partitions {
                    waiting += partition.store.vqueue(vqueue)?.map_or(0, |meta| meta.inbox);
                }
                Ok(waiting)
            };
            let entries = self.registry.blocking(count).await??;
            if entries > 0 && !self.executor.has_handler(&service) {
                found.push(UnservedView { service, since: since.0, entries, has_more });
            }
        }
        Ok(found)
    }

    /// A page of vqueues, from the start or after one: at most [`PAGE_ENTRIES_MAX`] of them
    /// (or the filter's limit), from at most [`PAGE_ROWS_MAX`] rows. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn vqueue_page(
        &self,
        filter: &VQueueFilter,
        after: Option<VQueueId>,
    ) -> Result<VQueuePage, NodeError> {
        let (partitions, filter) = (self.registry.all_newest_rows()?, filter.clone());
        let mut page = self.registry.blocking(move || page(&partitions, &filter, after)).await??;
        if self.dispatches {
            for view in &mut page.vqueues {
                view.has_handler = Some(self.executor.has_handler(&view.service));
            }
        }
        Ok(page)
    }
}
