//! Promises of entries, and the trees of entries and their children.

use forebay_actors::error::NodeError as Cause;
use forebay_api::TreeView;
use forebay_messages::{
    EntryId,
    journal::{JournalFailureKind, JournalOutcome},
};
use serde::Serialize;

use crate::error::{NodeError, PromiseError};

use super::Runtime;

impl Runtime {
    /// Resolves a promise of an entry with a value, written as JSON. The handler gets it from
    /// `Context::promise`; if it does not wait for it yet, the value is stored. The first result is
    /// final.
    ///
    /// Durable when this returns. Not cancel-safe: a dropped call may have resolved it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, ErrorKind, Runtime};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let order = runtime.enqueue(Entry::to("order")).await?;
    /// runtime.resolve(order.id(), "approved", &true).await?;
    /// let again = runtime.reject(order.id(), "approved", "too late").await;
    /// assert_eq!(again.unwrap_err().kind(), ErrorKind::Refused);
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) when the promise was resolved or rejected
    /// before, or the entry has ended; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an
    /// unknown entry. After [`ErrorKind::Unknown`](crate::ErrorKind::Unknown) it may have been
    /// done.
    pub async fn resolve<T: Serialize + ?Sized>(
        &self,
        entry: EntryId,
        name: &str,
        value: &T,
    ) -> Result<(), PromiseError> {
        let bytes = serde_json::to_vec(value).map_err(PromiseError::Encode)?;
        let (len, len_max) = (bytes.len(), self.environment.payload_len_max);
        if len > len_max {
            return Err(PromiseError::TooLarge { len, len_max });
        }
        self.settle(entry, name, JournalOutcome::Success(bytes.into())).await
    }

    /// Rejects a promise of an entry: its handler gets an error with this reason. As
    /// [`Runtime::resolve`] otherwise.
    ///
    /// # Errors
    /// As [`Runtime::resolve`].
    pub async fn reject(
        &self,
        entry: EntryId,
        name: &str,
        reason: &str,
    ) -> Result<(), PromiseError> {
        let (len, len_max) = (reason.len(), self.environment.payload_len_max);
        if len > len_max {
            return Err(PromiseError::TooLarge { len, len_max });
        }
        let outcome = JournalOutcome::failure(JournalFailureKind::Rejected, reason);
        self.settle(entry, name, outcome).await
    }

    async fn settle(
        &self,
        entry: EntryId,
        name: &str,
        outcome: JournalOutcome,
    ) -> Result<(), PromiseError> {
        let settled = self.node.access().settle_promise(entry, name, outcome).await;
        settled.map_err(|error| PromiseError::Node(error.into()))
    }

    /// An entry with the children that it called or sent, and their descendants, over all
    /// partitions: their stages, their outcomes, and what each waits for. At most 10,000 entries.
    /// Cancel-safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, Runtime, Stage};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let order = runtime.enqueue(Entry::to("order")).await?;
    /// let tree = runtime.tree(order.id()).await?;
    /// assert_eq!(tree.entries[0].stage, Some(Stage::Inbox));
    /// assert_eq!(tree.entries.len(), 1, "it has no children");
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such entry (any more),
    /// and errors of reading.
    pub async fn tree(&self, entry: EntryId) -> Result<TreeView, NodeError> {
        let tree = self.node.inspect().tree(entry).await?;
        Ok(tree.ok_or(Cause::UnknownEntry(entry))?)
    }
}
