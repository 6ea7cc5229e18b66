//! The threads of a node and its connection to the log, until they are shut down.
//!
//! Must always hold: they are shut down once, in order: the actors, then the log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    error::NodeError,
    host::Arbiter,
    log_writer::{LogCommand, LogHandle, LogWriter},
    registry::Registry,
    shell::World,
};

/// The parts that are shut down in order.
pub(crate) struct Parts {
    pub(crate) arbiters: Vec<Arbiter>,
    pub(crate) log: LogHandle,
    /// `None` when the log is shared.
    pub(crate) log_writer: Option<LogWriter>,
}

/// The threads of a node and its connection to the log.
pub(crate) struct Machinery(Mutex<Option<Parts>>);

impl Machinery {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Mutex::new(Some(parts)))
    }

    fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to the log.
    pub(crate) fn log(&self) -> Result<LogHandle, NodeError> {
        self.parts().as_ref().map(|parts| parts.log.clone()).ok_or(NodeError::ShutDown)
    }

    /// Runs a job on one of the actor threads.
    pub(crate) fn on_arbiter(
        &self,
        index: usize,
        job: impl FnOnce(&World) + Send + 'static,
    ) -> Result<(), NodeError> {
        let parts = self.parts();
        let arbiters: &[Arbiter] =
            parts.as_ref().map(|parts| parts.arbiters.as_slice()).ok_or(NodeError::ShutDown)?;
        match arbiters[index % arbiters.len()].run(job) {
            true => Ok(()),
            false => Err(NodeError::ShutDown),
        }
    }

    /// Number of actor threads.
    #[cfg(feature = "testkit")]
    pub(crate) fn arbiters(&self) -> usize {
        self.parts().as_ref().map_or(0, |parts| parts.arbiters.len())
    }

    /// Whether they are still running.
    pub(crate) fn is_up(&self) -> bool {
        self.parts().is_some()
    }

    /// Joins the threads, unless they are joined already.
    pub(crate) fn take_down(&self, registry: &Registry) {
        let Some(Parts { mut arbiters, log, log_writer }) = self.parts().take() else { return };
        for arbiter in &mut arbiters {
            arbiter.join();
        }
        if let Some(shared) = registry.shared() {
            // References to partitions that were not stopped in order are dropped here, too.
            for replica in &registry.replicas {
                let (partition, node) = (*replica.key(), registry.node);
                log.send(LogCommand::Unsubscribe { partition, node });
            }
            shared.leave(registry.node);
        }
        drop(log);
        if let Some(mut log_writer) = log_writer {
            log_writer.join();
        }
    }
}
