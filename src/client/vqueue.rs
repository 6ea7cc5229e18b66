//! A handle to a whole vqueue.

use std::sync::{Arc, Weak};

use forebay_actors::node::Node;
use forebay_messages::VQueueId;

use crate::error::{ActError, NodeError};

/// A vqueue: all present and future entries of one service, scope, limit key and object key. Cheap
/// to clone; it does not keep the runtime alive.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use forebay::{Drain, Entry, Runtime};
///
/// let runtime = Runtime::builder().in_memory().start().await?;
/// let entry = Entry::to("mail").scope("tenant-a").key("user-7");
/// let name = entry.vqueue().clone();
/// let stored = runtime.enqueue(entry).await?;
///
/// let queue = runtime.vqueue(name.id_for(stored.id()));
/// queue.pause().await?;
/// queue.resume().await?;
/// # runtime.shutdown(Drain::now()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct VQueueControl {
    node: Weak<Node>,
    id: VQueueId,
}

impl VQueueControl {
    pub(crate) fn new(node: &Arc<Node>, id: VQueueId) -> Self {
        Self { node: Arc::downgrade(node), id }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> VQueueId {
        self.id
    }

    /// Stops starting entries of it until it is resumed; running entries continue. Durable when
    /// this returns. Not cancel-safe: a dropped call may have paused it.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it is paused already, or nothing is stored in it.
    pub async fn pause(&self) -> Result<(), ActError> {
        self.set_paused(true).await
    }

    /// Starts entries of it again. Durable when this returns. Not cancel-safe: a dropped call may
    /// have resumed it.
    ///
    /// # Errors
    /// [`ActError::NotChanged`] when it is not paused.
    pub async fn resume(&self) -> Result<(), ActError> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), ActError> {
        let node = self.node.upgrade().ok_or_else(NodeError::shut_down)?;
        let report = node.access().pause_vqueues(&[self.id], paused, false).await?;
        match report.skipped.first() {
            None => Ok(()),
            Some((_, why)) => Err(ActError::NotChanged(*why)),
        }
    }
}

impl std::fmt::Debug for VQueueControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VQueueControl({})", self.id)
    }
}
