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
    host::{self, Arbiter},
    inspect::Inspect,
    log_writer::{LogWriter, TrimLog},
    partition::refill::RefillPool,
    registry::{Registry, RegistryParts},
    rules::Rules,
    shell::{Clock, SteadyClock},
    table::{PartitionTable, Row},
};

use super::{
    Node, NodeConfig, Place,
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
        (Place::Memory, Some(shared)) => Ok(Storage {
            data_dir: None,
            node: shared.next_node(),
            log: shared.log(),
            metadata: shared.metadata(),
            store: Arc::new(Store::open(Path::new(MEMORY_STORE), &Medium::memory()?)?),
        }),
        (Place::Directory(path), Some(shared)) => {
            let data_dir = DataDir::open_within(path, config.in_use_wait)?;
            Ok(Storage {
                node: shared.next_node(),
                log: shared.log(),
                metadata: shared.metadata(),
                store: Arc::new(Store::open(&data_dir.store(), &Medium::disk())?),
                data_dir: Some(data_dir),
            })
        }
        (Place::Memory, None) => Ok(Storage {
            data_dir: None,
            node: NodeId(1),
            log: Arc::new(MemoryLog::new()),
            metadata: Arc::new(MemoryMetadata::new()),
            store: Arc::new(Store::open(Path::new(MEMORY_STORE), &Medium::memory()?)?),
        }),
        #[cfg(feature = "testkit")]
        (Place::Sim(place), shared) => {
            let (log, metadata, store) = place.disk.open()?;
            Ok(Storage {
                data_dir: None,
                node: shared.map_or(NodeId(1), |shared| shared.next_node()),
                log: shared.map_or(log, |shared| shared.log()),
                metadata: shared.map_or(metadata, |shared| shared.metadata()),
                store,
            })
        }
        (Place::Directory(path), None) => {
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

/// Rows are never started with a log other than their own. Rows from before logs had ids belong to
/// the log that they are found with.
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

/// The opened and started parts of a node.
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
    if !registry.is_simulated() {
        wait_for(arbiter);
    }
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
        let inline = config.place.is_simulated();
        let (node, rows) =
            host::blocking(inline, move || Self::open(&config, executor, clock)).await??;
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
        let Threads { arbiters, refill } = Threads::start(config, threads, &clock)?;
        let (log, log_writer) = match &config.shared {
            Some(shared) => (shared.writer(storage.node), None),
            None => {
                let writer = config.place.log_writer(&storage.log, config.trim_log)?;
                (writer.handle(), Some(writer))
            }
        };
        let is_simulated = config.place.is_simulated();
        tell_snapshots(&*storage.metadata, rows.iter().map(|row| row.id), &log)?;
        let registry = Arc::new(Registry::new(RegistryParts {
            node: storage.node,
            clock: Arc::clone(&clock),
            metadata: Arc::clone(&storage.metadata),
            shared: config.shared.clone(),
            record_len_max: storage.log.record_len_max(),
            table,
            is_simulated,
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

impl Place {
    fn is_simulated(&self) -> bool {
        #[cfg(feature = "testkit")]
        if let Self::Sim(_) = self {
            return true;
        }
        false
    }

    fn log_writer(&self, log: &Arc<dyn LogStore>, trim: TrimLog) -> Result<LogWriter, NodeError> {
        #[cfg(feature = "testkit")]
        if let Self::Sim(place) = self {
            return Ok(LogWriter::without_thread(place.log.clone()));
        }
        LogWriter::start_with(Arc::clone(log), trim).map_err(NodeError::Thread)
    }
}

/// The threads that do a node's work.
struct Threads {
    arbiters: Vec<Arbiter>,
    refill: RefillPool,
}

impl Threads {
    fn start(
        config: &NodeConfig,
        arbiters: usize,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, NodeError> {
        let clock = SteadyClock::new(Arc::clone(clock), Timestamp::default());
        let clock: Arc<dyn Clock> = Arc::new(clock);
        let started = match &config.place {
            #[cfg(feature = "testkit")]
            Place::Sim(place) => Ok((
                vec![Arbiter::simulated(place.host.clone())],
                RefillPool::simulated(place.host.clone()),
            )),
            Place::Directory(_) | Place::Memory => (0..arbiters)
                .map(|index| Arbiter::start(index, Arc::clone(&clock)))
                .collect::<Result<Vec<_>, _>>()
                .and_then(|arbiters| Ok((arbiters, RefillPool::start(&config.faults)?))),
        };
        let (arbiters, refill) = started.map_err(NodeError::Thread)?;
        Ok(Self { arbiters, refill })
    }
}

/// Waits until an actor thread has finished its jobs so far.
fn wait_for(arbiter: &Arbiter) {
    let (done, wait) = std::sync::mpsc::channel();
    arbiter.run(move |_| {
        // The receiver is gone when the node is being dropped.
        let _ = done.send(());
    });
    // An error means that the thread is gone, which its next user will see.
    let _ = wait.recv();
}
