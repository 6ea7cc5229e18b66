//! `SchedulerDecisions`: entries start to run, each if it is still where it was
//! decided for.

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, VQueueId,
    command::{Decision, RetryPolicy, SchedulerDecisions},
};

use super::{
    super::{
        machine::RunAttempt,
        rows::{RunningRow, Stage},
        store::{Rows, Tables},
    },
    Applied, ApplyError, Context, Reply,
    place::no_meta,
};

/// Whether a decision fits the rows.
enum Fit {
    /// It does.
    Start {
        /// The vqueue has a lock, and nobody holds it.
        takes_lock: bool,
    },
    /// Something came in between.
    Void {
        /// The row is still at its place.
        still_there: bool,
    },
}

/// What the rows say of a decision. The one place that says when an entry may start.
fn fit<T: Rows>(tables: &T, decision: &Decision) -> Result<Fit, ApplyError> {
    let Decision { vqueue, key, .. } = *decision;
    let is_there = tables.look_at_entry(key.entry, |row| {
        row.stage == Stage::Inbox && row.key == key && row.vqueue == vqueue
    })?;
    if is_there != Some(true) {
        return Ok(Fit::Void { still_there: false });
    }
    let looked = tables.look_at_vqueue(vqueue, |meta| (meta.is_paused, meta.name.has_lock()))?;
    let (is_paused, has_lock) = looked.ok_or_else(|| no_meta(vqueue))?;
    if is_paused {
        return Ok(Fit::Void { still_there: true });
    }
    match if has_lock { tables.lock(vqueue)? } else { None } {
        Some(holder) if holder != key.entry => Ok(Fit::Void { still_there: true }),
        holder => Ok(Fit::Start { takes_lock: has_lock && holder.is_none() }),
    }
}

/// The attempt that a decision starts, if it were applied to these rows: for a leader
/// that has proposed it and runs it before it is applied (decision 0013). Also what
/// follows if it fails.
///
/// # Errors
/// When the rows cannot be read.
pub fn begin<T: Rows>(
    tables: &T,
    decision: &Decision,
) -> Result<Option<(RunAttempt, RetryPolicy)>, ApplyError> {
    let Fit::Start { .. } = fit(tables, decision)? else {
        return Ok(None);
    };
    let Decision { vqueue, key, token } = *decision;
    let entry = key.entry;
    let retry = tables.look_at_entry(entry, |row| row.retry.unwrap_or_default())?;
    Ok(run_attempt(tables, (entry, vqueue), token)?.zip(retry))
}

/// An attempt that was started, for whoever runs it. `None` when it does not run any
/// more.
///
/// # Errors
/// When the rows cannot be read.
pub fn started<T: Rows>(
    tables: &T,
    entry: EntryId,
    token: AttemptToken,
) -> Result<Option<RunAttempt>, ApplyError> {
    let vqueue = tables.look_at_entry(entry, |row| {
        (row.stage == Stage::Running && row.token == token).then_some(row.vqueue)
    })?;
    match vqueue.flatten() {
        None => Ok(None),
        Some(vqueue) => run_attempt(tables, (entry, vqueue), token),
    }
}

fn run_attempt<T: Rows>(
    tables: &T,
    (entry, vqueue): (EntryId, VQueueId),
    token: AttemptToken,
) -> Result<Option<RunAttempt>, ApplyError> {
    let name = tables.look_at_vqueue(vqueue, |meta| Arc::clone(&meta.name))?;
    let name = name.ok_or_else(|| no_meta(vqueue))?;
    Ok(tables.look_at_entry(entry, |row| RunAttempt {
        entry,
        name,
        token,
        attempt: row.attempts + 1,
        last_failure: row.last_failure.clone(),
        attempts_max: row.retry.unwrap_or_default().attempts_max,
    })?)
}

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
    match fit(context.tables, decision)? {
        Fit::Void { still_there } => {
            // Without it a permit given back would free, for the limiter, a lock that an
            // entry set aside still holds: decisions would be void again and again.
            let lock_holder = context.tables.lock(vqueue)?;
            let void = Applied::DecisionVoid { vqueue, key, token, still_there, lock_holder };
            context.applied.push(void);
            return Ok(false);
        }
        Fit::Start { takes_lock: true } => context.tables.put_lock(vqueue, key.entry),
        Fit::Start { takes_lock: false } => {}
    }
    context.leave_inbox(vqueue, key);
    let (id, now) = (key.entry, context.now);
    let changed = context.tables.change_entry(id, |row| {
        row.token = token;
        row.stage = Stage::Running;
        row.started_at = now;
        (row.attempts + 1, row.retry.unwrap_or_default())
    })?;
    let (attempt, retry) = changed.expect("it was looked at just now");
    context.tables.put_running(vqueue, id, RunningRow { token });
    context.count((id, vqueue), Some(Stage::Inbox), Some(Stage::Running))?;
    context.applied.push(Applied::Started { entry: id, vqueue, token, attempt, retry });
    Ok(true)
}
