//! The environment of a node in production: its own threads for actors, refills, the log and the
//! shutdown; the application's tokio runtime for handlers.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use forebay_storage::log::LogStore;
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    error::NodeError,
    log_writer::{LogWriter, TrimLog},
    partition::refill::RefillPool,
    shell::{Clock, panic_text},
};

use super::{Arbiter, FaultPlan};

/// Threads of this library, and the application's tokio runtime.
#[derive(Clone, Debug)]
pub struct Threads(Handle);

impl Threads {
    pub(super) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    pub(super) fn pollers(&self) -> usize {
        self.0.metrics().num_workers()
    }

    pub(super) fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        tracing::trace!(name, "a future is spawned");
        self.0.spawn(future).abort_handle()
    }

    pub(super) fn guard_runtime(&self, guard: impl Send + 'static) -> AbortHandle {
        self.spawn("sentinel", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        })
    }
}

#[expect(clippy::unused_self, reason = "the same calls in both environments")]
impl Threads {
    /// The future gets its own thread and its own tokio runtime.
    pub(super) fn spawn_apart(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let running = AssertUnwindSafe(move || tokio.block_on(future));
        let thread = std::thread::Builder::new().name(format!("forebay-{name}"));
        let started = thread.spawn(move || {
            if let Err(panic) = catch_unwind(running) {
                let panic = panic_text(panic.as_ref());
                tracing::error!(%panic, "the task \"{name}\" panicked");
            }
        });
        started.map(drop)
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let worked = tokio::task::spawn_blocking(work).await;
        worked.map_err(|error| NodeError::Unexpected(error.to_string()))
    }

    /// Runs on the blocking threads of the calling actor thread.
    pub(super) fn run_blocking(&self, work: impl FnOnce() + Send + 'static) {
        tokio::task::spawn_blocking(work);
    }

    pub(super) fn arbiters(
        &self,
        count: usize,
        clock: &Arc<dyn Clock>,
    ) -> std::io::Result<Vec<Arbiter>> {
        (0..count).map(|index| Arbiter::start(index, Arc::clone(clock))).collect()
    }

    pub(super) fn refill_pool(&self, faults: &FaultPlan) -> std::io::Result<RefillPool> {
        RefillPool::start(faults)
    }

    pub(super) fn log_writer(
        &self,
        log: &Arc<dyn LogStore>,
        trim: TrimLog,
    ) -> std::io::Result<LogWriter> {
        LogWriter::start_with(Arc::clone(log), trim)
    }
}
