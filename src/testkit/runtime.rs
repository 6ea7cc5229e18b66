//! A runtime under a test's hand: one thread, virtual time, storage in memory.

use std::{
    fmt::Debug,
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use forebay_actors::{
    shell::sim::SeededRandom,
    sim::{Disk, Place, Sim, SiteId, Weather},
};
use forebay_messages::{Outcome, Timestamp};

use crate::{Builder, Entry, EntryHandle, Runtime, RuntimeError};

/// Virtual time that [`TestRuntime::run`] lets pass before it says that nobody will
/// ever be done.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A [`Runtime`] on one thread, in virtual time, over storage in memory.
///
/// Nothing happens on its own: actors, the log and handlers move while the test calls
/// [`run`](Self::run), [`settle`](Self::settle) or [`advance`](Self::advance), in an
/// order that a seed decides, and always the same one. Time stands still unless the
/// test moves it: an hour passes in no time. Handlers may use `tokio::time`, which is
/// the same virtual time, and `tokio::spawn`.
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
    /// Before the sim: handles of the node go first.
    runtime: Option<Runtime>,
    sim: Sim,
    site: SiteId,
    disk: Disk,
    build: Box<dyn Fn() -> Builder>,
    /// Last: everything above may hold tokio's timers.
    tokio: tokio::runtime::Runtime,
}

/// What makes a test runtime; see [`TestRuntime::builder`].
pub struct TestBuilder {
    seed: u64,
    start: Timestamp,
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

    /// Starts the runtime that `build` describes, in memory: a place that it names is
    /// not used. `build` is called again for every restart.
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
        let sim = tokio.block_on(async { Sim::new(self.seed, self.start) });
        let disk = Disk::new().expect("RocksDB keeps files in memory");
        let mut app = TestRuntime::over(tokio, sim, disk, Box::new(build));
        app.start_node();
        app
    }
}

impl TestRuntime {
    /// Starts the runtime that `build` describes.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(build: impl Fn() -> Builder + 'static) -> Self {
        Self::builder().start(build)
    }

    /// A test runtime with a seed or a start time of its own.
    #[must_use]
    pub fn builder() -> TestBuilder {
        TestBuilder { seed: 0, start: Timestamp::from(SystemTime::now()) }
    }

    fn over(
        tokio: tokio::runtime::Runtime,
        mut sim: Sim,
        disk: Disk,
        build: Box<dyn Fn() -> Builder>,
    ) -> Self {
        let (site, _) = sim.place(&disk);
        Self { runtime: None, sim, site, disk, build, tokio }
    }

    #[track_caller]
    fn start_node(&mut self) {
        self.sim.crash(self.site);
        let (site, place) = self.sim.place(&self.disk);
        self.site = site;
        let starting = launch(&mut self.sim, place, (self.build)());
        match self.run(starting) {
            Ok(runtime) => self.runtime = Some(runtime),
            Err(error) => panic!("the runtime does not start: {error}"),
        }
    }

    /// The runtime, to call what has no short form here: pass the futures to
    /// [`run`](Self::run).
    ///
    /// # Panics
    /// After [`crash`](Self::crash), before the restart.
    #[must_use]
    #[track_caller]
    pub fn runtime(&self) -> Runtime {
        self.runtime.clone().expect("the runtime has crashed: restart it")
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.sim.now()
    }

    /// Goes on until a future is done, letting time pass when nothing is left to do now.
    ///
    /// # Panics
    /// When it is not done after a day.
    #[track_caller]
    pub fn run<F: Future>(&mut self, future: F) -> F::Output {
        let (from, until) = (self.now(), self.now().after(PATIENCE));
        match self.tokio.block_on(self.sim.run(future, until)) {
            Some(output) => output,
            None => panic!(
                "the future is not done after {PATIENCE:?} of virtual time (from {from:?}): \
                 nothing that could wake it is left\n{}",
                self.describe()
            ),
        }
    }

    /// Goes on until a future is done, without letting time pass; `None` when it waits
    /// for something that does not happen now. It is dropped then.
    pub fn run_now<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let now = self.now();
        self.tokio.block_on(self.sim.run(future, now))
    }

    /// Goes on until nothing is left to do now: every message handled, every handler
    /// waiting for time or for the test. Time does not pass.
    pub fn settle(&mut self) {
        self.tokio.block_on(self.sim.settle());
    }

    /// Lets so much time pass, and everything happen that is due on the way, each at its
    /// time.
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

    /// How an entry ended, waiting (in virtual time) until it has.
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

    /// How an entry has ended by now; `None` when it has not.
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

    /// Pulls the plug: actors and handlers are gone, and everything that was not
    /// durable.
    pub fn crash(&mut self) {
        self.sim.crash(self.site);
        self.runtime = None;
    }

    /// Starts again from what was durable; crashes first if it still runs.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn restart(&mut self) {
        self.crash();
        self.start_node();
    }

    /// Ends every actor of a kind (`partition`, `supervisor`, `limiter`, `vqueue`,
    /// `capacity`) as a panic would; how many there were.
    pub fn kill(&mut self, name: &str) -> usize {
        let actors = self.sim.actors(self.site).into_iter().filter(|(_, other)| *other == name);
        actors.filter(|(number, _)| self.sim.kill(self.site, *number)).count()
    }

    /// Makes disk and threads slow or unreliable from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.sim.set_weather(self.site, weather);
    }

    /// The storage, to plan faults.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The simulation below, for finer control.
    pub fn sim(&mut self) -> &mut Sim {
        &mut self.sim
    }

    /// Who did what when, as text for people and for comparing two runs.
    #[must_use]
    pub fn trace(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for (at, site, name, number) in self.sim.trace() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} node {site}: {name} {number}", at.0);
        }
        text
    }

    fn describe(&self) -> String {
        let tasks = self.sim.pending_tasks(self.site);
        format!("handlers that have not ended: {}", tasks.len())
    }
}

/// Starts a runtime at a place of a simulation; to be driven by it.
pub fn launch(
    sim: &mut Sim,
    place: Place,
    builder: Builder,
) -> impl Future<Output = Result<Runtime, RuntimeError>> + Send + 'static {
    let random = Mutex::new(SeededRandom::new(sim.random().next_u64()));
    let draw = move || {
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(random.next_u64() >> 32).unwrap_or(0)
    };
    let (spawner, clock) = (place.host().clone().into(), sim.clock());
    builder.start_on(forebay_actors::node::Place::Sim(place), spawner, clock, draw)
}

impl Drop for TestRuntime {
    fn drop(&mut self) {
        self.crash();
    }
}

impl Debug for TestRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRuntime").field("now", &self.now()).finish_non_exhaustive()
    }
}
