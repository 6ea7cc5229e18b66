//! Everything observed from outside in a simulation, and the rules it must satisfy.
//!
//! Must always hold: it uses only the observations of clients and handlers. Must not know:
//! machines, rows, the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use forebay::{Limits, Outcome, Pattern, Rate, Timestamp};

use super::{
    families::Families,
    plan::{ATTEMPTS_MAX, Ask, Ending, Plan, Spec},
    sizes::{self, Records},
};

/// The pattern that pauses all entries.
pub(super) const SERVICE: &str = "service:work";

/// The end of a handler that is dropped before it returns.
pub(super) const DROPPED: &str = "is dropped";

/// The end of a handler whose entry is retried if attempts are left.
pub(super) const FAILS: &str = "fails";

/// Prefix of the message of an entry that was interrupted too often by the death of its process.
const INTERRUPTED: &str = "the process died";
/// After this many deaths the entry ends: it has started as often.
const INTERRUPTIONS_MAX: usize = 5;

/// Observations of one entry.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) asked: Option<u64>,
    pub(super) acked: Option<u64>,
    /// It was refused on its own because it was too large.
    is_refused: bool,
    pub(super) first_start: Option<u64>,
    pub(super) snoozed: u32,
    /// Number of failed attempts.
    failed: u32,
    /// An attempt failed, and the next one has not begun.
    tries_again: bool,
    pub(super) outcome: Option<Outcome>,
    /// It was canceled or killed.
    pub(super) interfered: bool,
    /// Its partition, with all its entries, was dropped or may have been dropped.
    pub(super) was_dropped: bool,
    /// It or its vqueue was paused, so it may have lost its place.
    pub(super) was_paused: bool,
}

/// Rules that may have been in force at the same time.
#[derive(Clone, Debug)]
struct Regime {
    /// Time since which no other rules are in force.
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    rules: BTreeMap<&'static str, Limits>,
    /// Paused patterns.
    paused: BTreeSet<&'static str>,
}

/// A running handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    /// The incarnation of its node.
    pub(super) incarnation: u32,
    pub(super) entry: usize,
}

pub(super) struct Journal {
    pub(super) specs: Vec<Spec>,
    records: Records,
    pub(super) running_max: Option<u32>,
    /// No limiter is ever restarted, and no end of a handler is lost.
    is_steady: bool,
    latency: Duration,
    pub(super) observed: Vec<Observed>,
    pub(super) running: BTreeMap<(Run, u64), Timestamp>,
    /// Handlers that were dropped before they ended, with the times of their start and drop. The
    /// next attempt of the entry or key may have been granted in between.
    dropped: Vec<(Run, Timestamp, Timestamp)>,
    /// All starts of handlers.
    starts: Vec<(Timestamp, usize)>,
    regimes: Vec<Regime>,
    /// Orders all notes.
    serial: u64,
    pub(super) log: Vec<String>,
    pub(super) violations: Vec<String>,
    pub(super) families: Families,
    /// Makes the next write of the log fail; absent in the calm at the end.
    pub(super) log_fault: Option<Box<dyn Fn() + Send>>,
}

/// Shared by clients, handlers and the run.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Journal>>);

impl Shared {
    pub(super) fn new(plan: &Plan) -> Self {
        Self(Arc::new(Mutex::new(Journal {
            specs: plan.specs.clone(),
            records: plan.records,
            running_max: plan.running_max,
            is_steady: plan.is_quiet && plan.nodes == 1,
            latency: plan.latency(),
            observed: plan.specs.iter().map(|_| Observed::default()).collect(),
            running: BTreeMap::new(),
            dropped: Vec::new(),
            starts: Vec::new(),
            regimes: vec![Regime {
                since: Some(Timestamp(0)),
                until: None,
                rules: BTreeMap::new(),
                paused: BTreeSet::new(),
            }],
            serial: 0,
            log: Vec::new(),
            violations: Vec::new(),
            families: Families::default(),
            log_fault: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    /// The next write of the log fails, and is not done.
    pub(super) fn fail_next_write(&self) {
        if let Some(fail) = &self.log_fault {
            fail();
        }
    }

    pub(super) fn note(&mut self, now: Timestamp, text: impl std::fmt::Display) -> u64 {
        self.serial += 1;
        self.log.push(format!("{:>7} {text}", now.0 % 10_000_000));
        self.serial
    }

    pub(super) fn violation(&mut self, now: Timestamp, text: String) {
        self.note(now, format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    pub(super) fn asked(&mut self, now: Timestamp, entry: usize) {
        let serial = self.note(now, format!("client enqueues #{entry}"));
        self.observed[entry].asked.get_or_insert(serial);
    }

    pub(super) fn acked(&mut self, now: Timestamp, entry: usize) {
        let serial = self.note(now, format!("client learns that #{entry} is stored"));
        self.observed[entry].acked.get_or_insert(serial);
        if !self.records.takes(self.specs[entry].sizes.payload) {
            self.violation(now, format!("#{entry} is stored and too large for a record"));
        }
    }

    /// Entries were refused as too large, together or one alone.
    pub(super) fn refused(&mut self, now: Timestamp, entries: &[usize]) {
        self.note(now, format!("client learns that {entries:?} are too large"));
        let payloads = entries.iter().map(|entry| self.specs[*entry].sizes.payload);
        let fit_together = self.records.takes_all(payloads);
        match entries {
            [one] => {
                self.observed[*one].is_refused = true;
                if self.records.takes(self.specs[*one].sizes.payload) {
                    self.violation(now, format!("#{one} is refused and fits into a record"));
                }
            }
            _ if fit_together => {
                self.violation(now, format!("{entries:?} are refused and fit into a record"));
            }
            _ => {}
        }
    }

    /// The failure text passed to the next attempt.
    pub(super) fn last_failure(&mut self, now: Timestamp, entry: usize, text: &str) {
        if !self.records.is_short(text) {
            let text = format!("#{entry} failed with a text of {} bytes", text.len());
            self.violation(now, text);
        }
    }

    pub(super) fn ended(&mut self, now: Timestamp, entry: usize, outcome: Outcome) {
        self.note(now, format!("client learns that #{entry} ended: {}", sizes::summary(&outcome)));
        if self.is_too_large(entry) {
            self.violation(now, format!("#{entry} ended and is too large for a record"));
        }
        match &self.observed[entry].outcome {
            Some(_) if self.observed[entry].was_dropped => {}
            None => {
                if !self.is_allowed(entry, &outcome) {
                    self.violation(
                        now,
                        format!("#{entry} may not end with {}", sizes::summary(&outcome)),
                    );
                }
                self.observed[entry].outcome = Some(outcome);
            }
            Some(before) if *before != outcome => {
                let (before, after) = (sizes::summary(before), sizes::summary(&outcome));
                let text = format!("#{entry} ended twice: {before}, then {after}");
                self.violation(now, text);
            }
            Some(_) => {}
        }
    }

    fn is_allowed(&self, entry: usize, outcome: &Outcome) -> bool {
        use forebay::FailureKind::{Canceled, Exhausted, Killed, Terminal};
        let spec = &self.specs[entry];
        match outcome {
            Outcome::Success(_) => self.records.is_end(entry, spec.ending, spec.sizes, outcome),
            Outcome::Failure(failure) if !self.records.is_short(&failure.message) => false,
            Outcome::Failure(failure) => match failure.kind {
                Terminal => self.records.is_end(entry, spec.ending, spec.sizes, outcome),
                Exhausted if failure.message.starts_with(INTERRUPTED) => {
                    let starts = self.starts.iter().filter(|(_, started)| *started == entry);
                    starts.count() >= INTERRUPTIONS_MAX
                }
                Exhausted => spec.ending == Ending::Exhausted,
                Canceled | Killed => self.observed[entry].interfered,
            },
        }
    }

    /// It cannot be stored, or it was refused.
    fn is_too_large(&self, entry: usize) -> bool {
        self.observed[entry].is_refused || !self.records.takes(self.specs[entry].sizes.payload)
    }

    /// A change of rules was requested: from now on the new rules may be in force.
    pub(super) fn rules_asked(&mut self, now: Timestamp, ask: &Ask) {
        self.note(now, format!("client asks {ask:?}"));
        let last = self.regimes.last();
        let last = last.map(|regime| (regime.rules.clone(), regime.paused.clone()));
        let (mut rules, mut paused) = last.unwrap_or_default();
        match ask {
            Ask::SetRule(pattern, limits) => {
                rules.insert(*pattern, *limits);
                paused.remove(pattern);
            }
            Ask::DropRule(pattern) => {
                rules.remove(pattern);
                paused.remove(pattern);
            }
            Ask::PauseRule(pattern) => drop(paused.insert(*pattern)),
            Ask::ResumeRule(pattern) => drop(paused.remove(pattern)),
            _ => unreachable!("rules only"),
        }
        self.regimes.push(Regime { since: None, until: None, rules, paused });
    }

    /// The new rules are in force, and the former ones are not.
    pub(super) fn rules_acked(&mut self, now: Timestamp) {
        self.note(now, "client learns that the rules are in force");
        let last = self.regimes.len() - 1;
        for regime in &mut self.regimes[..last] {
            regime.until.get_or_insert(now);
        }
        self.regimes[last].since.get_or_insert(now);
    }

    /// The earliest time at which an attempt that starts now may have been granted. An attempt
    /// waits until a dropped handler of the same entry or key has stopped, so rules may have
    /// changed since.
    fn granted_since(&self, now: Timestamp, run: Run) -> Timestamp {
        let entry = run.entry;
        let lately = Timestamp(now.0.saturating_sub(self.latency.as_millis() as u64));
        let is_keyed = self.specs[entry].key.is_some();
        let delays = |other: Run| {
            let is_same = is_keyed && self.is_same_vqueue(other.entry, entry);
            other.incarnation == run.incarnation && (other.entry == entry || is_same)
        };
        let dropped = self.dropped.iter().rev().take_while(|(_, _, at)| *at >= lately);
        dropped
            .filter(|(other, ..)| delays(*other))
            .map(|(_, since, _)| *since)
            .fold(lately, Ord::min)
    }

    /// The rules that may have been in force since this time.
    fn since(&self, since: Timestamp) -> impl Iterator<Item = &Regime> {
        self.regimes.iter().filter(move |regime| regime.until.is_none_or(|at| at >= since))
    }

    /// The highest limit of a key since this time; `None` means unlimited.
    fn limit(&self, since: Timestamp, key: &[&str]) -> Option<u32> {
        // If any of the rules is unlimited, the key is unlimited.
        self.since(since)
            .map(|regime| match is_paused(&regime.paused, key) {
                true => Some(0),
                false => governing(&regime.rules, key).and_then(concurrency),
            })
            .try_fold(0, |most, limit| limit.map(|limit| most.max(limit)))
    }

    /// The rules that are certainly in force, and since when.
    pub(super) fn in_force(&self) -> Option<(Timestamp, &BTreeMap<&'static str, Limits>)> {
        let last = self.regimes.last()?;
        Some((last.since?, &last.rules))
    }

    /// The patterns that are certainly paused.
    pub(super) fn paused_in_force(&self) -> Option<&BTreeSet<&'static str>> {
        let last = self.regimes.last()?;
        last.since.map(|_| &last.paused)
    }

    /// A handler starts.
    pub(super) fn started(&mut self, now: Timestamp, run: Run, token: u64) {
        let entry = run.entry;
        let serial = self.note(now, format!("handler of #{entry} starts on {}", run.incarnation));
        if self.observed[entry].asked.is_none() {
            self.violation(now, format!("#{entry} runs and was never asked for"));
        }
        if self.is_too_large(entry) {
            self.violation(now, format!("#{entry} runs and is too large for a record"));
        }
        if self.observed[entry].outcome.is_some() && !self.observed[entry].was_dropped {
            self.violation(now, format!("#{entry} runs after its end was reported"));
        }
        let here: Vec<usize> = self
            .running
            .keys()
            .filter(|(other, _)| other.incarnation == run.incarnation)
            .map(|(other, _)| other.entry)
            .collect();
        if here.contains(&entry) {
            self.violation(now, format!("#{entry} runs twice on one node"));
        }
        if let Some(max) = self.running_max.filter(|max| here.len() >= *max as usize) {
            let count = here.len() + 1;
            let text =
                format!("#{entry} makes {count} run on {}, where {max} may", run.incarnation);
            self.violation(now, text);
        }
        self.check_lock(now, entry, &here);
        self.check_limits(now, run, &here);
        self.starts.push((now, entry));
        self.check_rates(now, entry);
        self.observed[entry].tries_again = false;
        if self.observed[entry].first_start.is_none() {
            self.check_order(now, entry);
            self.observed[entry].first_start = Some(serial);
        }
        self.running.insert((run, token), now);
    }

    fn check_lock(&mut self, now: Timestamp, entry: usize, here: &[usize]) {
        if self.specs[entry].key.is_none() {
            return;
        }
        for other in here {
            if *other != entry && self.is_same_vqueue(*other, entry) {
                self.violation(now, format!("#{entry} runs beside #{other} of the same key"));
            }
        }
        // A retry keeps the lock, and goes first.
        let keeps = |other: &usize| {
            let observed = &self.observed[*other];
            let is_plain = !observed.interfered && !observed.was_paused;
            *other != entry
                && observed.tries_again
                && is_plain
                && self.is_same_vqueue(*other, entry)
        };
        if self.is_steady
            && let Some(other) = (0..self.specs.len()).find(keeps)
        {
            self.violation(now, format!("#{entry} overtakes #{other}, which tries again"));
        }
    }

    fn check_limits(&mut self, now: Timestamp, run: Run, here: &[usize]) {
        let (entry, since) = (run.entry, self.granted_since(now, run));
        if self.since(since).all(|regime| regime.paused.contains(SERVICE)) {
            self.violation(now, format!("#{entry} starts while its service is paused"));
        }
        let own = path(&self.specs[entry]);
        for depth in 1..=own.len() {
            let key = &own[..depth];
            let beside = here.iter().filter(|other| path(&self.specs[**other]).starts_with(key));
            let count = 1 + beside.count() as u32;
            if let Some(limit) = self.limit(since, key)
                && count > limit
            {
                let text = format!("#{entry} makes {count} run under {key:?}, limited to {limit}");
                self.violation(now, text);
            }
        }
    }

    /// Checks that there are no more starts than a full bucket and later tokens allow.
    fn check_rates(&mut self, now: Timestamp, entry: usize) {
        let Some((since, rules)) = self.in_force().filter(|_| self.is_steady) else { return };
        let own = path(&self.specs[entry]);
        let mut early = Vec::new();
        for depth in 1..=own.len() {
            let key = &own[..depth];
            let Some(rate) = governing(rules, key).and_then(|limits| limits.rate) else { continue };
            // Earlier starts may have been granted under other rules.
            let from = since.after(self.latency);
            let counts = |(at, other): &&(Timestamp, usize)| {
                *at > from && path(&self.specs[*other]).starts_with(key)
            };
            let count = self.starts.iter().filter(counts).count() as u64;
            let Rate { tokens, period_ms, burst } = rate;
            let came = (now.0 - since.0) * u64::from(tokens) / period_ms;
            let most = u64::from(burst) + came + 1;
            if count > most {
                early.push(format!("#{entry} is start {count} under {key:?}, {most} may be"));
            }
        }
        early.into_iter().for_each(|text| self.violation(now, text));
    }

    /// Entries of one key without an explicit time start in the order in which they were stored, as
    /// far as that is known: one was acknowledged before the other was requested.
    fn check_order(&mut self, now: Timestamp, entry: usize) {
        let is_plain = |number: usize| {
            let (spec, observed) = (&self.specs[number], &self.observed[number]);
            let is_left_alone =
                !observed.was_paused && !observed.interfered && !observed.was_dropped;
            spec.key.is_some() && spec.delay_ms.is_none() && is_left_alone
        };
        if !is_plain(entry) {
            return;
        }
        let overtaken = (0..self.specs.len()).find(|other| {
            let observed = &self.observed[*other];
            *other != entry
                && self.is_same_vqueue(*other, entry)
                && is_plain(*other)
                && observed.first_start.is_none()
                && observed.outcome.is_none()
                && matches!((observed.acked, self.observed[entry].asked), (Some(a), Some(b)) if a < b)
        });
        if let Some(other) = overtaken {
            self.violation(now, format!("#{entry} starts before #{other} of the same key"));
        }
    }

    pub(super) fn is_same_vqueue(&self, one: usize, other: usize) -> bool {
        let name = |entry: usize| {
            let spec = &self.specs[entry];
            (spec.scope, spec.limit_key, spec.key)
        };
        name(one) == name(other)
    }

    /// A handler has ended or was dropped.
    pub(super) fn stopped(&mut self, now: Timestamp, run: Run, token: u64, how: &str) {
        let entry = run.entry;
        self.note(now, format!("handler of #{entry} on {} {how}", run.incarnation));
        if let Some(since) = self.running.remove(&(run, token))
            && how == DROPPED
        {
            self.dropped.push((run, since, now));
        }
        if how == FAILS {
            let observed = &mut self.observed[entry];
            observed.failed += 1;
            observed.tries_again = observed.failed < ATTEMPTS_MAX;
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }
}

pub(super) fn path(spec: &Spec) -> Vec<&'static str> {
    let limit_key = spec.limit_key.unwrap_or_default();
    spec.scope.into_iter().chain(limit_key.split('/').filter(|part| !part.is_empty())).collect()
}

/// The limit of the rule that governs a key: among matching rules, the one with the leftmost exact
/// level.
pub(super) fn governing(rules: &BTreeMap<&'static str, Limits>, key: &[&str]) -> Option<Limits> {
    let parsed = rules.iter().filter_map(|(text, limits)| Some((text.parse().ok()?, limits)));
    let matching = parsed.filter(|(pattern, _): &(Pattern, _)| pattern.matches(key));
    matching.max_by_key(|(pattern, _)| pattern.rank()).map(|(_, limits)| *limits)
}

/// Whether a paused pattern matches a key.
pub(super) fn is_paused(paused: &BTreeSet<&'static str>, key: &[&str]) -> bool {
    let parsed = paused.iter().filter_map(|text| text.parse().ok());
    parsed.into_iter().any(|pattern: Pattern| pattern.matches(key))
}

pub(super) fn concurrency(limits: Limits) -> Option<u32> {
    limits.concurrency.map(u32::from)
}
