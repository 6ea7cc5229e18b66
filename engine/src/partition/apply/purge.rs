//! `Purge`: finished entries are removed, with their idempotency keys, and the payloads and
//! journals kept with them; so are tombstones.

use forebay_messages::{
    EntryId, Timestamp,
    command::{EntryAction, EntrySelector, Purge},
};

use super::{
    super::{
        rows::{FinishedRow, Stage},
        store::Tables,
    },
    Acted, Applied, ApplyError, Context,
    enqueue::idempotency_key,
};

/// Maximum number of entries that one purge by time removes.
const PURGE_COUNT_MAX: usize = 1_024;

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Purge,
) -> Result<Acted, ApplyError> {
    let named = EntrySelector { entries: command.entries.clone(), ..EntrySelector::default() };
    let mut acted = context.each_finished(&named, EntryAction::Purge, |context, id, row| {
        forget(context, id, row).map(Ok)
    })?;
    if let Some(until) = command.expired_until {
        let limit = match command.count_max as usize {
            0 => PURGE_COUNT_MAX,
            count => count.min(PURGE_COUNT_MAX),
        };
        for (at, id) in context.tables.timers_until(until, limit)? {
            if context.is_exhausted() {
                break;
            }
            if forget_tombstone(context, at, id)? {
                acted.changed += 1;
                continue;
            }
            let row = context.tables.finished(id)?.ok_or_else(|| ApplyError::Inconsistent {
                what: format!("{id} expires at {} but has not ended", at.0),
            })?;
            forget(context, id, row)?;
            acted.changed += 1;
        }
    }
    Ok(acted)
}

/// Deletes the tombstone of a child that was stopped before it arrived, if that is what expires.
fn forget_tombstone<T: Tables>(
    context: &mut Context<'_, T>,
    at: Timestamp,
    id: EntryId,
) -> Result<bool, ApplyError> {
    // Only a partition that has had journals has tombstones: do not read them in others.
    if !context.state.has_journals() {
        return Ok(false);
    }
    let tombstone = context.tables.tombstone(id)?;
    let expires = tombstone.is_some_and(|tombstone| tombstone.expires_at == at);
    if expires {
        context.tables.delete_tombstone(id);
        context.tables.delete_timer(at, id);
        // There may be more than one purge removes.
        context.applied.push(Applied::Purged { entry: id });
    }
    Ok(expires)
}

fn forget<T: Tables>(
    context: &mut Context<'_, T>,
    id: EntryId,
    row: FinishedRow,
) -> Result<(), ApplyError> {
    if let Some(key) = &row.idempotency_key {
        let key = idempotency_key(&context.meta(row.vqueue)?.name, key);
        context.tables.delete_idempotency(&key);
    }
    if row.expires_at < Timestamp::MAX {
        context.tables.delete_timer(row.expires_at, id);
    }
    if !row.outcome().is_success() {
        context.tables.delete_payload(id);
    }
    if let Some(journal) = row.extra.as_deref().and_then(|extra| extra.journal.as_deref()) {
        context.forget_journal(id, journal)?;
    }
    context.tables.delete_finished(id);
    context.count((id, row.vqueue), Some(Stage::Finished), None)?;
    context.applied.push(Applied::Purged { entry: id });
    Ok(())
}
