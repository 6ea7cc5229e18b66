//! `WriteJournal`: operations of running attempts are written to their journals; children are
//! created, sleeps and waits begin.

use bytes::Bytes;
use forebay_messages::{
    AttemptToken, EntryId, FailureKind, Outcome, VQueueId,
    command::{AttemptWrites, Invoke, MessageBody, NewChild, NewEntry, Operation, WriteJournal},
    journal::{
        CALL_DEPTH_MAX, JOURNAL_BYTES_MAX, JOURNAL_ROWS_MAX, JournalFailure, JournalFailureKind,
        JournalKey, JournalKind, JournalOutcome, PROMISES_MAX, ParentLink, StepId, child_id,
    },
};

use super::{
    super::{
        rows::{EntryRow, JournalRow},
        store::Tables,
    },
    Applied, ApplyError, Context, Reply,
    complete::running,
    end::end,
    journal::{PromiseWait, len_of},
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &WriteJournal,
) -> Result<Reply, ApplyError> {
    let mut written = 0;
    for attempt in &command.attempts {
        written += u64::from(write(context, attempt)?);
    }
    Ok(Reply::Changed(written))
}

/// Whether the attempt runs.
fn write<T: Tables>(
    context: &mut Context<'_, T>,
    attempt: &AttemptWrites,
) -> Result<bool, ApplyError> {
    let AttemptWrites { entry, token, ref writes } = *attempt;
    let Ok(mut row) = running(context, entry, token)? else { return Ok(false) };
    context.need_journals();
    let started_at = row.started_at;
    let journal = row.journal_mut();
    if journal.rows == 0 {
        journal.first_at = started_at;
    }
    for write in writes {
        let operation = write.operation.as_ref().ok_or(ApplyError::UnknownCommand)?;
        match put(context, (entry, token), &mut row, &write.key, operation)? {
            Put::Written | Put::IsThere => {}
            Put::Differs(found) => {
                let key = write.key.clone();
                context.applied.push(Applied::WriteRefused { entry, token, key, found });
            }
            Put::Full(bound) => {
                let text = format!(
                    "journal full: a run may have {bound}; split the work into children or end \
                     the run with continue_with"
                );
                let outcome = Outcome::failure(FailureKind::Terminal, &text);
                end(context, entry, row, outcome, true)?;
                return Ok(true);
            }
        }
    }
    context.tables.put_entry(entry, row);
    Ok(true)
}

enum Put {
    Written,
    /// The same operation was already written.
    IsThere,
    /// Another operation, of this kind, has this key.
    Differs(JournalKind),
    /// There is no room; the exceeded limit.
    Full(String),
}

/// Writes one operation. The caller writes the entry's row.
fn put<T: Tables>(
    context: &mut Context<'_, T>,
    (entry, token): (EntryId, AttemptToken),
    row: &mut EntryRow,
    key: &JournalKey,
    operation: &Operation,
) -> Result<Put, ApplyError> {
    let (kind, fingerprint) = (operation.kind(), operation.fingerprint());
    if let Some(there) = context.tables.journal_row(entry, key)? {
        let is_same = (there.kind, there.fingerprint) == (kind, fingerprint);
        return Ok(if is_same { Put::IsThere } else { Put::Differs(there.kind) });
    }
    let journal = row.journal_mut();
    let mut new = JournalRow { kind, fingerprint, run: journal.run, ..JournalRow::default() };
    let outcome_len = match operation {
        Operation::Step(step) => step.outcome.as_ref().map_or(0, JournalOutcome::len),
        _ => 0,
    };
    if journal.rows >= JOURNAL_ROWS_MAX {
        return Ok(Put::Full(format!("{JOURNAL_ROWS_MAX} operations")));
    }
    if journal.bytes + len_of(key, &new) + outcome_len as u64 > JOURNAL_BYTES_MAX {
        return Ok(Put::Full(format!("{JOURNAL_BYTES_MAX} bytes of keys and results")));
    }
    if journal.promises >= PROMISES_MAX
        && matches!(operation, Operation::Promise(()))
        && context.tables.promise(entry, &key.name())?.is_none()
    {
        return Ok(Put::Full(format!("{PROMISES_MAX} promises")));
    }
    journal.rows += 1;
    let done = begin(context, entry, row, key, &mut new, operation)?;
    if let Some(outcome) = done {
        context.fill_in((entry, Some(token)), key, &mut new, outcome);
    }
    row.journal_mut().bytes += len_of(key, &new);
    context.tables.put_journal_row(entry, key.clone(), new);
    Ok(Put::Written)
}

/// Begins an operation; returns its outcome if that is known at once.
fn begin<T: Tables>(
    context: &mut Context<'_, T>,
    entry: EntryId,
    row: &mut EntryRow,
    key: &JournalKey,
    new: &mut JournalRow,
    operation: &Operation,
) -> Result<Option<JournalOutcome>, ApplyError> {
    let nothing = || JournalOutcome::Success(Bytes::new());
    Ok(match operation {
        Operation::Step(step) => Some(step.outcome.clone().unwrap_or_else(nothing)),
        Operation::Call(child) => {
            let step = StepId { entry, run: new.run, key: key.clone() };
            call(context, step, row, new, child)?
        }
        Operation::Send(child) => {
            let step = StepId { entry, run: new.run, key: key.clone() };
            new.is_attached = child.is_attached;
            row.journal_mut().has_children |= child.is_attached;
            let parent = ParentLink::default();
            new.child = Some(invoke(context, step, child, parent));
            Some(nothing())
        }
        Operation::Sleep(until) => {
            new.until = *until;
            if *until <= context.now {
                Some(nothing())
            } else {
                context.tables.put_sleep((*until, entry, key.clone()));
                context.applied.push(Applied::SleepAdded { until: *until });
                None
            }
        }
        Operation::Promise(()) => match context.promise_or_wait(entry, key)? {
            PromiseWait::Settled(outcome) => Some(outcome),
            PromiseWait::Waits { is_new } => {
                row.journal_mut().promises += u32::from(is_new);
                None
            }
        },
    })
}

/// Creates a child whose result is awaited, or returns why it is not created.
fn call<T: Tables>(
    context: &mut Context<'_, T>,
    step: StepId,
    row: &mut EntryRow,
    new: &mut JournalRow,
    child: &NewChild,
) -> Result<Option<JournalOutcome>, ApplyError> {
    let (depth, mut locks) =
        row.parent().map_or((0, Vec::new()), |parent| (parent.depth, parent.locks.clone()));
    if depth >= CALL_DEPTH_MAX {
        let text = format!(
            "a call {} deep: at most {CALL_DEPTH_MAX} may lie within each other; does this \
             handler call itself without an end?",
            depth + 1
        );
        return Ok(Some(JournalOutcome::failure(JournalFailureKind::CallTooDeep, &text)));
    }
    if context.has_lock(row.vqueue)? && context.tables.lock(row.vqueue)? == Some(step.entry) {
        locks.push(row.vqueue);
    }
    let vqueue = child.vqueue.id_for(child_id(&step, &child.vqueue));
    if child.vqueue.has_lock()
        && let Some(at) = locks.iter().position(|held| *held == vqueue)
    {
        return Ok(Some(would_deadlock(child, &locks[at..])));
    }
    row.journal_mut().has_children = true;
    let parent = ParentLink { is_awaited: true, depth: depth + 1, locks, ..Default::default() };
    new.child = Some(invoke(context, step, child, parent));
    Ok(None)
}

/// `chain`: the vqueues whose locks are held, from the one that the child needs downwards.
fn would_deadlock(child: &NewChild, chain: &[VQueueId]) -> JournalOutcome {
    let held: Vec<String> = chain.iter().map(ToString::to_string).collect();
    let message = format!(
        "would deadlock: key `{}` of service `{}` is held by an entry that waits for this call \
         ({}); send instead of calling, or use another key",
        child.vqueue.object_key.as_deref().unwrap_or_default(),
        child.vqueue.service,
        held.join(" -> ")
    );
    JournalOutcome::Failure(JournalFailure {
        kind: JournalFailureKind::WouldDeadlock,
        message: message.into(),
        detail: Bytes::from(chain.iter().flat_map(|id| id.to_bytes()).collect::<Vec<_>>()),
    })
}

/// Puts the message that creates a child into the outbox; returns the child's id.
fn invoke<T: Tables>(
    context: &mut Context<'_, T>,
    step: StepId,
    child: &NewChild,
    parent: ParentLink,
) -> EntryId {
    let id = child_id(&step, &child.vqueue);
    let entry = NewEntry {
        id,
        vqueue: child.vqueue.clone(),
        payload: child.payload.clone(),
        run_at: child.run_at,
        idempotency_key: None,
        retry: child.retry,
        retention_ms: child.retention_ms,
        is_fresh: false,
        payload_hash: None,
    };
    let parent = ParentLink { entry: step.entry, run: step.run, key: step.key, ..parent };
    let invoke = Invoke { child: entry, parent };
    context.send(id.partition_key, MessageBody::Invoke(Box::new(invoke)));
    id
}
