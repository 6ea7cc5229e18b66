//! Which entries or vqueues a command is for.
//!
//! Must always hold: a command changes those it names, if they match its filter too,
//! and nobody else: who names nobody changes nobody. It names nobody twice, however
//! often the client did, and at most [`ENTRIES_PER_COMMAND_MAX`]; finding entries by
//! filter is done before, by reading, so that applying a record costs what it changes.

use std::collections::BTreeSet;

use forebay_messages::{
    EntryId, Timestamp, VQueueId, VQueueName,
    command::{EntrySelector, VQueueSelector},
};

use super::{
    super::{
        rows::{EntryRow, FinishedRow, Stage, VQueueMeta},
        store::Tables,
    },
    Acted, ApplyError, Context, ENTRIES_PER_COMMAND_MAX, EntryAction, Skip,
};

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
    fn matches(
        &self,
        selector: &EntrySelector,
        (vqueue, stage, created_at): (VQueueId, Stage, Timestamp),
    ) -> Result<bool, ApplyError> {
        let fits = selector.stage.is_none_or(|wanted| wanted == stage as u32)
            && selector.created_until.is_none_or(|until| created_at <= until);
        let any_name =
            selector.service.is_none() && selector.scope.is_none() && selector.limit_key.is_none();
        if any_name || !fits {
            return Ok(fits);
        }
        Ok(name_selected(
            &self.meta(vqueue)?.name,
            selector.service.as_deref(),
            selector.scope.as_deref(),
            selector.limit_key.as_deref(),
        ))
    }

    /// Does something to each entry that is named, matches, and has not ended.
    pub(super) fn each_entry(
        &mut self,
        selector: &EntrySelector,
        action: EntryAction,
        mut change: impl FnMut(&mut Self, EntryId, EntryRow) -> Result<(), ApplyError>,
    ) -> Result<Acted, ApplyError> {
        self.each(&selector.entries, |context, id| {
            let Some(row) = context.tables.entry(id)? else {
                let has_ended = context.tables.finished(id)?.is_some();
                return Ok(Err(if has_ended { Skip::Finished } else { Skip::Unknown }));
            };
            if let Err(skip) = action.check(&row) {
                return Ok(Err(skip));
            }
            if !context.matches(selector, (row.vqueue, row.stage, row.created_at))? {
                return Ok(Err(Skip::NoMatch));
            }
            change(context, id, row).map(Ok)
        })
    }

    /// Does something to each entry that is named, matches, and has ended. The change
    /// may find a further reason not to.
    pub(super) fn each_finished(
        &mut self,
        selector: &EntrySelector,
        action: EntryAction,
        mut change: impl FnMut(&mut Self, EntryId, FinishedRow) -> Result<Result<(), Skip>, ApplyError>,
    ) -> Result<Acted, ApplyError> {
        self.each(&selector.entries, |context, id| {
            let Some(row) = context.tables.finished(id)? else {
                let is_live = context.tables.entry(id)?.is_some();
                return Ok(Err(if is_live { Skip::NotFinished } else { Skip::Unknown }));
            };
            if let Err(skip) = action.check_finished(&row) {
                return Ok(Err(skip));
            }
            if !context.matches(selector, (row.vqueue, Stage::Finished, row.created_at))? {
                return Ok(Err(Skip::NoMatch));
            }
            change(context, id, row)
        })
    }

    fn each<I: Copy + Ord>(
        &mut self,
        named: &[I],
        mut change: impl FnMut(&mut Self, I) -> Result<Result<(), Skip>, ApplyError>,
    ) -> Result<Acted<I>, ApplyError> {
        let mut acted = Acted::default();
        for (index, id) in unique(named).into_iter().enumerate() {
            let over = index >= ENTRIES_PER_COMMAND_MAX;
            match if over { Err(Skip::OverLimit) } else { change(self, id)? } {
                Ok(()) => acted.changed += 1,
                Err(skip) => acted.skipped.push((id, skip)),
            }
        }
        Ok(acted)
    }

    /// Does something to each vqueue that is named, matches, and is known. The change may
    /// find a further reason not to.
    pub(super) fn each_vqueue(
        &mut self,
        selector: &VQueueSelector,
        mut change: impl FnMut(&mut Self, VQueueId, VQueueMeta) -> Result<(), Skip>,
    ) -> Result<Acted<VQueueId>, ApplyError> {
        self.each(&selector.vqueues, |context, vqueue| {
            let Some(meta) = context.tables.vqueue_meta(vqueue)? else {
                return Ok(Err(Skip::Unknown));
            };
            let (service, scope) = (selector.service.as_deref(), selector.scope.as_deref());
            if !name_selected(&meta.name, service, scope, selector.limit_key.as_deref()) {
                return Ok(Err(Skip::NoMatch));
            }
            Ok(change(context, vqueue, meta))
        })
    }
}
