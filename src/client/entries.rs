//! Many stored entries at once, by filter.

use std::sync::Arc;

use forebay_actors::{
    access::{ActReport, EntryTarget},
    error::NodeError as Cause,
    node::Node,
};
use forebay_api::{
    EntryCount, EntryCursor, EntryFilter, EntryOutcome, EntryPage, EntryView, FilterError,
};
use forebay_messages::{FailureKind, Timestamp, command::EntryAction};

use crate::{Stage, error::NodeError};

/// A selection of stored entries, made with [`Runtime::entries`](crate::Runtime::entries): the
/// entries that match all conditions. A selection without conditions is refused; [`Entries::all`]
/// selects all entries.
///
/// Each action is applied in steps of at most 1,024 entries, each durable before the next. It
/// reaches all entries stored before the call; entries enqueued meanwhile may be changed or not.
/// Actions are not cancel-safe (a dropped call may have done part of the work), and repeating one
/// is safe. The report has the number of changed entries, and the number of matching ones that were
/// not changed, by reason.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use forebay::{Drain, Entry, Runtime};
///
/// let runtime = Runtime::builder().in_memory().start().await?;
/// for scope in ["tenant-a", "tenant-a", "tenant-b"] {
///     let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
///     runtime.enqueue(Entry::to("mail").scope(scope).run_at(later)).await?;
/// }
/// let of_a = runtime.entries().scope("tenant-a");
/// assert_eq!(of_a.clone().dry_run().cancel().await?.changed, 2);
/// assert_eq!(of_a.cancel().await?.changed, 2);
/// assert!(runtime.entries().cancel().await.is_err(), "it has no condition");
/// assert_eq!(runtime.entries().all().kill().await?.changed, 1);
/// # runtime.shutdown(Drain::now()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a selection does nothing by itself"]
pub struct Entries {
    node: Arc<Node>,
    filter: EntryFilter,
    all: bool,
    dry_run: bool,
}

impl Entries {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        let filter = EntryFilter::default();
        Self { node: Arc::clone(node), filter, all: false, dry_run: false }
    }

    /// Only entries of this service.
    pub fn service(mut self, service: &str) -> Self {
        self.filter.service = Some(service.to_owned());
        self
    }

    /// Only entries of this scope.
    pub fn scope(mut self, scope: &str) -> Self {
        self.filter.scope = Some(scope.to_owned());
        self
    }

    /// Only entries of this limit key, `l1` or `l1/l2`; `l1` includes everything below it.
    pub fn limit_key(mut self, limit_key: &str) -> Self {
        self.filter.limit_key = Some(limit_key.to_owned());
        self
    }

    /// Only entries in this stage.
    pub fn stage(mut self, stage: Stage) -> Self {
        self.filter.stage = Some(stage);
        self
    }

    /// Only entries enqueued at or before this time.
    pub fn created_until(mut self, time: impl Into<Timestamp>) -> Self {
        self.filter.created_until = Some(time.into().0);
        self
    }

    /// Only entries that succeeded.
    pub fn succeeded(mut self) -> Self {
        self.filter.outcome = Some(EntryOutcome::Success);
        self
    }

    /// Only entries that failed permanently in this way.
    pub fn failed_as(mut self, kind: FailureKind) -> Self {
        self.filter.outcome = Some(kind.into());
        self
    }

    /// Lists entries with the first bytes of their payloads and results: this many of each (at most
    /// 4 KiB).
    pub fn with_bytes(mut self, bytes_max: usize) -> Self {
        self.filter.bytes_max = bytes_max;
        self
    }

    /// Selects all entries if there is no condition. Without this call such a selection is refused.
    pub fn all(mut self) -> Self {
        self.all = true;
        self
    }

    /// Makes actions only report what they would do.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Applies an action, or with [`Entries::dry_run`] reports what it would do. The methods below
    /// are shortcuts, one per action.
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn act(&self, action: EntryAction) -> Result<ActReport, NodeError> {
        let target = match (self.all, self.filter.is_empty()) {
            (true, true) => EntryTarget::All,
            (false, true) => return Err(Cause::from(FilterError::Empty).into()),
            (_, false) => EntryTarget::Matching(self.filter.clone()),
        };
        Ok(self.node.access().act(action, &target, self.dry_run).await?)
    }

    /// Asks entries to stop: waiting ones end at once as canceled; running handlers see
    /// [`Context::canceled`](crate::Context::canceled) and end by themselves; an attempt that fails
    /// afterwards is not retried.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`](crate::ErrorKind::BadInput) for an empty or invalid filter, before
    /// anything is changed; after other errors part of the work may be done.
    pub async fn cancel(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Cancel).await
    }

    /// Ends entries as killed; running handlers are dropped.
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn kill(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Kill).await
    }

    /// Pauses waiting and suspended entries until they are resumed; they keep their positions.
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn pause(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Pause).await
    }

    /// Resumes paused entries at their positions.
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn resume(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Resume).await
    }

    /// Gives waiting and paused entries a new start time, which is also their position in the
    /// queue: earlier times go first.
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn reschedule(&self, time: impl Into<Timestamp>) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Reschedule { run_at: time.into() }).await
    }

    /// Removes ended entries, with their results and idempotency keys.
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn purge(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Purge).await
    }

    /// Runs entries again that failed permanently, from attempt one; canceled or killed ones only
    /// with [`Entries::failed_as`].
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn redrive(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Redrive).await
    }

    /// Starts entries again that have not ended, each with an empty journal: running handlers are
    /// dropped, calls without an answer are canceled. See
    /// [`EntryHandle::restart`](crate::EntryHandle::restart).
    ///
    /// # Errors
    /// As [`Entries::cancel`].
    pub async fn restart(&self) -> Result<ActReport, NodeError> {
        self.act(EntryAction::Restart).await
    }

    /// The first entries in the order of their ids, at most `limit` (0: all). Without conditions it
    /// lists every entry. It reads pages until there are enough entries, see [`Entries::page`].
    /// Cancel-safe.
    ///
    /// # Errors
    /// Errors of reading.
    pub async fn list(&self, limit: usize) -> Result<Vec<EntryView>, NodeError> {
        let filter = EntryFilter { limit, ..self.filter.clone() };
        Ok(self.node.inspect().list(filter).await?)
    }

    /// A page of entries in the order of their ids, from the start or from where another page
    /// ended: at most `limit` entries (0, or more than 1,000: 1,000), from at most 10,000 rows
    /// read. There may be fewer, or none, although more follow: continue while there is a `next`.
    ///
    /// With a scope, a page costs about as much as it has entries; with a service or a limit key,
    /// rows of other vqueues are read as well; with a time, an outcome or a stage, rows of other
    /// entries. Entries that change meanwhile may be included or not. Cancel-safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, Runtime};
    ///
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// for _ in 0..5 {
    ///     runtime.enqueue(Entry::to("mail").scope("tenant-a")).await?;
    /// }
    /// let of_a = runtime.entries().scope("tenant-a");
    /// let (mut found, mut cursor) = (0, None);
    /// loop {
    ///     let page = of_a.page(2, cursor).await?;
    ///     found += page.entries.len();
    ///     cursor = page.next;
    ///     if cursor.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(found, 5);
    /// assert_eq!(of_a.count().await?.to_string(), "5");
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`FilterError::OtherFilter`] for a cursor that came from another filter, and
    /// errors of reading.
    pub async fn page(
        &self,
        limit: usize,
        from: Option<EntryCursor>,
    ) -> Result<EntryPage, NodeError> {
        let filter = EntryFilter { limit, ..self.filter.clone() };
        Ok(self.node.inspect().entry_page(&filter, from).await?)
    }

    /// The number of entries. Exact if 10,000 rows are enough: without a time or an outcome, the
    /// counts of vqueues are added up; otherwise entries are read, and beyond 10,000 the answer is
    /// "at least" that many. Cancel-safe.
    ///
    /// # Errors
    /// Errors of reading.
    pub async fn count(&self) -> Result<EntryCount, NodeError> {
        Ok(self.node.inspect().count_entries(&self.filter).await?)
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entries({:?})", self.filter)
    }
}
