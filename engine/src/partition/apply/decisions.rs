//! `SchedulerDecisions`: entries start to run, each if it is still where it was
//! decided for.

use forebay_messages::{
    AttemptToken, EntryId,
    command::{Decision, RetryPolicy, SchedulerDecisions},
};

use super::{
    super::{
        machine::RunAttempt,
        rows::{EntryRow, Stage, VQueueMeta},
        store::{Rows, Tables},
    },
    Applied, ApplyError, Context, Reply,
    place::Leaving,
};

/// Whether a decision fits the rows.
#[expect(clippy::large_enum_variant, reason = "it mostly fits: no box for each entry")]
enum Fit {
    /// It does.
    Start { row: EntryRow, meta: VQueueMeta, lock: Option<EntryId> },
    /// Something came in between.
    Void { still_there: bool },
}

/// What the rows say of a decision. The one place that says when an entry may start.
fn fit<T: Rows>(tables: &T, decision: &Decision) -> Result<Fit, ApplyError> {
    let Decision { vqueue, key, .. } = *decision;
    let Some(row) = tables.entry(key.entry)? else {
        return Ok(Fit::Void { still_there: false });
    };
    if row.stage != Stage::Inbox || row.key != key || row.vqueue != vqueue {
        return Ok(Fit::Void { still_there: false });
    }
    let meta = tables.vqueue_meta(vqueue)?.ok_or_else(|| ApplyError::Inconsistent {
        what: format!("{vqueue} has entries but no meta row"),
    })?;
    if meta.is_paused {
        return Ok(Fit::Void { still_there: true });
    }
    let lock = if meta.name.has_lock() { tables.lock(vqueue)? } else { None };
    match lock {
        Some(holder) if holder != key.entry => Ok(Fit::Void { still_there: true }),
        lock => Ok(Fit::Start { row, meta, lock }),
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
    let Fit::Start { row, meta, .. } = fit(tables, decision)? else {
        return Ok(None);
    };
    let retry = row.retry.unwrap_or_default();
    Ok(Some((run_attempt(decision.key.entry, decision.token, row, meta), retry)))
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
    let row = tables.entry(entry)?.filter(|row| row.stage == Stage::Running && row.token == token);
    let Some(row) = row else { return Ok(None) };
    let meta = tables.vqueue_meta(row.vqueue)?.ok_or_else(|| ApplyError::Inconsistent {
        what: format!("{} has entries but no meta row", row.vqueue),
    })?;
    Ok(Some(run_attempt(entry, token, row, meta)))
}

fn run_attempt(entry: EntryId, token: AttemptToken, row: EntryRow, meta: VQueueMeta) -> RunAttempt {
    RunAttempt {
        entry,
        name: meta.name,
        token,
        attempt: row.attempts + 1,
        last_failure: row.last_failure,
        attempts_max: row.retry.unwrap_or_default().attempts_max,
    }
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
    let (mut row, mut meta) = match fit(context.tables, decision)? {
        Fit::Void { still_there } => {
            // Without it a permit given back would free, for the limiter, a lock that an
            // entry set aside still holds: decisions would be void again and again.
            let lock_holder = context.tables.lock(vqueue)?;
            let void = Applied::DecisionVoid { vqueue, key, token, still_there, lock_holder };
            context.applied.push(void);
            return Ok(false);
        }
        Fit::Start { row, meta, lock } => {
            if meta.name.has_lock() && lock.is_none() {
                context.tables.put_lock(vqueue, key.entry);
            }
            (row, meta)
        }
    };
    let stay = Leaving { keeps_lock: true, abort: false };
    context.leave(key.entry, &row, &mut meta, stay)?;
    row.token = token;
    context.enter_running(key.entry, &mut row, &mut meta);
    context.applied.push(Applied::Started {
        entry: key.entry,
        vqueue,
        token,
        attempt: row.attempts + 1,
        retry: row.retry.unwrap_or_default(),
    });
    context.tables.put_entry(key.entry, row);
    context.put_meta(vqueue, meta);
    Ok(true)
}
