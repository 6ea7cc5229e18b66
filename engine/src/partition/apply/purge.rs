//! `Purge`: finished entries are forgotten, with their idempotency keys and the
//! payloads that were kept for a redrive.

use forebay_messages::{EntryId, Timestamp, command::Purge};

use super::{super::store::Tables, Applied, ApplyError, Context, Reply, enqueue::idempotency_key};

/// Most entries that one purge by time forgets.
const PURGE_COUNT_MAX: usize = 1024;

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Purge,
) -> Result<Reply, ApplyError> {
    let mut purged = 0;
    for id in &command.entries {
        // Named twice, it is gone by then.
        purged += u64::from(forget(context, *id)?);
    }
    if let Some(until) = command.expired_until {
        let limit = match command.count_max as usize {
            0 => PURGE_COUNT_MAX,
            count => count.min(PURGE_COUNT_MAX),
        };
        for (at, id) in context.tables.timers_until(until, limit)? {
            if !forget(context, id)? {
                return Err(ApplyError::Inconsistent {
                    what: format!("{id} expires at {} but has not ended", at.0),
                });
            }
            purged += 1;
        }
    }
    Ok(Reply::Changed(purged))
}

fn forget<T: Tables>(context: &mut Context<'_, T>, id: EntryId) -> Result<bool, ApplyError> {
    let Some(row) = context.tables.finished(id)? else {
        return Ok(false);
    };
    let mut meta = context.meta(row.vqueue)?;
    if let Some(key) = &row.idempotency_key {
        context.tables.delete_idempotency(&idempotency_key(&meta.name, key));
    }
    if row.expires_at < Timestamp::MAX {
        context.tables.delete_timer(row.expires_at, id);
    }
    if !row.outcome().is_success() {
        context.tables.delete_payload(id);
    }
    context.tables.delete_finished(id);
    meta.finished = meta.finished.checked_sub(1).ok_or_else(|| ApplyError::Inconsistent {
        what: format!("{} counts no finished entry but {id} is one", row.vqueue),
    })?;
    context.put_meta(row.vqueue, meta);
    context.applied.push(Applied::Purged { entry: id });
    Ok(true)
}
