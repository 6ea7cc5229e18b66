//! `Suspend`: an attempt waits without a handler. Its permit and its slot are returned when its
//! handler has stopped; the lock of its vqueue stays with it unless it releases the lock. It uses
//! up no attempt.

use forebay_messages::command::{Suspend, SuspendAttempt};

use super::{
    super::{
        rows::{JournalRow, Stage},
        store::Tables,
    },
    Applied, ApplyError, Context, Reply,
    complete::running,
    place::Leaving,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Suspend,
) -> Result<Reply, ApplyError> {
    let mut suspended = 0;
    for attempt in &command.attempts {
        suspended += u64::from(suspend(context, attempt)?);
    }
    Ok(Reply::Changed(suspended))
}

fn suspend<T: Tables>(
    context: &mut Context<'_, T>,
    attempt: &SuspendAttempt,
) -> Result<bool, ApplyError> {
    let SuspendAttempt { entry: id, token, ref waits, releases_key } = *attempt;
    let Ok(mut row) = running(context, id, token)? else { return Ok(false) };
    // An attempt that was asked to stop may want to clean up: it continues.
    if row.cancel_requested || !all_pending(context, attempt)? {
        context.applied.push(Applied::SuspendVoid { entry: id, token });
        return Ok(false);
    }
    let holds_lock = context.has_lock(row.vqueue)? && context.tables.lock(row.vqueue)? == Some(id);
    let keeps_lock = holds_lock && !releases_key;
    context.leave(id, &row, Leaving { keeps_lock, abort: true });
    if holds_lock && !keeps_lock {
        context.tables.delete_lock(row.vqueue);
    }
    context.count((id, row.vqueue), Some(row.stage), Some(Stage::Suspended))?;
    row.stage = Stage::Suspended;
    // An attempt that came to wait did not end its process: earlier deaths no longer count.
    row.interrupted = 0;
    row.key.has_lock = keeps_lock;
    row.journal_mut().wait_for(waits.clone());
    context.tables.put_parked(row.vqueue, id);
    context.tables.put_entry(id, row);
    Ok(true)
}

/// Whether it waits for at least one operation, and every one was begun and is unfinished:
/// otherwise nothing would wake it.
fn all_pending<T: Tables>(
    context: &Context<'_, T>,
    attempt: &SuspendAttempt,
) -> Result<bool, ApplyError> {
    let is_pending = |row: JournalRow| !row.is_finished() && row.kind.is_durable_wait();
    for key in &attempt.waits {
        let row = context.tables.journal_row(attempt.entry, key)?;
        if !row.is_some_and(is_pending) {
            return Ok(false);
        }
    }
    Ok(!attempt.waits.is_empty())
}
