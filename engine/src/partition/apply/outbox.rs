//! Messages to partitions, put into the outbox in the batch that causes them; and `TruncateOutbox`,
//! which deletes delivered ones.

use std::sync::Arc;

use bilrost::Message as _;
use bytes::Bytes;
use forebay_messages::{
    EntryId, FailureKind, Outcome, PartitionKey,
    command::{MessageBody, OutboxMessage, Response, StopChild, TruncateOutbox},
    journal::{JournalOutcome, ParentLink},
};

use super::{
    super::{
        rows::{EntryRow, JournalRow},
        store::Tables,
    },
    Applied, ApplyError, Context, Reply,
};

impl<T: Tables> Context<'_, T> {
    /// Puts a message into the outbox.
    pub(super) fn send(&mut self, to: PartitionKey, body: MessageBody) {
        self.need_journals();
        self.sent += 1;
        self.state.outbox_seq = self.state.outbox_seq.next();
        let (index, incarnation) = (self.state.outbox_seq, self.state.incarnation);
        let message = OutboxMessage { index, to, body: Some(body), incarnation };
        self.tables.put_outbox(index, Bytes::from(message.encode_to_vec()));
        self.applied.push(Applied::OutboxAdded(Arc::new(message)));
    }

    /// Answers the parent of an ended child, if the child was called.
    pub(super) fn respond(&mut self, child: EntryId, parent: &ParentLink, outcome: JournalOutcome) {
        if parent.is_awaited {
            let response = Response {
                child,
                parent: parent.entry,
                run: parent.run,
                key: parent.key.clone(),
                outcome: Some(outcome),
            };
            self.send(parent.entry.partition_key, MessageBody::Response(response));
        }
    }

    /// Cancels or kills the child of an operation.
    pub(super) fn stop_child(&mut self, row: &JournalRow, is_kill: bool) {
        if let Some(child) = row.child {
            let stop = MessageBody::Stop(StopChild { child, is_kill });
            self.send(child.partition_key, stop);
        }
    }

    /// Cancels or kills the children that end with their parent.
    pub(super) fn stop_children(
        &mut self,
        id: EntryId,
        row: &EntryRow,
        is_kill: bool,
    ) -> Result<(), ApplyError> {
        if !row.journal().is_some_and(|journal| journal.has_children) {
            return Ok(());
        }
        self.each_row(id, |context, _, row| {
            if row.has_live_child() {
                context.stop_child(&row, is_kill);
            }
            Ok(())
        })
    }

    /// An entry that is a child or has a journal ends: answers its parent, and stops its children
    /// if it was stopped.
    pub(super) fn end_journal(
        &mut self,
        id: EntryId,
        row: &mut EntryRow,
        outcome: &Outcome,
    ) -> Result<(), ApplyError> {
        if let Outcome::Failure(failure) = outcome
            && matches!(failure.kind, FailureKind::Canceled | FailureKind::Killed)
        {
            self.stop_children(id, row, failure.kind == FailureKind::Killed)?;
        }
        let Some(extra) = row.extra.as_deref_mut() else { return Ok(()) };
        if let Some(journal) = extra.journal.as_deref_mut() {
            journal.wait_for_nothing();
        }
        if let Some(parent) = extra.parent.as_deref() {
            self.respond(id, parent, outcome.clone().into());
        }
        Ok(())
    }
}

pub(super) fn truncate<T: Tables>(
    context: &mut Context<'_, T>,
    command: &TruncateOutbox,
) -> Result<Reply, ApplyError> {
    if command.through != 0 {
        return Err(ApplyError::UnknownCommand);
    }
    let mut to = Vec::with_capacity(command.delivered.len());
    for index in &command.delivered {
        if let Some(message) = context.tables.outbox(*index)? {
            context.tables.delete_outbox(*index);
            to.extend(OutboxMessage::destination(&message));
        }
    }
    let deleted = to.len() as u64;
    context.applied.push(Applied::OutboxRemoved { to });
    Ok(Reply::Changed(deleted))
}
