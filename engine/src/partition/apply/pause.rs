//! `Pause` and `Resume` of entries: a waiting entry is parked with its place in the queue (and its
//! lock, if it has one) and put back to it. A suspended entry is parked with its waits: it is
//! suspended again, or returns to its inbox if one of them has finished, which clears them.

use forebay_messages::command::{EntryAction, EntrySelector};

use super::{
    super::{rows::Stage, store::Tables},
    Acted, ApplyError, Context,
    place::Leaving,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_entry(selector, EntryAction::Pause, |context, id, mut row| {
        context.leave(id, &row, Leaving { keeps_lock: true, abort: false });
        context.count((id, row.vqueue), Some(row.stage), Some(Stage::Paused))?;
        row.stage = Stage::Paused;
        context.tables.put_parked(row.vqueue, id);
        context.tables.put_entry(id, row);
        Ok(())
    })
}

pub(super) fn apply_resume<T: Tables>(
    context: &mut Context<'_, T>,
    selector: &EntrySelector,
) -> Result<Acted, ApplyError> {
    context.each_entry(selector, EntryAction::Resume, |context, id, mut row| {
        context.leave(id, &row, Leaving { keeps_lock: true, abort: false });
        let waits = row.journal().is_some_and(|journal| !journal.waits.is_empty());
        let stage = if waits { Stage::Suspended } else { Stage::Inbox };
        context.count((id, row.vqueue), Some(row.stage), Some(stage))?;
        if waits {
            row.stage = stage;
            context.tables.put_parked(row.vqueue, id);
        } else {
            context.enter_inbox_at_key(&mut row);
        }
        context.tables.put_entry(id, row);
        Ok(())
    })
}
