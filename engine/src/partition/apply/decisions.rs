//! `SchedulerDecisions`: entries start to run, each if it is still where it was
//! decided for.

use forebay_messages::command::{Decision, SchedulerDecisions};

use super::{
    super::{rows::Stage, store::Tables},
    Applied, ApplyError, Context, Reply,
    place::Leaving,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &SchedulerDecisions,
) -> Result<Reply, ApplyError> {
    let mut started = 0;
    for decision in &command.decisions {
        started += u64::from(start(context, decision)?);
    }
    Ok(Reply::Changed(started))
}

fn start<T: Tables>(context: &mut Context<'_, T>, decision: &Decision) -> Result<bool, ApplyError> {
    let Decision { vqueue, key, token } = *decision;
    let void = |context: &mut Context<'_, T>, still_there| {
        // Without it a permit given back would free, for the limiter, a lock that an
        // entry set aside still holds: decisions would be void again and again.
        let lock_holder = context.tables.lock(vqueue)?;
        let void = Applied::DecisionVoid { vqueue, key, token, still_there, lock_holder };
        context.applied.push(void);
        Ok(false)
    };
    let Some(mut row) = context.tables.entry(key.entry)? else {
        return void(context, false);
    };
    if row.stage != Stage::Inbox || row.key != key || row.vqueue != vqueue {
        return void(context, false);
    }
    let mut meta = context.meta(vqueue)?;
    if meta.is_paused {
        return void(context, true);
    }
    if meta.name.has_lock() {
        match context.tables.lock(vqueue)? {
            Some(holder) if holder != key.entry => return void(context, true),
            Some(_) => {}
            None => context.tables.put_lock(vqueue, key.entry),
        }
    }
    let stay = Leaving { keeps_lock: true, abort: false };
    context.leave(key.entry, &row, &mut meta, stay)?;
    row.token = token;
    context.enter_running(key.entry, &mut row, &mut meta);
    context.applied.push(Applied::Started {
        entry: key.entry,
        vqueue,
        name: meta.name.clone(),
        token,
        attempt: row.attempts + 1,
        last_failure: row.last_failure.clone(),
        retry: row.retry.unwrap_or_default(),
    });
    context.tables.put_entry(key.entry, row);
    context.put_meta(vqueue, meta);
    Ok(true)
}
