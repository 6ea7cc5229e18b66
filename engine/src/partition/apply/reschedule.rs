//! `Reschedule`: a new `run_at`, and so a new place in the queue.

use forebay_messages::command::{EntryAction, Reschedule};

use super::{
    super::{rows::Stage, state::NewKey, store::Tables},
    Acted, ApplyError, Context,
    place::Leaving,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Reschedule,
) -> Result<Acted, ApplyError> {
    let action = EntryAction::Reschedule { run_at: command.run_at };
    context.each_entry(&command.selector, action, |context, id, mut row| {
        if row.stage == Stage::Paused {
            row.key.run_at = command.run_at;
        } else {
            context.leave(id, &row, Leaving { keeps_lock: true, abort: false });
            context.count((id, row.vqueue), Some(row.stage), Some(Stage::Inbox))?;
            let key =
                NewKey { entry: id, run_at: Some(command.run_at), has_lock: row.key.has_lock };
            context.enter_inbox(&mut row, key);
        }
        context.tables.put_entry(id, row);
        Ok(())
    })
}
