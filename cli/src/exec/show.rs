//! Shows the progress of a run, independently of the run's own work.
//!
//! Must always hold: the reasons why items wait are queried a few times a second at most, and take
//! a small share of the time. Must not know: how items run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::Runtime;
use forebay_actors::inspect::HeldBy;
use forebay_api::EntryFilter;
use tokio::task::JoinHandle;

use super::{progress::View, runner::Runner, screen::Screen};

/// Minimum interval between displays.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Minimum interval between queries of why items wait.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Queries take at most one part in this many of the time.
const ASK_SHARE: u32 = 50;

/// Number of input lines read, written by the thread that reads them.
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

/// The runs whose waiting items are shown.
#[derive(Clone)]
pub(super) struct Served {
    /// For querying why they wait.
    pub(super) runtime: Runtime,
    /// The services of the served runs.
    pub(super) services: Vec<String>,
    /// Number of their items that were set aside, because the input does not name them: they are
    /// not part of the progress.
    pub(super) aside: u64,
}

/// Shows the progress of a run until it is dropped.
pub(super) struct Shown {
    task: JoinHandle<()>,
    asked: tokio::sync::watch::Sender<Option<Served>>,
}

impl Shown {
    /// Starts. Reasons to wait are shown once there is a runtime.
    pub(super) fn start(screen: Screen, runner: Arc<Runner>, lines: LinesRead) -> Self {
        let (asked, served) = tokio::sync::watch::channel(None);
        let show = async move {
            let (mut held, mut has_begun) = (Held::default(), false);
            let mut tick = tokio::time::interval(SHOW_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let is_read = runner.progress().is_read();
                let served = served.borrow().clone();
                // Before there is one, the directory may turn out to be in use.
                has_begun |= served.is_some();
                if !screen.wants(runner.elapsed(), is_read, has_begun) {
                    continue;
                }
                held.ask(served).await;
                let elapsed = runner.elapsed();
                let view = runner.progress().view(elapsed);
                let reading = (!is_read).then(|| lines.get());
                // Paused items have no end in sight.
                let eta = view.eta.filter(|_| !held.is_paused);
                let view = View { reading, eta, held: held.reasons.clone(), ..view };
                // It may block without a reader: that must delay nothing else on this thread.
                tokio::task::block_in_place(|| screen.show(&view, elapsed));
            }
        };
        Self { task: tokio::spawn(show), asked }
    }

    /// From now on shows why items of these services wait.
    pub(super) fn set_served(&self, served: Option<Served>) {
        self.asked.send_replace(served);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why items wait, as of the last query.
struct Held {
    reasons: Vec<(u64, String)>,
    /// Some of them are paused.
    is_paused: bool,
    ask_at: Instant,
}

impl Default for Held {
    fn default() -> Self {
        Self { reasons: Vec::new(), is_paused: false, ask_at: Instant::now() + ASK_EVERY }
    }
}

impl Held {
    async fn ask(&mut self, served: Option<Served>) {
        let begun = Instant::now();
        let Some(served) = served.filter(|_| begun >= self.ask_at) else { return };
        let Served { runtime, services, mut aside } = served;
        let mut held: BTreeMap<HeldBy, u64> = BTreeMap::new();
        for service in services {
            let filter = EntryFilter { service: Some(service), ..EntryFilter::default() };
            // The runtime shuts down: nothing waits any more.
            for (by, entries) in runtime.node().inspect().holdups(filter).await.unwrap_or_default()
            {
                *held.entry(by).or_default() += entries;
            }
        }
        for by in [HeldBy::Pause, HeldBy::Time] {
            let Some(count) = held.get_mut(&by) else { continue };
            let aside_of_count = aside.min(*count);
            (*count, aside) = (*count - aside_of_count, aside - aside_of_count);
        }
        held.retain(|_, count| *count > 0);
        self.is_paused = held.contains_key(&HeldBy::Pause);
        self.reasons = words(held);
        let ended = Instant::now();
        self.ask_at = ended + ASK_EVERY.max((ended - begun) * ASK_SHARE);
    }
}

/// The reasons in words, the most frequent first.
fn words(held: BTreeMap<HeldBy, u64>) -> Vec<(u64, String)> {
    let mut reasons: Vec<(u64, String)> =
        held.into_iter().map(|(by, count)| (count, in_words(&by))).collect();
    reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    reasons
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
        let reasons = ["12 wait for acme=3", "6 wait for --jobs", "2 paused"];
        let words = words(held).into_iter().map(|(count, why)| format!("{count} {why}"));
        assert_eq!(words.collect::<Vec<_>>(), reasons);
    }
}
