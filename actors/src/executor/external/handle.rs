//! The handle of an executor: what it announces, takes and ends.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{
    AttemptToken, EntryId, NodeId, VQueueName, actor::AttemptEnd, command::ExecutorId,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    executor::{Cancel, Changed, SNOOZE_MIN, running::Shared},
    host::Host,
    registry::Registry,
};

use super::{super::Executor, External, Held, Input, Known, Loss, give_back};

/// The options of an executor.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExternalOptions {
    /// Identifies it among the executors of this node; absent: a number that no other one has.
    pub lease_id: Option<u64>,
    /// How long it may be silent before its attempts are given back; absent: as long as its handle
    /// exists.
    pub lease: Option<Duration>,
}

/// An attempt that an executor has taken.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The entry.
    pub entry: EntryId,
    /// The attempt's token, for its end.
    pub token: AttemptToken,
    /// Its vqueue: service, scope, limit key, object key.
    pub name: Arc<VQueueName>,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Maximum number of attempts; 0 means no limit.
    pub attempts_max: u32,
    /// How often its executor was lost while the entry ran.
    pub interrupted: u32,
    /// Message of the last failed attempt.
    pub last_failure: ByteString,
    /// The input.
    pub payload: Bytes,
    /// Raised when the attempt should stop.
    pub cancel: Cancel,
}

impl Assignment {
    fn new(Input { run, payload }: Input, cancel: Cancel) -> Self {
        Self {
            entry: run.entry,
            token: run.token,
            name: run.name,
            attempt: run.attempt,
            attempts_max: run.attempts_max,
            interrupted: run.interrupted,
            last_failure: run.last_failure,
            payload,
            cancel,
        }
    }
}

/// The executor does not run this attempt (any more): it ended, was given back, or the executor was
/// lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptGone;

/// An executor. When the handle is dropped, the executor is lost.
pub struct ExternalExecutor {
    shared: Weak<Shared>,
    registry: Weak<Registry>,
    executor: Weak<Executor>,
    id: ExecutorId,
    wake: Arc<Notify>,
}

impl ExternalExecutor {
    /// Announces an executor without services. `None` if one with this id is known, or the node
    /// shuts down.
    pub(crate) fn announce(
        registry: &Arc<Registry>,
        executor: &Arc<Executor>,
        options: ExternalOptions,
    ) -> Option<Self> {
        let shared = &executor.shared;
        let lease = options.lease;
        let node: NodeId = registry.node;
        let wake = Arc::new(Notify::new());
        let id = {
            let mut state = shared.external.state();
            if state.is_closed {
                return None;
            }
            let half = || u64::from((shared.means.random)());
            let boot = options.lease_id.unwrap_or_else(|| half() << 32 | half());
            let id = ExecutorId { node, boot, is_lease: true };
            if !state.table.add(id) {
                return None;
            }
            let known = Known { wake: Arc::clone(&wake), heard: Instant::now() };
            state.known.insert(id, known);
            shared.external.is_used.store(true, Ordering::Release);
            id
        };
        let (registry, executor) = (Arc::downgrade(registry), Arc::downgrade(executor));
        let new = Self { shared: Arc::downgrade(shared), registry, executor, id, wake };
        if let Some(lease) = lease {
            new.watch_lease(&shared.host, lease);
        }
        Some(new)
    }

    /// Ends it when it was silent for its lease.
    fn watch_lease(&self, host: &Host, lease: Duration) {
        let (registry, executor, id) = (self.registry.clone(), self.executor.clone(), self.id);
        host.spawn_as("lease", async move {
            let mut due = Instant::now() + lease;
            loop {
                tokio::time::sleep_until(due).await;
                let Some(executor) = executor.upgrade() else { return };
                let heard = executor.shared.external.state().known.get(&id).map(|of| of.heard);
                let Some(heard) = heard else { return };
                due = heard + lease;
                if due <= Instant::now() {
                    tracing::warn!(?id, "an executor was silent for its lease");
                    lose(&registry, &executor, id, Loss::Unplanned);
                    return;
                }
            }
        });
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ExecutorId {
        self.id
    }

    /// Announces how many attempts of a service it runs at once, including the running ones; 0:
    /// none for now. Returns `false` if it was lost.
    pub fn set_slots(&self, service: &str, slots: u32) -> bool {
        self.announcing(service, |external| {
            let mut state = external.state();
            let Some(count) = state.table.set_slots(self.id, service, slots) else { return false };
            if count > 0 {
                state.wake(self.id);
            }
            true
        })
    }

    /// It no longer serves a service. Attempts that it was handed continue.
    pub fn withdraw(&self, service: &str) {
        self.announcing(service, |external| {
            let unserved = external.state().table.withdraw(self.id, service);
            give_back(unserved);
            true
        });
    }

    /// Changes an announcement, and informs the partitions if a service is served from now on, or
    /// not any more.
    fn announcing(&self, service: &str, change: impl FnOnce(&External) -> bool) -> bool {
        let Some(executor) = self.executor.upgrade() else { return false };
        if let Some(registry) = self.registry.upgrade() {
            // Before the service is served.
            registry.slots.announce(service);
        }
        let before = executor.has_handler(service);
        let is_known = change(&executor.shared.external);
        let now = executor.has_handler(service);
        if let Some(registry) = self.registry.upgrade() {
            let changed = Changed { gained: now && !before, lost: before && !now };
            registry.services_changed(&executor, changed);
        }
        is_known
    }

    /// It is alive. Returns `false` if it was lost.
    pub fn heartbeat(&self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let mut state = shared.external.state();
        let known = state.known.get_mut(&self.id);
        known.map(|known| known.heard = Instant::now()).is_some()
    }

    /// Whether it was lost, or its node is down.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_none_or(|shared| !shared.external.state().known.contains_key(&self.id))
    }

    /// Takes an attempt that it was handed, if there is one.
    #[must_use]
    pub fn try_next(&self) -> Option<Assignment> {
        let shared = self.shared.upgrade()?;
        let mut state = shared.external.state();
        if !state.known.contains_key(&self.id) {
            return None;
        }
        let held = state.table.take(self.id)?;
        let cancel = held.cancel.clone();
        held.input.take().map(|input| Assignment::new(input, cancel))
    }

    /// Takes the next attempt; waits until there is one. `None` when the executor was lost or its
    /// node is down. Cancel-safe.
    pub async fn next(&self) -> Option<Assignment> {
        loop {
            let woken = self.wake.notified();
            tokio::pin!(woken);
            // Enabled before the check: an attempt in between wakes it.
            woken.as_mut().enable();
            if let Some(next) = self.try_next() {
                return Some(next);
            }
            if self.is_lost() {
                return None;
            }
            woken.await;
        }
    }

    /// An attempt that it has taken ended.
    ///
    /// # Errors
    /// [`AttemptGone`].
    pub fn end(
        &self,
        entry: EntryId,
        token: AttemptToken,
        ended: AttemptEnd,
    ) -> Result<(), AttemptGone> {
        let shared = self.shared.upgrade().ok_or(AttemptGone)?;
        let ended = match ended {
            AttemptEnd::Retry { message, detail, .. } => {
                AttemptEnd::Retry { message, detail, random: (shared.means.random)() }
            }
            AttemptEnd::Snooze { wait } => AttemptEnd::Snooze { wait: wait.max(SNOOZE_MIN) },
            ended => ended,
        };
        let held: Held = {
            let mut state = shared.external.state();
            let (held, takes) = state.table.end(self.id, (entry, token)).ok_or(AttemptGone)?;
            if takes {
                state.wake(self.id);
            }
            held
        };
        held.end(ended);
        Ok(())
    }

    /// An attempt that it has taken was lost: it counts as an interruption, and its entry returns
    /// to its inbox.
    ///
    /// # Errors
    /// [`AttemptGone`].
    pub fn lose(&self, entry: EntryId, token: AttemptToken) -> Result<(), AttemptGone> {
        self.end(entry, token, Loss::Unplanned.end(true))
    }

    /// Returns an attempt without an end: it does not count, and its entry returns to its inbox.
    ///
    /// # Errors
    /// [`AttemptGone`].
    pub fn give_back(&self, entry: EntryId, token: AttemptToken) -> Result<(), AttemptGone> {
        self.end(entry, token, Loss::Planned.end(true))
    }

    /// The attempts that it has taken and not ended.
    #[must_use]
    pub fn running(&self) -> Vec<(EntryId, AttemptToken)> {
        let shared = self.shared.upgrade();
        shared.map(|shared| shared.external.state().table.running(self.id)).unwrap_or_default()
    }

    /// The attempts that it has taken and that should stop.
    #[must_use]
    pub fn canceled(&self) -> Vec<(EntryId, AttemptToken)> {
        let Some(shared) = self.shared.upgrade() else { return Vec::new() };
        let state = shared.external.state();
        let running = state.table.running(self.id).into_iter();
        running
            .filter(|key| {
                let held = state.table.find(self.id, *key);
                held.is_some_and(|held| held.cancel.is_cancelled())
            })
            .collect()
    }

    /// Ends it in order: attempts that it has not ended return to their inboxes and do not count.
    pub fn close(&self) {
        if let Some(executor) = self.executor.upgrade() {
            lose(&self.registry, &executor, self.id, Loss::Planned);
        }
    }
}

impl Drop for ExternalExecutor {
    fn drop(&mut self) {
        if let Some(executor) = self.executor.upgrade() {
            lose(&self.registry, &executor, self.id, Loss::Unplanned);
        }
    }
}

/// Removes an executor, and informs the partitions of the services without an executor.
fn lose(registry: &Weak<Registry>, executor: &Arc<Executor>, id: ExecutorId, loss: Loss) {
    let external = &executor.shared.external;
    let services = external.state().table.services(id);
    external.remove(id, loss);
    let is_lost = |service: &str| !executor.has_handler(service);
    let lost = services.iter().any(|(service, _)| is_lost(service));
    if let Some(registry) = registry.upgrade() {
        registry.services_changed(executor, Changed { gained: false, lost });
    }
}
