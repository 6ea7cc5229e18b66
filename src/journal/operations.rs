//! Calls, sends, sleeps and promises.
//!
//! Must always hold: an operation starts when it is first polled, in the branch that polls it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{
    EntryId, Timestamp,
    command::{NewChild, Operation},
    journal::{JournalOutcome, child_id},
};
use serde::de::DeserializeOwned;

use super::{Journal, OperationError, state::Intent, ticket::Ticket};

/// Reads a result as JSON. An empty one is read as `null`: handlers that return `()` leave no
/// bytes.
pub(super) fn decode<T: DeserializeOwned>(
    ticket: &Ticket,
    outcome: JournalOutcome,
) -> Result<T, OperationError> {
    let bytes = success(ticket, outcome)?;
    let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    serde_json::from_slice(json).map_err(|error| {
        let key = ticket.id.key.clone();
        OperationError::Decode { key, message: error.to_string() }
    })
}

fn success(ticket: &Ticket, outcome: JournalOutcome) -> Result<Bytes, OperationError> {
    match outcome {
        JournalOutcome::Success(bytes) => Ok(bytes),
        JournalOutcome::Failure(failure) => Err(OperationError::failed(&ticket.id.key, failure)),
    }
}

fn intent(operation: Operation) -> Intent {
    let (kind, fingerprint) = (operation.kind(), operation.fingerprint());
    Intent { kind, fingerprint, operation: Some(Box::new(operation)) }
}

impl Journal {
    /// Creates a child and waits for its result, as JSON.
    pub(crate) async fn call<T: DeserializeOwned>(
        self: Arc<Self>,
        name: ByteString,
        child: NewChild,
    ) -> Result<T, OperationError> {
        let ticket = self.issue(name, intent(Operation::Call(child)))?;
        let outcome = ticket.outcome().await;
        decode(&ticket, outcome)
    }

    /// Creates a child and waits for the bytes of its result.
    pub(crate) async fn call_bytes(
        self: Arc<Self>,
        name: ByteString,
        child: NewChild,
    ) -> Result<Bytes, OperationError> {
        let ticket = self.issue(name, intent(Operation::Call(child)))?;
        let outcome = ticket.outcome().await;
        success(&ticket, outcome)
    }

    /// Creates a child without waiting for its result; returns when its creation is certain.
    pub(crate) async fn send(
        self: Arc<Self>,
        name: ByteString,
        child: NewChild,
    ) -> Result<EntryId, OperationError> {
        let vqueue = child.vqueue.clone();
        let ticket = self.issue(name, intent(Operation::Send(child)))?;
        let outcome = ticket.outcome().await;
        success(&ticket, outcome)?;
        Ok(child_id(&ticket.id, &vqueue))
    }

    /// Waits for this duration. A replay waits until the same time, which is in the row.
    pub(crate) async fn sleep(
        self: Arc<Self>,
        name: ByteString,
        wait: Duration,
    ) -> Result<(), OperationError> {
        // The later of two times: the handler may have computed for long since `Journal::now`, and
        // the clock may have been set back below the partition's time.
        let until = self.port.now().max(self.now()).after(wait);
        self.sleep_until(name, until).await
    }

    /// Waits until a time.
    pub(crate) async fn sleep_until(
        self: Arc<Self>,
        name: ByteString,
        until: Timestamp,
    ) -> Result<(), OperationError> {
        let ticket = self.issue(name, intent(Operation::Sleep(until)))?;
        let outcome = ticket.outcome().await;
        success(&ticket, outcome).map(drop)
    }

    /// Waits for a promise of the entry; the name of the operation is the name of the promise.
    pub(crate) async fn promise<T: DeserializeOwned>(
        self: Arc<Self>,
        name: ByteString,
    ) -> Result<T, OperationError> {
        let ticket = self.issue(name, intent(Operation::Promise(())))?;
        let outcome = ticket.outcome().await;
        decode(&ticket, outcome)
    }
}
