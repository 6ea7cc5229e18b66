//! Opening a node: storage, threads, partitions.

use std::{
    path::Path,
    sync::{Arc, OnceLock, Weak},
};

use forebay_messages::{NodeId, Timestamp};
use forebay_storage::{
    DataDir, Medium,
    consensus::Bases,
    log::{LocalLog, LogId, LogStore, MemoryLog},
    metadata::{
        BlockingMetadata, LocalMetadata, MemoryMetadata, MetadataError, MetadataStore, Watch,
    },
    partition::Store,
    snapshot::restored,
};

use crate::{
    access::Access,
    capacity::Capacity,
    cluster::copy_rows::RowSource,
    error::NodeError,
    executor::Executor,
    handlers::Handlers,
    host::Arbiter,
    inspect::Inspect,
    own_metadata::OwnMetadata,
    partition::refill::RefillPool,
    registry::{Registry, RegistryParts},
    rules::Rules,
    shell::{Clock, SteadyClock},
    table::PartitionTable,
    tokens::TokenTable,
};

use super::{
    DataPlace, Node, NodeConfig,
    machinery::{Machinery, Parts},
    partitions::{Partitions, ReplicaOptions},
    snapshot::tell_snapshots,
};

/// Name of the store of an in-memory node; RocksDB requires an absolute path.
const MEMORY_STORE: &str = "/forebay";

/// The storage of a node.
struct Storage {
    data_dir: Option<Arc<DataDir>>,
    node: NodeId,
    log: Arc<dyn LogStore>,
    own: Arc<dyn BlockingMetadata>,
    /// The metadata of a cluster; those of the node if there are none.
    of_cluster: Option<Arc<dyn MetadataStore>>,
    store: Arc<Store>,
}

/// Partitions of a data directory that is part of a cluster, opened by the node of the cluster.
#[derive(Clone)]
pub struct OpenedDir {
    /// The directory.
    pub dir: Arc<DataDir>,
    /// Its log, which the groups of the cluster use too.
    pub log: Arc<LocalLog>,
    /// The metadata of the cluster.
    pub metadata: Arc<dyn MetadataStore>,
}

impl std::fmt::Debug for OpenedDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenedDir").field(&self.dir.path()).finish()
    }
}

fn medium(config: &NodeConfig) -> Medium {
    let medium = Medium::disk();
    if config.small_buffers { medium.with_small_buffers() } else { medium }
}

#[expect(clippy::too_many_lines, reason = "the parts in the order in which they open")]
fn open_storage(config: &NodeConfig) -> Result<Storage, NodeError> {
    let shared = config.shared.as_ref();
    match (&config.place, shared) {
        (DataPlace::Memory, Some(shared)) => Ok(Storage {
            data_dir: None,
            node: shared.next_node(),
            log: shared.log(),
            own: shared.metadata(),
            of_cluster: None,
            store: Arc::new(Store::open(Path::new(MEMORY_STORE), &Medium::memory()?)?),
        }),
        (DataPlace::Directory(path), Some(shared)) => {
            let data_dir = DataDir::open_within(path, config.in_use_wait)?;
            Ok(Storage {
                node: shared.next_node(),
                log: shared.log(),
                own: shared.metadata(),
                of_cluster: None,
                store: Arc::new(Store::open(&data_dir.store(), &Medium::disk())?),
                data_dir: Some(Arc::new(data_dir)),
            })
        }
        (DataPlace::Memory, None) => Ok(Storage {
            data_dir: None,
            node: NodeId(1),
            log: Arc::new(MemoryLog::new()),
            own: Arc::new(MemoryMetadata::new()),
            of_cluster: None,
            store: Arc::new(Store::open(Path::new(MEMORY_STORE), &Medium::memory()?)?),
        }),
        #[cfg(feature = "testkit")]
        (DataPlace::Disk(disk), shared) => {
            let (log, own, store) = disk.open()?;
            Ok(Storage {
                data_dir: None,
                node: shared.map_or(NodeId(1), |shared| shared.next_node()),
                log: shared.map_or(log, |shared| shared.log()),
                own: shared.map_or(own, |shared| shared.metadata()),
                of_cluster: None,
                store,
            })
        }
        (DataPlace::Directory(path), None) => {
            let data_dir = DataDir::open_within(path, config.in_use_wait)?;
            if Bases::of(&data_dir).exist()? {
                return Err(NodeError::OfCluster(data_dir.path().to_owned()));
            }
            let medium = medium(config);
            Ok(Storage {
                node: NodeId(1),
                log: Arc::new(LocalLog::open(&data_dir.log(), &medium)?),
                own: Arc::new(LocalMetadata::open(&data_dir.metadata(), &medium)?),
                of_cluster: None,
                store: Arc::new(Store::open(&data_dir.store(), &medium)?),
                data_dir: Some(Arc::new(data_dir)),
            })
        }
        (DataPlace::Opened(opened), _) => {
            let OpenedDir { dir, log, metadata } = opened;
            let medium = medium(config);
            Ok(Storage {
                node: NodeId(1),
                log: Arc::clone(log) as _,
                own: Arc::new(LocalMetadata::open(&dir.metadata(), &medium)?),
                of_cluster: Some(Arc::clone(metadata)),
                store: Arc::new(Store::open(&dir.store(), &medium)?),
                data_dir: Some(Arc::clone(dir)),
            })
        }
    }
}

/// Refuses rows of another log. Rows from before logs had ids are assigned to the log that they are
/// opened with.
fn check_identity(storage: &Storage) -> Result<(), NodeError> {
    let log = match storage.log.identity()? {
        Some(log) => log,
        None => storage.log.identify(LogId(uuid::Uuid::new_v4().as_u128()))?,
    };
    match storage.store.log_id()? {
        None => Ok(storage.store.set_log_id(log)?),
        Some(rows) if rows == log => Ok(()),
        Some(rows) => {
            let path = storage.store.path().to_owned();
            Err(NodeError::OtherLog { path, rows, log })
        }
    }
}

/// The stored table, or a new one.
async fn open_table(
    metadata: &dyn MetadataStore,
    wanted: Option<u32>,
) -> Result<PartitionTable, NodeError> {
    if wanted == Some(0) {
        return Err(NodeError::NoPartitions);
    }
    let mut stored = PartitionTable::load_applied(metadata).await?;
    if stored.is_none() {
        let table = PartitionTable::equal(wanted.unwrap_or_else(cores));
        match table.store(metadata, None).await {
            Ok(_) => return Ok(table),
            // Another node was first.
            Err(NodeError::Metadata(MetadataError::PreconditionFailed { .. })) => {
                stored = PartitionTable::load(metadata).await?;
            }
            Err(error) => return Err(error),
        }
    }
    let (table, _) = stored.unwrap_or_default();
    let found = u32::try_from(table.rows.len()).unwrap_or(u32::MAX);
    match wanted {
        Some(wanted) if wanted != found => Err(NodeError::PartitionsMismatch { wanted, found }),
        _ => Ok(table),
    }
}

/// Partitions of a new table.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

/// The storage and the parts that were started on it.
struct Found {
    storage: Storage,
    registry: Arc<Registry>,
    executor: Arc<Executor>,
    refill: RefillPool,
}

/// What brings changes of the metadata to the node.
struct Watches {
    rule_books: Watch,
    aliases: Watch,
}

/// Starts the actor that leases the node's capacity to the partitions.
fn start_capacity(registry: &Arc<Registry>, arbiter: &Arbiter, running_max: u32) {
    let starting = Arc::clone(registry);
    arbiter.run(move |world| {
        let registry = Arc::downgrade(&starting);
        let on_restart = move || {
            if let Some(registry) = registry.upgrade() {
                registry.capacity_is_new();
            }
        };
        starting.set_capacity(Capacity::start(world, running_max, Arc::new(on_restart)));
    });
    arbiter.finish_jobs();
}

/// Starts the threads of a node over its storage.
fn start_parts(
    config: &NodeConfig,
    storage: Storage,
    metadata: Arc<dyn MetadataStore>,
    table: PartitionTable,
    executor: Executor,
    clock: Arc<dyn Clock>,
) -> Result<(Found, Parts), NodeError> {
    let ids: Vec<_> = table.rows.iter().map(|row| row.id).collect();
    let threads = config.threads.unwrap_or_else(|| (cores() as usize).min(ids.len())).max(1);
    let host = executor.host().clone();
    let steady: Arc<dyn Clock> =
        Arc::new(SteadyClock::new(Arc::clone(&clock), Timestamp::default()));
    let arbiters = host.arbiters(threads, &steady).map_err(NodeError::Thread)?;
    let refill = host.refill_pool(&config.faults).map_err(NodeError::Thread)?;
    let (log, log_writer) = match &config.shared {
        Some(shared) => (shared.writer(storage.node), None),
        None => {
            let writer = host.log_writer(&storage.log, config.trim_log);
            let writer = writer.map_err(NodeError::Thread)?;
            (writer.handle(), Some(writer))
        }
    };
    tell_snapshots(&*storage.own, ids.into_iter(), &log)?;
    let registry = Arc::new(Registry::new(RegistryParts {
        node: storage.node,
        clock,
        metadata,
        own: Arc::clone(&storage.own),
        shared: config.shared.clone(),
        incarnation: restored(&*storage.own)?,
        record_len_max: storage.log.record_len_max(),
        table,
        host,
    }));
    if let Some(shared) = &config.shared {
        let peer: Weak<Registry> = Arc::downgrade(&registry);
        shared.join(peer, registry.node);
    }
    if let Some(running_max) = config.running_max {
        start_capacity(&registry, &arbiters[0], running_max);
    }
    let found = Found { storage, registry, executor: Arc::new(executor), refill };
    Ok((found, Parts { arbiters, log, log_writer }))
}

impl Node {
    /// Opens the storage, starts the threads and the partitions, and waits until every partition
    /// leads.
    ///
    /// # Errors
    /// [`NodeError`]; everything that was started is stopped again.
    pub async fn start(
        config: NodeConfig,
        executor: Executor,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, NodeError> {
        let host = executor.host().clone();
        let opening = config.clone();
        let open = move || -> Result<Storage, NodeError> {
            let storage = open_storage(&opening)?;
            check_identity(&storage)?;
            Ok(storage)
        };
        let storage = host.blocking(open).await??;
        let metadata = storage.of_cluster.clone().unwrap_or_else(|| {
            Arc::new(OwnMetadata::new(Arc::clone(&storage.own), host.clone())) as _
        });
        let table = open_table(&*metadata, config.partitions).await?;
        let rows = table.rows.clone();
        let starting = config.clone();
        let start = move || start_parts(&starting, storage, metadata, table, executor, clock);
        let (found, parts) = host.blocking(start).await??;
        // Before any partition starts: the rules are known then.
        let watches = Watches {
            rule_books: found.registry.watch_rule_book().await?,
            aliases: found.registry.watch_aliases(&found.executor).await?,
        };
        let node = Arc::new(Self::assemble(&config, found, parts, watches));
        node.watch_tokio();
        for row in rows {
            if let Err(error) = node.partitions.start_partition(row).await {
                // The returned error has the reason; a second one adds nothing.
                let _ = node.shutdown(std::time::Duration::ZERO).await;
                return Err(error);
            }
        }
        node.partitions.follow_table().await?;
        Ok(node)
    }

    /// The handles over the opened parts.
    fn assemble(config: &NodeConfig, found: Found, parts: Parts, watches: Watches) -> Self {
        let Found { storage, registry, executor, refill } = found;
        let Watches { rule_books, aliases } = watches;
        let data_dir = storage.data_dir;
        let access = Arc::new(Access::new(Arc::clone(&registry)));
        let rules = Arc::new(Rules::new(Arc::clone(&registry)));
        let machinery = Arc::new(Machinery::new(parts));
        let partitions = Arc::new(Partitions {
            registry: Arc::clone(&registry),
            access: Arc::clone(&access),
            executor: Arc::clone(&executor),
            rows: RowSource {
                registry: Arc::clone(&registry),
                store: Arc::clone(&storage.store),
                log_store: Arc::clone(&storage.log),
            },
            refill: Arc::new(refill),
            machinery: Arc::clone(&machinery),
            options: ReplicaOptions {
                dispatches: config.dispatches,
                vqueues: config.vqueues,
                outbox_per_target_max: config.outbox_per_target_max,
                candidacy: config.candidacy,
            },
            changing: tokio::sync::Mutex::default(),
            table_watch: OnceLock::new(),
            _data_dir: data_dir.clone(),
        });
        let inspect = Inspect::new(
            Arc::clone(&registry),
            Arc::clone(&rules),
            Arc::clone(&executor),
            Arc::clone(&storage.log),
            config.dispatches,
        );
        Self {
            handlers: Handlers::new(Arc::clone(&registry), Arc::clone(&executor)),
            tokens: TokenTable::new(Arc::clone(&registry)),
            registry,
            access,
            rules,
            inspect,
            partitions,
            executor,
            log_store: storage.log,
            store: storage.store,
            machinery,
            dispatches: config.dispatches,
            sentinel: OnceLock::new(),
            _rule_books: rule_books,
            _aliases: aliases,
            data_dir,
        }
    }
}
