//! Aliases: handlers that serve services with other names.

use std::sync::Arc;

use forebay_actors::node::Node;

use crate::error::NodeError;
pub use forebay_engine::aliases::{ALIASES_MAX, AliasError};

/// The aliases of a runtime: which handler serves a service that has no handler of its own name,
/// because the handler was renamed. They are stored in the data directory. Entries, ids and locks
/// keep the old name.
///
/// ```
/// use forebay::{Context, Drain, Entry, Json, Runtime};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = Runtime::builder()
///     .in_memory()
///     .handler("send-mail", |context: Context, (): ()| async move {
///         Ok(Json(context.vqueue().service.to_string()))
///     })
///     .start()
///     .await?;
/// let entry = runtime.enqueue(Entry::to("mail")).await?;
/// runtime.aliases().set("mail", "send-mail").await?;
/// assert_eq!(entry.result::<String>().await?, "mail");
/// # runtime.shutdown(Drain::now()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Aliases {
    node: Arc<Node>,
}

impl Aliases {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Makes `handler` serve `service`, and replaces the alias that `service` had. Durable, and in
    /// force, when it returns. A handler with the service's own name takes precedence; aliases may
    /// point to further aliases. Retry policies and retention are those of the service's own name.
    ///
    /// Not cancel-safe: a dropped call may or may not have set it; repeating it is safe.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`](crate::ErrorKind::BadInput) when a name is not allowed, the two are
    /// the same, they would form a cycle, or there are [`ALIASES_MAX`]; and storage errors.
    pub async fn set(&self, service: &str, handler: &str) -> Result<(), NodeError> {
        self.node.handlers().set_alias(service, Some(handler)).await?;
        Ok(())
    }

    /// Removes the alias of a service. Its entries wait from then on; running attempts continue.
    /// Not cancel-safe, as [`Aliases::set`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when it has none; and storage errors.
    pub async fn remove(&self, service: &str) -> Result<(), NodeError> {
        self.node.handlers().set_alias(service, None).await?;
        Ok(())
    }

    /// All aliases: each service with the name of the handler that serves it. Cancel-safe.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn list(&self) -> Result<Vec<(String, String)>, NodeError> {
        let aliases = self.node.handlers().aliases().await?;
        Ok(aliases.iter().map(|(service, handler)| (service.into(), handler.into())).collect())
    }
}
