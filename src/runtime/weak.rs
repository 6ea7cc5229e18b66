//! A handle to a runtime that does not keep it alive: for handlers.

use std::sync::{Arc, Mutex, Weak};

use forebay_actors::node::Node;
use forebay_messages::EntryId;
use tokio::sync::SetOnce;

use crate::{
    client::{Entry, EntryHandle},
    environment::Environment,
    error::{EnqueueError, NodeError},
};

use super::{Attached, Runtime};

struct Parts {
    node: Weak<Node>,
    environment: Arc<Environment>,
    attached: Weak<Mutex<Attached>>,
}

/// A handle to a runtime that does not keep it alive. Handlers get it from
/// [`Context::runtime`](crate::Context::runtime), applications from [`Runtime::downgrade`]. Cheap
/// to clone.
///
/// Entries that wait in a data directory may run before [`Builder::start`] has returned; the
/// methods of this handle then wait until it has.
///
/// [`Builder::start`]: crate::Builder::start
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use forebay::{Context, Drain, Entry, Json, Runtime};
///
/// let runtime = Runtime::builder()
///     .in_memory()
///     .handler("order", |context: Context, (): ()| async move {
///         let mail = context.runtime().enqueue(Entry::to("mail")).await?;
///         Ok(Json(mail.id()))
///     })
///     .handler("mail", |_: Context, (): ()| async { Ok(()) })
///     .start()
///     .await?;
/// let order = runtime.enqueue(Entry::to("order")).await?;
/// let mail = runtime.attach(order.result().await?);
/// assert!(mail.outcome().await?.is_success());
/// # runtime.shutdown(Drain::now()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct WeakRuntime {
    /// Set when the runtime has started.
    parts: Arc<SetOnce<Parts>>,
}

impl WeakRuntime {
    /// Gives all handlers' handles the runtime. Called once.
    pub(super) fn set(&self, runtime: &Runtime) {
        let parts = Parts {
            node: Arc::downgrade(&runtime.node),
            environment: Arc::clone(&runtime.environment),
            attached: Arc::downgrade(&runtime.attached),
        };
        // There is one start per handle, so nothing was set before.
        let _ = self.parts.set(parts);
    }

    /// The runtime, if it has started and another handle keeps it alive. The returned value keeps
    /// it alive, too.
    #[must_use]
    pub fn upgrade(&self) -> Option<Runtime> {
        self.parts.get().and_then(|parts| parts.upgrade(self))
    }

    async fn get(&self) -> Result<Runtime, NodeError> {
        self.parts.wait().await.upgrade(self).ok_or_else(NodeError::shut_down)
    }

    /// As [`Runtime::enqueue`].
    ///
    /// # Errors
    /// [`EnqueueError`]; `ShutDown` when the runtime is gone.
    pub async fn enqueue(&self, entry: Entry) -> Result<EntryHandle, EnqueueError> {
        self.get().await?.enqueue(entry).await
    }

    /// As [`Runtime::enqueue_batch`].
    ///
    /// # Errors
    /// As [`WeakRuntime::enqueue`].
    pub async fn enqueue_batch(
        &self,
        entries: Vec<Entry>,
    ) -> Result<Vec<EntryHandle>, EnqueueError> {
        self.get().await?.enqueue_batch(entries).await
    }

    /// As [`Runtime::attach`].
    ///
    /// # Errors
    /// `ShutDown` when the runtime is gone.
    pub async fn attach(&self, entry: EntryId) -> Result<EntryHandle, NodeError> {
        Ok(self.get().await?.attach(entry))
    }
}

impl Parts {
    fn upgrade(&self, weak: &WeakRuntime) -> Option<Runtime> {
        Some(Runtime {
            node: self.node.upgrade()?,
            environment: Arc::clone(&self.environment),
            attached: self.attached.upgrade()?,
            weak: weak.clone(),
        })
    }
}

impl std::fmt::Debug for WeakRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeakRuntime").finish_non_exhaustive()
    }
}
