//! The environment of a simulated node: takes the work that threads would do.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Wake,
};

use forebay_messages::Timestamp;
use forebay_storage::log::LogStore;
use futures_util::task::AtomicWaker;

use crate::{
    error::NodeError,
    host::{Arbiter, FaultPlan, Job, faults::Faults},
    log_writer::{LogHandle, LogWriter, TrimLog},
    partition::refill::{RefillJob, RefillPool},
    shell::{Clock, Ref},
};

/// The environment of a node in a simulation. Cheap to clone.
#[derive(Clone)]
pub struct SimHost(Arc<Inner>);

impl std::fmt::Debug for SimHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimHost")
    }
}

/// Work of a node, until the simulation takes it.
struct Inner {
    queue: Mutex<WorkQueue>,
    /// The writer of the node's own log.
    log: LogHandle,
    /// Wakes the simulation when it waits for time to pass.
    sleeper: Arc<AtomicWaker>,
}

#[derive(Default)]
pub(super) struct WorkQueue {
    pub(super) jobs: VecDeque<Job>,
    pub(super) scans: VecDeque<RefillJob>,
    pub(super) spawned: Vec<Task>,
    /// Scans must be made by a refill worker, not at once.
    pub(super) scans_block: bool,
    /// The node is gone: no more work is taken.
    pub(super) is_closed: bool,
}

/// A future with its waker and its state.
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) future: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub(super) handle: TaskHandle,
    /// When an aborted future is dropped; set once the abort was seen.
    pub(super) stops_at: Option<Timestamp>,
}

/// A handle to a spawned future.
#[derive(Clone)]
pub struct TaskHandle(Arc<TaskState>);

pub(super) struct TaskState {
    is_woken: AtomicBool,
    is_aborted: AtomicBool,
    is_done: AtomicBool,
    sleeper: Arc<AtomicWaker>,
}

impl Wake for TaskState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.sleeper.wake();
    }
}

impl TaskHandle {
    /// Drops the future before it is polled again.
    pub fn abort(&self) {
        self.0.is_aborted.store(true, Ordering::Release);
        self.0.sleeper.wake();
    }

    /// Whether the future has ended, or was dropped.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_done.load(Ordering::Acquire)
    }

    pub(super) fn finish(&self) {
        self.0.is_done.store(true, Ordering::Release);
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.0.is_aborted.load(Ordering::Acquire)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.is_woken.load(Ordering::Acquire) || self.is_aborted()
    }

    pub(super) fn take_wake(&self) -> Arc<TaskState> {
        self.0.is_woken.store(false, Ordering::Release);
        Arc::clone(&self.0)
    }
}

impl SimHost {
    pub(super) fn new(log: LogHandle, sleeper: Arc<AtomicWaker>) -> Self {
        Self(Arc::new(Inner { queue: Mutex::default(), log, sleeper }))
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, WorkQueue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds work; false when the node is gone.
    fn put(&self, put: impl FnOnce(&mut WorkQueue)) -> bool {
        let mut queue = self.queue();
        if queue.is_closed {
            return false;
        }
        put(&mut queue);
        drop(queue);
        self.0.sleeper.wake();
        true
    }

    /// Spawns a future: the simulation polls it until the node is gone.
    pub fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        let handle = TaskHandle(Arc::new(TaskState {
            is_woken: AtomicBool::new(true),
            is_aborted: AtomicBool::new(false),
            is_done: AtomicBool::new(false),
            sleeper: Arc::clone(&self.0.sleeper),
        }));
        let handle_of = handle.clone();
        let task = Task { name, future: Box::pin(future), handle: handle_of, stops_at: None };
        if !self.put(|queue| queue.spawned.push(task)) {
            handle.finish();
        }
        handle
    }
}

/// The calls of [`Host`](crate::host::Host).
#[expect(
    clippy::unused_self,
    clippy::unused_async,
    clippy::unnecessary_wraps,
    reason = "the same calls in both environments"
)]
impl SimHost {
    pub(crate) fn pollers(&self) -> usize {
        1
    }

    pub(crate) fn spawn_apart(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        self.spawn(name, future);
        Ok(())
    }

    /// Runs at once: nothing else would run in the meantime.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        Ok(work())
    }

    pub(crate) fn run_blocking(&self, work: impl FnOnce() + Send + 'static) {
        work();
    }

    pub(crate) fn arbiters(&self, _: usize, _: &Arc<dyn Clock>) -> std::io::Result<Vec<Arbiter>> {
        let host = self.clone();
        let jobs = Ref::new(move |job: Job| host.put(|queue| queue.jobs.push_back(job)));
        Ok(vec![Arbiter::without_thread(jobs)])
    }

    pub(crate) fn refill_pool(&self, _: &FaultPlan) -> std::io::Result<RefillPool> {
        let host = self.clone();
        let jobs = Ref::new(move |job: RefillJob| host.put(|queue| queue.scans.push_back(job)));
        let faults = FaultPlan::by(Arc::new(self.clone()));
        Ok(RefillPool::without_threads(jobs, faults))
    }

    pub(crate) fn log_writer(
        &self,
        _: &Arc<dyn LogStore>,
        _: TrimLog,
    ) -> std::io::Result<LogWriter> {
        Ok(LogWriter::without_thread(self.0.log.clone()))
    }
}

impl Faults for SimHost {
    /// Nothing blocks in a simulation unless a fault is planned.
    fn blocks(&self) -> bool {
        self.queue().scans_block
    }
}
