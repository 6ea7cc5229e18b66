//! `Retry`: an attempt ended and the entry returns to its inbox, or ends if its attempts are used
//! up, it was canceled, or it was interrupted too often. An entry whose vqueue has a lock keeps it
//! and sorts first.

use bytestring::ByteString;
use forebay_messages::{
    FailureKind, Outcome, Timestamp,
    command::{RetryAttempt, RetryReason},
    outcome::Failure,
};

use super::{
    super::{
        rows::{EntryRow, FailedAttempt, Stage},
        state::NewKey,
        store::Tables,
    },
    ApplyError, Context, Reply,
    complete::running,
    end::end,
    place::Leaving,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &RetryAttempt,
) -> Result<Reply, ApplyError> {
    let id = command.entry;
    let mut row = match running(context, id, command.token)? {
        Ok(row) => row,
        Err(stale) => return Ok(Reply::Stale(stale)),
    };
    if let Some((kind, message, aborts)) = count_attempt(&mut row, command) {
        let failure = Failure { kind, message, detail: command.detail.clone() };
        end(context, id, row, Outcome::Failure(failure), aborts)?;
        return Ok(Reply::Changed(1));
    }
    if command.keeps_failure && command.reason == RetryReason::Failed {
        row.keep_failure(FailedAttempt {
            number: row.attempts,
            started_at: row.started_at,
            ended_at: context.now,
            text: command.message.clone(),
        });
    }
    let has_lock = context.has_lock(row.vqueue)?;
    let abort = command.reason == RetryReason::LeaderChange;
    context.leave(id, &row, Leaving { keeps_lock: has_lock, abort });
    context.count((id, row.vqueue), Some(row.stage), Some(Stage::Inbox))?;
    let run_at =
        if command.run_at == Timestamp::default() { row.key.run_at } else { command.run_at };
    let key = NewKey { entry: id, run_at: Some(run_at), has_lock };
    context.enter_inbox(&mut row, key);
    context.tables.put_entry(id, row);
    Ok(Reply::Changed(1))
}

/// Counts the attempt. If the entry ends instead of returning to its inbox: how, why, and whether
/// its handler must be aborted.
fn count_attempt(
    row: &mut EntryRow,
    command: &RetryAttempt,
) -> Option<(FailureKind, ByteString, bool)> {
    if command.reason == RetryReason::Failed {
        row.attempts += 1;
        row.last_failure = command.message.clone();
        let attempts_max = row.retry.unwrap_or_default().attempts_max;
        let is_canceled = command.heeds_cancel && row.cancel_requested;
        if attempts_max != 0 && row.attempts >= attempts_max && !is_canceled {
            return Some((FailureKind::Exhausted, command.message.clone(), false));
        }
    }
    if row.cancel_requested {
        return Some((FailureKind::Canceled, "canceled before another attempt".into(), false));
    }
    if command.interrupted > 0 {
        row.interrupted += 1;
        if row.interrupted >= command.interrupted {
            let message = interrupted_text(row.interrupted).into();
            return Some((FailureKind::Exhausted, message, true));
        }
    }
    None
}

/// The error text of a dead letter whose process died each time it ran.
#[must_use]
pub fn interrupted_text(count: u32) -> String {
    format!(
        "the process died {count} times while this entry ran, so it is not started again: find \
         out whether its handler ends the process (abort, out of memory), then redrive it"
    )
}
