//! Configuring a runtime.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay_actors::{
    cluster::SharedLog,
    executor::{Executor, Handler},
    host::FaultPlan,
    host::Host,
    log_writer::TrimLog,
    node::{Candidacy, DataPlace, Node, NodeConfig},
    shell::{Clock, WallClock},
};
use forebay_engine::partition::machine::VQueueLimits;
use forebay_messages::{
    journal::OUTBOX_PER_TARGET_MAX,
    vqueue::{Part, check_component},
};

use crate::{
    Context, HandlerError,
    client::{PAYLOAD_LEN_DEFAULT, PAYLOAD_LEN_MAX},
    control::{Backend, IN_USE_WAIT, SOCKET_NAME, Server},
    environment::Environment,
    error::RuntimeError,
    handler::{FromPayload, HandlerOptions, IntoPayload, Shared, Typed},
};

#[cfg(feature = "cluster")]
use super::cluster::ClusterSource;
use super::{Attached, Runtime, WeakRuntime};

/// Maximum number of threads for partitions.
pub const THREADS_MAX: usize = 1_024;
/// Maximum number of partitions of a new data directory. Each has its own files, memory and actors.
pub const PARTITIONS_MAX: u32 = 4_096;

type MakeHandler = Box<dyn FnOnce(Arc<Shared>) -> Arc<dyn Handler> + Send>;

/// A registered handler: its service, its options, and how it is made.
type Registered = (String, HandlerOptions, MakeHandler);

/// Configures a runtime; see [`Runtime::builder`].
#[must_use = "a builder does nothing before `start`"]
pub struct Builder {
    pub(super) place: Option<DataPlace>,
    pub(super) partitions: Option<u32>,
    threads: Option<usize>,
    running_max: Option<u32>,
    payload_len_max: usize,
    vqueues: VQueueLimits,
    outbox_per_target_max: usize,
    faults: FaultPlan,
    pub(super) shared: Option<SharedLog>,
    trim_log: TrimLog,
    pub(super) small_buffers: bool,
    candidacy: Candidacy,
    handlers: Vec<Registered>,
    states: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    /// Name of a type with two states.
    two_states: Option<&'static str>,
    pub(super) control_socket: bool,
    #[cfg(feature = "cluster")]
    pub(super) cluster: Option<ClusterSource>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            place: None,
            partitions: None,
            threads: None,
            running_max: None,
            payload_len_max: PAYLOAD_LEN_DEFAULT,
            vqueues: VQueueLimits::default(),
            outbox_per_target_max: OUTBOX_PER_TARGET_MAX,
            faults: FaultPlan::default(),
            shared: None,
            trim_log: TrimLog::default(),
            small_buffers: false,
            candidacy: Candidacy::default(),
            handlers: Vec::new(),
            states: HashMap::new(),
            two_states: None,
            control_socket: true,
            #[cfg(feature = "cluster")]
            cluster: None,
        }
    }

    /// Keeps the data in a directory, for this runtime alone. It is created if it does not exist.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.place = Some(DataPlace::Directory(path.into()));
        self
    }

    /// Keeps the data in memory: for tests. Nothing survives the runtime.
    pub fn in_memory(mut self) -> Self {
        self.place = Some(DataPlace::Memory);
        self
    }

    /// Number of equal partitions of a *new* data directory (default: one per core). An existing
    /// one keeps its partitions; a different number is an error then. At most [`PARTITIONS_MAX`].
    pub fn partitions(mut self, count: u32) -> Self {
        self.partitions = Some(count);
        self
    }

    /// Number of threads for the partitions (default: one per core, at most one per partition), 1
    /// to [`THREADS_MAX`]; other numbers are refused by [`Builder::start`].
    pub fn threads(mut self, count: usize) -> Self {
        self.threads = Some(count);
        self
    }

    /// Maximum number of handlers that run at the same time on this node (default: only the rules
    /// limit them), at least 1: zero is refused by [`Builder::start`]. To stop work, pause it with
    /// [`Rules::pause`](crate::rules::Rules::pause).
    pub fn max_running(mut self, count: u32) -> Self {
        self.running_max = Some(count);
        self
    }

    /// Maximum size of a payload in bytes (default: [`PAYLOAD_LEN_DEFAULT`], at most
    /// [`PAYLOAD_LEN_MAX`]); a larger one is refused with
    /// [`EnqueueError::PayloadTooLarge`](crate::EnqueueError::PayloadTooLarge). Stored payloads are
    /// not affected.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use forebay::{Drain, Entry, Runtime};
    ///
    /// let runtime = Runtime::builder().in_memory().payload_max(8 << 20).start().await?;
    /// runtime.enqueue(Entry::to("resize").payload(vec![0; 2 << 20])).await?;
    /// # runtime.shutdown(Drain::now()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn payload_max(mut self, bytes: usize) -> Self {
        self.payload_len_max = bytes;
        self
    }

    /// Uses a log and metadata shared with other runtimes of this process: each has a replica of
    /// every partition and follows its leader. `data_dir` or `in_memory` then only apply to this
    /// runtime's rows.
    ///
    /// The log is trimmed below what all running replicas have in files. A replica that lacks
    /// trimmed records (because it was stopped, or is new) copies rows from another runtime of this
    /// log; alone it is refused ([`ErrorKind::Storage`]). When all are started again, begin with
    /// the one that was shut down last.
    ///
    /// [`ErrorKind::Storage`]: crate::ErrorKind::Storage
    pub fn shared_log(mut self, log: &SharedLog) -> Self {
        self.shared = Some(log.clone());
        self
    }

    /// Which records the log keeps beyond the ones that a restart needs (default: none). A shared
    /// log has its own setting, see [`SharedLog::open`].
    pub fn trim_log(mut self, trim_log: TrimLog) -> Self {
        self.trim_log = trim_log;
        self
    }

    /// Whether an eighth of the usual memory is used for records and rows that are not in files
    /// yet, and a quarter for blocks of files (default: no): about 75 MiB at most instead of 510.
    /// At full load, files are written and merged more often. A shared log has its own memory.
    pub fn small_buffers(mut self, small_buffers: bool) -> Self {
        self.small_buffers = small_buffers;
        self
    }

    /// When this runtime starts to lead partitions by itself, with a shared log (default: as soon
    /// as there is no leader).
    pub fn candidacy(mut self, candidacy: Candidacy) -> Self {
        self.candidacy = candidacy;
        self
    }

    /// Number of vqueues of a partition that are fully in memory (default: 16,384, about 40 MiB);
    /// beyond it, a vqueue that waits for a permit is reduced to a note of about 400 bytes. Its
    /// work then starts with a read, after work that has waited longer.
    pub fn active_vqueues_max(mut self, count: usize) -> Self {
        self.vqueues.active_max = count;
        self
    }

    /// Number of vqueues of each partition that may stay in memory without work (default: 4,096,
    /// about 6 MiB). New work for one of them starts without a read. The least recently used are
    /// removed first, and vqueues that were idle for half a minute; with 0 a vqueue without work is
    /// removed at once.
    pub fn idle_vqueues_max(mut self, count: usize) -> Self {
        self.vqueues.idle_max = count;
        self
    }

    /// Number of messages from one partition to another that may wait for their delivery (default:
    /// 16,384). Beyond it, calls and sends of handlers to that partition wait; results,
    /// cancellations and kills never do. Only a partition that is down or overloaded has that many.
    pub fn outbox_per_target_max(mut self, count: usize) -> Self {
        self.outbox_per_target_max = count;
        self
    }

    /// Makes actors of this runtime die and their reads fail, as planned by a test.
    #[cfg(feature = "testkit")]
    pub fn actor_faults(mut self, faults: Arc<forebay_actors::host::faults::ActorFaults>) -> Self {
        self.faults = faults.into();
        self
    }

    /// A value of the application that handlers access with [`Context::state`], one per type: two
    /// of the same type are refused by [`Builder::start`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use forebay::{Runtime, RuntimeError};
    ///
    /// struct Mailer(&'static str);
    /// let two = Runtime::builder().in_memory().state(Mailer("a")).state(Mailer("b"));
    /// assert!(matches!(two.start().await, Err(RuntimeError::TwoStates { .. })));
    /// # }
    /// ```
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        if self.states.insert(TypeId::of::<T>(), Arc::new(state)).is_some() {
            self.two_states = Some(std::any::type_name::<T>());
        }
        self
    }

    /// Whether other processes can look at and change the runtime through a socket in its
    /// data directory, as the `forebay` command does (default: yes).
    pub fn control_socket(mut self, on: bool) -> Self {
        self.control_socket = on;
        self
    }

    /// Registers the handler of a service.
    pub fn handler<F, In, Fut, Out>(self, service: &str, call: F) -> Self
    where
        F: Fn(Context, In) -> Fut + Send + Sync + 'static,
        In: FromPayload + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
        Out: IntoPayload + Send + 'static,
    {
        self.handler_with(service, HandlerOptions::default(), call)
    }

    /// Registers the handler of a service, with options.
    pub fn handler_with<F, In, Fut, Out>(
        mut self,
        service: &str,
        options: HandlerOptions,
        call: F,
    ) -> Self
    where
        F: Fn(Context, In) -> Fut + Send + Sync + 'static,
        In: FromPayload + 'static,
        Fut: Future<Output = Result<Out, HandlerError>> + Send + 'static,
        Out: IntoPayload + Send + 'static,
    {
        let make: MakeHandler =
            Box::new(move |shared| Arc::new(Typed::new(call, options, shared)) as Arc<dyn Handler>);
        self.handlers.push((service.to_owned(), options, make));
        self
    }

    /// Starts the runtime; call it inside a tokio runtime, on which the handlers will run. That
    /// runtime must have timers and, for a data directory, I/O (`enable_all`). When it is dropped,
    /// forebay shuts down by itself, and every call fails with
    /// [`ErrorKind::Stopped`](crate::ErrorKind::Stopped). Returns when every partition has applied
    /// the log and leads (or another node does, or will).
    ///
    /// # Errors
    /// [`RuntimeError`]: each has advice on what to do.
    pub async fn start(self) -> Result<Runtime, RuntimeError> {
        let tokio = tokio::runtime::Handle::try_current()?;
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            check_drivers(true)?;
            return self.start_in_cluster(tokio).await;
        }
        let place = self.place.clone().ok_or(RuntimeError::NoDataDir)?;
        check_drivers(matches!(place, DataPlace::Directory(_)))?;
        self.start_at(place, tokio).await
    }

    /// Starts the runtime over a place.
    pub(super) async fn start_at(
        self,
        place: DataPlace,
        tokio: tokio::runtime::Handle,
    ) -> Result<Runtime, RuntimeError> {
        let random = || u32::try_from(uuid::Uuid::new_v4().as_u128() >> 96).unwrap_or(0);
        self.start_on(place, tokio.into(), Arc::new(WallClock), random).await
    }

    /// Refuses unusable numbers.
    fn check_numbers(&self) -> Result<(), RuntimeError> {
        if self.running_max == Some(0) {
            return Err(RuntimeError::NothingMayRun);
        }
        if let Some(count) = self.threads.filter(|count| !(1..=THREADS_MAX).contains(count)) {
            return Err(RuntimeError::Threads { count, count_max: THREADS_MAX });
        }
        match self.partitions {
            Some(count) if count > PARTITIONS_MAX => {
                Err(RuntimeError::Partitions { count, count_max: PARTITIONS_MAX })
            }
            _ => Ok(()),
        }
    }

    /// Starts the runtime with everything that a test may want to replace.
    pub(crate) async fn start_on(
        self,
        place: DataPlace,
        host: Host,
        clock: Arc<dyn Clock>,
        random: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Result<Runtime, RuntimeError> {
        if !(1..=PAYLOAD_LEN_MAX).contains(&self.payload_len_max) {
            let (len, len_max) = (self.payload_len_max, PAYLOAD_LEN_MAX);
            return Err(RuntimeError::PayloadMax { len, len_max });
        }
        self.check_numbers()?;
        if let Some(type_name) = self.two_states {
            return Err(RuntimeError::TwoStates { type_name });
        }
        let weak = WeakRuntime::default();
        let environment =
            Arc::new(Environment::new(self.states, self.payload_len_max, Arc::clone(&clock)));
        let handlers = make_handlers(self.handlers, &environment, weak.clone())?;
        let executor = Executor::new(host, handlers, random);
        environment.set_journals(executor.journals());
        let socket = match &place {
            DataPlace::Directory(path) if self.control_socket => Some(path.join(SOCKET_NAME)),
            _ => None,
        };
        let config = NodeConfig {
            place,
            in_use_wait: IN_USE_WAIT,
            small_buffers: self.small_buffers,
            partitions: self.partitions,
            threads: self.threads,
            running_max: self.running_max,
            dispatches: true,
            vqueues: self.vqueues,
            outbox_per_target_max: self.outbox_per_target_max,
            faults: self.faults,
            shared: self.shared,
            trim_log: self.trim_log,
            candidacy: self.candidacy,
        };
        let node = Node::start(config, executor, clock).await?;
        let control = match socket {
            None => None,
            Some(path) => Some(
                Server::start(&path, Backend::of(&node))
                    .map_err(|source| RuntimeError::ControlSocket { path, source })?,
            ),
        };
        let attached = Attached { control, ..Attached::default() };
        let runtime = Runtime {
            node,
            environment,
            attached: Arc::new(Mutex::new(attached)),
            weak: weak.clone(),
        };
        weak.set(&runtime);
        Ok(runtime)
    }
}

/// Makes the handlers, by service, and sets the defaults of their entries.
fn make_handlers(
    registered: Vec<Registered>,
    environment: &Arc<Environment>,
    runtime: WeakRuntime,
) -> Result<HashMap<String, Arc<dyn Handler>>, RuntimeError> {
    let shared = Arc::new(Shared { environment: Arc::clone(environment), runtime });
    let mut handlers: HashMap<String, Arc<dyn Handler>> = HashMap::new();
    for (service, options, make) in registered {
        check_component(Part::Service, &service)?;
        if handlers.contains_key(&service) {
            return Err(RuntimeError::TwoHandlers { service });
        }
        handlers.insert(service.clone(), make(Arc::clone(&shared)));
        environment.change_defaults().insert(service, options);
    }
    Ok(handlers)
}

/// Whether the current tokio runtime has the drivers that forebay needs. Tokio reports this only by
/// a panic, whose message appears on standard error as well.
fn check_drivers(needs_io: bool) -> Result<(), RuntimeError> {
    if std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err() {
        return Err(RuntimeError::NoTimers);
    }
    if needs_io && std::panic::catch_unwind(|| drop(tokio::net::UnixStream::pair())).is_err() {
        return Err(RuntimeError::NoIo);
    }
    Ok(())
}
