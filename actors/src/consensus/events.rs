//! What happened to this node and its group: kept for display, and written to the log.
//!
//! Must always hold: events are numbered in their order; the last [`EVENTS_MAX`] are kept, in
//! memory only: they begin with the process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_api::ClusterEventView;
use tokio::sync::watch;

use super::METADATA_GROUP;

/// Events that are kept.
const EVENTS_MAX: usize = 1024;

/// The events of a node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Events(Arc<Inner>);

struct Inner {
    node: String,
    kept: Mutex<Kept>,
    /// Number of the last one.
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    events: VecDeque<ClusterEventView>,
}

impl Events {
    pub(super) fn new(node: &str) -> Self {
        let (kept, last) = (Mutex::default(), watch::Sender::new(0));
        Self(Arc::new(Inner { node: node.to_owned(), kept, last }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that is in order.
    pub(super) fn note(&self, kind: &'static str, segment: Option<u64>, text: String) {
        let node = &self.0.node;
        tracing::info!(%node, group = METADATA_GROUP, segment, kind, "{text}");
        self.keep(kind, false, segment, text);
    }

    /// Something that a person may have to act on.
    pub(super) fn warn(&self, kind: &'static str, segment: Option<u64>, text: String) {
        let node = &self.0.node;
        tracing::warn!(%node, group = METADATA_GROUP, segment, kind, "{text}");
        self.keep(kind, true, segment, text);
    }

    fn keep(&self, kind: &'static str, is_warning: bool, segment: Option<u64>, text: String) {
        let mut kept = self.kept();
        kept.last += 1;
        let (number, kind) = (kept.last, kind.to_owned());
        let event = ClusterEventView { number, at_ms: unix_ms(), kind, is_warning, segment, text };
        kept.events.push_back(event);
        if kept.events.len() > EVENTS_MAX {
            kept.events.pop_front();
        }
        drop(kept);
        self.0.last.send_replace(number);
    }

    /// The kept events after this number.
    pub(super) fn after(&self, number: u64) -> Vec<ClusterEventView> {
        self.kept().events.iter().filter(|event| event.number > number).cloned().collect()
    }

    /// As [`Self::after`]; waits this long until there are some.
    pub(super) async fn wait_after(&self, number: u64, within: Duration) -> Vec<ClusterEventView> {
        let mut last = self.0.last.subscribe();
        let waiting = last.wait_for(|last| *last > number);
        let _ = tokio::time::timeout(within, waiting).await;
        self.after(number)
    }
}

/// Milliseconds since 1970, by the wall clock.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_events_are_kept_and_waited_for() {
        let events = Events::new("a");
        for number in 0..EVENTS_MAX + 2 {
            events.note("test", Some(1), number.to_string());
        }
        let all = events.after(0);
        assert_eq!((all.len(), all[0].number, all[0].text.as_str()), (EVENTS_MAX, 3, "2"));
        let last = all[EVENTS_MAX - 1].number;
        assert!(events.wait_after(last, Duration::from_millis(1)).await.is_empty());
        let waiting = tokio::spawn({
            let events = events.clone();
            async move { events.wait_after(last, Duration::from_secs(60)).await }
        });
        events.warn("test", None, "late".to_owned());
        let late = waiting.await.unwrap();
        assert_eq!((late.len(), late[0].is_warning, late[0].segment), (1, true, None));
    }
}
