//! One incarnation of a node in the simulation.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    task::Context,
};

use forebay_messages::{
    Timestamp,
    actor::{RefillFailed, VQueueMessage},
};

use super::host::{SimHost, Task};
use crate::{
    host::{FaultPlan, HANDLER},
    partition::refill::{self, RefillJob},
    shell::{
        Clock, Ref, SteadyClock, Timers, World,
        script::Scripts,
        sim::{MachineClock, SeededRandom, SimWorld, VirtualClock},
    },
};

/// Delays and failures of a node's threads, drawn at random from the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteFaults {
    /// Percentage of inbox scans that are left to a refill worker.
    pub scans_late_percent: usize,
    /// Maximum time that a refill worker takes, in milliseconds.
    pub scan_delay_ms_max: u64,
    /// Percentage of a refill worker's scans that fail.
    pub scans_fail_percent: usize,
    /// Maximum time for which a dropped handler keeps its thread before it is gone, in
    /// milliseconds.
    pub stop_delay_ms_max: u64,
}

/// A time between now and this many milliseconds later; now in every other case.
pub(super) fn delayed(now: Timestamp, ms_max: u64, random: &mut SeededRandom) -> Timestamp {
    if ms_max == 0 || random.below(2) == 0 {
        return now;
    }
    let bound = usize::try_from(ms_max).unwrap_or(usize::MAX);
    Timestamp(now.0 + 1 + random.below(bound) as u64)
}

/// A step that is possible next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    Actor(u64),
    Job,
    Scan(usize),
    ScanResult(usize),
    Task(u64),
}

/// Sends the result of a scan.
type Answer = Box<dyn FnOnce()>;

pub(super) struct Site {
    pub(super) host: SimHost,
    pub(super) world: SimWorld,
    pub(super) faults: SiteFaults,
    scans: Vec<(Timestamp, RefillJob)>,
    /// Scans that have read and whose answers are in flight: the data may be out of date when they
    /// arrive.
    scanned: Vec<(Timestamp, Answer)>,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    time: Arc<VirtualClock>,
    /// Times at which virtual time must stop.
    stops: Timers,
    pub(super) clock: Arc<MachineClock>,
}

impl Site {
    pub(super) fn new(seed: u64, time: Arc<VirtualClock>, scripts: Scripts, host: SimHost) -> Self {
        let clock = Arc::new(MachineClock::new(Arc::clone(&time)));
        // As on an arbiter's thread.
        let steady = SteadyClock::new(Arc::clone(&clock) as _, Timestamp::default());
        let world = SimWorld::beside(seed, Arc::clone(&time), Arc::new(steady), scripts);
        let stops = World::Sim(world.clone()).with_clock(Arc::clone(&time) as _).timers().clone();
        Self {
            host,
            world,
            faults: SiteFaults::default(),
            scans: Vec::new(),
            scanned: Vec::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            time,
            stops,
            clock,
        }
    }

    /// A random delay; time stops there.
    fn delay(&self, ms_max: u64, random: &mut SeededRandom) -> Timestamp {
        let at = delayed(self.time.now(), ms_max, random);
        self.stops.set(at, || {});
        at
    }

    /// Takes work from the queue.
    fn take_in(&mut self, random: &mut SeededRandom) {
        let (spawned, scans) = {
            let mut queue = self.host.queue();
            let spawned = std::mem::take(&mut queue.spawned);
            (spawned, std::mem::take(&mut queue.scans))
        };
        for task in self.tasks.values_mut() {
            if task.stops_at.is_none() && task.handle.is_aborted() {
                let ms_max = if task.name == HANDLER { self.faults.stop_delay_ms_max } else { 0 };
                let at = delayed(self.time.now(), ms_max, random);
                self.stops.set(at, || {});
                task.stops_at = Some(at);
            }
        }
        for task in spawned {
            self.tasks.insert(self.next_task, task);
            self.next_task += 1;
        }
        for job in scans {
            let due = self.delay(self.faults.scan_delay_ms_max, random);
            self.scans.push((due, job));
        }
    }

    /// The choices that are possible now.
    pub(super) fn choices(&mut self, random: &mut SeededRandom, choices: &mut Vec<Choice>) {
        self.take_in(random);
        let now = self.time.now();
        choices.extend(self.world.ready().into_iter().map(Choice::Actor));
        if !self.host.queue().jobs.is_empty() {
            choices.push(Choice::Job);
        }
        let due = self.scans.iter().enumerate().filter(|(_, (due, _))| *due <= now);
        choices.extend(due.map(|(index, _)| Choice::Scan(index)));
        let due = self.scanned.iter().enumerate().filter(|(_, (due, _))| *due <= now);
        choices.extend(due.map(|(index, _)| Choice::ScanResult(index)));
        let ready = self.tasks.iter().filter(|(_, task)| match task.stops_at {
            Some(at) => at <= now,
            None => task.handle.is_ready(),
        });
        choices.extend(ready.map(|(number, _)| Choice::Task(*number)));
    }

    /// Whether work was added or woken since.
    pub(super) fn has_news(&self) -> bool {
        let queue = self.host.queue();
        let is_woken =
            self.tasks.values().any(|task| task.stops_at.is_none() && task.handle.is_ready());
        is_woken || !queue.jobs.is_empty() || !queue.spawned.is_empty() || !queue.scans.is_empty()
    }

    /// Performs a choice; returns a name and a number for the trace.
    pub(super) fn perform(
        &mut self,
        choice: Choice,
        random: &mut SeededRandom,
    ) -> (&'static str, u64) {
        match choice {
            Choice::Actor(number) => {
                let late = random.below(100) < self.faults.scans_late_percent;
                self.host.queue().scans_block = late;
                (self.world.step_actor(number), number)
            }
            Choice::Job => {
                let job = self.host.queue().jobs.pop_front();
                if let Some(job) = job {
                    job(&World::Sim(self.world.clone()));
                }
                ("job", 0)
            }
            Choice::Scan(index) => {
                let (_, job) = self.scans.remove(index);
                if random.below(100) < self.faults.scans_fail_percent {
                    let reason = "a fault of the simulation".to_owned();
                    let failed = RefillFailed { id: job.request.id, reason };
                    job.reply_to.send(VQueueMessage::RefillFailed(failed));
                    return ("scan fails", index as u64);
                }
                self.read(job, random);
                ("scan", index as u64)
            }
            Choice::ScanResult(index) => {
                let (_, answer) = self.scanned.remove(index);
                answer();
                ("scanned", index as u64)
            }
            Choice::Task(number) => (self.poll(number), number),
        }
    }

    /// Reads at once; the answer is delayed.
    fn read(&mut self, job: RefillJob, random: &mut SeededRandom) {
        let RefillJob { store, request, reply_to } = job;
        let found = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&found);
        let keep = move |message| {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
            true
        };
        refill::run(RefillJob { store, request, reply_to: Ref::new(keep) }, &FaultPlan::default());
        let due = self.delay(self.faults.scan_delay_ms_max, random);
        let answer = Box::new(move || {
            if let Some(message) = found.lock().unwrap_or_else(PoisonError::into_inner).take() {
                reply_to.send(message);
            }
        });
        self.scanned.push((due, answer));
    }

    fn poll(&mut self, number: u64) -> &'static str {
        let Some(mut task) = self.tasks.remove(&number) else { return "" };
        let name = task.name;
        if task.handle.is_aborted() {
            task.handle.finish();
            return name;
        }
        let waker = task.handle.take_wake().into();
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            task.handle.finish();
        } else {
            self.tasks.insert(number, task);
        }
        name
    }

    /// Tasks that have not ended, by name.
    pub(super) fn pending_tasks(&self) -> Vec<&'static str> {
        self.tasks.values().map(|task| task.name).collect()
    }
}

impl Drop for Site {
    /// A crash: everything is gone, nothing is reported.
    fn drop(&mut self) {
        let left = {
            let mut queue = self.host.queue();
            queue.is_closed = true;
            let spawned = std::mem::take(&mut queue.spawned);
            let jobs = std::mem::take(&mut queue.jobs);
            (spawned, jobs, std::mem::take(&mut queue.scans))
        };
        for task in self.tasks.values().chain(&left.0) {
            task.handle.finish();
        }
        self.tasks.clear();
        drop(left);
        self.scans.clear();
        self.scanned.clear();
        self.world.clear();
    }
}
