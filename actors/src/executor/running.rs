//! The attempts that run on this node, and attempts that wait until another one has stopped.
//!
//! Must always hold: the requester of an attempt is notified exactly once that its handler is gone:
//! with its end or, if there is none (it was dropped by an abort or with the runtime), with the
//! message that it stopped. The handler's future is dropped before that. An attempt of an entry, or
//! of a key, does not start while an aborted one of the same entry or key has not stopped. Must not
//! know: limits, leaders, why an attempt is aborted.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use forebay_engine::partition::machine::{AttemptNews, KnownAttempt, PartitionInput};
use forebay_messages::{AttemptToken, EntryId, VQueueId, VQueueName, actor::AttemptEnd};
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;

use super::{
    Cancel, Listen, Means,
    attempt::{AttemptFuture, Prepared, Runner},
    external::External,
    journals::Notifications,
    wakeup_timer::{Waiting, WakeupTimer},
};
use crate::{
    host::{Host, Spawned},
    shell::Ref,
    table::KeyRange,
};

/// Identifies an attempt.
pub(super) type AttemptKey = (EntryId, AttemptToken);

/// State of an attempt until its handler is gone.
pub(super) struct Running {
    name: Arc<VQueueName>,
    cancel: Cancel,
    /// Its entry was canceled; the cancel does not only come from a shutdown of this node.
    is_canceled: bool,
    /// It was aborted: its end no longer matters.
    is_aborted: bool,
    abort: Option<Spawned>,
    /// Receives its end.
    reply_to: Ref<PartitionInput>,
    /// Its notifications about its journal; absent before the first notification or operation.
    notifications: Option<Box<Notifications>>,
}

impl Running {
    pub(super) fn new(
        name: Arc<VQueueName>,
        cancel: Cancel,
        reply_to: Ref<PartitionInput>,
    ) -> Self {
        let (is_canceled, is_aborted) = (false, false);
        Self { name, cancel, is_canceled, is_aborted, abort: None, reply_to, notifications: None }
    }

    /// A handler that stopped because the node shuts down was not canceled: its entry runs again,
    /// and the attempt does not count.
    fn end(&self, ended: AttemptEnd) -> AttemptEnd {
        let goes_down = || self.cancel.is_cancelled() && !self.is_canceled;
        match ended {
            AttemptEnd::Canceled { .. } if goes_down() => {
                AttemptEnd::Snooze { wait: Duration::ZERO }
            }
            ended => ended,
        }
    }
}

/// Resources that only one attempt at a time may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Resource {
    Entry(EntryId),
    /// A vqueue with a lock.
    VQueue(VQueueId),
}

fn places(entry: EntryId, name: &VQueueName) -> impl Iterator<Item = Resource> {
    let vqueue = name.has_lock().then(|| Resource::VQueue(name.id_for(entry)));
    std::iter::once(Resource::Entry(entry)).chain(vqueue)
}

/// A place held by attempts that were aborted and have not stopped.
#[derive(Default)]
struct Taken {
    by: usize,
    waiting: Vec<Prepared>,
}

/// The attempts of an executor.
pub(super) struct Shared {
    pub(super) means: Means,
    pub(super) host: Host,
    /// Number of threads that poll spawned futures.
    pub(super) threads: usize,
    /// The executors beside the handlers.
    pub(super) external: External,
    wakeup_timer: Arc<WakeupTimer>,
    running: DashMap<AttemptKey, Running, FxBuildHasher>,
    /// Number of registered attempts whose end was not reported yet.
    alive: AtomicUsize,
    /// Number of attempts that were aborted and have not stopped. While it is zero, which is nearly
    /// always, `taken` is not read.
    stopping: AtomicUsize,
    taken: Mutex<HashMap<Resource, Taken>>,
    /// Notified when nothing runs, and whenever an aborted attempt has stopped.
    idle: Notify,
}

impl Shared {
    pub(super) fn new(host: Host, means: Means) -> Self {
        Self {
            means,
            threads: host.pollers(),
            host,
            external: External::default(),
            wakeup_timer: Arc::default(),
            running: DashMap::default(),
            alive: AtomicUsize::new(0),
            stopping: AtomicUsize::new(0),
            taken: Mutex::default(),
            idle: Notify::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// Waits until a condition holds; checked whenever an aborted attempt has stopped.
    pub(super) async fn wait_for(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if is_so(self) {
                return;
            }
            notified.await;
        }
    }

    /// Waits until nothing runs and every end was reported. Cancel-safe.
    pub(super) async fn idle(&self) {
        self.wait_for(|shared| shared.len() == 0).await;
    }

    /// Called before the future exists, so that its end always finds the registration.
    pub(super) fn register(self: &Arc<Self>, key: AttemptKey, running: Running) -> Guard {
        self.alive.fetch_add(1, Ordering::AcqRel);
        self.running.insert(key, running);
        Guard { shared: Arc::clone(self), key, ended: None }
    }

    /// Whether an attempt was not aborted since it was registered.
    pub(super) fn is_wanted(&self, key: AttemptKey) -> bool {
        self.stopping.load(Ordering::Acquire) == 0
            || self.running.get(&key).is_some_and(|known| !known.is_aborted)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Resource, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt that may start and was not polled yet.
    pub(super) fn expect_start(&self) -> Waiting {
        self.wakeup_timer.expect(&self.host, self.threads)
    }

    /// Number of attempts that may start and were not polled yet.
    #[cfg(test)]
    pub(super) fn unstarted(&self) -> usize {
        self.wakeup_timer.waiting()
    }

    /// Returns an attempt that may start now. Others wait behind the holder of their place.
    pub(super) fn admit(&self, prepared: Prepared) -> Option<Prepared> {
        if self.stopping.load(Ordering::Acquire) == 0 {
            return Some(prepared);
        }
        // Locked meanwhile: an abort finds the attempt where it waits.
        let known = self.running.get(&prepared.key())?;
        if known.is_aborted {
            return None;
        }
        let mut taken = self.taken();
        let place = places(prepared.run.entry, &known.name).find(|place| taken.contains_key(place));
        match place.and_then(|place| taken.get_mut(&place)) {
            None => Some(prepared),
            Some(place) => {
                place.waiting.push(prepared);
                None
            }
        }
    }

    /// Starts an attempt, as soon as it may start: as its own task, or with its executor.
    pub(super) fn run(&self, prepared: Prepared) {
        if let Some(prepared) = self.admit(prepared) {
            match prepared.runner {
                Runner::Handler(_) => self.spawn(prepared),
                Runner::External => self.external.assign(prepared),
            }
        }
    }

    /// Spawns an attempt that may start as its own task.
    pub(super) fn spawn(&self, prepared: Prepared) {
        let (key, waiting) = (prepared.key(), self.expect_start());
        let task = self.host.spawn(async move {
            drop(waiting);
            prepared.begin().await;
        });
        self.runs_in(key, task);
    }

    /// Spawns an attempt that was polled as its own task.
    pub(super) fn spawn_begun(&self, key: AttemptKey, begun: AttemptFuture) {
        self.runs_in(key, self.host.spawn(begun));
    }

    fn runs_in(&self, key: AttemptKey, task: Spawned) {
        let mut task = Some(task);
        if let Some(mut known) = self.running.get_mut(&key)
            && !known.is_aborted
        {
            known.abort = task.take();
        }
        // It has ended, or was aborted before its task was known.
        if let Some(task) = task {
            task.abort();
        }
    }

    pub(super) fn cancel(&self, key: AttemptKey) {
        if let Some(mut running) = self.running.get_mut(&key) {
            running.is_canceled = true;
            running.cancel.cancel();
            drop(running);
            self.external.stop(key);
        }
    }

    pub(super) fn cancel_all(&self) {
        for running in &self.running {
            running.cancel.cancel();
        }
    }

    /// Aborts an attempt. The requester is notified when it has stopped.
    pub(super) fn abort(&self, key: AttemptKey) {
        let Some(mut running) = self.running.get_mut(&key) else { return };
        if std::mem::replace(&mut running.is_aborted, true) {
            return;
        }
        self.stopping.fetch_add(1, Ordering::AcqRel);
        let (name, task) = (Arc::clone(&running.name), running.abort.take());
        let mut never_started = Vec::new();
        {
            let mut taken = self.taken();
            for place in places(key.0, &name) {
                let place = taken.entry(place).or_default();
                place.by += 1;
                never_started.extend(place.waiting.extract_if(.., |waiting| waiting.key() == key));
            }
        }
        running.cancel.cancel();
        // Dropping the futures takes the locks held here.
        drop(running);
        drop(never_started);
        match task {
            Some(task) => task.abort(),
            None => self.external.stop(key),
        }
    }

    /// Aborts the attempts with entries in a range, or all.
    pub(super) fn abort_range(&self, range: Option<KeyRange>) {
        let keys: Vec<_> = self.running.iter().map(|running| *running.key()).collect();
        let is_meant = |key: &AttemptKey| range.is_none_or(|range| is_in(range, key));
        keys.into_iter().filter(is_meant).for_each(|key| self.abort(key));
        self.external.drop_range(range);
    }

    /// Number of running attempts with entries in a range.
    pub(super) fn count(&self, range: KeyRange) -> usize {
        self.running.iter().filter(|running| is_in(range, running.key())).count()
    }

    /// The running attempts with entries in a range.
    pub(super) fn list(&self, range: KeyRange) -> Vec<KnownAttempt> {
        let running = self.running.iter().filter(|running| is_in(range, running.key()));
        let mut found: Vec<_> = running
            .map(|running| {
                let (entry, token) = *running.key();
                KnownAttempt { vqueue: running.name.id_for(entry), entry, token }
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// From here on `to` is notified when these are gone; at once if they are gone already.
    pub(super) fn hand_over(&self, attempts: &[KnownAttempt], to: &Ref<PartitionInput>) {
        for KnownAttempt { entry, token, .. } in attempts {
            match self.running.get_mut(&(*entry, *token)) {
                Some(mut running) => running.reply_to = to.clone(),
                None => drop(to.send(PartitionInput::Stopped { token: *token })),
            }
        }
    }

    /// Notifies an attempt about its journal, at once if it listens.
    pub(super) fn tell(&self, key: AttemptKey, news: AttemptNews) {
        let delivery = {
            let Some(mut running) = self.running.get_mut(&key) else { return };
            running.notifications.get_or_insert_default().deliver(news)
        };
        // Not under the lock: the notification may wake a task that is then dropped with its
        // registration.
        if let Some((listener, news)) = delivery {
            listener.tell(news);
        }
    }

    /// From here on an attempt gets notifications about its journal at once.
    pub(super) fn listen(&self, key: AttemptKey, listener: Arc<dyn Listen>) {
        if let Some(mut running) = self.running.get_mut(&key) {
            running.notifications.get_or_insert_default().open(listener);
        }
    }

    /// Sends to the partition of an attempt, unless it was aborted.
    pub(super) fn to_partition(&self, key: AttemptKey, input: PartitionInput) {
        let reply_to = match self.running.get(&key) {
            Some(running) if !running.is_aborted => running.reply_to.clone(),
            _ => return,
        };
        reply_to.send(input);
    }

    pub(super) fn name(&self, key: AttemptKey) -> Option<Arc<VQueueName>> {
        self.running.get(&key).map(|known| Arc::clone(&known.name))
    }

    /// Releases the places of an aborted attempt that has stopped: attempts that waited for them
    /// may start.
    fn release_places(&self, key: AttemptKey, name: &VQueueName) {
        let mut free = Vec::new();
        {
            let mut taken = self.taken();
            for place in places(key.0, name) {
                let Some(of) = taken.get_mut(&place) else { continue };
                of.by -= 1;
                if of.by == 0 {
                    free.extend(taken.remove(&place).map(|of| of.waiting).unwrap_or_default());
                }
            }
        }
        self.stopping.fetch_sub(1, Ordering::AcqRel);
        free.into_iter().for_each(|prepared| self.run(prepared));
    }
}

fn is_in(range: KeyRange, (entry, _): &AttemptKey) -> bool {
    range.contains(entry.partition_key)
}

/// Dropped with the future of a handler, after it.
pub(super) struct Guard {
    shared: Arc<Shared>,
    key: AttemptKey,
    /// Its result, if it has ended by itself.
    pub(super) ended: Option<AttemptEnd>,
}

impl Guard {
    pub(super) fn means(&self) -> &Means {
        &self.shared.means
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (shared, (entry, token)) = (&self.shared, self.key);
        let forgotten = shared.running.remove(&self.key);
        let was_aborted = forgotten.as_ref().is_some_and(|(_, running)| running.is_aborted);
        if let Some((_, running)) = forgotten {
            if running.is_aborted {
                shared.release_places(self.key, &running.name);
            }
            let ended = self.ended.take();
            if running.is_aborted {
                // Its result may contain a destructor of the application.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(ended)));
                running.reply_to.send(PartitionInput::Stopped { token });
            } else {
                running.reply_to.send(match ended {
                    Some(ended) => {
                        PartitionInput::Ended { entry, token, ended: running.end(ended) }
                    }
                    None => PartitionInput::Stopped { token },
                });
            }
        }
        if shared.alive.fetch_sub(1, Ordering::AcqRel) == 1 || was_aborted {
            shared.idle.notify_waiters();
        }
    }
}
