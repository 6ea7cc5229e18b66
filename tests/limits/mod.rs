//! Rules, limits and explanations on a whole runtime, as used by an application.

mod backlog;
mod explain;
mod in_force;
mod pauses;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::{Builder, Context, Entry, EntryHandle, Runtime};
use tokio::sync::Semaphore;

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Handlers that run until released, and are counted.
#[derive(Clone)]
struct Gate {
    permits: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(0)), running: Arc::default() }
    }

    /// A runtime whose service `gate` waits here.
    fn builder(&self) -> Builder {
        let gate = self.clone();
        Runtime::builder().handler("gate", move |_: Context, (): ()| {
            let gate = gate.clone();
            async move {
                gate.running.fetch_add(1, Ordering::SeqCst);
                let permit = gate.permits.acquire().await.map_err(forebay::HandlerError::retry)?;
                permit.forget();
                gate.running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Releases this many handlers.
    fn open(&self, count: usize) {
        self.permits.add_permits(count);
    }

    async fn until_running(&self, count: usize) {
        until("the expected number runs", || self.running() == count).await;
    }
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Enqueues an entry of service `gate`: `scope`, `scope/l1`, `scope/l1/l2`, followed by an optional
/// `#key`.
async fn enqueue(runtime: &Runtime, text: &str) -> EntryHandle {
    runtime.enqueue(entry(text)).await.unwrap()
}

fn entry(text: &str) -> Entry {
    let (limits, key) = text.split_once('#').map_or((text, None), |(l, k)| (l, Some(k)));
    let mut entry = Entry::to("gate");
    if !limits.is_empty() {
        let (scope, limit_key) =
            limits.split_once('/').map_or((limits, None), |(s, k)| (s, Some(k)));
        entry = entry.scope(scope);
        if let Some(limit_key) = limit_key {
            entry = entry.limit_key(limit_key);
        }
    }
    match key {
        Some(key) => entry.key(key),
        None => entry,
    }
}
