//! Events of a node, for readers that follow them live.
//!
//! Must always hold: publishing never blocks and, without readers, costs one load of a number; the
//! memory of all readers together is bounded, however slow they are: one that is more than
//! [`EVENTS_KEPT`] events behind misses some, and gets their number. Must not know: what readers
//! want.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use forebay_api::{Event, EventEntry, EventKind, ReplicaRole};
use forebay_engine::leadership::Role;
use forebay_messages::{EntryId, PartitionId, VQueueName};
use tokio::sync::broadcast::{self, error::RecvError};

/// Number of the last events that are kept for slow readers, about 1 MiB.
pub const EVENTS_KEPT: usize = 4_096;

/// The events of a node.
#[derive(Default)]
pub(crate) struct Events {
    readers: AtomicUsize,
    /// Made for the first reader.
    sender: OnceLock<broadcast::Sender<Arc<Event>>>,
}

impl Events {
    /// Whether anything reads events.
    pub(crate) fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Passes an event to all readers.
    pub(crate) fn publish(&self, event: Event) {
        if let Some(sender) = self.sender.get() {
            // It fails when the last reader has just left.
            let _ = sender.send(Arc::new(event));
        }
    }

    /// The events from now on.
    pub(crate) fn subscribe(self: &Arc<Self>) -> EventStream {
        let sender = self.sender.get_or_init(|| broadcast::channel(EVENTS_KEPT).0);
        let receiver = sender.subscribe();
        self.readers.fetch_add(1, Ordering::Relaxed);
        EventStream { receiver, events: Arc::clone(self) }
    }
}

/// An entry of a vqueue with this name; without one its rows are gone already.
pub(crate) fn entry_of(id: EntryId, name: Option<&VQueueName>) -> EventEntry {
    let Some(name) = name else {
        return EventEntry { id, service: None, scope: None, limit_key: None };
    };
    EventEntry {
        id,
        service: Some(name.service.to_string()),
        scope: name.scope.as_ref().map(ToString::to_string),
        limit_key: name.l1.is_some().then(|| name.limit_key()),
    }
}

/// A replica has this role now.
pub(crate) fn role_event(partition: PartitionId, role: &Role) -> EventKind {
    let (role, epoch) = match role {
        Role::Follower => (ReplicaRole::Follower, None),
        Role::Candidate { epoch } => (ReplicaRole::Candidate, Some(epoch.0)),
        Role::Leader { epoch, .. } => (ReplicaRole::Leader, Some(epoch.0)),
    };
    EventKind::Leader { partition, role, epoch }
}

/// The events of a runtime, from the moment it was made. Dropping it ends the subscription.
pub struct EventStream {
    receiver: broadcast::Receiver<Arc<Event>>,
    events: Arc<Events>,
}

/// What a reader gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextEvent {
    /// An event.
    Event(Arc<Event>),
    /// The reader was too slow and missed this many events: what it knows may be out of date.
    Missed(u64),
}

impl EventStream {
    /// The next event; `None` when the runtime is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<NextEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(NextEvent::Event(event)),
            Err(RecvError::Lagged(count)) => Some(NextEvent::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.events.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64) -> Event {
        Event { at, kind: EventKind::Rules { partition: PartitionId(0), version: at } }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_number_of_missed_events_and_continues() {
        let events = Arc::new(Events::default());
        assert!(!events.has_readers());
        events.publish(event(0));
        let (mut slow, mut quick) = (events.subscribe(), events.subscribe());
        assert!(events.has_readers());
        for at in 1..=EVENTS_KEPT as u64 + 10 {
            events.publish(event(at));
            assert_eq!(quick.next().await, Some(NextEvent::Event(Arc::new(event(at)))));
        }
        assert_eq!(slow.next().await, Some(NextEvent::Missed(10)));
        assert_eq!(slow.next().await, Some(NextEvent::Event(Arc::new(event(11)))));
        drop((slow, quick));
        assert!(!events.has_readers());
    }
}
