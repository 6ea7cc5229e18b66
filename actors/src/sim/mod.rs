//! A node on one thread: actors, log writer, refill workers and handlers take turns in an order
//! that a seed decides, in virtual time.
//!
//! Must always hold: the same seed and the same calls give the same trace; time advances only when
//! nothing is left to do now; a crash loses exactly the writes that were not durable. Must not
//! know: the purpose of the test.

mod disk;
mod host;
mod log;
mod site;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use forebay_messages::{PartitionId, Timestamp};
use forebay_storage::log::LogError;
use futures_util::task::AtomicWaker;

use crate::{
    cluster::SharedLog,
    log_writer::LogWriter,
    shell::{
        Clock,
        script::{Script, Scripted, Scripts},
        sim::{MachineClock, SeededRandom, VirtualClock},
    },
};

pub use disk::{Disk, Replayed};
pub use host::{SimHost, TaskHandle};
pub use site::SiteFaults;

use log::Writer;
use site::{Choice, Site};

/// Number of turns for the tokio runtime below before the simulation counts as idle: futures that
/// an application itself spawned there may need several.
const TOKIO_TURNS: u32 = 16;

/// A simulated environment, to start a node in.
#[derive(Clone, Debug)]
pub struct SimNode {
    host: SimHost,
    disk: Disk,
    clock: Arc<dyn Clock>,
}

impl SimNode {
    /// The clock of its machine.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// The node's environment.
    #[must_use]
    pub fn host(&self) -> &SimHost {
        &self.host
    }

    /// Its storage.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// One incarnation of a node, from its start to its crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(u32);

impl std::fmt::Display for SiteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of steps in one millisecond after which a simulation fails.
const STEPS_WITHOUT_TIME_MAX: usize = 2_000_000;

/// One step of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// When.
    pub at: Timestamp,
    /// The incarnation of a node, or the log.
    pub site: SiteId,
    /// The kind of the step: the name of an actor, of a future, or of another piece of work.
    pub name: &'static str,
    /// Which one of that kind.
    pub number: u64,
}

/// A seeded, single-threaded host of nodes. It must be driven inside a tokio runtime
/// whose clock is paused.
pub struct Sim {
    clock: Arc<VirtualClock>,
    random: SeededRandom,
    sites: BTreeMap<SiteId, Site>,
    /// By node for nodes with their own log; shared logs have their own ids.
    writers: BTreeMap<SiteId, Writer>,
    next_site: u32,
    sleeper: Arc<AtomicWaker>,
    origin: (Timestamp, tokio::time::Instant),
    tokio_turns: u32,
    scripts: Scripts,
    /// Panics of nodes that are gone.
    panics: Vec<String>,
    trace: Vec<TraceStep>,
}

impl Sim {
    /// An empty simulation that starts at a time. Must be called inside a tokio runtime with a
    /// paused clock.
    #[must_use]
    pub fn new(seed: u64, start: Timestamp) -> Self {
        Self {
            clock: Arc::new(VirtualClock::new(start)),
            random: SeededRandom::new(seed),
            sites: BTreeMap::new(),
            writers: BTreeMap::new(),
            next_site: 0,
            sleeper: Arc::default(),
            origin: (start, tokio::time::Instant::now()),
            tokio_turns: TOKIO_TURNS,
            scripts: Scripts::default(),
            panics: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Gives no turns to tokio, for tests that spawn nothing there.
    #[must_use]
    pub fn without_tokio_tasks(mut self) -> Self {
        self.tokio_turns = 0;
        self
    }

    /// The time of the simulation as a clock.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    /// The clock of a node's machine, to be stepped or slowed. Until then it shows the time of the
    /// simulation.
    #[must_use]
    pub fn machine_clock(&self, site: SiteId) -> Option<&MachineClock> {
        self.sites.get(&site).map(|site| &*site.clock)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The random numbers of this simulation.
    pub fn random(&mut self) -> &mut SeededRandom {
        &mut self.random
    }

    /// The steps so far.
    #[must_use]
    pub fn trace(&self) -> &[TraceStep] {
        &self.trace
    }

    fn next_id(&mut self) -> SiteId {
        self.next_site += 1;
        SiteId(self.next_site)
    }

    /// Adds a site for a node that keeps its data on this disk; the previous node on the same disk
    /// must have crashed or shut down.
    pub fn add_node(&mut self, disk: &Disk) -> (SiteId, SimNode) {
        disk.restart();
        let id = self.next_id();
        let seed = self.random.next_u64();
        let writer = Writer::new(Arc::clone(disk.log()) as _);
        let host = SimHost::new(writer.handle(&self.sleeper), Arc::clone(&self.sleeper));
        let site = Site::new(seed, Arc::clone(&self.clock), self.scripts.clone(), host.clone());
        let clock = Arc::clone(&site.clock) as _;
        self.sites.insert(id, site);
        self.writers.insert(id, writer);
        (id, SimNode { host, disk: disk.clone(), clock })
    }

    /// The log and the metadata of a disk, for several nodes. It survives their crashes.
    pub fn share(&mut self, disk: &Disk) -> (SiteId, SharedLog) {
        let id = self.next_id();
        let writer = Writer::new(Arc::clone(disk.log()) as _);
        let handle = writer.handle(&self.sleeper);
        self.writers.insert(id, writer);
        let (log, metadata) = disk.ports();
        (id, SharedLog::written_by(LogWriter::without_thread(handle), log, metadata, None))
    }

    /// Sets how late and how badly a node's threads work from now on.
    pub fn set_site_faults(&mut self, site: SiteId, faults: SiteFaults) {
        if let Some(site) = self.sites.get_mut(&site) {
            site.faults = faults;
        }
    }

    /// Maximum time that a write of a node's log (or of a shared one) takes, in milliseconds.
    pub fn set_log_delay(&mut self, site: SiteId, delay_ms_max: u64) {
        if let Some(writer) = self.writers.get_mut(&site) {
            writer.delay_ms_max = delay_ms_max;
        }
    }

    /// Percentage of appends to a node's log (or to a shared one) that are written twice.
    pub fn set_log_twice(&mut self, site: SiteId, percent: usize) {
        if let Some(writer) = self.writers.get_mut(&site) {
            writer.twice_percent = percent;
        }
    }

    /// A power failure: actors, handlers and writes in flight are gone. Drop the handles of the
    /// node, too, before its disk is used again.
    pub fn crash(&mut self, site: SiteId) {
        self.writers.remove(&site);
        if let Some(site) = self.sites.remove(&site) {
            self.panics.extend(site.world.panics());
        }
    }

    /// The writer of a log panics: waiting commands are lost, and no further command reaches it. A
    /// node with its own log must be restarted; nodes that share one must be restarted on a new
    /// [shared log](Self::share). A node's own log has the node's id.
    pub fn kill_log(&mut self, log: SiteId) {
        if let Some(writer) = self.writers.remove(&log) {
            writer.die();
        }
    }

    /// Leaders of earlier epochs append all their records again, as if they did not know that they
    /// were deposed; returns the number of records. A node's own log has the node's id, a shared
    /// one that of [`share`](Self::share).
    ///
    /// # Errors
    /// [`LogError`], when the log cannot be read.
    pub fn replay_stale(&self, log: SiteId, partition: PartitionId) -> Result<usize, LogError> {
        self.writers.get(&log).map_or(Ok(0), |writer| writer.repeat_stale(partition))
    }

    /// Applies a script to messages to actors of all nodes from now on.
    pub fn script(&self, script: Script) -> Scripted {
        self.scripts.play(script)
    }

    /// Actors that panicked by themselves, of all nodes, with the messages. [Killed](Self::kill)
    /// ones are not included.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        let present = self.sites.values().flat_map(|site| site.world.panics());
        self.panics.iter().cloned().chain(present).collect()
    }

    /// The actors of a node: number and name.
    #[must_use]
    pub fn actors(&self, site: SiteId) -> Vec<(u64, &'static str)> {
        self.sites.get(&site).map(|site| site.world.actors()).unwrap_or_default()
    }

    /// Ends an actor as a panic would.
    pub fn kill(&self, site: SiteId, actor: u64) -> bool {
        self.sites.get(&site).is_some_and(|site| site.world.kill(actor))
    }

    /// Futures of a node that have not ended, by name.
    #[must_use]
    pub fn pending_tasks(&self, site: SiteId) -> Vec<&'static str> {
        self.sites.get(&site).map(Site::pending_tasks).unwrap_or_default()
    }

    /// Performs one of the possible steps, chosen by the seed. False when there is none.
    pub fn step(&mut self) -> bool {
        let now = self.clock.now();
        let mut all = Vec::new();
        for (id, site) in &mut self.sites {
            let mut choices = Vec::new();
            site.choices(&mut self.random, &mut choices);
            all.extend(choices.into_iter().map(|choice| (*id, Some(choice))));
        }
        for (id, writer) in &mut self.writers {
            if writer.is_ready(now, &mut self.random) {
                all.push((*id, None));
            }
        }
        if all.is_empty() {
            return self.fire_timers();
        }
        let (id, choice) = all[self.random.below(all.len())];
        let (name, number) = self.perform(id, choice);
        self.trace.push(TraceStep { at: now, site: id, name, number });
        self.check_progress();
        true
    }

    /// Fails if messages chase each other without end: actors that answer each other at once would
    /// occupy their threads.
    fn check_progress(&self) {
        let Some(before) = self.trace.len().checked_sub(STEPS_WITHOUT_TIME_MAX) else { return };
        let last = self.trace.len() - 1;
        if before % 1_024 == 0 && self.trace[before].at == self.trace[last].at {
            let tail = &self.trace[last - 40..];
            panic!("{STEPS_WITHOUT_TIME_MAX} steps in the same millisecond, the last: {tail:#?}");
        }
    }

    /// Performs a step; `None` is the turn of a log writer.
    fn perform(&mut self, id: SiteId, choice: Option<Choice>) -> (&'static str, u64) {
        let (now, random) = (self.clock.now(), &mut self.random);
        let done = match choice {
            Some(choice) => self.sites.get_mut(&id).map(|site| site.perform(choice, random)),
            None => self.writers.get_mut(&id).map(|writer| ("log", writer.write(now, random))),
        };
        done.unwrap_or_default()
    }

    fn first_timer(&self) -> Option<Timestamp> {
        let timers = self.sites.values().filter_map(|site| site.world.first_timer());
        timers.chain(self.writers.values().filter_map(Writer::first_due)).min()
    }

    fn fire_timers(&self) -> bool {
        // Timers of all sites fire before any actor takes its turn.
        let mut has_fired = false;
        for site in self.sites.values() {
            has_fired |= site.world.fire_timers();
        }
        has_fired
    }

    /// Runs until `future` is done; or, with nothing left to do before, until the time is `until`:
    /// then `None`. The future is polled as soon as it is woken.
    pub async fn run<F: Future>(&mut self, future: F, until: Timestamp) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut turns = 0;
        loop {
            if let Poll::Ready(output) = poll_once(future.as_mut()).await {
                return Some(output);
            }
            if self.step() {
                turns = 0;
            } else if turns < self.tokio_turns {
                turns += 1;
                tokio::task::yield_now().await;
            } else if self.clock.now() >= until {
                return None;
            } else {
                turns = 0;
                self.sleep(until).await;
            }
        }
    }

    /// Runs until there is no work left at the present time.
    pub async fn settle(&mut self) {
        let now = self.clock.now();
        self.run(std::future::pending::<()>(), now).await;
    }

    /// Advances the time by this much, stopping wherever there is work.
    pub async fn advance(&mut self, by: Duration) {
        let until = self.clock.now().after(by);
        self.run(std::future::pending::<()>(), until).await;
    }

    /// Advances the time to the next timer, here or of tokio, or until something is woken.
    async fn sleep(&mut self, until: Timestamp) {
        let next = self.first_timer().map_or(until, |at| at.min(until));
        let (start, origin) = self.origin;
        let deadline = origin + next.since(start);
        let (sites, writers, sleeper) = (&self.sites, &self.writers, &self.sleeper);
        // A second poll means that this task was woken: by the future that is waited for, or by
        // something checked here.
        let mut was_polled = false;
        let woken = poll_fn(|context: &mut Context<'_>| {
            sleeper.register(context.waker());
            let is_woken = std::mem::replace(&mut was_polled, true);
            let has_news =
                sites.values().any(Site::has_news) || writers.values().any(Writer::has_news);
            match is_woken || has_news {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            () = woken => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        self.clock.advance_to(start.after(origin.elapsed()));
    }
}

/// Polls a future once, for the task that this is part of.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
