//! Handlers with a journal: steps, sleeps, joins, suspension, changed code.

mod cancel;
mod children;
mod errors;
mod faults;
mod pause;
mod promises;
mod replay;
mod suspend;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use forebay::{
    Entry, EntryHandle, FailureKind, HandlerError, Outcome, Stage, testkit::TestRuntime,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Counts and notes what handlers do, in all attempts.
#[derive(Clone, Default)]
struct Seen {
    counts: Arc<Mutex<std::collections::BTreeMap<String, u32>>>,
    notes: Arc<Mutex<Vec<String>>>,
    attempts: Arc<AtomicU32>,
}

impl Seen {
    /// One more; returns how many that were.
    fn count(&self, what: &str) -> u32 {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(what.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn counted(&self, what: &str) -> u32 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    fn note(&self, what: impl Into<String>) {
        self.notes.lock().unwrap().push(what.into());
    }

    fn noted(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap())
    }

    fn attempt(&self) -> u32 {
        self.attempts.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::SeqCst)
    }

    /// A step that computes a number that differs each time.
    async fn fresh(&self, what: &str) -> Result<u32, HandlerError> {
        Ok(self.count(what))
    }
}

fn stage(app: &mut TestRuntime, entry: &EntryHandle) -> Stage {
    let runtime = app.runtime();
    app.run(runtime.explain(entry.id())).unwrap().unwrap().entry.stage
}

fn success(outcome: Outcome) -> String {
    match outcome {
        Outcome::Success(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Outcome::Failure(failure) => panic!("{failure:?}"),
    }
}

fn failure(outcome: Outcome) -> (FailureKind, String) {
    match outcome {
        Outcome::Success(bytes) => panic!("it succeeded: {bytes:?}"),
        Outcome::Failure(failure) => (failure.kind, failure.message.to_string()),
    }
}

fn order() -> Entry {
    Entry::to("order").payload("null")
}
