//! The part of a partition that a journal needs, in memory: it applies writes in order, when a test
//! requests it, and finishes unfinished rows in any order.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use forebay_engine::partition::rows::JournalRow;
use forebay_messages::{
    EntryId, Run, Timestamp,
    command::{JournalWrite, Operation},
    journal::{JournalFailureKind, JournalKey, JournalKind, JournalOutcome},
};

use crate::journal::{Mailbox, Notification, Owner, Port, Slot, Start};

/// A record in the log that was not applied yet.
pub(super) enum Logged {
    Write(Box<JournalWrite>),
    Suspend(Vec<JournalKey>),
}

#[derive(Default)]
struct Timer {
    is_due: bool,
    waker: Option<Waker>,
}

/// The partition of one entry.
pub(super) struct World {
    random: u64,
    pub(super) rows: BTreeMap<JournalKey, JournalRow>,
    pub(super) log: VecDeque<Logged>,
    promises: HashMap<String, u64>,
    sequence: u64,
    next_value: u64,
    timers: Vec<Arc<Mutex<Timer>>>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The attempt was suspended until one of these finishes.
    pub(super) suspended: Option<Vec<JournalKey>>,
    /// Number of suspensions.
    pub(super) suspensions: usize,
    /// Number of requests for a suspension.
    pub(super) asked: usize,
    /// Numbers of writes that were handed over together.
    pub(super) batches: Vec<usize>,
    canceled: Arc<Mutex<Timer>>,
    /// The attempt only waits for calls, promises and sleeps.
    pub(super) is_resting: bool,
}

impl World {
    /// A number below `bound`.
    pub(super) fn draw(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// A new value for each call: a step that computes twice returns different values.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    fn finish(&mut self, key: &JournalKey, outcome: JournalOutcome) {
        self.sequence += 1 + self.random % 3;
        let (sequence, finished_at) = (self.sequence, Timestamp(1_000 + self.sequence));
        let row = self.rows.get_mut(key).unwrap();
        assert!(!row.is_finished(), "{key} finishes twice");
        (row.sequence, row.finished_at, row.outcome) =
            (sequence, finished_at, Some(outcome.clone()));
        let key = key.clone();
        self.mailbox.push(Notification::Finished { key, sequence, finished_at, outcome });
    }

    /// Applies the next record.
    pub(super) fn apply(&mut self) {
        match self.log.pop_front() {
            Some(Logged::Write(write)) => {
                let JournalWrite { key, operation } = *write;
                self.write(&key, operation.unwrap());
            }
            Some(Logged::Suspend(waits)) => {
                let is_unfinished = |key| self.rows.get(key).is_some_and(|it| !it.is_finished());
                match waits.iter().all(is_unfinished) {
                    true => self.suspended = Some(waits),
                    false => self.mailbox.push(Notification::NotSuspended),
                }
            }
            _ => panic!("nothing to apply"),
        }
    }

    fn write(&mut self, key: &JournalKey, operation: Operation) {
        let (kind, fingerprint) = (operation.kind(), operation.fingerprint());
        if let Some(row) = self.rows.get(key) {
            assert_eq!((row.kind, row.fingerprint), (kind, fingerprint), "{key}");
            return;
        }
        let row = JournalRow { kind, fingerprint, ..JournalRow::default() };
        self.rows.insert(key.clone(), row);
        let outcome = match operation {
            Operation::Step(result) => result.outcome,
            Operation::Send(_) => Some(JournalOutcome::Success(Default::default())),
            Operation::Promise(()) => self.promises.get(&key.name().to_string()).map(success),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.finish(key, outcome);
        }
    }

    /// Unfinished calls, sleeps and promises.
    pub(super) fn unfinished(&self) -> Vec<JournalKey> {
        let unfinished = self.rows.iter().filter(|(_, row)| !row.is_finished());
        unfinished.map(|(key, _)| key.clone()).collect()
    }

    /// Finishes an operation.
    pub(super) fn answer(&mut self, key: &JournalKey) {
        let value = self.fresh();
        let kind = self.rows[key].kind;
        match kind {
            JournalKind::Promise => {
                let name = key.name();
                self.promises.insert(name.to_string(), value);
                let mut waiting = self.unfinished();
                waiting.retain(|key| {
                    self.rows[key].kind == JournalKind::Promise && key.name() == name
                });
                for key in waiting {
                    self.finish(&key, success(&value));
                }
            }
            JournalKind::Sleep => self.finish(key, JournalOutcome::Success(Default::default())),
            _ if self.draw(4) == 0 => {
                let kind = JournalFailureKind::Killed;
                self.finish(key, JournalOutcome::failure(kind, "no luck"));
            }
            _ => self.finish(key, success(&value)),
        }
    }

    /// Ends all delays; returns whether there was one.
    pub(super) fn fire(&mut self) -> bool {
        let due = std::mem::take(&mut self.timers);
        due.iter().for_each(|timer| fire(timer));
        !due.is_empty()
    }

    /// The entry is canceled.
    pub(super) fn cancel(&mut self) {
        fire(&self.canceled);
    }
}

fn fire(timer: &Mutex<Timer>) {
    let waker = {
        let mut timer = timer.lock().unwrap();
        timer.is_due = true;
        timer.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Owner for Slot {
    fn slot(&self) -> &Slot {
        self
    }

    fn saw_cancel(&self) -> bool {
        false
    }
}

fn success(value: &u64) -> JournalOutcome {
    JournalOutcome::Success(value.to_string().into())
}

/// The connection of attempts to the world.
#[derive(Clone)]
pub(super) struct Site(Arc<Mutex<World>>);

impl Site {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            random: seed,
            rows: BTreeMap::new(),
            log: VecDeque::new(),
            promises: HashMap::new(),
            sequence: 0,
            next_value: 0,
            timers: Vec::new(),
            mailbox: Arc::default(),
            suspended: None,
            suspensions: 0,
            asked: 0,
            batches: Vec::new(),
            canceled: Arc::default(),
            is_resting: false,
        })))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Starts another attempt with the rows of the journal.
    pub(super) fn begin(&self) -> Arc<Slot> {
        let mut world = self.world();
        world.mailbox = Arc::default();
        world.timers.clear();
        let slot = Arc::new(Slot::default());
        slot.open(|| Start {
            entry: EntryId::default(),
            run: Run(0),
            first_at: Timestamp(1_000),
            rows: world.rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect(),
            mailbox: Arc::clone(&world.mailbox),
            port: Arc::new(self.clone()),
            result_len_max: 1_000,
        });
        slot
    }
}

impl Port for Site {
    fn write(&self, writes: Vec<JournalWrite>) {
        let mut world = self.world();
        world.batches.push(writes.len());
        world.log.extend(writes.into_iter().map(|write| Logged::Write(Box::new(write))));
    }

    fn suspend(&self, waits: Vec<JournalKey>, _: bool) {
        let mut world = self.world();
        world.asked += 1;
        world.log.push_back(Logged::Suspend(waits));
    }

    fn suspend_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(5))
    }

    fn canceled(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let canceled = Arc::clone(&self.world().canceled);
        Box::pin(std::future::poll_fn(move |context| {
            let mut canceled = canceled.lock().unwrap();
            canceled.waker = Some(context.waker().clone());
            if canceled.is_due { Poll::Ready(()) } else { Poll::Pending }
        }))
    }

    fn rest(&self, is_resting: bool) {
        self.world().is_resting = is_resting;
    }

    fn delay(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let timer = Arc::<Mutex<Timer>>::default();
        self.world().timers.push(Arc::clone(&timer));
        Box::pin(std::future::poll_fn(move |context| {
            let mut timer = timer.lock().unwrap();
            timer.waker = Some(context.waker().clone());
            if timer.is_due { Poll::Ready(()) } else { Poll::Pending }
        }))
    }

    fn now(&self) -> Timestamp {
        Timestamp(5_000)
    }

    fn random(&self) -> u32 {
        0
    }
}

/// Whether a future wants to be polled.
pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A future that is polled only when it was woken.
pub(super) struct Task<F> {
    future: F,
    flag: Arc<Flag>,
}

impl<F: Future + Unpin> Task<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, flag: Arc::new(Flag(AtomicBool::new(true))) }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::SeqCst)
    }

    pub(super) fn poll(&mut self) -> Poll<F::Output> {
        self.flag.0.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&self.flag));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }
}
