//! A runtime controlled by a test: one thread, virtual time, storage in memory.

use std::{
    fmt::Debug,
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use forebay_actors::{
    shell::{
        script::{Script, Scripted},
        sim::{MachineClock, SeededRandom},
    },
    sim::{Disk, Sim, SimNode, SiteFaults, SiteId, TraceStep},
};
use forebay_api::EntryFilter;
use forebay_messages::{Outcome, Timestamp};

use crate::{Builder, Entry, EntryHandle, Runtime, RuntimeError, SharedLog};

/// Maximum number of entries that a panic names.
const SHOWN_MAX: usize = 20;

/// Virtual time that [`TestRuntime::run`] lets pass before it fails.
const RUN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A [`Runtime`] on one thread, in virtual time, over storage in memory.
///
/// Nothing happens on its own: actors, the log and handlers run only while the test calls
/// [`run`](Self::run), [`settle`](Self::settle) or [`advance`](Self::advance), in an order that a
/// seed decides, and always the same one. Time stands still unless the test moves it: an hour
/// passes at once. Handlers may use `tokio::time`, which is the same virtual time, and
/// `tokio::spawn`.
///
/// ```
/// use std::time::Duration;
/// use forebay::{Context, Entry, HandlerError, Runtime, testkit::TestRuntime};
///
/// let mut app = TestRuntime::start(|| {
///     Runtime::builder().handler("mail", |_: Context, _: ()| async { Ok::<_, HandlerError>(()) })
/// });
/// let tomorrow = app.now().after(Duration::from_secs(24 * 60 * 60));
/// let entry = app.enqueue(Entry::to("mail").run_at(tomorrow));
/// app.advance(Duration::from_secs(23 * 60 * 60));
/// assert!(app.outcome_now(&entry).is_none(), "it waits for its time");
/// app.advance(Duration::from_secs(60 * 60));
/// assert!(app.outcome_now(&entry).is_some());
/// ```
pub struct TestRuntime {
    /// Before the simulation: handles of the nodes are dropped first.
    nodes: Vec<Member>,
    /// The node that the short forms use.
    current: usize,
    /// How far the nodes' wall clocks are ahead of the test's time.
    clock_ahead_ms: i64,
    sim: Sim,
    shared: Option<(SiteId, SharedLog)>,
    build: Box<dyn Fn() -> Builder>,
    /// Last: everything above may hold timers of tokio.
    tokio: tokio::runtime::Runtime,
}

/// One node of a test.
struct Member {
    disk: Disk,
    site: Option<SiteId>,
    runtime: Option<Runtime>,
}

/// Configures a test runtime; see [`TestRuntime::builder`].
pub struct TestBuilder {
    seed: u64,
    start: Timestamp,
    nodes: usize,
}

impl TestBuilder {
    /// The seed of the order in which actors take turns (default: 0).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The time at which the test starts (default: now, in whole milliseconds).
    #[must_use]
    pub fn start_at(mut self, start: impl Into<Timestamp>) -> Self {
        self.start = start.into();
        self
    }

    /// Number of runtimes that share the log (default: 1, with its own log). The first one leads;
    /// see [`TestRuntime::fail_over`].
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes.max(1);
        self
    }

    /// Starts the runtime that `build` configures, in memory: a data directory set there is
    /// ignored. `build` is called again for every node and every restart.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(self, build: impl Fn() -> Builder + 'static) -> TestRuntime {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("tokio makes a runtime");
        let mut sim = tokio.block_on(async { Sim::new(self.seed, self.start) });
        let disk = Disk::new().expect("RocksDB keeps files in memory");
        let shared = (self.nodes > 1).then(|| sim.share(&disk));
        let replica = || disk.replica().expect("RocksDB keeps files in memory");
        let replicas: Vec<Disk> = (1..self.nodes).map(|_| replica()).collect();
        let nodes = std::iter::once(disk.clone()).chain(replicas);
        let nodes = nodes.map(|disk| Member { disk, site: None, runtime: None }).collect();
        let build = Box::new(build);
        let mut app =
            TestRuntime { nodes, current: 0, clock_ahead_ms: 0, sim, shared, build, tokio };
        (0..self.nodes).for_each(|node| app.start_node(node));
        app
    }
}

impl TestRuntime {
    /// Starts the runtime that `build` configures.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(build: impl Fn() -> Builder + 'static) -> Self {
        Self::builder().start(build)
    }

    /// A test runtime with another seed or start time.
    #[must_use]
    pub fn builder() -> TestBuilder {
        TestBuilder { seed: 0, start: Timestamp::from(SystemTime::now()), nodes: 1 }
    }

    #[track_caller]
    fn start_node(&mut self, node: usize) {
        let (site, sim_node) = self.sim.add_node(&self.nodes[node].disk);
        self.nodes[node].site = Some(site);
        self.set_clock(site);
        let mut builder = (self.build)();
        if let Some((_, shared)) = &self.shared {
            builder = builder.shared_log(shared);
        }
        let starting = launch(&mut self.sim, sim_node, builder);
        match self.run(starting) {
            Ok(runtime) => self.nodes[node].runtime = Some(runtime),
            Err(error) => panic!("the runtime does not start: {error}"),
        }
    }

    fn current(&self) -> &Member {
        &self.nodes[self.current]
    }

    /// The runtime, for calls without a short form here: pass the futures to [`run`](Self::run).
    ///
    /// # Panics
    /// After [`crash`](Self::crash), before the restart.
    #[must_use]
    #[track_caller]
    pub fn runtime(&self) -> Runtime {
        self.current().runtime.clone().expect("the runtime has crashed: restart it")
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.sim.now()
    }

    /// Runs until a future is done, letting time pass when nothing is left to do now.
    ///
    /// # Panics
    /// When it is not done after a day.
    #[track_caller]
    pub fn run<F: Future>(&mut self, future: F) -> F::Output {
        let (from, until) = (self.now(), self.now().after(RUN_MAX));
        match self.tokio.block_on(self.sim.run(future, until)) {
            Some(output) => output,
            None => panic!(
                "the future is not done after {RUN_MAX:?} of virtual time (from {from:?}): \
                 nothing that could wake it is left\n{}",
                self.describe()
            ),
        }
    }

    /// Runs until a future is done, without letting time pass; `None` when the future needs
    /// something that does not happen now. It is dropped then.
    pub fn run_now<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let now = self.now();
        self.tokio.block_on(self.sim.run(future, now))
    }

    /// Runs until nothing is left to do now: every message is handled, every handler waits for time
    /// or for the test. Time does not pass.
    pub fn settle(&mut self) {
        self.tokio.block_on(self.sim.settle());
    }

    /// Advances the time by this much; everything due on the way happens at its time.
    pub fn advance(&mut self, by: Duration) {
        self.tokio.block_on(self.sim.advance(by));
    }

    /// Stores an entry.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn enqueue(&mut self, entry: Entry) -> EntryHandle {
        let runtime = self.runtime();
        match self.run(runtime.enqueue(entry)) {
            Ok(handle) => handle,
            Err(error) => panic!("the entry was refused: {error}"),
        }
    }

    /// The outcome of an entry, waiting (in virtual time) until it has ended.
    ///
    /// # Panics
    /// When it does not end within a day.
    #[track_caller]
    pub fn outcome(&mut self, entry: &EntryHandle) -> Outcome {
        let handle = self.runtime().attach(entry.id());
        match self.run(handle.outcome()) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{}: {error}", entry.id()),
        }
    }

    /// The outcome of an entry; `None` if it has not ended.
    ///
    /// # Panics
    /// When there is no such entry.
    #[track_caller]
    pub fn outcome_now(&mut self, entry: &EntryHandle) -> Option<Outcome> {
        let handle = self.runtime().attach(entry.id());
        match self.run_now(handle.outcome())? {
            Ok(outcome) => Some(outcome),
            Err(error) => panic!("{}: {error}", entry.id()),
        }
    }

    /// Resolves a promise of an entry.
    ///
    /// # Panics
    /// When it is refused.
    ///
    /// ```
    /// use forebay::{Context, Entry, HandlerError, Json, Runtime, testkit::TestRuntime};
    ///
    /// let mut app = TestRuntime::start(|| {
    ///     Runtime::builder().handler("order", |context: Context, (): ()| async move {
    ///         let approved: bool = context.promise("approved").await?;
    ///         Ok::<_, HandlerError>(Json(approved))
    ///     })
    /// });
    /// let order = app.enqueue(Entry::to("order"));
    /// app.resolve(&order, "approved", &true);
    /// assert!(app.outcome(&order).is_success());
    /// ```
    #[track_caller]
    pub fn resolve<T: serde::Serialize + ?Sized>(
        &mut self,
        entry: &EntryHandle,
        name: &str,
        value: &T,
    ) {
        let runtime = self.runtime();
        if let Err(error) = self.run(runtime.resolve(entry.id(), name, value)) {
            panic!("{}: the promise {name} was not resolved: {error}", entry.id());
        }
    }

    /// A power failure: actors and handlers are gone, and everything that was not durable. Other
    /// nodes notice it by themselves, as time passes.
    pub fn crash(&mut self) {
        let member = &mut self.nodes[self.current];
        if let Some(site) = member.site.take() {
            self.sim.crash(site);
        }
        member.runtime = None;
    }

    /// Starts again with the durable data; crashes first if it still runs.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn restart(&mut self) {
        self.crash();
        self.start_node(self.current);
    }

    /// Crashes, and continues with the next node as soon as that leads every partition. Entries
    /// that ran are returned and run again there.
    ///
    /// # Panics
    /// When there is no other node (see [`TestBuilder::nodes`]), or it does not lead.
    #[track_caller]
    pub fn fail_over(&mut self) {
        self.crash();
        let running = |member: &Member| member.runtime.is_some();
        let next = self.nodes.iter().position(running);
        self.current = next.expect("no other node runs: ask for `.nodes(2)`");
        let node = std::sync::Arc::clone(self.runtime().node());
        for partition in node.partitions().ids() {
            if let Err(error) = self.run(node.partitions().lead(partition)) {
                panic!("the next node does not lead partition {partition}: {error}");
            }
        }
    }

    /// Ends every actor of a kind (`partition`, `supervisor`, `limiter`, `vqueue`, `shuffle`,
    /// `capacity`) as a panic would; returns their number.
    pub fn kill(&mut self, name: &str) -> usize {
        let Some(site) = self.current().site else { return 0 };
        let actors = self.sim.actors(site).into_iter().filter(|(_, other)| *other == name);
        actors.filter(|(number, _)| self.sim.kill(site, *number)).count()
    }

    /// Applies a script (which drops, duplicates, delays or repeats messages to actors) from now
    /// on, on every node, including after restarts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use forebay::{Context, Entry, HandlerError, Runtime, testkit::{Script, TestRuntime}};
    ///
    /// let mut app = TestRuntime::start(|| {
    ///     Runtime::builder().handler("mail", |_: Context, _: ()| async { Ok::<_, HandlerError>(()) })
    /// });
    /// // The first permit arrives an hour late.
    /// let hour = Duration::from_secs(60 * 60);
    /// let late = app.script(Script::delay("vqueue", "Granted", hour).times(1));
    /// let entry = app.enqueue(Entry::to("mail"));
    /// app.advance(hour / 2);
    /// assert!(app.outcome_now(&entry).is_none() && late.acted() == 1);
    /// assert!(app.outcome(&entry).is_success());
    /// ```
    pub fn script(&mut self, script: Script) -> Scripted {
        self.sim.script(script)
    }

    /// Leaders of earlier epochs append all their records again, as if they did not know that they
    /// were deposed: a fenced log refuses them, and they must have no effect. Returns the number of
    /// records; zero before the first restart, failover or change of leader.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[track_caller]
    pub fn replay_stale_epochs(&mut self) -> usize {
        let own = self.current().site;
        let Some(log) = self.shared.as_ref().map(|(log, _)| *log).or(own) else { return 0 };
        let partitions = self.runtime().node().partitions().ids();
        let replayed = partitions.into_iter().map(|id| self.sim.replay_stale(log, id));
        let replayed: usize = match replayed.sum() {
            Ok(count) => count,
            Err(error) => panic!("the log cannot be read: {error}"),
        };
        self.settle();
        replayed
    }

    /// From now on the wall clocks of all nodes show [`now`](Self::now) plus this many milliseconds
    /// (less, if negative), also after a restart: like a machine whose clock is set.
    pub fn set_clock_ahead(&mut self, ahead_ms: i64) {
        self.clock_ahead_ms = ahead_ms;
        let sites: Vec<_> = self.nodes.iter().filter_map(|member| member.site).collect();
        sites.into_iter().for_each(|site| self.set_clock(site));
    }

    /// The wall clocks of the running nodes, for finer control.
    pub fn clocks(&self) -> impl Iterator<Item = &MachineClock> {
        let sites = self.nodes.iter().filter_map(|member| member.site);
        sites.filter_map(|site| self.sim.machine_clock(site))
    }

    fn set_clock(&self, site: SiteId) {
        if let Some(clock) = self.sim.machine_clock(site) {
            clock.set_right();
            clock.step(self.clock_ahead_ms);
        }
    }

    /// Makes disk and threads slow or unreliable from now on.
    pub fn set_site_faults(&mut self, faults: SiteFaults) {
        if let Some(site) = self.current().site {
            self.sim.set_site_faults(site, faults);
        }
    }

    /// The storage, to plan faults.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.current().disk
    }

    /// The underlying simulation, for finer control.
    pub fn sim(&mut self) -> &mut Sim {
        &mut self.sim
    }

    /// The steps so far, as text, for comparing two runs.
    #[must_use]
    pub fn trace(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for TraceStep { at, site, name, number } in self.sim.trace() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} node {site}: {name} {number}", at.0);
        }
        text
    }

    fn describe(&self) -> String {
        let mut text = String::from("remaining work:");
        for (number, member) in self.nodes.iter().enumerate() {
            let Some(site) = member.site else { continue };
            let tasks = self.sim.pending_tasks(site);
            let handlers = tasks.iter().filter(|name| **name == "handler").count();
            text += &format!("\n  node {number}: {handlers} handlers that have not ended");
        }
        if let Some(runtime) = &self.current().runtime
            && let Ok(entries) = runtime.node().inspect().entries(&EntryFilter::default())
        {
            for entry in
                entries.iter().filter(|entry| entry.stage != crate::Stage::Finished).take(SHOWN_MAX)
            {
                text += &format!("\n  {} is {} ({})", entry.id, entry.stage, entry.service);
            }
        }
        text
    }
}

/// Starts a runtime in a simulation, which must drive it.
pub fn launch(
    sim: &mut Sim,
    node: SimNode,
    builder: Builder,
) -> impl Future<Output = Result<Runtime, RuntimeError>> + Send + 'static {
    let random = Mutex::new(SeededRandom::new(sim.random().next_u64()));
    let draw = move || {
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(random.next_u64() >> 32).unwrap_or(0)
    };
    let place = forebay_actors::node::DataPlace::Disk(node.disk().clone());
    builder.start_on(place, node.host().clone().into(), node.clock(), draw)
}

impl Drop for TestRuntime {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.current = node;
            self.crash();
        }
    }
}

impl Debug for TestRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRuntime").field("now", &self.now()).finish_non_exhaustive()
    }
}
