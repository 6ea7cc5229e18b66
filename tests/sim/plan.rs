//! The events of a simulation, drawn from its seed: entries, commands, faults.
//!
//! Must always hold: a plan is a function of the seed. Must not know: how forebay works.

use std::time::Duration;

use forebay::{Limits, Rate, testkit::SeededRandom};

use super::{
    families::{self, Family, FamilyAsk},
    sizes::{self, Records, Sizes},
};

/// Time of the last command, in milliseconds of virtual time.
pub(super) const SPAN_MS: u64 = 12_000;
/// Maximum number of entries of one run.
const ENTRIES_MAX: usize = 48;
/// Maximum number of entries of a run with few vqueues that have many entries each.
const CROWDED_ENTRIES_MAX: usize = 150;
/// Number of failed attempts before the entry is a dead letter.
pub(super) const ATTEMPTS_MAX: u32 = 4;

/// How a handler fails midway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureMode {
    Error,
    Panic,
    Timeout,
}

/// The outcome of an entry that is not interfered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Success,
    Terminal,
    Exhausted,
}

/// An entry and the behaviour of its handler.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) scope: Option<&'static str>,
    pub(super) limit_key: Option<&'static str>,
    pub(super) key: Option<&'static str>,
    pub(super) delay_ms: Option<u64>,
    pub(super) idempotency_key: Option<String>,
    pub(super) failures: u32,
    pub(super) failure_mode: FailureMode,
    pub(super) snoozes: u32,
    pub(super) works_ms: u64,
    pub(super) ending: Ending,
    pub(super) sizes: Sizes,
}

/// A client's request. Entries are named by their number.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Enqueue(Vec<usize>),
    Attach(usize),
    Cancel(usize),
    Kill(usize),
    Pause(usize),
    Resume(usize),
    PauseVQueue(usize),
    ResumeVQueue(usize),
    SetRule(&'static str, Limits),
    DropRule(&'static str),
    PauseRule(&'static str),
    ResumeRule(&'static str),
    Explain(usize),
    Family(FamilyAsk),
}

impl Ask {
    /// Whether it changes rules; such changes are made one at a time.
    pub(super) fn is_about_rules(&self) -> bool {
        matches!(
            self,
            Self::SetRule(..) | Self::DropRule(_) | Self::PauseRule(_) | Self::ResumeRule(_)
        )
    }
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// A node crashes and restarts after a while.
    Crash { after_ms: u64 },
    /// A write of the log fails.
    LogFails { nth: u64, kind: usize },
    /// A commit of a partition's rows fails.
    StoreFails { nth: u64, kind: usize },
    /// An actor panics.
    Kill { actor: u64 },
    /// An unknown node fences the log and then stays silent.
    Fence { partition: u32 },
    /// A node is asked to lead.
    Lead { partition: u32 },
    /// The leader is asked to stop leading.
    StepDown { partition: u32, within_ms: u64 },
    /// Former leaders repeat all their writes.
    Stale { partition: u32 },
    /// The next ends of handlers are reported late, once or twice.
    EndsLate { ms: u64, again: bool },
    /// A node shuts down cleanly and restarts.
    Shutdown { after_ms: u64, drain_ms: u64 },
    /// An existing partition is dropped; after a while its keys are assigned to one or two new
    /// ones.
    Replace { which: usize, after_ms: u64, splits: bool },
    /// The log's writer dies; all nodes that use it are restarted.
    LogDies { after_ms: u64 },
    /// The wall clock of a node's machine is set forward or back. Another machine, used after a
    /// crash, has the right time.
    ClockSteps { by_ms: i64 },
    /// The clock runs slow or fast, or stops.
    ClockRuns { percent: u32 },
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Ask(Ask),
    Fault { node: usize, fault: Fault },
}

/// The complete plan of a run.
#[derive(Debug)]
pub(super) struct Plan {
    /// Whether there are no faults.
    pub(super) is_quiet: bool,
    /// Whether there are no faults and no delays: outside observations are exact.
    pub(super) is_clear: bool,
    pub(super) partitions: u32,
    /// Number of nodes; several share a log.
    pub(super) nodes: usize,
    pub(super) running_max: Option<u32>,
    /// Number of idle vqueues that stay in memory.
    pub(super) idle_vqueues_max: usize,
    pub(super) log_delay_ms: u64,
    pub(super) log_twice: usize,
    pub(super) scans_late: usize,
    pub(super) scan_delay_ms: u64,
    pub(super) scans_fail: usize,
    pub(super) stop_delay_ms: u64,
    /// The limit of a record of the log.
    pub(super) records: Records,
    pub(super) specs: Vec<Spec>,
    pub(super) families: Vec<Family>,
    /// Ordered by time.
    pub(super) events: Vec<(u64, Event)>,
}

const SCOPES: [&str; 3] = ["red", "green", "blue"];
const LIMIT_KEYS: [&str; 3] = ["a", "a/x", "b"];
const KEYS: [&str; 3] = ["k1", "k2", "k3"];
/// Patterns used in rules.
pub(super) const PATTERNS: [&str; 7] = ["red", "*", "red/*", "*/*", "green/a", "*/*/*", "blue/a/x"];

/// Patterns that are paused by rule.
const PAUSED: [&str; 6] = ["red", "green", "*", "*/*", "red/a", "service:work"];
/// Maximum length of a pause, in milliseconds.
const PAUSE_MS_MAX: u64 = 4_000;

struct Draw<'a> {
    random: &'a mut SeededRandom,
    /// Few vqueues have many entries each: more than a vqueue caches.
    is_crowded: bool,
}

impl Draw<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    /// True in this percentage of cases.
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.below(all.len())]
    }

    /// Random limits of a rule.
    fn limits(&mut self) -> Limits {
        let concurrency = Limits::concurrency(1 + self.below(3) as u32);
        let burst = 1 + self.below(4) as u32;
        let rate = Some(Rate { tokens: 8 + self.below(30) as u32, period_ms: 1_000, burst });
        match self.below(10) {
            0 => Limits { rate, ..Limits::default() },
            1 => Limits { rate, ..concurrency },
            _ => concurrency,
        }
    }

    fn spec(&mut self, number: usize, sizes: Sizes) -> Spec {
        let (scopes, keyed) = if self.is_crowded { (1, 30) } else { (SCOPES.len(), 50) };
        let scope = self.percent(85).then(|| self.one_of(&SCOPES[..scopes]));
        let limit_key = match scope {
            Some(_) if !self.is_crowded && self.percent(70) => Some(self.one_of(&LIMIT_KEYS)),
            _ => None,
        };
        let keys = if self.is_crowded { 1 } else { KEYS.len() };
        let works_ms_max = if self.is_crowded { 60 } else { 400 };
        let ending = match self.below(10) {
            0 => Ending::Terminal,
            1 => Ending::Exhausted,
            _ => Ending::Success,
        };
        let failures = match ending {
            Ending::Exhausted => ATTEMPTS_MAX,
            _ if self.percent(30) => 1 + self.below(2) as u32,
            _ => 0,
        };
        let key = self.percent(keyed).then(|| self.one_of(&KEYS[..keys]));
        let delay_ms = self.percent(20).then(|| self.below(6_000));
        // With an object key, an idempotency key needs a scope.
        let may_be_once = key.is_none() || scope.is_some();
        let is_once = self.percent(10) && may_be_once;
        let idempotency_key = is_once.then(|| format!("once-{number}"));
        Spec {
            scope,
            limit_key,
            key,
            delay_ms,
            idempotency_key,
            failures,
            failure_mode: self.one_of(&[
                FailureMode::Error,
                FailureMode::Error,
                FailureMode::Panic,
                FailureMode::Timeout,
            ]),
            snoozes: if self.percent(10) { 1 + self.below(2) as u32 } else { 0 },
            works_ms: if self.percent(40) { 0 } else { self.below(works_ms_max) },
            ending,
            sizes,
        }
    }

    fn ask(&mut self, known: usize) -> Ask {
        let entry = self.random.below(known);
        match self.below(20) {
            0..=2 => Ask::Attach(entry),
            3 => Ask::Cancel(entry),
            4 => Ask::Kill(entry),
            5 | 6 => Ask::Pause(entry),
            7 | 8 => Ask::Resume(entry),
            9 => Ask::PauseVQueue(entry),
            10 => Ask::ResumeVQueue(entry),
            11..=14 => Ask::SetRule(self.one_of(&PATTERNS), self.limits()),
            15 => Ask::DropRule(self.one_of(&PATTERNS)),
            // The same request again: must add nothing.
            16 | 17 => Ask::Enqueue(vec![entry]),
            _ => Ask::Explain(entry),
        }
    }

    /// Pauses by rule, each with its end.
    fn pauses(&mut self) -> Vec<(u64, Event)> {
        let count = if self.percent(40) { 1 + self.below(4) } else { 0 };
        let mut events = Vec::new();
        for _ in 0..count {
            let pattern = self.one_of(&PAUSED);
            let from = self.below(SPAN_MS);
            let until = from + 1 + self.below(PAUSE_MS_MAX);
            events.push((from, Event::Ask(Ask::PauseRule(pattern))));
            events.push((until, Event::Ask(Ask::ResumeRule(pattern))));
        }
        events
    }

    fn fault(&mut self, partitions: u32, nodes: usize) -> Fault {
        let partition = self.below(partitions.into()) as u32;
        match self.below(26) {
            0..=2 => Fault::Crash { after_ms: self.below(1_500) },
            3 => Fault::LogFails { nth: 1 + self.below(4), kind: self.random.below(5) },
            4 => Fault::StoreFails { nth: 1 + self.below(4), kind: self.random.below(4) },
            5..=9 => Fault::Kill { actor: self.random.next_u64() },
            10 => Fault::Fence { partition },
            11 | 12 if nodes > 1 => Fault::Lead { partition },
            11..=13 => Fault::StepDown { partition, within_ms: self.below(400) },
            16 => Fault::Stale { partition },
            17 => Fault::EndsLate { ms: self.below(3_000), again: self.percent(50) },
            18..=20 => Fault::Replace {
                which: self.random.below(8),
                after_ms: self.below(1_500),
                splits: self.percent(40),
            },
            21 => Fault::LogDies { after_ms: self.below(1_500) },
            22..=24 => {
                const STEPS_MS: [i64; 6] = [-3_600_000, -60_000, -700, 900, 60_000, 3_600_000];
                Fault::ClockSteps { by_ms: self.one_of(&STEPS_MS) }
            }
            25 => Fault::ClockRuns { percent: self.one_of(&[0, 50, 90, 110, 300]) },
            14 => Fault::Shutdown { after_ms: self.below(500), drain_ms: self.below(500) },
            _ => Fault::Lead { partition },
        }
    }
}

/// Number of inbox reads that one read may wait for.
const READS_AHEAD: u64 = 8;

impl Plan {
    pub(super) fn new(seed: u64, random: &mut SeededRandom) -> Self {
        let mut draw = Draw { random, is_crowded: false };
        draw.is_crowded = draw.percent(25);
        let is_clear = draw.percent(15);
        let partitions = 1 + draw.below(2) as u32;
        let nodes = if draw.percent(40) && !is_clear { 2 } else { 1 };
        let most = if draw.is_crowded { CROWDED_ENTRIES_MAX } else { ENTRIES_MAX };
        let count = 8 + draw.random.below(most - 8);
        let (records, sizes) = sizes::draw(seed, count);
        let numbered = sizes.into_iter().enumerate();
        let specs = numbered.map(|(number, sizes)| draw.spec(number, sizes)).collect();
        let mut events = Vec::new();
        let mut known = 0;
        while known < count {
            let share = if draw.percent(20) { 1 + draw.random.below(8) } else { 1 };
            let share = share.min(count - known);
            events.push((
                draw.below(SPAN_MS),
                Event::Ask(Ask::Enqueue((known..known + share).collect())),
            ));
            known += share;
        }
        let asks = if draw.is_crowded { 160 } else { 40 };
        for _ in 0..draw.below(asks) {
            events.push((draw.below(SPAN_MS), Event::Ask(draw.ask(count))));
        }
        // A third of the runs has no faults: there nothing can hide a lost wake-up.
        let faults = if draw.percent(33) || is_clear { 0 } else { draw.below(8) };
        for _ in 0..faults {
            let fault = draw.fault(partitions, nodes);
            let node = draw.random.below(nodes);
            events.push((500 + draw.below(SPAN_MS - 500), Event::Fault { node, fault }));
        }
        events.sort_by_key(|(at, _)| *at);
        let scans_late = if draw.is_crowded { 80 } else { 50 };
        let mut plan = Self {
            is_quiet: faults == 0,
            is_clear,
            partitions,
            nodes,
            idle_vqueues_max: if draw.percent(50) { draw.random.below(3) } else { 1_000 },
            running_max: draw.percent(30).then(|| 1 + draw.below(5) as u32),
            log_delay_ms: if draw.percent(50) || is_clear { 0 } else { 1 + draw.below(60) },
            log_twice: if draw.percent(70) || is_clear { 0 } else { 10 },
            scans_late: if draw.percent(50) || is_clear { 0 } else { scans_late },
            scan_delay_ms: if draw.is_crowded { 400 } else { 30 },
            scans_fail: if draw.percent(70) || is_clear { 0 } else { 20 },
            stop_delay_ms: if draw.percent(50) || is_clear { 0 } else { 1 + draw.below(900) },
            records,
            specs,
            families: Vec::new(),
            events,
        };
        // Drawn last, so that the rest of a seed's plan did not change when pauses were added.
        plan.events.extend(draw.pauses());
        // In a clear run only the entries of the plan use the limited scopes.
        if !is_clear {
            let (families, events) = families::draw(seed, faults > 0);
            plan.families = families;
            plan.events.extend(events);
        }
        plan.events.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Whether partitions are dropped and spawned. A partition spawned under a clock that was set
    /// back has no record with the correct time.
    pub(super) fn replaces_partitions(&self) -> bool {
        let replaces =
            |event: &Event| matches!(event, Event::Fault { fault: Fault::Replace { .. }, .. });
        self.events.iter().any(|(_, event)| replaces(event))
    }

    /// How long a grant may take to reach its handler. A vqueue that waited without an actor reads
    /// its inbox first, behind the reads of other vqueues of its partition.
    pub(super) fn latency(&self) -> Duration {
        Duration::from_millis(50 + 6 * self.log_delay_ms + READS_AHEAD * self.scan_delay_ms)
    }
}
