//! Moving an entry between stages: the rows, the counts, and the reported effects.
//!
//! Must always hold: an entry has exactly one stage row (inbox, running or parked), the one of its
//! `stage`, and is counted once in its vqueue's meta row.

use std::sync::Arc;

use forebay_messages::{EntryId, EntryKey, VQueueId, VQueueName};

use super::{
    super::{
        rows::{EntryRow, Stage, VQueueMeta},
        state::NewKey,
        store::Tables,
    },
    Applied, ApplyError, Context,
};

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// Whether the entry keeps its vqueue's lock.
    pub(super) keeps_lock: bool,
    /// Whether to stop the handler.
    pub(super) abort: bool,
}

impl<T: Tables> Context<'_, T> {
    /// The meta row of a vqueue that has entries.
    pub(super) fn meta(&self, vqueue: VQueueId) -> Result<VQueueMeta, ApplyError> {
        self.tables.vqueue_meta(vqueue)?.ok_or_else(|| no_meta(vqueue))
    }

    /// Whether a vqueue that has entries has a lock.
    pub(super) fn has_lock(&self, vqueue: VQueueId) -> Result<bool, ApplyError> {
        let has_lock = self.tables.look_at_vqueue(vqueue, |meta| meta.name.has_lock())?;
        has_lock.ok_or_else(|| no_meta(vqueue))
    }

    /// Writes a meta row, or deletes it if nothing is left of the vqueue.
    pub(super) fn put_meta(&mut self, vqueue: VQueueId, meta: VQueueMeta) {
        if meta.is_empty() {
            self.tables.delete_vqueue_meta(vqueue);
        } else {
            self.tables.put_vqueue_meta(vqueue, meta);
        }
    }

    /// Moves an entry's count from one stage to another; the meta row is deleted if nothing is left
    /// of the vqueue. Returns whether the vqueue has a lock.
    pub(super) fn count(
        &mut self,
        (id, vqueue): (EntryId, VQueueId),
        from: Option<Stage>,
        to: Option<Stage>,
    ) -> Result<bool, ApplyError> {
        let backlog = self.state.backlog.as_mut();
        let counted = self.tables.change_vqueue_meta(vqueue, |meta| {
            if let Some(from) = from {
                let count = meta.count_mut(from);
                *count = count.checked_sub(1).ok_or(from)?;
            }
            if let Some(to) = to {
                *meta.count_mut(to) += 1;
            }
            if let Some(backlog) = backlog {
                backlog.moved(&meta.name, from == Some(Stage::Inbox), to == Some(Stage::Inbox));
            }
            Ok((meta.is_empty(), meta.name.has_lock()))
        })?;
        let counted = counted.ok_or_else(|| no_meta(vqueue))?;
        let (is_empty, has_lock) = counted.map_err(|stage: Stage| ApplyError::Inconsistent {
            what: format!("{vqueue} counts no entry in stage {stage} but {id} is in it"),
        })?;
        if is_empty {
            self.tables.delete_vqueue_meta(vqueue);
        }
        Ok(has_lock)
    }

    /// Counts a new entry in the inbox of its vqueue, which may be new too.
    pub(super) fn count_new(
        &mut self,
        vqueue: VQueueId,
        name: &VQueueName,
    ) -> Result<(), ApplyError> {
        if self.tables.change_vqueue_meta(vqueue, |meta| meta.inbox += 1)?.is_none() {
            let (name, created_at) = (Arc::new(name.clone()), self.now);
            let meta = VQueueMeta { name, created_at, inbox: 1, ..VQueueMeta::default() };
            self.tables.put_vqueue_meta(vqueue, meta);
        }
        if let Some(backlog) = &mut self.state.backlog {
            backlog.moved(name, false, true);
        }
        Ok(())
    }

    /// Removes an entry's stage row. The caller counts it elsewhere.
    pub(super) fn leave(&mut self, id: EntryId, row: &EntryRow, how: Leaving) {
        if row.stage == Stage::Running {
            self.tables.delete_running(row.vqueue, id);
        }
        self.leave_stage(id, row, how);
    }

    /// The same for an entry that ends; its running row is deleted with it.
    pub(super) fn leave_permanently(&mut self, id: EntryId, row: &EntryRow, abort: bool) {
        self.leave_stage(id, row, Leaving { keeps_lock: false, abort });
    }

    fn leave_stage(&mut self, id: EntryId, row: &EntryRow, how: Leaving) {
        let vqueue = row.vqueue;
        match row.stage {
            Stage::Inbox => self.leave_inbox(vqueue, row.key),
            Stage::Running => {
                self.applied.push(Applied::AttemptOver {
                    entry: id,
                    vqueue,
                    token: row.token,
                    keeps_lock: how.keeps_lock,
                    abort: how.abort,
                });
            }
            Stage::Suspended | Stage::Paused => self.tables.delete_parked(vqueue, id),
            Stage::Finished => {}
        }
    }

    pub(super) fn leave_inbox(&mut self, vqueue: VQueueId, key: EntryKey) {
        self.tables.delete_inbox(vqueue, key);
        self.applied.push(Applied::InboxRemoved { vqueue, key });
    }

    /// Adds an entry (which is in no stage) to its vqueue's inbox at a new place.
    pub(super) fn enter_inbox(&mut self, row: &mut EntryRow, key: NewKey) {
        row.key = self.state.next_key(self.now, key);
        self.enter_inbox_at_key(row);
    }

    /// Returns an entry (which is in no stage) to its former place.
    pub(super) fn enter_inbox_at_key(&mut self, row: &mut EntryRow) {
        row.stage = Stage::Inbox;
        self.tables.put_inbox(row.vqueue, row.key);
        self.applied.push(Applied::InboxAdded { vqueue: row.vqueue, key: row.key });
    }
}

pub(super) fn no_meta(vqueue: VQueueId) -> ApplyError {
    ApplyError::Inconsistent { what: format!("{vqueue} has entries but no meta row") }
}
