//! `Complete`: an attempt ended, and with it the entry. Only the running attempt may do so.

use bytes::Bytes;
use forebay_messages::{
    AttemptToken, EntryId, FailureKind, Outcome,
    command::{Complete, CompleteOutcome},
    outcome::Failure,
};

use super::{
    super::{
        rows::{EntryRow, Stage},
        store::Tables,
    },
    ApplyError, Context, Reply, Stale,
    end::end,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Complete,
) -> Result<Reply, ApplyError> {
    let mut row = match running(context, command.entry, command.token)? {
        Ok(row) => row,
        Err(stale) => return Ok(Reply::Stale(stale)),
    };
    row.attempts += 1;
    let outcome = match command.outcome.clone() {
        Some(CompleteOutcome::Failure(failure)) if command.heeds_cancel && row.cancel_requested => {
            Outcome::Failure(Failure { kind: FailureKind::Canceled, ..failure })
        }
        Some(outcome) => outcome.into(),
        None => Outcome::Success(Bytes::new()),
    };
    end(context, command.entry, row, outcome, false)?;
    Ok(Reply::Changed(1))
}

/// The row of an entry if exactly this attempt of it runs.
pub(super) fn running<T: Tables>(
    context: &Context<'_, T>,
    entry: EntryId,
    token: AttemptToken,
) -> Result<Result<EntryRow, Stale>, ApplyError> {
    Ok(match context.tables.entry(entry)? {
        Some(row) if row.stage == Stage::Running && row.token == token => Ok(row),
        Some(_) => Err(Stale::Superseded),
        None if context.tables.finished(entry)?.is_some() => Err(Stale::Finished),
        None => Err(Stale::Unknown),
    })
}
