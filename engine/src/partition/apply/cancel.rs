//! `Cancel` and `Kill`. Cancel is cooperative: a running handler is asked to stop and
//! ends by itself. Kill is not: the entry ends here, its handler is stopped.

use forebay_messages::{FailureKind, Outcome, command::EntrySelector};

use super::{
    super::{rows::Stage, store::Tables},
    Applied, ApplyError, Context, Reply,
    end::end,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Reply, ApplyError> {
    let mut changed = 0;
    for (id, mut row) in context.select_entries(selector)? {
        if row.stage != Stage::Running {
            let outcome = Outcome::failure(FailureKind::Canceled, "canceled before it ran");
            end(context, id, row, outcome, false)?;
        } else if row.cancel_requested {
            continue;
        } else {
            row.cancel_requested = true;
            context.applied.push(Applied::CancelRequested { entry: id, token: row.token });
            context.tables.put_entry(id, row);
        }
        changed += 1;
    }
    Ok(Reply::Changed(changed))
}

pub(super) fn apply_kill<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Reply, ApplyError> {
    let mut changed = 0;
    for (id, row) in context.select_entries(selector)? {
        end(context, id, row, Outcome::failure(FailureKind::Killed, "killed"), true)?;
        changed += 1;
    }
    Ok(Reply::Changed(changed))
}
