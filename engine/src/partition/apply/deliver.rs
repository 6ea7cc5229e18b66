//! `Deliver`: messages from outboxes, each applied once.
//!
//! Must always hold: a message that is not above the mark of its source was applied before, or will
//! never be applied.

use forebay_messages::{
    EntryId, Timestamp,
    command::{Deliver, EntryAction, Invoke, MessageBody, Response, StopChild},
    journal::{JournalFailureKind, JournalKind, JournalOutcome, TOMBSTONE_RETENTION_MS},
};

use super::{
    super::{
        backlog::More,
        rows::{DedupKey, DedupRow, TombstoneRow},
        store::Tables,
    },
    ApplyError, Context, Reply,
    act::check,
    cancel, enqueue,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &Deliver,
) -> Result<Reply, ApplyError> {
    let source = DedupKey::Partition(command.source.0);
    let before = context.tables.dedup(source)?.unwrap_or_default();
    let mut mark = before;
    let mut count = 0;
    for message in &command.messages {
        let this = DedupRow { epoch: command.incarnation.0, seq: message.index.0 };
        if this <= mark {
            continue;
        }
        mark = this;
        count += 1;
        match message.body.as_ref().ok_or(ApplyError::UnknownCommand)? {
            MessageBody::Invoke(message) => invoke(context, message)?,
            MessageBody::Response(message) => respond(context, message)?,
            MessageBody::Stop(message) => stop(context, *message)?,
        }
    }
    if mark != before {
        context.need_journals();
        context.tables.put_dedup(source, mark);
    }
    Ok(Reply::Changed(count))
}

fn invoke<T: Tables>(context: &mut Context<'_, T>, message: &Invoke) -> Result<(), ApplyError> {
    let Invoke { child, parent } = message;
    if let Some(tombstone) = context.tables.tombstone(child.id)? {
        let (kind, text) = match tombstone.is_kill {
            false => (JournalFailureKind::Canceled, "canceled before it came"),
            true => (JournalFailureKind::Killed, "killed before it came"),
        };
        context.respond(child.id, parent, JournalOutcome::failure(kind, text));
        return Ok(());
    }
    if context.tables.look_at_entry(child.id, |_| ())?.is_some() {
        return Ok(());
    }
    if let Some(ended) = context.tables.finished(child.id)? {
        context.respond(child.id, parent, ended.outcome().into());
        return Ok(());
    }
    let backlog = context.state.backlog.as_ref();
    if let Some(full) = backlog.and_then(|backlog| backlog.refusal(&child.vqueue, &More::new())) {
        let kind = JournalFailureKind::BacklogFull;
        context.respond(child.id, parent, JournalOutcome::failure(kind, &full.to_string()));
        return Ok(());
    }
    enqueue::put_child(context, child, parent)
}

fn respond<T: Tables>(context: &mut Context<'_, T>, message: &Response) -> Result<(), ApplyError> {
    let Response { child, parent, run, key, outcome } = message;
    let outcome = outcome.clone().unwrap_or(JournalOutcome::Success(Default::default()));
    context.finish(
        *parent,
        key,
        |row| row.kind == JournalKind::Call && row.run == *run && row.child == Some(*child),
        outcome,
    )?;
    Ok(())
}

fn stop<T: Tables>(context: &mut Context<'_, T>, message: StopChild) -> Result<(), ApplyError> {
    let StopChild { child, is_kill } = message;
    let Some(row) = context.tables.entry(child)? else {
        if context.tables.finished(child)?.is_none() {
            record_tombstone(context, child, is_kill)?;
        }
        return Ok(());
    };
    if is_kill {
        return cancel::kill(context, child, row);
    }
    match check(EntryAction::Cancel, &row) {
        Ok(()) => cancel::cancel(context, child, row),
        Err(_) => Ok(()),
    }
}

/// Records that a child was stopped before it arrived. A kill replaces a cancel.
fn record_tombstone<T: Tables>(
    context: &mut Context<'_, T>,
    child: EntryId,
    is_kill: bool,
) -> Result<(), ApplyError> {
    match context.tables.tombstone(child)? {
        Some(before) if before.is_kill || !is_kill => {}
        Some(before) => context.tables.put_tombstone(child, TombstoneRow { is_kill, ..before }),
        None => {
            let expires_at = Timestamp(context.now.0.saturating_add(TOMBSTONE_RETENTION_MS));
            context.tables.put_tombstone(child, TombstoneRow { is_kill, expires_at });
            context.tables.put_timer(expires_at, child);
        }
    }
    Ok(())
}
