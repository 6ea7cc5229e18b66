//! One attempt, for its handler and its journal.
//!
//! Must always hold: a handler that uses no operation of a journal allocates nothing for one.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use forebay_actors::{
    executor::{AttemptContext, Cancel, Journals, Listen, Pulse},
    shell::Clock,
};
use forebay_engine::partition::{machine::AttemptNews, read::JournalRead};
use forebay_messages::{
    AttemptToken, EntryId, Run, Timestamp,
    command::{JournalWrite, SuspendAttempt},
    journal::JournalKey,
};

use crate::{
    environment::Environment,
    journal::{Journal, Mailbox, Notification, Owner, Port, Slot, Start},
};

/// How long an attempt waits for calls, promises and sleeps before it is suspended, unless its
/// handler sets another time.
const SUSPEND_AFTER: Duration = Duration::from_secs(5);

/// The state that a handler, its journal and its future share.
pub(crate) struct Attempt {
    pub(crate) context: AttemptContext,
    slot: Slot,
    /// The handler has seen the request to stop: from then on it cleans up.
    saw_cancel: AtomicBool,
    suspend_after: Duration,
}

impl Attempt {
    pub(crate) fn new(
        mut context: AttemptContext,
        suspend_after: Option<Duration>,
        environment: &Environment,
    ) -> Arc<Self> {
        let read = context.journal.take();
        let suspend_after = suspend_after.unwrap_or(SUSPEND_AFTER);
        let saw_cancel = AtomicBool::new(false);
        let slot = Slot::default();
        let attempt = Arc::new(Self { context, slot, saw_cancel, suspend_after });
        if let Some(read) = read {
            attempt.slot.open(|| attempt.start(environment, Some(*read)));
        }
        attempt
    }

    /// Whether the handler should stop. Notes that the handler has seen it.
    pub(crate) fn check_cancel(&self) -> bool {
        let is_canceled = self.context.cancel.is_cancelled();
        if is_canceled {
            self.saw_cancel.store(true, Ordering::Relaxed);
        }
        is_canceled
    }

    /// The journal. It is created here if the handler has not used one yet.
    pub(crate) fn journal(&self, environment: &Environment) -> Arc<Journal> {
        Arc::clone(self.slot.open(|| self.start(environment, None)))
    }

    /// The time, the same in a replay.
    pub(crate) fn now(&self) -> Timestamp {
        self.slot.get().map_or(self.context.decided_at, |journal| journal.now())
    }

    fn start(&self, environment: &Environment, read: Option<JournalRead>) -> Start {
        let AttemptContext { entry, token, decided_at, .. } = self.context;
        let (run, first_at, rows) = match read {
            Some(read) => (read.run, read.first_at, read.operations),
            None => (Run::default(), Timestamp::default(), Vec::new()),
        };
        let journals = environment.journals();
        let mailbox = Arc::<Mailbox>::default();
        journals.listen(entry, token, Arc::clone(&mailbox) as Arc<dyn Listen>);
        let port = AttemptPort {
            entry,
            token,
            run,
            journals,
            clock: Arc::clone(&environment.clock),
            cancel: self.context.cancel.clone(),
            pulse: self.context.pulse.clone(),
            deadline: self.context.deadline,
            suspend_after: self.suspend_after,
        };
        Start {
            entry,
            run,
            // No operation was written yet; the first one will store this time.
            first_at: if first_at == Timestamp::default() { decided_at } else { first_at },
            rows,
            mailbox,
            port: Arc::new(port),
            result_len_max: environment.payload_len_max,
        }
    }
}

impl Owner for Attempt {
    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn saw_cancel(&self) -> bool {
        self.saw_cancel.load(Ordering::Relaxed)
    }
}

/// Connects the journal of an attempt to its partition and its clocks.
struct AttemptPort {
    entry: EntryId,
    token: AttemptToken,
    run: Run,
    journals: Journals,
    clock: Arc<dyn Clock>,
    cancel: Cancel,
    pulse: Pulse,
    deadline: Option<Instant>,
    suspend_after: Duration,
}

impl Port for AttemptPort {
    fn write(&self, writes: Vec<JournalWrite>) {
        self.journals.write((self.entry, self.token), self.run, writes);
    }

    fn suspend(&self, waits: Vec<JournalKey>, releases_key: bool) {
        let (entry, token) = (self.entry, self.token);
        self.journals.suspend(SuspendAttempt { entry, token, waits, releases_key });
    }

    /// Before the attempt times out, because a wait is no failure.
    fn suspend_after(&self) -> Option<Duration> {
        if self.suspend_after == Duration::MAX {
            return None;
        }
        let now = || tokio::time::Instant::now().into_std();
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now()));
        Some(left.map_or(self.suspend_after, |left| self.suspend_after.min(left / 2)))
    }

    fn canceled(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let cancel = self.cancel.clone();
        Box::pin(async move { cancel.cancelled().await })
    }

    fn rest(&self, is_resting: bool) {
        self.pulse.rest(is_resting);
    }

    fn delay(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(wait))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn random(&self) -> u32 {
        self.journals.random()
    }
}

impl Listen for Mailbox {
    fn tell(&self, news: AttemptNews) {
        self.push(match news {
            AttemptNews::Finished(finished) => Notification::Finished {
                key: finished.key,
                sequence: finished.sequence,
                finished_at: finished.at,
                outcome: finished.outcome,
            },
            AttemptNews::WriteRefused { key, found } => Notification::Refused { key, found },
            AttemptNews::SuspendVoid => Notification::NotSuspended,
        });
    }
}
