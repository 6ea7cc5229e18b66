//! Whether a node shuts down: checked first by everything it does.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::sync::watch;

use crate::error::NodeError;

/// Shared by all calls of a node's shutdown.
pub(crate) struct Down {
    /// It has begun.
    pub(crate) has_begun: AtomicBool,
    /// The tokio runtime of the handlers is gone, which is why the shutdown began.
    pub(crate) is_tokio_gone: AtomicBool,
    /// The shortest time that a call has given running handlers.
    pub(crate) drain: watch::Sender<Duration>,
    /// The result, once it is over.
    pub(crate) ended: watch::Sender<Option<Result<(), String>>>,
}

impl Default for Down {
    fn default() -> Self {
        Self {
            has_begun: AtomicBool::new(false),
            is_tokio_gone: AtomicBool::new(false),
            drain: watch::Sender::new(Duration::MAX),
            ended: watch::Sender::new(None),
        }
    }
}

impl Down {
    /// Fails once the node shuts down.
    pub(crate) fn check(&self) -> Result<(), NodeError> {
        if !self.has_begun.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.is_tokio_gone.load(Ordering::Acquire) {
            true => Err(NodeError::TokioGone),
            false => Err(NodeError::ShutDown),
        }
    }
}
