//! One operation, held by its future.
//!
//! Must always hold: an operation whose future is dropped is forgotten: it does not start, and its
//! outcome is not delivered.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytestring::ByteString;
use forebay_messages::{
    command::{Operation, StepResult},
    journal::{JournalOutcome, StepId},
};

use super::{
    Ended, Journal, OperationError,
    current::{BranchId, Polled, polled},
    state::{Intent, IssuedKey},
};

/// An issued operation. Dropping it drops the operation.
pub(super) struct Ticket {
    journal: Arc<Journal>,
    branch: BranchId,
    name: ByteString,
    /// The key of the operation, for ids derived from it.
    pub(super) id: StepId,
    /// The journal has no row for it.
    pub(super) is_new: bool,
}

impl Journal {
    /// The branch that is polled on this thread, if it is one of this attempt.
    pub(super) fn branch(&self, name: &str) -> Result<BranchId, OperationError> {
        match polled() {
            Polled::Branch { slot, branch } if slot == self.slot => Ok(branch),
            Polled::Step => Err(OperationError::InsideOfStep { name: name.to_owned() }),
            _ => Err(OperationError::OutsideOfHandler { name: name.to_owned() }),
        }
    }

    /// Issues an operation in the branch that is polled now.
    pub(super) fn issue(
        self: Arc<Self>,
        name: ByteString,
        intent: Intent,
    ) -> Result<Ticket, OperationError> {
        let branch = self.branch(&name)?;
        let IssuedKey { key, run, is_new } = self.state().issue(branch, &name, intent)?;
        let id = self.step_id(key, run);
        Ok(Ticket { journal: self, branch, name, id, is_new })
    }
}

impl Ticket {
    /// Waits until a step may compute.
    pub(super) async fn started(&self) {
        poll_fn(|context| match self.journal.state().poll_started(&self.id.key, context.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// Writes the outcome of a step.
    pub(super) fn write_step(&self, outcome: JournalOutcome) {
        let result = StepResult { outcome: Some(outcome) };
        self.journal.state().write_step(&self.id.key, Operation::Step(result));
    }

    /// Waits for the outcome.
    pub(super) async fn outcome(&self) -> JournalOutcome {
        poll_fn(|context| {
            let outcome = self.journal.state().poll_outcome(&self.id.key, context.waker());
            outcome.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Ends the attempt instead of the operation: the handler sees nothing that another attempt
    /// would not see.
    pub(super) async fn end_attempt<T>(&self, end: Ended) -> T {
        self.journal.state().end(end);
        std::future::pending().await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.journal.state().forget(self.branch, &self.name, &self.id.key);
    }
}
