//! `BeginIncarnation`: a copy of an earlier state continues. `CheckCalls`: the owners of children
//! are asked for them.

use bytes::Bytes;
use forebay_messages::{
    command::{AskChild, BeginIncarnation, CheckCalls, CheckedTable, MessageBody, PendingCall},
    journal::{JournalKind, ParentLink},
};

use super::{
    super::{
        rows::FsmSlot,
        state::INCARNATION_FORMAT,
        store::{Tables, put_fsm_number},
    },
    ApplyError, Context, Reply, Stale,
};

pub(super) fn begin<T: Tables>(context: &mut Context<'_, T>, command: BeginIncarnation) -> Reply {
    let BeginIncarnation { incarnation } = command;
    if incarnation <= context.state.incarnation {
        return Reply::Stale(Stale::Older);
    }
    context.need_format(INCARNATION_FORMAT);
    context.state.incarnation = incarnation;
    put_fsm_number(context.tables, FsmSlot::Incarnation, incarnation.0);
    // No call was checked since.
    put_checked(context, CheckedTable::default());
    Reply::Changed(1)
}

fn put_checked<T: Tables>(context: &mut Context<'_, T>, table: CheckedTable) {
    let bytes = [table.hash.to_be_bytes(), u64::from(table.next).to_be_bytes()].concat();
    context.tables.put_fsm(FsmSlot::CheckedTable, Bytes::from(bytes));
}

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &CheckCalls,
) -> Result<Reply, ApplyError> {
    let mut asked = 0;
    for PendingCall { entry, key, child } in &command.calls {
        let Some(row) = context.tables.journal_row(*entry, key)? else { continue };
        let is_pending = row.kind == JournalKind::Call && !row.is_finished();
        if !is_pending || row.child != Some(*child) {
            continue;
        }
        asked += 1;
        let (entry, run, key) = (*entry, row.run, key.clone());
        let parent = ParentLink { entry, run, key, is_awaited: true, ..ParentLink::default() };
        let ask = AskChild { child: *child, parent };
        context.send(child.partition_key, MessageBody::Ask(Box::new(ask)));
    }
    if asked > 0 || command.through.is_some() {
        context.need_format(INCARNATION_FORMAT);
    }
    if let Some(table) = command.through {
        put_checked(context, table);
    }
    Ok(Reply::Changed(asked))
}
