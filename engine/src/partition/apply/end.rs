//! The end of an entry, whatever the cause.
//!
//! Must always hold: afterwards only the entry's result is left (and, if it failed, its payload, so
//! that it can be redriven; and its journal), and its lock is free.

use forebay_messages::{EntryId, Outcome, Timestamp};

use super::{
    super::{
        rows::{EntryRow, FinishedRow, Stage},
        store::Tables,
    },
    Applied, ApplyError, Context,
    enqueue::idempotency_key,
};

/// How long results are kept by default: 24 hours.
pub(super) const RETENTION_DEFAULT_MS: u64 = 24 * 60 * 60 * 1000;

/// Ends an entry. `abort`: stop its handler, if one runs.
pub(super) fn end<T: Tables>(
    context: &mut Context<'_, T>,
    id: EntryId,
    mut row: EntryRow,
    outcome: Outcome,
    abort: bool,
) -> Result<(), ApplyError> {
    if row.extra.is_some() {
        context.end_journal(id, &mut row, &outcome)?;
    }
    let vqueue = row.vqueue;
    let retention_ms = row.retention_ms.unwrap_or(RETENTION_DEFAULT_MS);
    let is_kept = retention_ms > 0;
    if let Some(key) = row.idempotency_key.as_ref().filter(|_| !is_kept) {
        let key = idempotency_key(&context.meta(vqueue)?.name, key);
        context.tables.delete_idempotency(&key);
    }
    context.leave_permanently(id, &row, abort);
    let kept_as = is_kept.then_some(Stage::Finished);
    let has_lock = context.count((id, vqueue), Some(row.stage), kept_as)?;
    if has_lock && context.tables.lock(vqueue)? == Some(id) {
        context.tables.delete_lock(vqueue);
        if row.stage != Stage::Running {
            context.applied.push(Applied::LockFreed { vqueue, entry: id });
        }
    }
    if let Some(journal) = row.journal().filter(|_| !is_kept) {
        context.forget_journal(id, journal)?;
    }
    let keeps_payload = is_kept && !outcome.is_success();
    context.tables.end_entry(id, vqueue, row.stage == Stage::Running, keeps_payload);
    if is_kept {
        let expires_at = Timestamp(context.now.0.saturating_add(retention_ms));
        if expires_at < Timestamp::MAX {
            context.tables.put_timer(expires_at, id);
        }
        context.tables.put_finished(
            id,
            FinishedRow {
                vqueue,
                outcome: Some(outcome.clone().into()),
                created_at: row.created_at,
                finished_at: context.now,
                expires_at,
                attempts: row.attempts,
                idempotency_key: row.idempotency_key,
                retry: row.retry,
                retention_ms: row.retention_ms,
                started_at: row.started_at,
                extra: row.extra,
            },
        );
    }
    context.applied.push(Applied::Finished { entry: id, outcome });
    Ok(())
}
