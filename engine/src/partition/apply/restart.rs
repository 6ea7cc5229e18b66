//! `Restart` and `EndRun`: the run of an entry ends, and another one begins or the entry is paused.

use forebay_messages::{
    EntryId, FailureKind, Outcome,
    command::{AfterRun, EndRun, EntryAction, Restart},
    journal::JournalKey,
};

use super::{
    super::{
        rows::{JournalRow, Stage},
        state::NewKey,
        store::Tables,
    },
    Acted, ApplyError, Context, Reply, Skip,
    act::check_finished,
    complete::running,
    end::end,
    place::Leaving,
    redrive::revive,
    select::Named,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Restart,
) -> Result<Acted, ApplyError> {
    let from = command.from.as_ref();
    context.each_named(&command.selector, |context, id, named| {
        let from = match from_row(context, id, from)? {
            Ok(from) => from,
            Err(skip) => return Ok(Err(skip)),
        };
        context.need_journals();
        let finished = match named {
            Named::Live(mut row) => {
                context.begin_run(id, &mut row, from.as_ref())?;
                context.back_to_inbox(id, *row, true)?;
                return Ok(Ok(()));
            }
            Named::Ended(finished) => *finished,
        };
        if let Err(skip) = check_finished(EntryAction::Redrive, &finished) {
            return Ok(Err(skip));
        }
        let mut row = match revive(context, id, finished)? {
            Ok(row) => row,
            Err(skip) => return Ok(Err(skip)),
        };
        context.begin_run(id, &mut row, from.as_ref())?;
        context.enter_inbox(&mut row, NewKey { entry: id, run_at: None, has_lock: false });
        context.count((id, row.vqueue), Some(Stage::Finished), Some(Stage::Inbox))?;
        context.tables.put_entry(id, row);
        Ok(Ok(()))
    })
}

/// The row of the operation to restart from, if one is named.
fn from_row<T: Tables>(
    context: &Context<'_, T>,
    id: EntryId,
    from: Option<&JournalKey>,
) -> Result<Result<Option<JournalRow>, Skip>, ApplyError> {
    let Some(key) = from else { return Ok(Ok(None)) };
    let row = context.tables.journal_row(id, key)?;
    Ok(row.map(Some).ok_or(Skip::NoSuchOperation))
}

pub(super) fn apply_end<T: Tables>(
    context: &mut Context<'_, T>,
    command: &EndRun,
) -> Result<Reply, ApplyError> {
    let then = command.then.as_ref().ok_or(ApplyError::UnknownCommand)?;
    let id = command.entry;
    let mut row = match running(context, id, command.token)? {
        Ok(row) => row,
        Err(stale) => return Ok(Reply::Stale(stale)),
    };
    context.need_journals();
    if row.cancel_requested {
        let outcome = Outcome::failure(FailureKind::Canceled, "canceled before another run");
        end(context, id, row, outcome, false)?;
        return Ok(Reply::Changed(1));
    }
    match then {
        AfterRun::Pause(message) => {
            row.last_failure = message.clone();
            let keeps_lock = context.has_lock(row.vqueue)?;
            context.leave(id, &row, Leaving { keeps_lock, abort: false });
            context.count((id, row.vqueue), Some(row.stage), Some(Stage::Paused))?;
            row.stage = Stage::Paused;
            // It returns with the lock that it keeps.
            row.key.has_lock = keeps_lock;
            context.tables.put_parked(row.vqueue, id);
            context.tables.put_entry(id, row);
            return Ok(Reply::Changed(1));
        }
        AfterRun::Restart(message) => row.last_failure = message.clone(),
        AfterRun::ContinueWith(payload) => {
            context.tables.delete_payload(id);
            context.tables.put_payload(id, payload.clone());
            row.last_failure = Default::default();
            // Behind entries that already wait: the next run is new work.
            row.key.run_at = context.state.default_run_at(context.now);
        }
    }
    context.begin_run(id, &mut row, None)?;
    context.back_to_inbox(id, row, false)?;
    Ok(Reply::Changed(1))
}
