//! Showing how far a run is, beside the run: whatever it is busy with.
//!
//! Must always hold: what holds items back is asked for a few times a second at most, and
//! takes a small share of the time. Must not know: how items run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::Runtime;
use forebay_actors::node::{EntryFilter, HeldBy};
use tokio::task::JoinHandle;

use super::{progress::View, runner::Runner, runs::SERVICE, screen::Screen};

/// How often the progress is shown at most.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often it is asked what holds items back, at most.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// It is asked so seldom that it takes at most one part in so many of the time.
const ASK_SHARE: u32 = 50;

/// How many lines of the input have been read, written by the thread that reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinesRead(Arc<AtomicU64>);

impl LinesRead {
    pub(super) fn set(&self, lines: u64) {
        self.0.store(lines, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Shows the progress of a run until it is dropped.
pub(super) struct Shown {
    task: JoinHandle<()>,
    asked: tokio::sync::watch::Sender<Option<Runtime>>,
}

impl Shown {
    /// Begins to. What holds items back is told once there is a runtime.
    pub(super) fn start(screen: Screen, runner: Arc<Runner>, lines: LinesRead) -> Self {
        let (asked, runtime) = tokio::sync::watch::channel(None);
        let show = async move {
            let (mut held, mut has_begun) = (Held::default(), false);
            let mut tick = tokio::time::interval(SHOW_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let is_read = runner.progress().is_read();
                let runtime = runtime.borrow().clone();
                // Before there is one, the directory may turn out to be in use.
                has_begun |= runtime.is_some();
                if !screen.wants(runner.elapsed(), is_read, has_begun) {
                    continue;
                }
                held.ask(runtime.as_ref()).await;
                let elapsed = runner.elapsed();
                let view = runner.progress().view(elapsed);
                let reading = (!is_read).then(|| lines.get());
                // What is paused has no end in sight.
                let eta = view.eta.filter(|_| !held.is_paused);
                let view = View { reading, eta, held: held.told.clone(), ..view };
                // Nobody may read it: that is to hold up nothing else on this thread.
                tokio::task::block_in_place(|| screen.show(&view, elapsed));
            }
        };
        Self { task: tokio::spawn(show), asked }
    }

    /// The runtime that knows what holds items back, until it is to go down.
    pub(super) fn set_runtime(&self, runtime: Option<Runtime>) {
        self.asked.send_replace(runtime);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What holds items back, as it was last seen.
struct Held {
    told: Vec<(u64, String)>,
    /// Some of it is paused.
    is_paused: bool,
    ask_at: Instant,
}

impl Default for Held {
    fn default() -> Self {
        Self { told: Vec::new(), is_paused: false, ask_at: Instant::now() + ASK_EVERY }
    }
}

impl Held {
    async fn ask(&mut self, runtime: Option<&Runtime>) {
        let begun = Instant::now();
        let Some(runtime) = runtime.filter(|_| begun >= self.ask_at) else { return };
        let filter =
            EntryFilter { service: Some(format!("{SERVICE}.*")), ..EntryFilter::default() };
        // It goes down: nothing is held back any more.
        let held = runtime.node().holdups(filter).await.unwrap_or_default();
        self.is_paused = held.contains_key(&HeldBy::Pause);
        self.told = words(held);
        let ended = Instant::now();
        self.ask_at = ended + ASK_EVERY.max((ended - begun) * ASK_SHARE);
    }
}

/// The reasons in words, the one of most items first.
fn words(held: BTreeMap<HeldBy, u64>) -> Vec<(u64, String)> {
    let mut told: Vec<(u64, String)> =
        held.into_iter().map(|(by, count)| (count, in_words(&by))).collect();
    told.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    told
}

fn in_words(by: &HeldBy) -> String {
    match by {
        HeldBy::Pause => "paused".to_owned(),
        HeldBy::Concurrency { pattern, limit } => format!("wait for {pattern}={limit}"),
        HeldBy::Rate { pattern } => format!("wait for the rate of {pattern}"),
        HeldBy::Lock => "wait for their --key".to_owned(),
        HeldBy::Time => "wait for their time".to_owned(),
        HeldBy::Capacity => "wait for --jobs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, HeldBy, words};

    #[test]
    fn the_reason_of_most_items_comes_first() {
        let limit = HeldBy::Concurrency { pattern: "acme".to_owned(), limit: 3 };
        let held = BTreeMap::from([(HeldBy::Pause, 2), (limit, 12), (HeldBy::Capacity, 6)]);
        let told = ["12 wait for acme=3", "6 wait for --jobs", "2 paused"];
        let words = words(held).into_iter().map(|(count, why)| format!("{count} {why}"));
        assert_eq!(words.collect::<Vec<_>>(), told);
    }
}
