//! Ends the calls of a partition's entries to children in keys that no partition owns.
//!
//! Must always hold: a call whose child is in such keys ends, whether the child was made or not: by
//! this walk over the journals when the keys lose their owner and when a leader starts, by the
//! shuffle if the invocation is still in the outbox. Must not know: why the keys have no owner.

use std::{sync::Arc, time::Duration};

use forebay_engine::partition::machine::Answer;
use forebay_engine::{leadership::Role, partition::apply::Reply};
use forebay_messages::{
    PartitionId,
    command::{Command, FailCalls, FailedCall, MessageBody, OutboxMessage},
    journal::{JournalKind, MESSAGES_PER_RECORD_MAX},
};

use crate::{
    access::{propose::propose_by, replies::Credit},
    error::NodeError,
    registry::Registry,
    table::{KeyRange, PartitionTable},
};

/// Rows of journals read at a time.
const PAGE_LEN: usize = 1_024;
/// Wait before a refused command is proposed again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Changes the routing table, ends calls into removed ranges, and notifies the shuffles.
pub(crate) fn change_table(registry: &Arc<Registry>, change: impl FnOnce(&mut PartitionTable)) {
    let gone = registry.change_table(change);
    for partition in registry.partitions() {
        end_calls_into(registry, partition, gone.clone());
    }
    registry.send_routes();
}

/// Ends the calls into these ranges, if the partition is led here; in the background.
pub(crate) fn end_calls_into(
    registry: &Arc<Registry>,
    partition: PartitionId,
    gone: Vec<KeyRange>,
) {
    if gone.is_empty() || !leads(registry, partition) {
        return;
    }
    let of = Arc::clone(registry);
    registry.host.spawn_as("dropped", async move {
        if let Err(error) = walk(&of, partition, &gone).await {
            tracing::warn!(%partition, %error, "calls into dropped partitions do not end yet");
        }
    });
}

fn leads(registry: &Registry, partition: PartitionId) -> bool {
    let status = registry.status(partition);
    status.is_some_and(|status| {
        status.stopped.is_none() && matches!(status.role, Role::Leader { open: true, .. })
    })
}

async fn walk(
    registry: &Registry,
    partition: PartitionId,
    gone: &[KeyRange],
) -> Result<(), NodeError> {
    let mut after = None;
    loop {
        let store = registry.replica(partition)?.rows.store;
        let from = after.take();
        let read = move || store.operations_after(from, PAGE_LEN);
        let page = registry.host.blocking(read).await??;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let calls = page.into_iter().filter(|(_, row)| !row.is_finished());
        let calls = calls.filter(|(_, row)| row.kind == JournalKind::Call);
        let calls = calls.filter_map(|((entry, key), row)| {
            let child = row.child?;
            let key_of = child.partition_key;
            let is_gone = gone.iter().any(|range| range.contains(key_of));
            is_gone.then_some(FailedCall { entry, key, child })
        });
        fail(registry, partition, calls.collect()).await?;
    }
}

/// Proposes that these calls fail. The next leader begins again if this one loses its leadership.
pub(super) async fn fail(
    registry: &Registry,
    partition: PartitionId,
    calls: Vec<FailedCall>,
) -> Result<(), NodeError> {
    for some in calls.chunks(MESSAGES_PER_RECORD_MAX) {
        while leads(registry, partition) {
            registry.check_up()?;
            let command = Command::FailCalls(FailCalls { calls: some.to_vec() });
            match propose_by(registry, Credit::None, partition, command).await {
                Ok(Answer::Reply(Reply::Changed(_))) => break,
                Ok(other) => return Err(NodeError::unexpected(other)),
                Err(NodeError::TooLarge { len, len_max }) => {
                    return Err(NodeError::TooLarge { len, len_max });
                }
                Err(_) => tokio::time::sleep(RETRY_WAIT).await,
            }
        }
    }
    Ok(())
}

/// The calls that wait for these messages.
pub(super) fn calls_of(messages: &[Arc<OutboxMessage>]) -> Vec<FailedCall> {
    let call = |message: &Arc<OutboxMessage>| match &message.body {
        Some(MessageBody::Invoke(invoke)) if invoke.parent.is_awaited => Some(FailedCall {
            entry: invoke.parent.entry,
            key: invoke.parent.key.clone(),
            child: invoke.child.id,
        }),
        _ => None,
    };
    messages.iter().filter_map(call).collect()
}
