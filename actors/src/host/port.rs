//! The environment of a node: threads for actors and for work that blocks, a runtime for futures.
//! There are two environments: threads, and a simulation that polls everything on one thread of a
//! test.
//!
//! Must always hold: no other file checks in which of the two it runs; callers behave the same in
//! both. Must not know: what is run.
//!
//! An enum and not a trait object, because spawning is generic over the future: a trait object
//! would cost each attempt one more allocation. For the same reason [`World`](crate::shell::World),
//! which is generic over the machines of actors, is a separate enum in `shell`.

use std::{future::Future, sync::Arc};

use forebay_engine::partition::read::LOCKS_SEEDED_MAX;
use forebay_storage::log::LogStore;
use tokio::{runtime::Handle, task::AbortHandle};

#[cfg(feature = "testkit")]
use crate::sim::{SimHost, TaskHandle};
use crate::{
    error::NodeError,
    log_writer::{LogWriter, TrimLog},
    partition::refill::RefillPool,
    shell::Clock,
};

use super::{Arbiter, FaultPlan, Threads};

/// The name of handlers' futures.
pub(crate) const HANDLER: &str = "handler";

/// The environment of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Host {
    /// Threads of this library, and the application's tokio runtime.
    Threads(Threads),
    /// A simulation.
    #[cfg(feature = "testkit")]
    Sim(SimHost),
}

impl From<Handle> for Host {
    fn from(handle: Handle) -> Self {
        Self::Threads(Threads::new(handle))
    }
}

#[cfg(feature = "testkit")]
impl From<SimHost> for Host {
    fn from(host: SimHost) -> Self {
        Self::Sim(host)
    }
}

/// A future that was spawned.
pub(crate) enum Spawned {
    Tokio(AbortHandle),
    #[cfg(feature = "testkit")]
    Sim(TaskHandle),
}

impl Spawned {
    /// Drops the future.
    pub(crate) fn abort(&self) {
        match self {
            Self::Tokio(handle) => handle.abort(),
            #[cfg(feature = "testkit")]
            Self::Sim(handle) => handle.abort(),
        }
    }
}

/// Calls the same method in either environment.
macro_rules! either {
    ($self:ident, $host:ident => $call:expr) => {
        match $self {
            Host::Threads($host) => $call,
            #[cfg(feature = "testkit")]
            Host::Sim($host) => $call,
        }
    };
}

/// Futures.
impl Host {
    /// Number of threads that poll spawned futures.
    pub(crate) fn pollers(&self) -> usize {
        either!(self, host => host.pollers())
    }

    /// Spawns the future of a handler.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Spawned {
        self.spawn_as(HANDLER, future)
    }

    /// Spawns a future with a name for traces.
    pub(crate) fn spawn_as(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Spawned {
        match self {
            Self::Threads(threads) => Spawned::Tokio(threads.spawn(name, future)),
            #[cfg(feature = "testkit")]
            Self::Sim(host) => Spawned::Sim(host.spawn(name, future)),
        }
    }

    /// Spawns a future that does not depend on a runtime of the application.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub(crate) fn spawn_apart(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        either!(self, host => host.spawn_apart(name, future))
    }

    /// Keeps a guard until the runtime of spawned futures is gone, and drops it then. `None` where
    /// that runtime outlives the node.
    pub(crate) fn guard_runtime<G: Send + 'static>(
        &self,
        guard: impl FnOnce() -> G,
    ) -> Option<Spawned> {
        match self {
            Self::Threads(threads) => Some(Spawned::Tokio(threads.guard_runtime(guard()))),
            #[cfg(feature = "testkit")]
            Self::Sim(_) => None,
        }
    }
}

/// Work that blocks.
impl Host {
    /// Runs something that blocks, outside of the application's threads and of actor threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        either!(self, host => host.blocking(work).await)
    }

    /// As [`Host::blocking`], for an actor: the work reports its result itself.
    pub(crate) fn run_blocking(&self, work: impl FnOnce() + Send + 'static) {
        either!(self, host => host.run_blocking(work));
    }
}

/// The threads of a node.
impl Host {
    /// Maximum number of locks in the seed of a limiter: in a simulation one, so that its few
    /// entries exceed it as well.
    pub(crate) fn locks_seeded_max(&self) -> usize {
        match self {
            Self::Threads(_) => LOCKS_SEEDED_MAX,
            #[cfg(feature = "testkit")]
            Self::Sim(_) => 1,
        }
    }

    /// Starts actor threads: this many, or a single one.
    pub(crate) fn arbiters(
        &self,
        count: usize,
        clock: &Arc<dyn Clock>,
    ) -> std::io::Result<Vec<Arbiter>> {
        either!(self, host => host.arbiters(count, clock))
    }

    /// Starts refill workers.
    pub(crate) fn refill_pool(&self, faults: &FaultPlan) -> std::io::Result<RefillPool> {
        either!(self, host => host.refill_pool(faults))
    }

    /// Starts the writer of the node's own log.
    pub(crate) fn log_writer(
        &self,
        log: &Arc<dyn LogStore>,
        trim: TrimLog,
    ) -> std::io::Result<LogWriter> {
        either!(self, host => host.log_writer(log, trim))
    }
}
