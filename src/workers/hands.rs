//! Takes attempts from the runtime for workers, and passes the ends back to it. All workers
//! together are one executor of the runtime.
//!
//! Must not know: leases, polls.

use std::sync::Arc;

use bytes::Bytes;
use forebay_actors::executor::{Assignment, Cancel, ExternalExecutor, ExternalOptions};
use forebay_engine::leases::LeaseId;
use forebay_messages::{VQueueName, actor::AttemptEnd};

use crate::{Runtime, error::NodeError, handler::HandlerError};

/// Maximum number of attempts that are taken together.
const TAKEN_MAX: usize = 256;

/// An attempt for a worker.
pub(super) struct Handed {
    pub(super) id: LeaseId,
    pub(super) name: Arc<VQueueName>,
    pub(super) attempt: u32,
    pub(super) attempts_max: u32,
    pub(super) last_failure: String,
    pub(super) payload: Bytes,
    /// A process died, or a lease ran out, while the entry ran.
    pub(super) is_interrupted: bool,
    /// Raised when the attempt should stop.
    pub(super) cancel: Cancel,
}

impl From<Assignment> for Handed {
    fn from(from: Assignment) -> Self {
        Self {
            id: LeaseId { entry: from.entry, token: from.token },
            name: from.name,
            attempt: from.attempt,
            attempts_max: from.attempts_max,
            last_failure: from.last_failure.to_string(),
            payload: from.payload,
            is_interrupted: from.interrupted > 0,
            cancel: from.cancel,
        }
    }
}

/// Takes attempts from a runtime.
pub(super) struct Hands(ExternalExecutor);

impl Hands {
    pub(super) fn new(runtime: &Runtime) -> Result<Self, NodeError> {
        let options = ExternalOptions::default();
        Ok(Self(runtime.node().handlers().announce(options)?))
    }

    /// The number of attempts of a service that it takes at once.
    pub(super) fn set_slots(&self, service: &str, slots: u32) {
        // A runtime that is down refuses it; it hands out no attempts either.
        self.0.set_slots(service, slots);
    }

    /// Takes no more attempts of a service.
    pub(super) fn withdraw(&self, service: &str) {
        self.0.withdraw(service);
    }

    /// The next attempts, at least one; none when the runtime is down. Cancel-safe.
    pub(super) async fn next(&self) -> Vec<Handed> {
        let Some(first) = self.0.next().await else { return Vec::new() };
        let mut taken = vec![first.into()];
        while taken.len() < TAKEN_MAX
            && let Some(next) = self.0.try_next()
        {
            taken.push(next.into());
        }
        taken
    }

    /// Ends an attempt; `false` if the runtime has taken it back.
    pub(super) fn end(&self, id: LeaseId, end: Result<Bytes, HandlerError>) -> bool {
        let end = end.map_or_else(HandlerError::into_end, AttemptEnd::Success);
        self.0.end(id.entry, id.token, end).is_ok()
    }

    /// Ends an attempt whose worker was lost; this counts as an interruption.
    pub(super) fn lose(&self, id: LeaseId) {
        // The runtime may have taken it back.
        let _ = self.0.lose(id.entry, id.token);
    }

    /// Gives back an attempt that no worker began.
    pub(super) fn give_back(&self, id: LeaseId) {
        let _ = self.0.give_back(id.entry, id.token);
    }
}
