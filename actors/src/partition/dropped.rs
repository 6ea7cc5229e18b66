//! Ends the calls of a partition's entries whose children are gone: in keys that no partition owns,
//! or that another partition owns than before.
//!
//! Must always hold: a call whose child is gone ends, whether the child was created or not. Keys
//! without an owner: this walk over the journals fails the call, and the shuffle does so if the
//! invocation is still in the outbox. Keys with a new owner: the walk asks the owner, which may
//! have got the invocation since. The partition stores which routing table its calls were checked
//! against: after a crash, the next leader repeats a walk that did not reach its end.
//!
//! Must not know: why the keys have another owner.

use std::{sync::Arc, time::Duration};

use forebay_engine::{
    leadership::Role,
    partition::{apply::Reply, machine::Answer, read},
    shuffle::Routes,
};
use forebay_messages::{
    PartitionId,
    command::{
        CheckCalls, CheckedTable, Command, FailCalls, MessageBody, OutboxMessage, PendingCall,
    },
    journal::{JournalKind, MESSAGES_PER_RECORD_MAX},
};

use crate::{
    access::{propose::propose_by, replies::Credit},
    error::NodeError,
    registry::Registry,
    table::PartitionTable,
};

/// Rows of journals read at a time.
const PAGE_LEN: usize = 1_024;
/// With this many messages in the outbox, a walk waits before it adds more.
const OUTBOX_FULL: usize = 2 * MESSAGES_PER_RECORD_MAX;
/// Wait before a refused command is proposed again, and between looks at the outbox.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Changes the routing table, ends calls whose children are gone, and notifies partitions and
/// shuffles.
pub(crate) fn change_table(registry: &Arc<Registry>, change: impl FnOnce(&mut PartitionTable)) {
    registry.change_table(change);
    for partition in registry.partitions() {
        check_calls(registry, partition);
    }
    registry.send_routes();
}

/// Ends the calls of a partition whose children are gone, if the partition is led here and its
/// calls were not checked against the present routing table; in the background.
pub(crate) fn check_calls(registry: &Arc<Registry>, partition: PartitionId) {
    if !leads(registry, partition) {
        return;
    }
    let of = Arc::clone(registry);
    registry.host.spawn_as("dropped", async move {
        match check(&of, partition).await {
            // The next leader begins again.
            Ok(()) | Err(NodeError::ShutDown | NodeError::LostLeadership) => {}
            Err(error) => {
                tracing::warn!(%partition, %error, "calls into dropped partitions do not end yet");
            }
        }
    });
}

/// Records that the calls of a partition were all made under the present routing table: its first
/// messages were just committed.
pub(super) fn begin_checked(registry: &Arc<Registry>, partition: PartitionId) {
    let (of, (_, table)) = (Arc::clone(registry), registry.checked_table());
    registry.host.spawn_as("dropped", async move {
        let command = CheckCalls { calls: Vec::new(), through: Some(table) };
        // Without this record the next leader checks the calls.
        let _ = propose(&of, partition, Command::CheckCalls(command)).await;
    });
}

fn leads(registry: &Registry, partition: PartitionId) -> bool {
    let status = registry.status(partition);
    status.is_some_and(|status| {
        status.stopped.is_none() && matches!(status.role, Role::Leader { open: true, .. })
    })
}

/// A walk over the calls of a partition.
struct Walk<'a> {
    registry: &'a Registry,
    partition: PartitionId,
    routes: Routes,
    /// Partitions with this id or a higher one were not there at the last walk.
    new_from: u32,
}

async fn check(registry: &Registry, partition: PartitionId) -> Result<(), NodeError> {
    let (routes, table) = registry.checked_table();
    let Some(checked) = checked(registry, partition).await? else { return Ok(()) };
    if checked == table {
        return Ok(());
    }
    let walk = Walk { registry, partition, routes, new_from: checked.next };
    // First the calls that need no answer of another partition, which may be down.
    walk.run(Walk::is_unowned, |calls| Command::FailCalls(FailCalls { calls })).await?;
    let ask = |calls| Command::CheckCalls(CheckCalls { calls, through: None });
    walk.run(Walk::has_new_owner, ask).await?;
    let end = CheckCalls { calls: Vec::new(), through: Some(table) };
    propose(registry, partition, Command::CheckCalls(end)).await
}

/// The routing table of the last walk, once the incarnation of restored rows has begun.
async fn checked(
    registry: &Registry,
    partition: PartitionId,
) -> Result<Option<CheckedTable>, NodeError> {
    loop {
        let (store, restored) = (registry.replica(partition)?.rows.store, registry.incarnation);
        let read = move || -> Result<_, NodeError> {
            let is_current = read::incarnation(&store)? >= restored;
            Ok((is_current, read::checked_table(&store)?))
        };
        match registry.host.blocking(read).await?? {
            (true, checked) => return Ok(checked),
            // Its leader proposed it.
            (false, _) if leads(registry, partition) => tokio::time::sleep(RETRY_WAIT).await,
            (false, _) => return Ok(None),
        }
    }
}

impl Walk<'_> {
    fn is_unowned(&self, call: &PendingCall) -> bool {
        self.routes.owner(call.child.partition_key).is_none()
    }

    fn has_new_owner(&self, call: &PendingCall) -> bool {
        let owner = self.routes.owner(call.child.partition_key);
        owner.is_some_and(|owner| owner.0 >= self.new_from)
    }

    /// Proposes a command for the unfinished calls that match.
    async fn run(
        &self,
        is_meant: impl Fn(&Self, &PendingCall) -> bool,
        command: impl Fn(Vec<PendingCall>) -> Command,
    ) -> Result<(), NodeError> {
        let Self { registry, partition, .. } = *self;
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
                let call = PendingCall { entry, key, child: row.child? };
                is_meant(self, &call).then_some(call)
            });
            let calls: Vec<_> = calls.collect();
            for some in calls.chunks(MESSAGES_PER_RECORD_MAX) {
                self.wait_for_room().await?;
                propose(registry, partition, command(some.to_vec())).await?;
            }
        }
    }

    /// Waits until few messages wait for delivery, or the partition is led elsewhere. Messages to
    /// keys without an owner stay in the outbox, and do not count.
    async fn wait_for_room(&self) -> Result<(), NodeError> {
        while leads(self.registry, self.partition) {
            let store = self.registry.replica(self.partition)?.rows.store;
            let routes = self.routes.clone();
            let count = move || read::count_outbox(&store, routes);
            let count = self.registry.host.blocking(count).await??;
            if count.messages.iter().map(|(_, count)| count).sum::<usize>() < OUTBOX_FULL {
                break;
            }
            tokio::time::sleep(RETRY_WAIT).await;
        }
        Ok(())
    }
}

/// Proposes that these calls fail.
pub(super) async fn fail(
    registry: &Registry,
    partition: PartitionId,
    calls: Vec<PendingCall>,
) -> Result<(), NodeError> {
    for some in calls.chunks(MESSAGES_PER_RECORD_MAX) {
        let command = FailCalls { calls: some.to_vec() };
        propose(registry, partition, Command::FailCalls(command)).await?;
    }
    Ok(())
}

/// Proposes a command until it is applied, or until the partition is led elsewhere: the next leader
/// begins again.
async fn propose(
    registry: &Registry,
    partition: PartitionId,
    command: Command,
) -> Result<(), NodeError> {
    while leads(registry, partition) {
        registry.check_up()?;
        match propose_by(registry, Credit::None, partition, command.clone()).await {
            Ok(Answer::Reply(Reply::Changed(_))) => return Ok(()),
            Ok(other) => return Err(NodeError::unexpected(other)),
            Err(NodeError::TooLarge { len, len_max }) => {
                return Err(NodeError::TooLarge { len, len_max });
            }
            Err(_) => tokio::time::sleep(RETRY_WAIT).await,
        }
    }
    Err(NodeError::LostLeadership)
}

/// The calls that wait for these messages.
pub(super) fn calls_of(messages: &[Arc<OutboxMessage>]) -> Vec<PendingCall> {
    let call = |message: &Arc<OutboxMessage>| match &message.body {
        Some(MessageBody::Invoke(invoke)) if invoke.parent.is_awaited => Some(PendingCall {
            entry: invoke.parent.entry,
            key: invoke.parent.key.clone(),
            child: invoke.child.id,
        }),
        _ => None,
    };
    messages.iter().filter_map(call).collect()
}
