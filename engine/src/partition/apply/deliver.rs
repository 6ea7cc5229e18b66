//! `Deliver`: messages from outboxes, each applied once.
//!
//! Must always hold: a message that is not above the mark of its source was applied before, or will
//! never be applied.

use forebay_messages::{
    EntryId, Timestamp,
    command::{AskChild, Deliver, EntryAction, Invoke, MessageBody, Response, StopChild},
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
        let incarnation = command.incarnation.max(message.incarnation);
        let this = DedupRow { epoch: incarnation.0, seq: message.index.0 };
        if this <= mark {
            continue;
        }
        mark = this;
        count += 1;
        match message.body.as_ref().ok_or(ApplyError::UnknownCommand)? {
            MessageBody::Invoke(message) => invoke(context, message)?,
            MessageBody::Response(message) => respond(context, message)?,
            MessageBody::Stop(message) => stop(context, *message)?,
            MessageBody::Ask(message) => ask(context, message)?,
        }
    }
    if mark != before {
        context.need_journals();
        context.tables.put_dedup(source, mark);
    }
    Ok(Reply::Changed(count))
}

/// The state of a child that a message is about.
enum Known {
    /// It has ended, or will not start: its answer.
    Answer(JournalOutcome),
    /// It answers when it ends.
    Live,
    /// There is no such entry.
    Unknown,
}

fn known<T: Tables>(context: &Context<'_, T>, child: EntryId) -> Result<Known, ApplyError> {
    if let Some(tombstone) = context.tables.tombstone(child)? {
        let (kind, text) = match tombstone.is_kill {
            false => (JournalFailureKind::Canceled, "canceled before it came"),
            true => (JournalFailureKind::Killed, "killed before it came"),
        };
        return Ok(Known::Answer(JournalOutcome::failure(kind, text)));
    }
    if context.tables.look_at_entry(child, |_| ())?.is_some() {
        return Ok(Known::Live);
    }
    let ended = context.tables.finished(child)?;
    Ok(ended.map_or(Known::Unknown, |ended| Known::Answer(ended.outcome().into())))
}

fn ask<T: Tables>(context: &mut Context<'_, T>, message: &AskChild) -> Result<(), ApplyError> {
    let AskChild { child, parent } = message;
    let answer = match known(context, *child)? {
        Known::Live => return Ok(()),
        Known::Answer(answer) => answer,
        Known::Unknown => {
            let text = "the child is lost: its partition was dropped, or restored from an earlier \
                        state";
            JournalOutcome::failure(JournalFailureKind::DroppedPartition, text)
        }
    };
    context.respond(*child, parent, answer);
    Ok(())
}

fn invoke<T: Tables>(context: &mut Context<'_, T>, message: &Invoke) -> Result<(), ApplyError> {
    let Invoke { child, parent } = message;
    match known(context, child.id)? {
        Known::Live => return Ok(()),
        Known::Answer(answer) => {
            context.respond(child.id, parent, answer);
            return Ok(());
        }
        Known::Unknown => {}
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
