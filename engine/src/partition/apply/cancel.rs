//! `Cancel` and `Kill`. Cancel is cooperative: a running handler is asked to stop and ends on its
//! own. Kill is not: the entry ends here, and its handler is stopped.

use forebay_messages::{
    FailureKind, Outcome,
    command::{EntryAction, EntrySelector},
};

use super::{
    super::{rows::Stage, store::Tables},
    Acted, Applied, ApplyError, Context,
    end::end,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_entry(selector, EntryAction::Cancel, |context, id, mut row| {
        if row.stage != Stage::Running {
            let outcome = Outcome::failure(FailureKind::Canceled, "canceled before it ran");
            return end(context, id, row, outcome, false);
        }
        row.cancel_requested = true;
        context.applied.push(Applied::CancelRequested { entry: id, token: row.token });
        context.tables.put_entry(id, row);
        Ok(())
    })
}

pub(super) fn apply_kill<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_entry(selector, EntryAction::Kill, |context, id, row| {
        end(context, id, row, Outcome::failure(FailureKind::Killed, "killed"), true)
    })
}
