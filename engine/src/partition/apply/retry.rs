//! `Retry`: an attempt ended and the entry goes back to its inbox, or ends when its
//! attempts are used up. An entry whose vqueue has a lock keeps it and sorts first.

use forebay_messages::{
    FailureKind, Outcome, Timestamp,
    command::{RetryAttempt, RetryReason},
    outcome::Failure,
};

use super::{
    super::{rows::Stage, state::NewKey, store::Tables},
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
    if command.reason == RetryReason::Failed {
        row.attempts += 1;
        row.last_failure = command.message.clone();
        let attempts_max = row.retry.unwrap_or_default().attempts_max;
        if attempts_max != 0 && row.attempts >= attempts_max {
            let failure = Failure {
                kind: FailureKind::Exhausted,
                message: command.message.clone(),
                detail: command.detail.clone(),
            };
            end(context, id, row, Outcome::Failure(failure), false)?;
            return Ok(Reply::Changed(1));
        }
    }
    if row.cancel_requested {
        let failure = Failure {
            kind: FailureKind::Canceled,
            message: "canceled before another attempt".into(),
            detail: command.detail.clone(),
        };
        end(context, id, row, Outcome::Failure(failure), false)?;
        return Ok(Reply::Changed(1));
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
