//! The runtime: one node of forebay inside the application's process.

mod batch;
mod builder;
mod calls;
#[cfg(feature = "cluster")]
mod cluster;
mod observe;
#[cfg(feature = "http")]
mod part;
mod weak;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[cfg(feature = "cluster")]
use forebay_actors::consensus::ClusterNode;
use forebay_actors::snapshot::Manifest;
use forebay_actors::{
    error::NodeError as Cause,
    node::{KeyRange, Node},
};
use forebay_api::{ExplainView, LimitView};
use forebay_engine::partition::{apply::Reply, machine::Answer};
use forebay_messages::{
    EntryId, PartitionId, PartitionKey, VQueueId,
    command::{Command, Enqueue, EnqueueBatch, NewEntry},
    vqueue::{Part, check_component},
};

use crate::{
    client::{Entries, Entry, EntryHandle, VQueueControl},
    control::Server,
    environment::Environment,
    error::{EnqueueError, NodeError, RuntimeError},
    handler::{Context, FromPayload, HandlerError, HandlerOptions, IntoPayload, Shared, Typed},
    partitions::Partitions,
    rules::Rules,
};

pub use batch::EachEnqueued;
pub use builder::{Builder, PARTITIONS_MAX, THREADS_MAX};
#[cfg(feature = "http")]
pub(crate) use part::Closing;
pub use weak::WeakRuntime;

/// Maximum number of entries in one [`Runtime::enqueue_batch`].
pub const BATCH_LEN_MAX: usize = 10_000;

/// How running handlers are treated at shutdown.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    within: Duration,
}

impl Drain {
    /// Lets running handlers end for this time; handlers that still run are dropped and run again
    /// after the next start.
    #[must_use]
    pub fn within(within: Duration) -> Self {
        Self { within }
    }

    /// Drops running handlers at once.
    #[must_use]
    pub fn now() -> Self {
        Self { within: Duration::ZERO }
    }
}

/// One partition's share of a batch.
struct Share {
    /// The positions of its entries in the batch.
    places: Vec<usize>,
    entries: Vec<NewEntry>,
}

impl Share {
    fn with_capacity(count: usize) -> Self {
        Self { places: Vec::with_capacity(count), entries: Vec::with_capacity(count) }
    }
}

/// The keys of a new partition.
#[derive(Clone, Debug)]
pub struct PartitionSpec {
    range: RangeInclusive<u64>,
}

impl PartitionSpec {
    /// An inclusive range of the 64-bit key space.
    #[must_use]
    pub fn range(range: RangeInclusive<u64>) -> Self {
        Self { range }
    }
}

/// One node of forebay inside this process. Cheap to clone, `Send + Sync`.
///
/// Stop it with [`Runtime::shutdown`]. When the last handle is dropped without it, a warning is
/// logged and everything stops at once, as in a crash: nothing that was acknowledged is lost.
#[derive(Clone)]
pub struct Runtime {
    node: Arc<Node>,
    /// State that its handlers share.
    environment: Arc<Environment>,
    /// Parts beside the node, until shutdown.
    attached: Arc<Mutex<Attached>>,
    /// The handle given to handlers.
    weak: WeakRuntime,
}

/// Parts of a runtime beside its node.
#[derive(Default)]
struct Attached {
    /// The local socket, until shutdown.
    control: Option<Server>,
    /// The node of a cluster.
    #[cfg(feature = "cluster")]
    cluster: Option<InCluster>,
    /// Parts of other layers, which end before the node.
    #[cfg(feature = "http")]
    others: Vec<Arc<dyn Closing>>,
}

/// The node of a cluster, and whether it ends with the runtime.
#[cfg(feature = "cluster")]
#[derive(Clone)]
struct InCluster {
    node: Arc<ClusterNode>,
    is_owned: bool,
}

impl Runtime {
    /// A handle that does not keep the runtime alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakRuntime {
        self.weak.clone()
    }

    /// Begins the configuration of a runtime.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Stores an entry; waits while too much is in flight. When this returns, the entry is durable
    /// and survives a crash.
    ///
    /// Not cancel-safe: a dropped call may or may not have stored the entry. With
    /// [`Entry::uuid`] or an idempotency key it can be repeated safely.
    ///
    /// # Errors
    /// [`EnqueueError`]; all but `Node` are detected before anything is stored.
    pub async fn enqueue(&self, entry: Entry) -> Result<EntryHandle, EnqueueError> {
        let entry = self.finish(entry)?;
        let (id, weight) = (entry.id, entry.payload.len());
        let command = Command::Enqueue(Enqueue { entry });
        let answer = self.node.access().propose(id.partition_key, command, weight).await?;
        self.enqueued(id, answer)
    }

    /// As [`Runtime::enqueue`], but refuses with `Busy` instead of waiting.
    ///
    /// # Errors
    /// [`EnqueueError`].
    pub async fn try_enqueue(&self, entry: Entry) -> Result<EntryHandle, EnqueueError> {
        let entry = self.finish(entry)?;
        let (id, weight) = (entry.id, entry.payload.len());
        let command = Command::Enqueue(Enqueue { entry });
        match self.node.access().try_propose(id.partition_key, command, weight).await {
            Err(Cause::Busy) => Err(EnqueueError::Busy),
            Err(error) => Err(error.into()),
            Ok(answer) => self.enqueued(id, answer),
        }
    }

    /// Stores many entries; entries for the same partition are stored together or not at all. The
    /// handles are in the order of the entries. The entries for one partition are one record of the
    /// log, with at most 64 MiB.
    ///
    /// Not cancel-safe: a dropped call may have stored all, some or none of the shares. With
    /// [`Entry::uuid`] or idempotency keys it can be repeated safely.
    ///
    /// # Errors
    /// [`EnqueueError`]; [`EnqueueError::TooLarge`] when the entries for one partition are too
    /// large together: none of them is stored, and a smaller batch can be. With several partitions,
    /// some may have stored their share when another one fails; ids make a repetition safe.
    pub async fn enqueue_batch(
        &self,
        entries: Vec<Entry>,
    ) -> Result<Vec<EntryHandle>, EnqueueError> {
        if entries.len() > BATCH_LEN_MAX {
            let (count, count_max) = (entries.len(), BATCH_LEN_MAX);
            return Err(EnqueueError::BatchTooLarge { count, count_max });
        }
        let count = entries.len();
        let shares = self.shares(entries)?;
        let stored = shares.into_values().map(|Share { places, entries }| async move {
            let weight = entries.iter().map(|entry| entry.payload.len()).sum();
            let key = entries[0].id.partition_key;
            let command = Command::EnqueueBatch(EnqueueBatch { entries });
            let answer = self.node.access().propose(key, command, weight).await?;
            Ok::<_, EnqueueError>((places, answer))
        });
        let mut handles: Vec<Option<EntryHandle>> = vec![None; count];
        let node = Arc::new(Arc::downgrade(&self.node));
        for (places, answer) in futures_util::future::try_join_all(stored).await? {
            let Answer::Reply(Reply::EnqueuedBatch(stored)) = answer else {
                return Err(Cause::unexpected(answer).into());
            };
            for (place, stored) in places.into_iter().zip(stored) {
                handles[place] = Some(EntryHandle::of(Arc::clone(&node), stored));
            }
        }
        Ok(handles.into_iter().flatten().collect())
    }

    /// A handle to an entry that was stored before, by this process or another one.
    #[must_use]
    pub fn attach(&self, id: EntryId) -> EntryHandle {
        EntryHandle::attached(&self.node, id)
    }

    /// Waits until all of these entries have ended; returns their outcomes, in order, with `None`
    /// for an entry that was purged meanwhile. Cheaper than separate waits. Cancel-safe: the
    /// entries continue, and the wait can be repeated.
    ///
    /// ```
    /// use forebay::{Context, Drain, Entry, Runtime};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = Runtime::builder()
    ///     .in_memory()
    ///     .handler("work", |_: Context, (): ()| async { Ok(()) })
    ///     .start()
    ///     .await?;
    /// let entries = (0..100).map(|_| Entry::to("work")).collect();
    /// let handles = runtime.enqueue_batch(entries).await?;
    /// let outcomes = runtime.outcomes(&handles).await?;
    /// assert!(outcomes.iter().flatten().all(|outcome| outcome.is_success()));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NodeError`], for one of them or when the runtime goes down.
    pub async fn outcomes(
        &self,
        handles: &[EntryHandle],
    ) -> Result<Vec<Option<forebay_messages::Outcome>>, NodeError> {
        let ids: Vec<_> = handles.iter().map(EntryHandle::id).collect();
        Ok(self.node.access().attach_all(&ids).await?)
    }

    /// Why an entry does not run: all current reasons, each with its start time. `None` when there
    /// is no such entry. Cancel-safe.
    ///
    /// ```
    /// use forebay::{Context, Drain, Entry, Limits, Runtime, explain::Reason};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = Runtime::builder()
    ///     .in_memory()
    ///     .handler("work", |_: Context, (): ()| async {
    ///         std::future::pending::<()>().await;
    ///         Ok(())
    ///     })
    ///     .start()
    ///     .await?;
    /// runtime.rules().upsert("tenant-a", Limits::concurrency(1)).await?;
    /// runtime.enqueue(Entry::to("work").scope("tenant-a").key("first")).await?;
    /// # tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    /// let second = runtime.enqueue(Entry::to("work").scope("tenant-a").key("second")).await?;
    ///
    /// let explained = runtime.explain(second.id()).await?.expect("it is stored");
    /// let full = |reason: &Reason| matches!(reason, Reason::Concurrency { usage: 1, limit: 1, .. });
    /// assert!(explained.blocked_by.iter().any(|block| full(&block.reason)));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a read fails, no partition owns the entry's key, or the runtime is shut down.
    pub async fn explain(&self, entry: EntryId) -> Result<Option<ExplainView>, NodeError> {
        Ok(self.node.inspect().explain(entry).await?)
    }

    /// The counters of the limits that are in use or waited for, by partition and key: usage,
    /// limit, rule, tokens of a rate limit, number of waiting vqueues. Cancel-safe.
    ///
    /// ```
    /// # use forebay::{Context, Drain, Entry, Limits, Runtime};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::builder()
    /// #     .in_memory()
    /// #     .handler("work", |_: Context, (): ()| async {
    /// #         std::future::pending::<()>().await;
    /// #         Ok(())
    /// #     })
    /// #     .start()
    /// #     .await?;
    /// runtime.rules().upsert("*", Limits::concurrency(5)).await?;
    /// runtime.enqueue(Entry::to("work").scope("tenant-a")).await?;
    /// # tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    /// let limits = runtime.limits().await?;
    /// assert_eq!((limits[0].key.as_str(), limits[0].usage, limits[0].limit), ("tenant-a", 1, Some(5)));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the runtime is shut down.
    pub async fn limits(&self) -> Result<Vec<LimitView>, NodeError> {
        Ok(self.node.inspect().limits().await?)
    }

    /// Selects stored entries, to cancel, kill, pause, resume, reschedule, purge, redrive or list
    /// them. For one entry use [`Runtime::attach`].
    pub fn entries(&self) -> Entries {
        Entries::new(&self.node)
    }

    /// A handle to a whole vqueue, to pause and resume it.
    #[must_use]
    pub fn vqueue(&self, id: VQueueId) -> VQueueControl {
        VQueueControl::new(&self.node, id)
    }

    /// Registers the handler of another service while the runtime runs: waiting entries of that
    /// service start. A service has one handler, until the runtime is shut down.
    ///
    /// ```
    /// use forebay::{Context, Drain, Entry, Json, Runtime};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = Runtime::builder().in_memory().start().await?;
    /// let entry = runtime.enqueue(Entry::to("mail").json(&"hello")?).await?;
    /// // Without a handler it waits, and `explain` gives the reason.
    /// let length = |_: Context, Json(text): Json<String>| async move { Ok(Json(text.len())) };
    /// runtime.register("mail", length)?;
    /// assert_eq!(entry.result::<usize>().await?, 5);
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError::TwoHandlers`] when it has a handler, [`RuntimeError::Name`] when the
    /// name is not allowed, and [`ErrorKind::Stopped`](crate::ErrorKind::Stopped).
    pub fn register<F, In, Fut, Out>(&self, service: &str, call: F) -> Result<(), RuntimeError>
    where
        F: Fn(Context, In) -> Fut + Send + Sync + 'static,
        In: FromPayload + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
        Out: IntoPayload + Send + 'static,
    {
        self.register_with(service, HandlerOptions::default(), call)
    }

    /// As [`Runtime::register`], with options. Their retry policy and retention apply to entries
    /// enqueued from then on; timeouts apply to waiting entries as well.
    ///
    /// # Errors
    /// See [`Runtime::register`].
    pub fn register_with<F, In, Fut, Out>(
        &self,
        service: &str,
        options: HandlerOptions,
        call: F,
    ) -> Result<(), RuntimeError>
    where
        F: Fn(Context, In) -> Fut + Send + Sync + 'static,
        In: FromPayload + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
        Out: IntoPayload + Send + 'static,
    {
        check_component(Part::Service, service)?;
        let (environment, runtime) = (Arc::clone(&self.environment), self.weak.clone());
        let shared = Arc::new(Shared { environment, runtime });
        let handler = Arc::new(Typed::new(call, options, shared));
        // Locked meanwhile: an enqueue for a service with a handler gets the handler's options.
        let mut defaults = self.environment.change_defaults();
        self.node.handlers().register(service, handler).map_err(|error| match error {
            Cause::HandlerExists(service) => RuntimeError::TwoHandlers { service },
            error => error.into(),
        })?;
        defaults.insert(service.to_owned(), options);
        Ok(())
    }

    /// Aliases of services: for handlers that were renamed.
    #[must_use]
    pub fn aliases(&self) -> crate::Aliases {
        crate::Aliases::new(Arc::clone(&self.node))
    }

    /// Maximum number of entries that run here at once; `None` if only the rules limit them.
    #[must_use]
    pub fn max_running(&self) -> Option<u32> {
        self.node.running_max()
    }

    /// Changes the limit set with [`Builder::max_running`], while entries run. Applies to entries
    /// that start from then on: a lower number is reached as running ones end.
    ///
    /// ```
    /// # use forebay::{Drain, Runtime};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = Runtime::builder().in_memory().max_running(4).start().await?;
    /// runtime.set_max_running(16)?;
    /// assert_eq!(runtime.max_running(), Some(16));
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError::NothingMayRun`] for zero; [`ErrorKind::Refused`](crate::ErrorKind::Refused)
    /// when the runtime was started without a limit.
    pub fn set_max_running(&self, count: u32) -> Result<(), RuntimeError> {
        let count = std::num::NonZeroU32::new(count).ok_or(RuntimeError::NothingMayRun)?;
        Ok(self.node.set_running_max(count)?)
    }

    /// The rule book.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules::new(Arc::clone(&self.node))
    }

    /// The partitions: their state, and their leaders.
    #[must_use]
    pub fn partitions(&self) -> Partitions {
        Partitions::new(Arc::clone(&self.node))
    }

    /// Starts a partition for keys without an owner; it is stored in the data directory.
    /// Cancel-safe: once called, it is completed.
    ///
    /// # Errors
    /// `RangeOverlaps` when a partition owns some of the keys, and storage errors.
    pub async fn spawn_partition(&self, spec: PartitionSpec) -> Result<PartitionId, RuntimeError> {
        let (first, last) = spec.range.into_inner();
        let range = KeyRange { first: PartitionKey(first), last: PartitionKey(last) };
        Ok(self.node.spawn_partition(range).await?)
    }

    /// Stops a partition and releases its keys. Its rows stay on disk. Cancel-safe: once called, it
    /// is completed.
    ///
    /// # Errors
    /// When there is no such partition, and storage errors.
    pub async fn drop_partition(&self, partition: PartitionId) -> Result<(), RuntimeError> {
        Ok(self.node.drop_partition(partition).await?)
    }

    /// Takes a snapshot of log, rows and metadata into a directory that does not exist or is empty,
    /// while work continues. It contains everything acknowledged before.
    /// [`restore_snapshot`](crate::snapshot::restore) makes a data directory from it. Dropping the
    /// call does not stop it.
    ///
    /// # Errors
    /// [`RuntimeError`]: also when log or rows are kept in memory.
    pub async fn snapshot(&self, to: impl AsRef<Path>) -> Result<Manifest, RuntimeError> {
        Ok(self.node.snapshot(to.as_ref()).await?)
    }

    /// The node of the runtime: queries and commands beyond everyday use.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Shuts down: no new work is taken or started, running handlers may end within the drain's
    /// time, then everything stops. Other calls fail with `ShutDown` from then on.
    ///
    /// Cancel-safe: once called, it continues by itself. All calls return when the runtime is down,
    /// with the same result; one with a shorter time brings the end forward, a longer one changes
    /// nothing. A handler that waits for it counts as running: it is dropped when the time is over,
    /// and runs again after the next start. To avoid that, a handler spawns the call and returns.
    ///
    /// # Errors
    /// [`ErrorKind::Partly`](crate::ErrorKind::Partly) when rows could not be written; nothing is
    /// lost, the next start replays. [`ErrorKind::Environment`](crate::ErrorKind::Environment)
    /// when it could not begin: call it again.
    pub async fn shutdown(&self, drain: Drain) -> Result<(), RuntimeError> {
        let control = self.attached().control.take();
        drop(control);
        #[cfg(feature = "http")]
        self.close_parts().await;
        #[cfg(feature = "cluster")]
        if let Some(cluster) = self.owned_cluster() {
            let node = Arc::clone(&self.node);
            let down = tokio::spawn(async move {
                let down = node.shutdown(drain.within).await;
                // Its log is closed: nothing needs the node any more.
                let left = cluster.shutdown().await;
                down.map_err(RuntimeError::from).and(left.map_err(RuntimeError::from))
            });
            return down.await.unwrap_or_else(|_| Err(NodeError::shut_down().into()));
        }
        Ok(self.node.shutdown(drain.within).await?)
    }

    fn attached(&self) -> MutexGuard<'_, Attached> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of the cluster that ends with the runtime.
    #[cfg(feature = "cluster")]
    fn owned_cluster(&self) -> Option<Arc<ClusterNode>> {
        let cluster = self.attached().cluster.clone();
        cluster.filter(|cluster| cluster.is_owned).map(|cluster| cluster.node)
    }

    /// The node of the cluster that this runtime is part of: its status and the metadata.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn cluster(&self) -> Option<Arc<ClusterNode>> {
        self.attached().cluster.as_ref().map(|cluster| Arc::clone(&cluster.node))
    }

    /// The entries of a batch by partition.
    fn shares(&self, entries: Vec<Entry>) -> Result<BTreeMap<PartitionId, Share>, EnqueueError> {
        let count = entries.len();
        let table = self.node.access().routing_table();
        let mut shares: BTreeMap<PartitionId, Share> = BTreeMap::new();
        for (place, entry) in entries.into_iter().enumerate() {
            let entry = self.finish(entry)?;
            let partition = table.owner(entry.id.partition_key)?;
            // Room for all in the first share: most batches have one.
            let room = count / (shares.len() + 1);
            let share = shares.entry(partition).or_insert_with(|| Share::with_capacity(room));
            share.places.push(place);
            share.entries.push(entry);
        }
        Ok(shares)
    }

    fn finish(&self, entry: Entry) -> Result<NewEntry, EnqueueError> {
        let defaults = self.environment.defaults(&entry.vqueue().service);
        entry.finish(&defaults, self.environment.payload_len_max)
    }

    fn enqueued(&self, id: EntryId, answer: Answer) -> Result<EntryHandle, EnqueueError> {
        match answer {
            Answer::Reply(Reply::Enqueued(stored)) => {
                Ok(EntryHandle::of(Arc::new(Arc::downgrade(&self.node)), stored))
            }
            // A duplicate of our own proposal: the first one stored it.
            Answer::Reply(Reply::Duplicate) => Ok(EntryHandle::attached(&self.node, id)),
            other => Err(Cause::unexpected(other).into()),
        }
    }
}
