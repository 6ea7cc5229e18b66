//! `FailCalls`: calls end whose children's keys have no owner.

use forebay_messages::{
    command::{FailCalls, MessageBody, PendingCall, StopChild},
    journal::{JournalFailureKind, JournalKind, JournalOutcome},
};

use super::{
    super::{rows::JournalRow, store::Tables},
    ApplyError, Context, Reply,
};

pub(super) fn apply<T: Tables>(
    context: &mut Context<'_, T>,
    command: &FailCalls,
) -> Result<Reply, ApplyError> {
    let mut failed = 0;
    for PendingCall { entry, key, child } in &command.calls {
        let text = "the partition of the child was dropped";
        let outcome = JournalOutcome::failure(JournalFailureKind::DroppedPartition, text);
        let is_meant =
            |row: &JournalRow| row.kind == JournalKind::Call && row.child == Some(*child);
        if context.finish(*entry, key, is_meant, outcome)? {
            failed += 1;
            // The invocation may still be in the outbox: this follows it.
            let stop = StopChild { child: *child, is_kill: false };
            context.send(child.partition_key, MessageBody::Stop(stop));
        }
    }
    Ok(Reply::Changed(failed))
}
