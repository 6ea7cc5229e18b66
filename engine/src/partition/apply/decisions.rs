//! `SchedulerDecisions`: entries start to run, each if it is still at the place it was decided at.

use std::sync::Arc;

use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Timestamp, VQueueId, VQueueName,
    command::{Decision, RetryPolicy, SchedulerDecisions},
};

use super::{
    super::{
        machine::RunAttempt,
        read,
        rows::{EntryRow, RunningRow, Stage, VQueueMeta},
        store::{JournalRows, Rows, Tables},
    },
    Applied, ApplyError, Context, Reply,
    place::no_meta,
};

/// Whether a vqueue allows a decision to start its entry.
enum Fit {
    /// It allows it.
    Start {
        /// The vqueue's name.
        name: Arc<VQueueName>,
        /// The vqueue has a lock, and it is free.
        takes_lock: bool,
    },
    /// It is paused, or another entry holds its lock.
    Void,
}

/// Whether an entry is still at the place it was decided at.
fn is_at_its_place(row: &EntryRow, Decision { vqueue, key, .. }: &Decision) -> bool {
    row.stage == Stage::Inbox && row.key == *key && row.vqueue == *vqueue
}

/// Whether the vqueue of a decision allows it. This and [`is_at_its_place`] are the only code that
/// says when an entry may start.
fn fit<T: Rows>(tables: &T, decision: &Decision) -> Result<Fit, ApplyError> {
    let Decision { vqueue, key, .. } = *decision;
    let look = |meta: &VQueueMeta| (meta.is_paused, Arc::clone(&meta.name));
    let looked = tables.look_at_vqueue(vqueue, look)?;
    let (is_paused, name) = looked.ok_or_else(|| no_meta(vqueue))?;
    if is_paused {
        return Ok(Fit::Void);
    }
    let has_lock = name.has_lock();
    match if has_lock { tables.lock(vqueue)? } else { None } {
        Some(holder) if holder != key.entry => Ok(Fit::Void),
        holder => Ok(Fit::Start { name, takes_lock: has_lock && holder.is_none() }),
    }
}

/// The attempt that a decision would start if it were applied to these rows: for a leader that has
/// proposed the decision and runs the attempt before it is applied (decision 0013). Also its retry
/// policy. `None` for an entry that was interrupted before: it must have a running row when it
/// starts, so that another death of its process is counted. `decided_at` is the time of the
/// decision's record.
///
/// # Errors
/// If the rows cannot be read.
pub fn begin<T: Rows + JournalRows>(
    tables: &T,
    decision: &Decision,
    decided_at: Timestamp,
) -> Result<Option<(RunAttempt, RetryPolicy)>, ApplyError> {
    let Decision { key: EntryKey { entry, .. }, token, .. } = *decision;
    let looked = tables.look_at_entry(entry, |row| {
        let may_begin = is_at_its_place(row, decision) && row.interrupted == 0;
        may_begin.then(|| {
            let retry = row.retry.unwrap_or_default();
            (row.attempts, row.last_failure.clone(), retry, row.journal().is_some())
        })
    })?;
    let Some((attempts, last_failure, retry, has_journal)) = looked.flatten() else {
        return Ok(None);
    };
    let Fit::Start { name, .. } = fit(tables, decision)? else { return Ok(None) };
    let run = RunAttempt {
        entry,
        name,
        token,
        attempt: attempts + 1,
        last_failure,
        attempts_max: retry.attempts_max,
        interrupted: 0,
        decided_at,
        journal: journal(tables, entry, has_journal)?,
    };
    Ok(Some((run, retry)))
}

/// The stored journal of an entry. An entry without one costs no read.
fn journal<T: Rows + JournalRows>(
    tables: &T,
    entry: EntryId,
    has_journal: bool,
) -> Result<Option<Box<read::JournalRead>>, ApplyError> {
    Ok(if has_journal { read::journal(tables, entry)?.map(Box::new) } else { None })
}

/// A started attempt, for its executor. `None` if it no longer runs.
///
/// # Errors
/// If the rows cannot be read.
pub fn started<T: Rows + JournalRows>(
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

fn run_attempt<T: Rows + JournalRows>(
    tables: &T,
    (entry, vqueue): (EntryId, VQueueId),
    token: AttemptToken,
) -> Result<Option<RunAttempt>, ApplyError> {
    let name = tables.look_at_vqueue(vqueue, |meta| Arc::clone(&meta.name))?;
    let name = name.ok_or_else(|| no_meta(vqueue))?;
    let run = tables.look_at_entry(entry, |row| {
        let run = RunAttempt {
            entry,
            name,
            token,
            attempt: row.attempts + 1,
            last_failure: row.last_failure.clone(),
            attempts_max: row.retry.unwrap_or_default().attempts_max,
            interrupted: row.interrupted,
            decided_at: row.started_at,
            journal: None,
        };
        (run, row.journal().is_some())
    })?;
    let Some((mut run, has_journal)) = run else { return Ok(None) };
    run.journal = journal(tables, entry, has_journal)?;
    Ok(Some(run))
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
    let Decision { vqueue, key, token, executor } = *decision;
    let id = key.entry;
    let is_there = |row: &EntryRow| is_at_its_place(row, decision);
    let still_there = context.tables.look_at_entry(id, is_there)? == Some(true);
    let fit = if still_there { fit(context.tables, decision)? } else { Fit::Void };
    let Fit::Start { takes_lock, .. } = fit else {
        // Without it, a returned permit would free the limiter's lock although a paused entry still
        // holds it: decisions would be void again and again.
        let lock_holder = context.tables.lock(vqueue)?;
        let void = Applied::DecisionVoid { vqueue, key, token, still_there, lock_holder };
        context.applied.push(void);
        return Ok(false);
    };
    if takes_lock {
        context.tables.put_lock(vqueue, id);
    }
    context.leave_inbox(vqueue, key);
    let now = context.now;
    let changed = context.tables.change_entry(id, |row| {
        row.token = token;
        row.stage = Stage::Running;
        row.started_at = now;
        (row.attempts + 1, row.retry.unwrap_or_default())
    })?;
    let (attempt, retry) = changed.expect("the row was read just now");
    context.tables.put_running(vqueue, id, RunningRow { token, executor });
    context.count((id, vqueue), Some(Stage::Inbox), Some(Stage::Running))?;
    context.applied.push(Applied::Started { entry: id, vqueue, token, attempt, retry });
    Ok(true)
}
