//! A handle to an entry that was stored.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use forebay_actors::node::Node;
use forebay_messages::{EntryId, Outcome};
use serde::de::DeserializeOwned;

use crate::error::{NodeError, ResultError};

/// A stored entry. Cheap to clone; dropping it changes nothing, and it does not keep
/// the runtime up.
#[derive(Clone)]
pub struct EntryHandle {
    /// Weak: a handle does not keep a runtime up, nor its directory taken.
    node: Weak<Node>,
    id: EntryId,
    existing: bool,
}

impl EntryHandle {
    pub(crate) fn new(node: &Arc<Node>, id: EntryId, existing: bool) -> Self {
        Self { node: Arc::downgrade(node), id, existing }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// It was stored before: the same id or idempotency key was enqueued already.
    #[must_use]
    pub fn was_existing(&self) -> bool {
        self.existing
    }

    /// Waits until the entry ends; how it ended. Cancel-safe: the entry goes on, and
    /// waiting can be taken up again.
    ///
    /// # Errors
    /// [`ResultError::Unknown`] when it was purged meanwhile, [`ResultError::Node`] when
    /// the runtime goes down.
    pub async fn outcome(&self) -> Result<Outcome, ResultError> {
        let node = self.node.upgrade().ok_or(NodeError::ShutDown)?;
        node.attach(self.id).await?.ok_or(ResultError::Unknown(self.id))
    }

    /// Waits for the result as bytes. Cancel-safe.
    ///
    /// # Errors
    /// [`ResultError::Failed`] when the entry failed for good; see also
    /// [`EntryHandle::outcome`].
    pub async fn result_bytes(&self) -> Result<Bytes, ResultError> {
        match self.outcome().await? {
            Outcome::Success(bytes) => Ok(bytes),
            Outcome::Failure(failure) => Err(ResultError::Failed {
                kind: failure.kind,
                message: failure.message.to_string(),
                detail: failure.detail,
            }),
        }
    }

    /// Waits for the result, written as JSON. Cancel-safe.
    ///
    /// # Errors
    /// As [`EntryHandle::result_bytes`], and [`ResultError::Decode`].
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, ResultError> {
        Ok(serde_json::from_slice(&self.result_bytes().await?)?)
    }
}

impl std::fmt::Debug for EntryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EntryHandle({})", self.id)
    }
}
