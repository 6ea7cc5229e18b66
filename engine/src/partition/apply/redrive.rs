//! `Redrive`: entries that failed for good are tried again, from attempt one.

use forebay_messages::{Timestamp, command::EntrySelector};

use super::{
    super::{rows::EntryRow, state::NewKey, store::Tables},
    ApplyError, Context, Reply,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Reply, ApplyError> {
    let mut changed = 0;
    for (id, finished) in context.select_finished(selector)? {
        let can_run_again =
            !finished.outcome().is_success() && context.tables.payload(id)?.is_some();
        if !can_run_again {
            continue;
        }
        let mut meta = context.meta(finished.vqueue)?;
        meta.finished = meta.finished.checked_sub(1).ok_or_else(|| ApplyError::Inconsistent {
            what: format!("{} counts no finished entry but {id} is one", finished.vqueue),
        })?;
        if finished.expires_at < Timestamp::MAX {
            context.tables.delete_timer(finished.expires_at, id);
        }
        context.tables.delete_finished(id);
        let mut row = EntryRow {
            vqueue: finished.vqueue,
            created_at: finished.created_at,
            retry: finished.retry,
            retention_ms: finished.retention_ms,
            idempotency_key: finished.idempotency_key,
            ..EntryRow::default()
        };
        let key = NewKey { entry: id, run_at: None, has_lock: false };
        context.enter_inbox(&mut row, &mut meta, key);
        context.put_meta(row.vqueue, meta);
        context.tables.put_entry(id, row);
        changed += 1;
    }
    Ok(Reply::Changed(changed))
}
