//! Moving an entry between stages: the rows, the counts, and what is told of it.
//!
//! Must always hold: an entry has exactly one stage row (inbox, running or parked),
//! the one that its `stage` names, and counts in its vqueue's meta row once.

use std::sync::Arc;

use forebay_messages::{EntryId, VQueueId, VQueueName};

use super::{
    super::{
        rows::{EntryRow, RunningRow, Stage, VQueueMeta},
        state::NewKey,
        store::Tables,
    },
    Applied, ApplyError, Context,
};

/// How an attempt is over, for those who hold something for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// The entry keeps its vqueue's lock.
    pub(super) keeps_lock: bool,
    /// The handler is to be stopped.
    pub(super) abort: bool,
}

impl<T: Tables> Context<'_, T> {
    /// The meta row of a vqueue that has entries.
    pub(super) fn meta(&self, vqueue: VQueueId) -> Result<VQueueMeta, ApplyError> {
        self.tables.vqueue_meta(vqueue)?.ok_or_else(|| ApplyError::Inconsistent {
            what: format!("{vqueue} has entries but no meta row"),
        })
    }

    /// The meta row of a vqueue, made when it is new.
    pub(super) fn meta_or_new(
        &self,
        vqueue: VQueueId,
        name: &VQueueName,
    ) -> Result<VQueueMeta, ApplyError> {
        Ok(self.tables.vqueue_meta(vqueue)?.unwrap_or_else(|| VQueueMeta {
            name: Arc::new(name.clone()),
            created_at: self.now,
            ..VQueueMeta::default()
        }))
    }

    /// Writes a meta row, or deletes it when nothing is left of the vqueue.
    pub(super) fn put_meta(&mut self, vqueue: VQueueId, meta: VQueueMeta) {
        if meta.is_empty() {
            self.tables.delete_vqueue_meta(vqueue);
        } else {
            self.tables.put_vqueue_meta(vqueue, meta);
        }
    }

    /// Takes an entry out of its stage: its stage row and its count.
    pub(super) fn leave(
        &mut self,
        id: EntryId,
        row: &EntryRow,
        meta: &mut VQueueMeta,
        how: Leaving,
    ) -> Result<(), ApplyError> {
        let vqueue = row.vqueue;
        match row.stage {
            Stage::Inbox => {
                self.tables.delete_inbox(vqueue, row.key);
                if let Some(backlog) = &mut self.state.backlog {
                    backlog.left(&meta.name);
                }
                self.applied.push(Applied::InboxRemoved { vqueue, key: row.key });
            }
            Stage::Running => {
                self.tables.delete_running(vqueue, id);
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
        let count = meta.count_mut(row.stage);
        *count = count.checked_sub(1).ok_or_else(|| ApplyError::Inconsistent {
            what: format!("{vqueue} counts no entry in stage {} but {id} is there", row.stage),
        })?;
        Ok(())
    }

    /// Puts an entry (which is in no stage) into its vqueue's inbox at a new place.
    pub(super) fn enter_inbox(&mut self, row: &mut EntryRow, meta: &mut VQueueMeta, key: NewKey) {
        row.key = self.state.next_key(self.tables, self.now, key);
        self.enter_inbox_at_key(row, meta);
    }

    /// Puts an entry (which is in no stage) back to the place it had.
    pub(super) fn enter_inbox_at_key(&mut self, row: &mut EntryRow, meta: &mut VQueueMeta) {
        row.stage = Stage::Inbox;
        meta.inbox += 1;
        if let Some(backlog) = &mut self.state.backlog {
            backlog.came(&meta.name);
        }
        self.tables.put_inbox(row.vqueue, row.key);
        self.applied.push(Applied::InboxAdded { vqueue: row.vqueue, key: row.key });
    }

    /// Lets an entry (which is in no stage) run.
    pub(super) fn enter_running(&mut self, id: EntryId, row: &mut EntryRow, meta: &mut VQueueMeta) {
        row.stage = Stage::Running;
        row.started_at = self.now;
        meta.running += 1;
        self.tables.put_running(row.vqueue, id, RunningRow { token: row.token });
    }
}
