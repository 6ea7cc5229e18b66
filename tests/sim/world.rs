//! The nodes of a simulation, and the clients that call them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay::{
    PartitionId, Runtime, SharedLog, Stage, Timestamp,
    testkit::{
        Disk, LogFault, MachineClock, SeededRandom, Sim, SiteFaults, SiteId, TaskHandle, launch,
    },
};
use forebay_actors::sim::SimHost;

use super::{
    clients::{self, Now, Replacement},
    families::FamilyAsk,
    journal::Shared,
    plan::{Ask, Event, Plan, SPAN_MS},
};

/// Interval between checks of the clients, in milliseconds.
const TICK_MS: u64 = 50;
/// Virtual time within which everything must complete, in milliseconds.
const QUIET_WITHIN_MS: u64 = 120_000;
/// Time within which partitions report which of their rows are in files, in milliseconds.
const REPORTED_WITHIN_MS: u64 = 65_000;
/// Interval between resumes in the final calm phase: a client may have paused something in the
/// meantime.
const RESUME_EVERY_MS: u64 = 20_000;
/// Upper bound of the partitions spawned in a run.
const SPAWNED_MAX: u32 = 16;
/// How long a stopped node stays down, in milliseconds.
const REPAIR_MS: u64 = 300;

/// A started runtime, or the error.
type Started = Arc<Mutex<Option<Result<Runtime, String>>>>;

pub(super) struct Node {
    pub(super) disk: Disk,
    /// `None` while the node is down.
    pub(super) life: Option<Life>,
    start_at: Option<u64>,
}

pub(super) struct Life {
    pub(super) site: SiteId,
    host: SimHost,
    started: Started,
    /// A clean shutdown in progress; it starts again after this many milliseconds.
    pub(super) stopping: Option<(TaskHandle, u64)>,
}

pub(super) struct Client {
    pub(super) what: What,
    task: Option<TaskHandle>,
    pub(super) is_done: Arc<Mutex<bool>>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Ask(Ask),
    Lead(u32),
    Replace(Arc<Replacement>),
}

/// The nodes, clients and log of one simulation.
pub(super) struct World {
    pub(super) plan: Arc<Plan>,
    pub(super) journal: Shared,
    pub(super) sim: Sim,
    random: SeededRandom,
    now: Now,
    start: Timestamp,
    pub(super) nodes: Vec<Node>,
    pub(super) shared: Option<(SiteId, SharedLog)>,
    pub(super) clients: Vec<Client>,
    rules: VecDeque<Ask>,
    incarnations: u32,
    /// Partitions were dropped or spawned since the first start.
    pub(super) table_changed: bool,
    /// Time at which the log is available again after its writer died.
    pub(super) log_back_at: Option<u64>,
    /// A client learned that the storage of a node failed.
    broken: Arc<Mutex<Option<String>>>,
    /// Whether the log is never trimmed.
    keeps_all: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let start = Timestamp(1_700_000_000_000);
        let mut random = SeededRandom::new(seed);
        let plan = Arc::new(Plan::new(seed, &mut random));
        let mut sim = Sim::new(random.next_u64(), start).without_tokio_tasks();
        let disk = Disk::with_record_len_max(plan.records.len_max).unwrap();
        // With several nodes, one may be down while the log is trimmed, and then could not continue
        // without the rows of another one.
        let keeps_all = plan.nodes > 1 || random.below(2) == 0;
        disk.log().keep_all(keeps_all);
        let shared = (plan.nodes > 1).then(|| sim.share(&disk));
        let replicas = (1..plan.nodes).map(|_| disk.replica().unwrap()).collect::<Vec<_>>();
        let nodes = std::iter::once(disk).chain(replicas);
        let nodes: Vec<Node> =
            nodes.map(|disk| Node { disk, life: None, start_at: Some(0) }).collect();
        let clock = sim.clock();
        let journal = Shared::new(&plan);
        let failing = nodes[0].disk.clone();
        journal.lock().log_fault = Some(Box::new(move || failing.log().plan(1, LogFault::Fail)));
        if let Some((site, _)) = &shared {
            sim.set_log_delay(*site, plan.log_delay_ms);
            sim.set_log_twice(*site, plan.log_twice);
        }
        Self {
            plan,
            journal,
            sim,
            random,
            now: Arc::new(move || clock.now()),
            start,
            nodes,
            shared,
            clients: Vec::new(),
            rules: VecDeque::new(),
            incarnations: 0,
            table_changed: false,
            log_back_at: None,
            broken: Arc::default(),
            keeps_all,
        }
    }

    pub(super) fn trace(&self) -> Vec<forebay::testkit::TraceStep> {
        self.sim.trace().to_vec()
    }

    pub(super) fn elapsed(&self) -> u64 {
        self.sim.now().0 - self.start.0
    }

    pub(super) fn note(&self, text: impl std::fmt::Display) {
        tracing::info!("{:>7} {text}", self.elapsed());
        self.journal.lock().note(self.sim.now(), text);
    }

    /// Runs the whole plan, then waits without faults until everything is done.
    pub(super) async fn play(&mut self) -> Result<(), String> {
        let events = self.plan.events.clone();
        for (at, event) in events {
            self.run_until(at).await?;
            match event {
                Event::Ask(ask) => self.take(ask),
                Event::Fault { node, fault } => self.inject(node, fault),
            }
        }
        self.run_until(SPAN_MS).await?;
        self.stop_faults();
        let by = self.elapsed() + QUIET_WITHIN_MS;
        let mut resume_at = self.elapsed() + RESUME_EVERY_MS;
        while !self.is_done() {
            if self.elapsed() >= resume_at {
                resume_at += RESUME_EVERY_MS;
                self.resume_all();
            }
            if self.elapsed() > by {
                return Err(format!("not everything came to its end:\n{}", self.left().await));
            }
            self.run_until(self.elapsed() + TICK_MS).await?;
        }
        // The last reports may still be in transit to the replicas.
        self.run_until(self.elapsed() + 3_000).await?;
        self.check_rows()?;
        self.check_messages()?;
        self.check_trimmed().await
    }

    /// Checks that rows lost in a crash are still in the log.
    async fn check_trimmed(&mut self) -> Result<(), String> {
        use forebay::testkit::LogStore;
        let Some((_, runtime)) = self.nodes[0].up().filter(|_| !self.keeps_all) else {
            return Ok(());
        };
        let partitions = runtime.node().partitions().ids();
        drop(runtime);
        let at = self.sim.now().after(Duration::from_millis(REPORTED_WITHIN_MS));
        self.sim.run(std::future::pending::<()>(), at).await;
        self.crash(0, 0);
        let disk = &self.nodes[0].disk;
        let rows = disk.rows().map_err(|error| error.to_string())?;
        for id in partitions {
            let durable = rows.partition(id).and_then(|partition| partition.durable_lsn());
            let (durable, trimmed) =
                (durable.map_err(|error| error.to_string())?, disk.log().trimmed(id));
            if trimmed > durable {
                return Err(format!(
                    "the log of partition {id} is trimmed through {trimmed}, its rows are in \
                     files through {durable} only"
                ));
            }
        }
        Ok(())
    }

    async fn run_until(&mut self, until: u64) -> Result<(), String> {
        loop {
            self.look_after_nodes();
            self.look_after_clients();
            let next = until.min(self.elapsed() + TICK_MS);
            let at = Timestamp(self.start.0 + next);
            self.sim.run(std::future::pending::<()>(), at).await;
            if let Some(panic) = self.sim.panics().first() {
                return Err(format!("an actor panicked: {panic}"));
            }
            self.explain_one().await?;
            if let Some(text) = self.journal.lock().violations.first() {
                return Err(text.clone());
            }
            if self.elapsed() >= until {
                return Ok(());
            }
        }
    }

    /// Checks that `explain` matches the observations of an entry.
    async fn explain_one(&mut self) -> Result<(), String> {
        let Some((_, runtime)) = self.nodes[0].up().filter(|_| self.plan.is_clear) else {
            return Ok(());
        };
        let known: Vec<usize> = self.journal.lock().known().collect();
        if known.is_empty() {
            return Ok(());
        }
        let number = known[self.random.below(known.len())];
        let id = clients::id_of(&self.plan.specs[number], number);
        let now = self.sim.now();
        match self.sim.run(runtime.explain(id), now).await {
            Some(Ok(Some(view))) => self.journal.lock().explained(now, number, &view),
            other => return Err(format!("#{number} is not explained: {other:?}")),
        }
        Ok(())
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            _ if ask.is_about_rules() => return self.rules.push_back(ask),
            Ask::Cancel(number) | Ask::Kill(number) => {
                self.journal.lock().observed[number].interfered = true;
            }
            Ask::Pause(number) => self.journal.lock().observed[number].was_paused = true,
            _ => {}
        }
        self.add(What::Ask(ask));
    }

    pub(super) fn add(&mut self, what: What) {
        self.clients.push(Client { what, task: None, is_done: Arc::default() });
    }

    fn look_after_clients(&mut self) {
        let is_done = |client: &Client| *client.is_done.lock().unwrap();
        let in_rules =
            |client: &Client| matches!(&client.what, What::Ask(ask) if ask.is_about_rules());
        let busy = self.clients.iter().any(|client| in_rules(client) && !is_done(client));
        if !busy && let Some(ask) = self.rules.pop_front() {
            self.journal.lock().rules_asked(self.sim.now(), &ask);
            self.add(What::Ask(ask));
        }
        let up: Vec<(SimHost, Runtime)> = self.nodes.iter().filter_map(Node::up).collect();
        if up.is_empty() {
            return;
        }
        self.clients.retain(|client| !*client.is_done.lock().unwrap());
        for client in &mut self.clients {
            if client.task.as_ref().is_some_and(|task| !task.is_done()) {
                continue;
            }
            let (host, runtime) = up[self.random.below(up.len())].clone();
            let (journal, now, done) =
                (self.journal.clone(), self.now.clone(), Arc::clone(&client.is_done));
            let (start, plan) = (self.start, Arc::clone(&self.plan));
            let (what, broken) = (client.what.clone(), Arc::clone(&self.broken));
            client.task = Some(host.spawn("client", async move {
                match what {
                    What::Ask(ask) => {
                        clients::ask(ask, runtime, plan, start, journal, now).await;
                    }
                    What::Lead(partition) => {
                        let led = runtime.node().partitions().lead(PartitionId(partition)).await;
                        let led = led.map_err(|error| error.to_string());
                        journal.lock().note(now(), format!("asked to lead {partition}: {led:?}"));
                        // A dropped partition cannot lead.
                        let is_there =
                            runtime.node().partitions().ids().contains(&PartitionId(partition));
                        if led.is_err() && is_there {
                            return;
                        }
                    }
                    What::Replace(what) => {
                        let replaced = clients::replace(&what, &runtime).await;
                        let replaced = replaced.map_err(|error| error.to_string());
                        journal.lock().note(now(), format!("{what:?}: {replaced:?}"));
                        if let Err(error) = replaced {
                            // A partition that could not be spawned is undone: no status shows that
                            // the log accepts no more writes.
                            if error.contains(" stopped: ") {
                                *lock(&broken) = Some(error);
                            }
                            return;
                        }
                    }
                }
                *lock(&done) = true;
            }));
        }
    }

    fn look_after_nodes(&mut self) {
        let now = self.elapsed();
        let broken = lock(&self.broken).take();
        if let Some(error) = broken {
            self.note(format!("all nodes are restarted: {error}"));
            (0..self.nodes.len()).for_each(|index| self.crash(index, REPAIR_MS));
        }
        if self.log_back_at.take_if(|at| *at <= now).is_some() {
            self.note("the log is there again");
            (0..self.nodes.len()).for_each(|index| self.crash(index, 0));
            let (site, log) = self.sim.share(&self.nodes[0].disk);
            self.sim.set_log_delay(site, self.plan.log_delay_ms);
            self.sim.set_log_twice(site, self.plan.log_twice);
            self.shared = Some((site, log));
        }
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let (mut down_for, mut why) = (None, String::new());
            if let Some(life) = &node.life {
                if let Some((task, after)) = &life.stopping {
                    (down_for, why) = (task.is_done().then_some(*after), "went down".to_owned());
                } else if let Some(reason) = life.stopped() {
                    (down_for, why) = (Some(REPAIR_MS), reason);
                }
            }
            if let Some(after) = down_for {
                self.note(format!("node {index} is restarted in {after} ms: {why}"));
                self.crash(index, after);
            }
            if self.nodes[index].life.is_none()
                && self.nodes[index].start_at.is_some_and(|at| at <= now)
            {
                self.start_node(index);
            }
        }
    }

    fn start_node(&mut self, index: usize) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        self.note(format!("node {index} starts as {incarnation}"));
        let (site, sim_node) = self.sim.add_node(&self.nodes[index].disk);
        self.sim.set_log_delay(site, self.plan.log_delay_ms);
        self.sim.set_log_twice(site, self.plan.log_twice);
        self.sim.set_site_faults(
            site,
            SiteFaults {
                scans_late_percent: self.plan.scans_late,
                scan_delay_ms_max: self.plan.scan_delay_ms,
                scans_fail_percent: self.plan.scans_fail,
                stop_delay_ms_max: self.plan.stop_delay_ms,
            },
        );
        let partitions = (!self.table_changed).then_some(self.plan.partitions);
        let (journal, now) = (&self.journal, &self.now);
        let mut builder = clients::runtime(&self.plan, partitions, incarnation, journal, now);
        if let Some((_, shared)) = &self.shared {
            builder = builder.shared_log(shared);
        }
        let host = sim_node.host().clone();
        let started = Started::default();
        let (result, launching) = (Arc::clone(&started), launch(&mut self.sim, sim_node, builder));
        host.spawn("start", async move {
            let runtime = launching.await.map_err(|error| error.to_string());
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        });
        let node = &mut self.nodes[index];
        node.start_at = None;
        node.life = Some(Life { site, host, started, stopping: None });
    }

    pub(super) fn crash(&mut self, index: usize, after_ms: u64) {
        let at = self.elapsed() + after_ms;
        let node = &mut self.nodes[index];
        if let Some(life) = node.life.take() {
            self.sim.crash(life.site);
        }
        node.start_at = Some(at);
    }

    /// Ends all faults, resumes paused work, and lets clients wait for all outcomes. A wall clock
    /// stays wrong if partitions have a later time.
    fn stop_faults(&mut self) {
        self.note("calm");
        if self.plan.replaces_partitions() {
            (0..self.nodes.len()).for_each(|index| self.with_clock(index, MachineClock::set_right));
        }
        self.journal.lock().log_fault = None;
        for node in &mut self.nodes {
            node.disk.log().forget_plans();
            node.disk.faults().forget_plans();
            if let Some(at) = &mut node.start_at {
                *at = 0;
            }
        }
        self.resume_all();
        let asked: Vec<usize> = self.journal.lock().known_or_asked().collect();
        asked.into_iter().for_each(|number| self.add(What::Ask(Ask::Attach(number))));
        self.end_families();
        if let Some(at) = &mut self.log_back_at {
            *at = 0;
        }
        // Spawned partitions are numbered after the first ones.
        for partition in 0..self.plan.partitions + SPAWNED_MAX {
            self.add(What::Lead(partition));
        }
    }

    /// Clients wait for the ends of all families.
    fn end_families(&mut self) {
        for number in 0..self.plan.families.len() {
            for ask in [FamilyAsk::Resolve(number), FamilyAsk::End(number)] {
                self.add(What::Ask(Ask::Family(ask)));
            }
        }
    }

    /// Resumes everything whose end is unknown, and everything that may have been paused meanwhile.
    fn resume_all(&mut self) {
        let unfinished: Vec<usize> = {
            let journal = self.journal.lock();
            let is_unfinished = |number: &usize| {
                let observed = &journal.observed[*number];
                observed.outcome.is_none() || observed.was_dropped
            };
            journal.known_or_asked().filter(is_unfinished).collect()
        };
        for number in unfinished {
            self.add(What::Ask(Ask::Resume(number)));
            self.add(What::Ask(Ask::ResumeVQueue(number)));
        }
    }

    fn is_done(&self) -> bool {
        self.clients.iter().all(|client| *client.is_done.lock().unwrap())
            && self.rules.is_empty()
            && self.nodes.iter().all(|node| node.up().is_some())
            && self.journal.lock().running() == 0
    }

    /// A description of what is missing.
    async fn left(&mut self) -> String {
        let mut text = String::new();
        for client in &self.clients {
            if !*client.is_done.lock().unwrap() {
                text += &format!("  not answered: {:?}\n", client.what);
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            match node.up() {
                None => text += &format!("  node {index} is not up\n"),
                Some((_, runtime)) => {
                    let views = runtime.node().inspect().partition_views();
                    text += &format!("  node {index}: {views:#?}\n");
                }
            }
        }
        let explaining: Vec<usize> = (0..self.plan.specs.len()).collect();
        for number in explaining {
            let Some((_, runtime)) = self.nodes.iter().find_map(Node::up) else { break };
            let id = clients::id_of(&self.plan.specs[number], number);
            let until = self.sim.now().after(Duration::from_secs(1));
            let explained = async { runtime.explain(id).await.map_err(|error| error.to_string()) };
            if let Some(Ok(Some(view))) = self.sim.run(explained, until).await
                && view.entry.stage != Stage::Finished
            {
                text += &format!("  #{number}: {view:?}\n");
            }
        }
        text
    }

    /// Checks that replicas are equal, and equal to a replay of the log.
    fn check_rows(&self) -> Result<(), String> {
        use forebay::testkit::LogStore;
        let disk = &self.nodes[0].disk;
        let Some((_, first)) = self.nodes.iter().find_map(Node::up) else { return Ok(()) };
        for partition in first.node().partitions().ids() {
            let replayed = match disk.log().trimmed(partition).0 {
                0 => Some(disk.replay(partition).map_err(|error| error.to_string())?.digest),
                _ => None,
            };
            let mut digests = Vec::new();
            for node in self.nodes.iter().filter_map(Node::up) {
                digests.push(
                    node.1.node().inspect().digest(partition).map_err(|error| error.to_string())?,
                );
            }
            if let Some(other) = digests.iter().find(|other| **other != digests[0]) {
                return Err(format!("replicas differ: {:?} and {other:?}", digests[0]));
            }
            if let Some(replayed) = replayed.filter(|replayed| *replayed != digests[0]) {
                return Err(format!("a replay gives {replayed:?}, not {:?}", digests[0]));
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// A node that has started and is not shutting down.
    pub(super) fn up(&self) -> Option<(SimHost, Runtime)> {
        let life = self.life.as_ref().filter(|life| life.stopping.is_none())?;
        match &*life.started.lock().unwrap() {
            Some(Ok(runtime)) => Some((life.host.clone(), runtime.clone())),
            _ => None,
        }
    }
}

impl Life {
    /// The reason why it must be restarted, if any.
    fn stopped(&self) -> Option<String> {
        match &*self.started.lock().unwrap() {
            None => None,
            Some(Err(error)) => Some(error.clone()),
            Some(Ok(runtime)) => {
                let status = runtime.node().inspect().status().ok()?;
                status.into_iter().find_map(|partition| partition.stopped)
            }
        }
    }
}
