//! `Cancel` and `Kill`. Cancel is cooperative: a running handler is asked to stop and ends on its
//! own. Kill is not: the entry ends here, and its handler is stopped.

use forebay_messages::{
    EntryId, FailureKind, Outcome,
    command::{EntryAction, EntrySelector},
};

use super::{
    super::{
        rows::{EntryRow, Stage},
        store::Tables,
    },
    Acted, Applied, ApplyError, Context,
    end::end,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_entry(selector, EntryAction::Cancel, cancel)
}

/// Cancels an entry that was not asked to stop before. Its running children are asked to stop too,
/// at once; work that its handler starts in order to clean up is left alone.
pub(super) fn cancel<T: Tables>(
    context: &mut Context<'_, T>,
    id: EntryId,
    mut row: EntryRow,
) -> Result<(), ApplyError> {
    if row.stage != Stage::Running {
        let text = match row.stage {
            Stage::Suspended => "canceled while it waited",
            _ => "canceled before it ran",
        };
        let outcome = Outcome::failure(FailureKind::Canceled, text);
        return end(context, id, row, outcome, false);
    }
    row.cancel_requested = true;
    context.applied.push(Applied::CancelRequested { entry: id, token: row.token });
    context.stop_children(id, &row, false)?;
    context.tables.put_entry(id, row);
    Ok(())
}

pub(super) fn apply_kill<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_entry(selector, EntryAction::Kill, kill)
}

/// Ends an entry in any stage.
pub(super) fn kill<T: Tables>(
    context: &mut Context<'_, T>,
    id: EntryId,
    row: EntryRow,
) -> Result<(), ApplyError> {
    end(context, id, row, Outcome::failure(FailureKind::Killed, "killed"), true)
}
