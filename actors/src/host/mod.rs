//! The environment of a node: its own threads and the application's tokio runtime, or one thread of
//! a test that polls everything itself.
//!
//! Must always hold: users of these ports behave the same in both environments. Must not know: what
//! is run.

pub mod faults;

mod arbiter;

use std::future::Future;

use tokio::{runtime::Handle, task::AbortHandle};

use crate::error::NodeError;
#[cfg(feature = "testkit")]
use crate::sim::{Host, TaskHandle};

pub use faults::FaultPlan;

pub(crate) use arbiter::Arbiter;

/// The name of handlers' futures.
pub(crate) const HANDLER: &str = "handler";

/// Runs the futures of handlers, and futures of the node.
#[derive(Clone)]
pub enum Spawner {
    /// The application's tokio runtime.
    Tokio(Handle),
    /// A simulation.
    #[cfg(feature = "testkit")]
    Sim(Host),
}

impl From<Handle> for Spawner {
    fn from(handle: Handle) -> Self {
        Self::Tokio(handle)
    }
}

#[cfg(feature = "testkit")]
impl From<Host> for Spawner {
    fn from(host: Host) -> Self {
        Self::Sim(host)
    }
}

/// A future that was spawned.
pub(crate) enum Spawned {
    Tokio(AbortHandle),
    #[cfg(feature = "testkit")]
    Sim(TaskHandle),
}

impl Spawner {
    /// Number of threads that poll spawned futures.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Self::Tokio(handle) => handle.metrics().num_workers(),
            #[cfg(feature = "testkit")]
            Self::Sim(_) => 1,
        }
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Spawned {
        self.spawn_as(HANDLER, future)
    }

    /// With a name for the trace of a simulation.
    pub(crate) fn spawn_as(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Spawned {
        match self {
            Self::Tokio(handle) => {
                tracing::trace!(name, "a future is spawned");
                Spawned::Tokio(handle.spawn(future).abort_handle())
            }
            #[cfg(feature = "testkit")]
            Self::Sim(host) => Spawned::Sim(host.spawn(name, future)),
        }
    }
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

/// Runs something that blocks, outside of the application's threads; in a simulation at once.
pub(crate) async fn blocking<T: Send + 'static>(
    inline: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    if inline {
        return Ok(work());
    }
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| NodeError::Unexpected(error.to_string()))
}
