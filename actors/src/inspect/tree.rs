//! The tree of an entry and its children over all partitions, and what a suspended entry waits for,
//! for display.
//!
//! Must always hold: inspection changes nothing; an answer has a bounded number of entries. The
//! rows of two partitions are read at nearly, not exactly, the same time.

use std::collections::HashMap;

use forebay_api::{Reason, TREE_ENTRIES_MAX, TreeEntryView, TreeView, WAITS_SHOWN_MAX};
use forebay_engine::partition::{rows::JournalRow, store::JournalRows as _};
use forebay_messages::{
    EntryId, PartitionId, Stage, VQueueId,
    journal::{JournalKey, JournalKind, ParentLink},
};

use crate::{error::NodeError, peers::ReplicaRows, registry::Registry};

use super::{
    Inspect,
    query::{name_of, text},
};

/// Rows of a journal read at a time.
const PAGE_LEN: usize = 1_024;

/// The newest rows of all partitions.
pub(super) struct AllRows(Vec<(PartitionId, ReplicaRows)>);

/// The stored state of an entry.
struct Found<'a> {
    rows: &'a ReplicaRows,
    vqueue: VQueueId,
    stage: Stage,
    outcome: Option<forebay_api::EntryOutcome>,
    parent: Option<ParentLink>,
    has_journal: bool,
}

impl AllRows {
    pub(super) fn of(registry: &Registry) -> Result<Self, NodeError> {
        registry.all_newest_rows().map(Self)
    }

    /// The rows of the partition that owns an entry, if one does.
    fn owner(&self, id: EntryId) -> Option<&ReplicaRows> {
        let key = id.partition_key;
        let owns = |rows: &&ReplicaRows| rows.range.contains(key);
        self.0.iter().map(|(_, rows)| rows).find(owns)
    }

    fn find(&self, id: EntryId) -> Result<Option<Found<'_>>, NodeError> {
        let Some(rows) = self.owner(id) else { return Ok(None) };
        if let Some(row) = rows.store.entry(id)? {
            return Ok(Some(Found {
                rows,
                vqueue: row.vqueue,
                stage: row.stage,
                outcome: None,
                parent: row.parent().cloned(),
                has_journal: row.journal().is_some_and(|journal| journal.rows > 0),
            }));
        }
        let Some(row) = rows.store.finished(id)? else { return Ok(None) };
        Ok(Some(Found {
            rows,
            vqueue: row.vqueue,
            stage: Stage::Finished,
            outcome: Some((&row.outcome()).into()),
            parent: row.parent().cloned(),
            has_journal: row.has_journal(),
        }))
    }

    /// Calls a function with each operation of a journal, in the order of the keys, until it
    /// returns false.
    fn each_operation(
        &self,
        id: EntryId,
        mut look: impl FnMut(JournalKey, JournalRow) -> bool,
    ) -> Result<(), NodeError> {
        let Some(rows) = self.owner(id) else { return Ok(()) };
        let mut after: Option<JournalKey> = None;
        loop {
            let page = rows.store.journal_after(id, after.as_ref(), PAGE_LEN)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, row) in page {
                if !look(key, row) {
                    return Ok(());
                }
            }
        }
    }

    /// The unfinished operations of an entry, each with what ends it; at most [`WAITS_SHOWN_MAX`].
    pub(super) fn waits_of(&self, id: EntryId) -> Result<Vec<Reason>, NodeError> {
        let mut waits = Vec::new();
        self.each_operation(id, |key, row| {
            if !row.is_finished() && row.kind.is_durable_wait() {
                waits.push((key, row));
            }
            waits.len() < WAITS_SHOWN_MAX
        })?;
        waits.iter().map(|(key, row)| self.wait(key, row)).collect()
    }

    fn wait(&self, key: &JournalKey, row: &JournalRow) -> Result<Reason, NodeError> {
        let operation = key.to_string();
        Ok(match (row.kind, row.child) {
            (JournalKind::Promise, _) => {
                Reason::Promise { name: key.name().to_string(), operation }
            }
            (JournalKind::Sleep, _) | (_, None) => Reason::Sleep { until: row.until.0, operation },
            (_, Some(child)) => {
                let found = self.find(child)?;
                let stage = found.as_ref().map(|found| found.stage);
                let outcome = found.and_then(|found| found.outcome);
                Reason::Child { child, operation, stage, outcome }
            }
        })
    }

    fn tree(&self, root: EntryId) -> Result<Option<TreeView>, NodeError> {
        let Some(found) = self.find(root)? else { return Ok(None) };
        let parent = found.parent.as_ref();
        let link = Link {
            parent: parent.map(|parent| parent.entry),
            operation: parent.map(|parent| parent.key.to_string()),
            is_awaited: parent.is_some_and(|parent| parent.is_awaited),
            is_attached: parent.is_some_and(|parent| parent.is_awaited),
        };
        let mut tree = TreeView::default();
        let mut next = vec![(root, 0, link)];
        let mut names = HashMap::new();
        while let Some((id, depth, link)) = next.pop() {
            if tree.entries.len() == TREE_ENTRIES_MAX {
                tree.is_cut = true;
                break;
            }
            let found = self.find(id)?;
            if found.as_ref().is_some_and(|found| found.has_journal) {
                let room = TREE_ENTRIES_MAX + 1 - tree.entries.len();
                let mut children = self.children(id, room)?;
                children.reverse();
                next.extend(children.into_iter().map(|(id, link)| (id, depth + 1, link)));
            }
            tree.entries.push(self.view(id, depth, link, found.as_ref(), &mut names)?);
        }
        Ok(Some(tree))
    }

    /// The children of an entry, in the order of its operations.
    fn children(&self, id: EntryId, limit: usize) -> Result<Vec<(EntryId, Link)>, NodeError> {
        let mut children = Vec::new();
        self.each_operation(id, |key, row| {
            if let (JournalKind::Call | JournalKind::Send, Some(child)) = (row.kind, row.child) {
                let is_awaited = row.kind == JournalKind::Call;
                let link = Link {
                    parent: Some(id),
                    operation: Some(key.to_string()),
                    is_awaited,
                    is_attached: is_awaited || row.is_attached,
                };
                children.push((child, link));
            }
            children.len() < limit
        })?;
        Ok(children)
    }

    fn view(
        &self,
        id: EntryId,
        depth: u32,
        link: Link,
        found: Option<&Found<'_>>,
        names: &mut HashMap<VQueueId, (String, Option<String>)>,
    ) -> Result<TreeEntryView, NodeError> {
        let Link { parent, operation, is_awaited, is_attached } = link;
        let mut view = TreeEntryView {
            id,
            depth,
            parent,
            operation,
            is_awaited,
            is_attached,
            service: None,
            key: None,
            stage: None,
            outcome: None,
            waits_for: Vec::new(),
        };
        let Some(found) = found else { return Ok(view) };
        let (service, key) = match names.get(&found.vqueue) {
            Some(known) => known.clone(),
            None => {
                let name = name_of(found.rows, found.vqueue)?;
                let known = (name.service.to_string(), text(name.object_key.as_ref()));
                names.entry(found.vqueue).or_insert(known).clone()
            }
        };
        (view.service, view.key) = (Some(service), key);
        (view.stage, view.outcome) = (Some(found.stage), found.outcome);
        if found.has_journal && found.stage != Stage::Finished {
            view.waits_for = self.waits_of(id)?;
        }
        Ok(view)
    }
}

/// How an entry of a tree is connected to its parent.
struct Link {
    parent: Option<EntryId>,
    operation: Option<String>,
    is_awaited: bool,
    is_attached: bool,
}

impl Inspect {
    /// A tree of an entry, its children and their descendants, over all partitions, with at most
    /// [`TREE_ENTRIES_MAX`] entries; `None` when there is no such entry. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails.
    pub async fn tree(&self, id: EntryId) -> Result<Option<TreeView>, NodeError> {
        let rows = AllRows::of(&self.registry)?;
        self.registry.blocking(move || rows.tree(id)).await?
    }
}
