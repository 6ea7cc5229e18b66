//! Opening a node: storage, threads, partitions.

use std::{
    path::Path,
    sync::{Arc, OnceLock, Weak},
};

use forebay_messages::{NodeId, Timestamp};
use forebay_storage::{
    DataDir, Medium,
    log::{LocalLog, LogId, LogStore, MemoryLog},
    metadata::{LocalMetadata, MemoryMetadata, MetadataStore, Watch},
    partition::Store,
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
    partition::refill::RefillPool,
    registry::{Registry, RegistryParts},
    rules::Rules,
    shell::{Clock, SteadyClock},
    table::{PartitionTable, Row},
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
    data_dir: Option<DataDir>,
    node: NodeId,
    log: Arc<dyn LogStore>,
    metadata: Arc<dyn MetadataStore>,
    store: Arc<Store>,
}

fn open_storage(config: &NodeConfig) -> Result<Storage, NodeError> {
    let shared = config.shared.as_ref();
    match (&config.place, shared) {
        (DataPlace::Memory, Some(shared)) => Ok(Storage {
            data_dir: None,
            node: shared.next_node(),
            log: shared.log(),
            metadata: shared.metadata(),
            store: Arc::new(Store::open(Path::new(MEMORY_STORE), &Medium::memory()?)?),
        }),
        (DataPlace::Directory(path), Some(shared)) => {
            let data_dir = DataDir::open_within(path, config.in_use_wait)?;
            Ok(Storage {
                node: shared.next_node(),
                log: shared.log(),
                metadata: shared.metadata(),
                store: Arc::new(Store::open(&data_dir.store(), &Medium::disk())?),
                data_dir: Some(data_dir),
            })
        }
        (DataPlace::Memory, None) => Ok(Storage {
            data_dir: None,
            node: NodeId(1),
            log: Arc::new(MemoryLog::new()),
            metadata: Arc::new(MemoryMetadata::new()),
            store: Arc::new(Store::open(Path::new(MEMORY_STORE), &Medium::memory()?)?),
        }),
        #[cfg(feature = "testkit")]
        (DataPlace::Disk(disk), shared) => {
            let (log, metadata, store) = disk.open()?;
            Ok(Storage {
                data_dir: None,
                node: shared.map_or(NodeId(1), |shared| shared.next_node()),
                log: shared.map_or(log, |shared| shared.log()),
                metadata: shared.map_or(metadata, |shared| shared.metadata()),
                store,
            })
        }
        (DataPlace::Directory(path), None) => {
            let data_dir = DataDir::open_within(path, config.in_use_wait)?;
            let medium = Medium::disk();
            let medium = if config.small_buffers { medium.with_small_buffers() } else { medium };
            Ok(Storage {
                node: NodeId(1),
                log: Arc::new(LocalLog::open(&data_dir.log(), &medium)?),
                metadata: Arc::new(LocalMetadata::open(&data_dir.metadata(), &medium)?),
                store: Arc::new(Store::open(&data_dir.store(), &medium)?),
                data_dir: Some(data_dir),
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
fn open_table(
    metadata: &dyn MetadataStore,
    wanted: Option<u32>,
) -> Result<PartitionTable, NodeError> {
    if wanted == Some(0) {
        return Err(NodeError::NoPartitions);
    }
    if let Some((table, _)) = PartitionTable::load(metadata)? {
        let found = u32::try_from(table.rows.len()).unwrap_or(u32::MAX);
        return match wanted {
            Some(wanted) if wanted != found => Err(NodeError::PartitionsMismatch { wanted, found }),
            _ => Ok(table),
        };
    }
    let table = PartitionTable::equal(wanted.unwrap_or_else(cores));
    table.store(metadata, None)?;
    Ok(table)
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}

/// The storage and the parts that were started on it.
struct Found {
    storage: Storage,
    registry: Arc<Registry>,
    executor: Arc<Executor>,
    refill: RefillPool,
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
        let (node, rows) = host.blocking(move || Self::open(&config, executor, clock)).await??;
        let node = Arc::new(node);
        node.watch_tokio();
        for row in rows {
            if let Err(error) = node.partitions.start_partition(row).await {
                // The returned error has the reason; a second one adds nothing.
                let _ = node.shutdown(std::time::Duration::ZERO).await;
                return Err(error);
            }
        }
        node.partitions.follow_table()?;
        Ok(node)
    }

    fn open(
        config: &NodeConfig,
        executor: Executor,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Vec<Row>), NodeError> {
        let storage = open_storage(config)?;
        check_identity(&storage)?;
        let table = open_table(&*storage.metadata, config.partitions)?;
        let rows = table.rows.clone();
        let threads = config.threads.unwrap_or_else(|| (cores() as usize).min(rows.len())).max(1);
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
        tell_snapshots(&*storage.metadata, rows.iter().map(|row| row.id), &log)?;
        let registry = Arc::new(Registry::new(RegistryParts {
            node: storage.node,
            clock: Arc::clone(&clock),
            metadata: Arc::clone(&storage.metadata),
            shared: config.shared.clone(),
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
        let rule_books = registry.watch_rule_book()?;
        let executor = Arc::new(executor);
        let aliases = registry.watch_aliases(&executor)?;
        let found = Found { storage, registry, executor, refill, rule_books, aliases };
        Ok((Self::assemble(config, found, Parts { arbiters, log, log_writer }), rows))
    }

    /// The handles over the opened parts.
    fn assemble(config: &NodeConfig, found: Found, parts: Parts) -> Self {
        let Found { storage, registry, executor, refill, rule_books, aliases } = found;
        let data_dir = storage.data_dir.map(Arc::new);
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
