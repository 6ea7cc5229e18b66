//! `Redrive`: entries that failed permanently are retried, from attempt one.

use forebay_messages::{
    EntryId, Timestamp,
    command::{EntryAction, EntrySelector},
};

use super::{
    super::{
        rows::{EntryRow, FinishedRow, Stage},
        state::NewKey,
        store::Tables,
    },
    Acted, ApplyError, Context, Skip,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_finished(selector, EntryAction::Redrive, |context, id, finished| {
        let mut row = match revive(context, id, finished)? {
            Ok(row) => row,
            Err(skip) => return Ok(Err(skip)),
        };
        let key = NewKey { entry: id, run_at: None, has_lock: false };
        context.enter_inbox(&mut row, key);
        context.count((id, row.vqueue), Some(Stage::Finished), Some(Stage::Inbox))?;
        context.tables.put_entry(id, row);
        Ok(Ok(()))
    })
}

/// An entry that ended is live again: its row, which is in no stage yet and still counts as
/// finished.
pub(super) fn revive<T: Tables>(
    context: &mut Context<'_, T>,
    id: EntryId,
    finished: FinishedRow,
) -> Result<Result<EntryRow, Skip>, ApplyError> {
    if context.tables.payload(id)?.is_none() {
        return Ok(Err(Skip::NoPayload));
    }
    if finished.expires_at < Timestamp::MAX {
        context.tables.delete_timer(finished.expires_at, id);
    }
    context.tables.delete_finished(id);
    Ok(Ok(EntryRow {
        vqueue: finished.vqueue,
        created_at: finished.created_at,
        retry: finished.retry,
        retention_ms: finished.retention_ms,
        idempotency_key: finished.idempotency_key,
        extra: finished.extra,
        ..EntryRow::default()
    }))
}
