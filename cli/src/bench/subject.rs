//! The producers: they take entries through all phases, with the public API.
//!
//! Must always hold: a producer waits for the end of every entry of its batch before it continues,
//! so that exactly the configured number is in flight. Must not know: how results are reported.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay::{
    Context, Entry, EntryHandle, HandlerError, Outcome, ResultError, RetryPolicy, Runtime,
    handler::HandlerOptions,
};
use forebay_engine::rules::{Change, RuleChange, RulePatch};
use forebay_messages::rule::{Limits, Pattern, PatternError};
use tokio::task::JoinSet;

use super::{BenchError, tracker::Tracker};

/// The handler of the bench.
const SERVICE: &str = "bench";
/// The limit key of every scoped entry.
const LIMIT_KEY: &str = "gold/user";
/// The limit of the rules: never reached, always counted.
const CONCURRENCY: u32 = 1_000_000;
/// Rules that match every scoped entry, one per level.
const RULES_FOR_ALL: [&str; 3] = ["*", "*/*", "*/*/*"];

/// A runtime on disk that runs the bench's entries.
pub(super) struct Subject {
    pub(super) runtime: Runtime,
    tracker: Arc<Tracker>,
    names: Arc<Names>,
    producers: JoinSet<Result<(), BenchError>>,
}

/// Keys and scopes as text, created once.
struct Names {
    keys: Vec<String>,
    scopes: Vec<String>,
}

impl Subject {
    /// Starts a runtime in a new directory.
    pub(super) async fn start(
        data_dir: &Path,
        partitions: Option<u32>,
        tracker: &Arc<Tracker>,
    ) -> Result<Self, BenchError> {
        let handled = Arc::clone(tracker);
        let options = HandlerOptions {
            retry: RetryPolicy::NONE,
            // Keeps no results: only enqueue, dispatch and complete are measured.
            retention: Some(Duration::ZERO),
            ..HandlerOptions::default()
        };
        let mut builder = Runtime::builder().data_dir(data_dir).handler_with(
            SERVICE,
            options,
            move |_: Context, payload: Bytes| {
                let slot = handled.started(&payload);
                if let Some(slot) = slot {
                    handled.handled(slot);
                }
                let is_known = slot.is_some();
                async move {
                    if is_known {
                        Ok(())
                    } else {
                        Err(HandlerError::terminal("not an entry of this run"))
                    }
                }
            },
        );
        if let Some(partitions) = partitions {
            builder = builder.partitions(partitions);
        }
        let runtime = builder.start().await?;
        let shape = &tracker.shape;
        let tracked = if shape.tracks_keys() { shape.keys } else { 0 };
        let names = Names {
            keys: (0..tracked).map(|key| format!("key-{key}")).collect(),
            scopes: (0..shape.scopes).map(|scope| format!("scope-{scope}")).collect(),
        };
        if shape.rules > 0 {
            runtime.rules().change("bench", rules(shape.rules, &names)?).await?;
        }
        let producers = JoinSet::new();
        Ok(Self { runtime, tracker: Arc::clone(tracker), names: Arc::new(names), producers })
    }

    /// Starts the producers.
    pub(super) fn go(&mut self) {
        self.tracker.go();
        let shape = self.tracker.shape;
        for first in (0..shape.in_flight).step_by(shape.batch) {
            let producer = Producer {
                runtime: self.runtime.clone(),
                tracker: Arc::clone(&self.tracker),
                names: Arc::clone(&self.names),
                first,
                random: first as u64,
            };
            self.producers.spawn(producer.run());
        }
    }

    /// Stops the producers.
    ///
    /// # Errors
    /// The first error of any of them.
    pub(super) async fn stop(&mut self) -> Result<(), BenchError> {
        self.tracker.stop();
        while let Some(ended) = self.producers.join_next().await {
            ended.map_err(|panic| BenchError::Broken(panic.to_string()))??;
        }
        Ok(())
    }

    /// Waits for this long, or until a producer fails.
    ///
    /// # Errors
    /// The error of a producer.
    pub(super) async fn watch(&mut self, time: Duration) -> Result<(), BenchError> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            Some(ended) = self.producers.join_next() => match ended {
                Ok(Ok(())) => Err(BenchError::Broken("a producer ended early".to_owned())),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(BenchError::Broken(panic.to_string())),
            },
        }
    }
}

/// The configured number of rules: the ones for all entries first, then scope by scope, on all
/// three levels.
fn rules(count: u32, names: &Names) -> Result<Vec<RuleChange>, PatternError> {
    let mut patterns: Vec<String> = RULES_FOR_ALL.iter().map(ToString::to_string).collect();
    let mut scope = 0;
    while patterns.len() < count as usize {
        // Rules beyond the number of scopes only make the book longer.
        let name = names.scopes.get(scope).cloned().unwrap_or_else(|| format!("none-{scope}"));
        patterns.extend([name.clone(), format!("{name}/gold"), format!("{name}/{LIMIT_KEY}")]);
        scope += 1;
    }
    patterns.truncate(count as usize);
    let limits =
        Limits { concurrency: std::num::NonZeroU32::new(CONCURRENCY), ..Limits::default() };
    let patch = RulePatch::limits(limits);
    patterns
        .into_iter()
        .map(|pattern| {
            let pattern: Pattern = pattern.parse()?;
            Ok(RuleChange::new(pattern, Change::Create(patch.clone())))
        })
        .collect()
}

struct Producer {
    runtime: Runtime,
    tracker: Arc<Tracker>,
    names: Arc<Names>,
    /// Its first slot; it has one batch of slots.
    first: usize,
    random: u64,
}

impl Producer {
    async fn run(mut self) -> Result<(), BenchError> {
        let slots = self.first..self.first + self.tracker.shape.batch;
        while !self.tracker.is_over() {
            let entries = self.entries();
            self.tracker.called(slots.clone());
            let handles = match entries.len() {
                1 => {
                    let mut entries = entries;
                    let entry = entries.remove(0);
                    vec![self.runtime.enqueue(entry).await?]
                }
                _ => self.runtime.enqueue_batch(entries).await?,
            };
            self.tracker.acknowledged(slots.clone());
            if handles.len() != slots.len() || handles.iter().any(EntryHandle::was_existing) {
                self.tracker.wrong(|| "a batch was not stored as it was given".to_owned());
            }
            let outcomes = self.runtime.outcomes(&handles).await.map_err(ResultError::from)?;
            let ended = slots.clone().zip(outcomes).filter_map(|(slot, outcome)| match outcome {
                // It ended before the query, and no result is kept.
                None | Some(Outcome::Success(_)) => Some(slot),
                Some(other) => {
                    self.tracker.wrong(|| format!("an entry ended with {other:?}"));
                    None
                }
            });
            self.tracker.ended_durably(ended);
        }
        Ok(())
    }

    fn entries(&mut self) -> Vec<Entry> {
        let shape = self.tracker.shape;
        let number = self.tracker.numbers(shape.batch as u64);
        let mut entries = Vec::with_capacity(shape.batch);
        for (slot, number) in (self.first..).zip(number..number + shape.batch as u64) {
            let mut entry = Entry::to(SERVICE).payload(self.tracker.payload(slot, number));
            let key = self.pick(shape.keys).filter(|_| shape.tracks_keys());
            // A key belongs to one scope: in another one it would be another queue.
            let scope = match key {
                Some(key) => key.checked_rem(shape.scopes),
                None => self.pick(shape.scopes),
            };
            let text = |names: &[String], at: u64| names[usize::try_from(at).unwrap_or(0)].clone();
            if let Some(scope) = scope {
                entry = entry.scope(&text(&self.names.scopes, scope)).limit_key(LIMIT_KEY);
            }
            if let Some(key) = key {
                entry = entry.key(&text(&self.names.keys, key));
            } else if shape.keys > 0 {
                entry = entry.key(&number.to_string());
            }
            self.tracker.prepare(slot, number, key);
            entries.push(entry);
        }
        entries
    }

    /// A random one of this many (splitmix64); none of zero.
    fn pick(&mut self, count: u64) -> Option<u64> {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(count)
    }
}
