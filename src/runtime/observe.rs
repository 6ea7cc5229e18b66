//! Watching a runtime from outside: requests as of the control socket, events, metrics.

use forebay_api::{MetricsView, Request, Response};

use super::Runtime;
use crate::{
    control::{RequestError, try_answer},
    error::NodeError,
    events::EventStream,
};

impl Runtime {
    /// Answers a request as the local socket in the data directory does: the one entrance to
    /// everything that the `forebay` command can look at and change.
    ///
    /// Not cancel-safe if the request changes something: a dropped call may have done part of it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Runtime, control::{Request, Response}};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let Response::Rules { book } = runtime.ask(Request::Rules).await? else { unreachable!() };
    /// assert!(book.rules.is_empty());
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn ask(&self, request: Request) -> Result<Response, RequestError> {
        try_answer(&self.node, request).await
    }

    /// The events of this runtime from now on: attempts that start, entries that end, changed
    /// rules, changed leaders. A slow reader slows nothing down: it misses events, and gets their
    /// number.
    ///
    /// Without readers events cost nothing; with readers, each attempt that starts and each entry
    /// that ends costs two reads of rows.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Context, Drain, Entry, Runtime, events::{EventKind, NextEvent}};
    ///
    /// let runtime = Runtime::builder()
    ///     .in_memory()
    ///     .handler("work", |_: Context, (): ()| async { Ok(()) })
    ///     .start()
    ///     .await?;
    /// let mut events = runtime.events();
    /// let entry = runtime.enqueue(Entry::to("work")).await?;
    /// loop {
    ///     let Some(NextEvent::Event(event)) = events.next().await else { continue };
    ///     if let EventKind::Ended { entry: ended, .. } = &event.kind {
    ///         assert_eq!(ended.id, entry.id());
    ///         break;
    ///     }
    /// }
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.node.events()
    }

    /// Maximum size of a payload, in bytes; see
    /// [`Builder::payload_max`](crate::Builder::payload_max).
    #[must_use]
    pub fn payload_len_max(&self) -> usize {
        self.environment.payload_len_max
    }

    /// Numbers for monitoring, since this runtime started. Reads a row of every vqueue: not for hot
    /// paths. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails, or the runtime is shut down.
    pub async fn metrics(&self) -> Result<MetricsView, NodeError> {
        Ok(self.node.inspect().metrics().await?)
    }
}
