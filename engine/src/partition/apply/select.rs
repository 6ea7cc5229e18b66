//! Which entries or vqueues a command is for.
//!
//! Must always hold: a selection is one moment of the log: it sees every entry
//! enqueued before the command and none after; it names nobody twice, however often
//! the client did, so that nobody is changed twice from one reading of its row.

use std::collections::BTreeSet;

use forebay_messages::{
    EntryId, VQueueId, VQueueName,
    command::{EntrySelector, VQueueSelector},
};

use super::{
    super::{
        rows::{EntryRow, FinishedRow},
        store::Tables,
    },
    ApplyError, Context,
};

/// Rows read at a time.
const PAGE_LEN: usize = 512;

/// The same in the same order, each once.
fn unique<T: Copy + Ord>(named: &[T]) -> Vec<T> {
    let mut seen = BTreeSet::new();
    named.iter().copied().filter(|id| seen.insert(*id)).collect()
}

/// Whether a limit key (`l1` or `l1/l2`) selects a name; `l1` takes all below it.
fn limit_key_selects(wanted: &str, name: &VQueueName) -> bool {
    let (l1, l2) = match wanted.split_once('/') {
        Some((l1, l2)) => (l1, Some(l2)),
        None => (wanted, None),
    };
    name.l1.as_deref() == Some(l1) && (l2.is_none() || name.l2.as_deref() == l2)
}

fn name_selected(
    name: &VQueueName,
    service: Option<&str>,
    scope: Option<&str>,
    limit_key: Option<&str>,
) -> bool {
    service.is_none_or(|service| name.service == service)
        && scope.is_none_or(|scope| name.scope.as_deref() == Some(scope))
        && limit_key.is_none_or(|key| limit_key_selects(key, name))
}

impl<T: Tables> Context<'_, T> {
    fn entry_name_selected(
        &self,
        selector: &EntrySelector,
        vqueue: VQueueId,
    ) -> Result<bool, ApplyError> {
        let any_name =
            selector.service.is_none() && selector.scope.is_none() && selector.limit_key.is_none();
        if any_name {
            return Ok(true);
        }
        let meta = self.meta(vqueue)?;
        Ok(name_selected(
            &meta.name,
            selector.service.as_deref(),
            selector.scope.as_deref(),
            selector.limit_key.as_deref(),
        ))
    }

    /// Entries that have not ended and are selected.
    pub(super) fn select_entries(
        &self,
        selector: &EntrySelector,
    ) -> Result<Vec<(EntryId, EntryRow)>, ApplyError> {
        let mut selected = Vec::new();
        if !selector.entries.is_empty() {
            for id in unique(&selector.entries) {
                if let Some(row) = self.tables.entry(id)? {
                    selected.push((id, row));
                }
            }
            return Ok(selected);
        }
        let mut after = None;
        loop {
            let page = self.tables.entries_after(after, PAGE_LEN)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (id, row) in page {
                let wanted = selector.stage.is_none_or(|stage| stage == row.stage as u32)
                    && selector.created_until.is_none_or(|until| row.created_at <= until);
                if wanted && self.entry_name_selected(selector, row.vqueue)? {
                    selected.push((id, row));
                }
            }
        }
        Ok(selected)
    }

    /// Finished entries that are selected.
    pub(super) fn select_finished(
        &self,
        selector: &EntrySelector,
    ) -> Result<Vec<(EntryId, FinishedRow)>, ApplyError> {
        let mut selected = Vec::new();
        if !selector.entries.is_empty() {
            for id in unique(&selector.entries) {
                if let Some(row) = self.tables.finished(id)? {
                    selected.push((id, row));
                }
            }
            return Ok(selected);
        }
        let mut after = None;
        loop {
            let page = self.tables.finished_after(after, PAGE_LEN)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (id, row) in page {
                let wanted = selector.created_until.is_none_or(|until| row.created_at <= until);
                if wanted && self.entry_name_selected(selector, row.vqueue)? {
                    selected.push((id, row));
                }
            }
        }
        Ok(selected)
    }

    /// Vqueues that are selected.
    pub(super) fn select_vqueues(
        &self,
        selector: &VQueueSelector,
    ) -> Result<Vec<VQueueId>, ApplyError> {
        if !selector.vqueues.is_empty() {
            return Ok(unique(&selector.vqueues));
        }
        let mut selected = Vec::new();
        let mut after = None;
        loop {
            let page = self.tables.vqueues_after(after, PAGE_LEN)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            selected.extend(page.into_iter().filter_map(|(id, meta)| {
                name_selected(
                    &meta.name,
                    selector.service.as_deref(),
                    selector.scope.as_deref(),
                    selector.limit_key.as_deref(),
                )
                .then_some(id)
            }));
        }
        Ok(selected)
    }
}
