//! Which attempts run on this node, and who waits until another one has stopped.
//!
//! Must always hold: whoever asked for an attempt is told once that its handler is gone,
//! however it went: by its end, or, if there is none (it was dropped, by an abort or with
//! the runtime), that it stopped. Before that is told the handler's future is dropped. An
//! attempt of an entry, or of a key, does not start while an aborted one of the same entry
//! or key has not stopped. Must not know: limits, leaders, why an attempt is aborted.

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
use forebay_engine::partition::machine::{KnownAttempt, PartitionInput};
use forebay_messages::{
    AttemptToken, EntryId, PartitionKey, VQueueId, VQueueName, actor::AttemptEnd,
};
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;

use super::{
    Cancel, Means,
    attempt::{Begun, Prepared},
    wakeup_timer::{Lookout, Waiting},
};
use crate::{
    host::{Spawned, Spawner},
    shell::Ref,
};

/// An attempt and what it is of.
pub(super) type Key = (EntryId, AttemptToken);

/// A range of keys, both ends included.
pub(super) type Range = (PartitionKey, PartitionKey);

/// What is known of an attempt until its handler is gone.
pub(super) struct Running {
    name: Arc<VQueueName>,
    cancel: Cancel,
    /// It was its entry that somebody canceled, not only this node that goes down.
    is_canceled: bool,
    /// It was told to stop: its end is of no interest.
    is_aborted: bool,
    abort: Option<Spawned>,
    /// Who is told.
    reply_to: Ref<PartitionInput>,
}

impl Running {
    pub(super) fn new(
        name: Arc<VQueueName>,
        cancel: Cancel,
        reply_to: Ref<PartitionInput>,
    ) -> Self {
        Self { name, cancel, is_canceled: false, is_aborted: false, abort: None, reply_to }
    }

    /// A handler that gave in because the node goes down was not canceled: its entry
    /// runs again, and no attempt is used up.
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

/// What only one attempt at a time may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Entry(EntryId),
    /// Of a vqueue with a lock.
    VQueue(VQueueId),
}

fn places(entry: EntryId, name: &VQueueName) -> impl Iterator<Item = Place> {
    let vqueue = name.has_lock().then(|| Place::VQueue(name.id_for(entry)));
    std::iter::once(Place::Entry(entry)).chain(vqueue)
}

/// A place that attempts have which were aborted and have not stopped.
#[derive(Default)]
struct Taken {
    by: usize,
    waiting: Vec<Prepared>,
}

/// See the module's documentation.
pub(super) struct Shared {
    pub(super) means: Means,
    pub(super) spawner: Spawner,
    /// Threads that poll what is spawned.
    pub(super) threads: usize,
    lookout: Arc<Lookout>,
    running: DashMap<Key, Running, FxBuildHasher>,
    /// Attempts that were registered and of which it is not told yet that they are gone.
    alive: AtomicUsize,
    /// Attempts that were aborted and have not stopped. While there is none, which is
    /// nearly always, nobody looks at `taken`.
    stopping: AtomicUsize,
    taken: Mutex<HashMap<Place, Taken>>,
    /// Told when nothing runs, and whenever an aborted attempt has stopped.
    idle: Notify,
}

impl Shared {
    pub(super) fn new(spawner: Spawner, means: Means) -> Self {
        Self {
            means,
            threads: spawner.threads(),
            spawner,
            lookout: Arc::default(),
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

    /// Waits until something is so; looked at whenever an aborted attempt has stopped.
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

    /// Waits until nothing runs and every end was told. Cancel-safe.
    pub(super) async fn idle(&self) {
        self.wait_for(|shared| shared.len() == 0).await;
    }

    /// Before its future exists, so that its end always finds it.
    pub(super) fn register(self: &Arc<Self>, key: Key, running: Running) -> Guard {
        self.alive.fetch_add(1, Ordering::AcqRel);
        self.running.insert(key, running);
        Guard { shared: Arc::clone(self), key, ended: None }
    }

    /// Whether an attempt was not aborted since it was registered.
    pub(super) fn is_wanted(&self, key: Key) -> bool {
        self.stopping.load(Ordering::Acquire) == 0
            || self.running.get(&key).is_some_and(|known| !known.is_aborted)
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Place, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after what may start and was not polled yet.
    pub(super) fn look_after(&self) -> Waiting {
        self.lookout.expect(&self.spawner, self.threads)
    }

    /// How much may start and was not polled yet.
    #[cfg(test)]
    pub(super) fn unstarted(&self) -> usize {
        self.lookout.waiting()
    }

    /// An attempt that may start now. Another one is put behind whoever has its place.
    pub(super) fn admit(&self, prepared: Prepared) -> Option<Prepared> {
        if self.stopping.load(Ordering::Acquire) == 0 {
            return Some(prepared);
        }
        // Held meanwhile: who aborts it finds it where it waits.
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

    /// Gives an attempt a task of its own, as soon as it may start.
    pub(super) fn run(&self, prepared: Prepared) {
        if let Some(prepared) = self.admit(prepared) {
            self.spawn(prepared);
        }
    }

    /// Gives an attempt that may start a task of its own.
    pub(super) fn spawn(&self, prepared: Prepared) {
        let (key, waiting) = (prepared.key(), self.look_after());
        let task = self.spawner.spawn(async move {
            drop(waiting);
            prepared.begin().await;
        });
        self.runs_in(key, task);
    }

    /// Gives one that was polled a task of its own.
    pub(super) fn spawn_begun(&self, key: Key, begun: Begun) {
        self.runs_in(key, self.spawner.spawn(begun));
    }

    fn runs_in(&self, key: Key, task: Spawned) {
        let mut task = Some(task);
        if let Some(mut known) = self.running.get_mut(&key)
            && !known.is_aborted
        {
            known.abort = task.take();
        }
        // It has ended, or was aborted before it could be reached.
        if let Some(task) = task {
            task.abort();
        }
    }

    pub(super) fn cancel(&self, key: Key) {
        if let Some(mut running) = self.running.get_mut(&key) {
            running.is_canceled = true;
            running.cancel.cancel();
        }
    }

    pub(super) fn cancel_all(&self) {
        for running in &self.running {
            running.cancel.cancel();
        }
    }

    /// Tells an attempt to stop. Whoever asked for it hears when it has.
    pub(super) fn abort(&self, key: Key) {
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
        // Their ends take what is locked here.
        drop(running);
        drop(never_started);
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Tells those to stop whose entries are in a range, or all.
    pub(super) fn abort_range(&self, range: Option<Range>) {
        let keys: Vec<_> = self.running.iter().map(|running| *running.key()).collect();
        let is_meant = |key: &Key| range.is_none_or(|range| is_in(range, key));
        keys.into_iter().filter(is_meant).for_each(|key| self.abort(key));
    }

    /// How many run whose entries are in a range.
    pub(super) fn count(&self, range: Range) -> usize {
        self.running.iter().filter(|running| is_in(range, running.key())).count()
    }

    /// Those that run in a range.
    pub(super) fn list(&self, range: Range) -> Vec<KnownAttempt> {
        let running = self.running.iter().filter(|running| is_in(range, running.key()));
        let mut found: Vec<_> = running
            .map(|running| {
                let (entry, token) = *running.key();
                (running.name.id_for(entry), entry, token)
            })
            .collect();
        found.sort_unstable();
        found
    }

    /// From here on somebody else is told that these are gone; at once of those that are.
    pub(super) fn hand_over(&self, attempts: &[KnownAttempt], to: &Ref<PartitionInput>) {
        for (_, entry, token) in attempts {
            match self.running.get_mut(&(*entry, *token)) {
                Some(mut running) => running.reply_to = to.clone(),
                None => drop(to.send(PartitionInput::Stopped { token: *token })),
            }
        }
    }

    pub(super) fn name(&self, key: Key) -> Option<Arc<VQueueName>> {
        self.running.get(&key).map(|known| Arc::clone(&known.name))
    }

    /// An aborted attempt has stopped: who waited for its places goes on.
    fn give_way(&self, key: Key, name: &VQueueName) {
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

fn is_in((first, last): Range, (entry, _): &Key) -> bool {
    (first..=last).contains(&entry.partition_key)
}

/// Goes with the future of a handler, and behind it.
pub(super) struct Guard {
    shared: Arc<Shared>,
    key: Key,
    /// How it ended, if it did.
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
                shared.give_way(self.key, &running.name);
            }
            let ended = self.ended.take();
            if running.is_aborted {
                // What it ended with may have a destructor of the application's.
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
