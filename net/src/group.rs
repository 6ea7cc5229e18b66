//! Events for the application of a group: sessions that begin and end, messages, heartbeats.
//!
//! Must always hold: the queue is bounded per peer, in messages and bytes; the messages of a
//! session come between its `Connected` and its `Disconnected`, in order. A session that ended
//! before its `Connected` was received leaves no event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::identity::NodeName;
use crate::limits::Limits;

/// An event for the application of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session with a peer began; its number is the same at both ends, and greater than that of
    /// every earlier session of this link.
    Connected {
        /// The peer.
        peer: NodeName,
        /// Its number.
        session: u64,
    },
    /// The session ended; messages in flight in either direction are lost.
    Disconnected {
        /// The peer.
        peer: NodeName,
        /// Its number.
        session: u64,
    },
    /// A message of the session, in order and without gaps.
    Message {
        /// The peer.
        peer: NodeName,
        /// The session.
        session: u64,
        /// The content.
        body: Bytes,
    },
    /// A piece of a long message arrived; the message follows when it is complete.
    Progress {
        /// The peer.
        peer: NodeName,
    },
    /// A heartbeat. It needs no session, and earlier ones may have been dropped.
    Heartbeat {
        /// The peer.
        peer: NodeName,
        /// The content.
        body: Bytes,
    },
}

/// A link's queue is full: its session must end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Default)]
struct PeerQueue {
    is_ready: bool,
    ended: Option<u64>,
    begins: Option<u64>,
    /// The session of the queued messages.
    session: u64,
    messages: VecDeque<Bytes>,
    bytes: usize,
    heartbeats: VecDeque<Bytes>,
    has_progress: bool,
}

impl PeerQueue {
    fn is_empty(&self) -> bool {
        let has_session = self.ended.is_some() || self.begins.is_some();
        !has_session && self.messages.is_empty() && self.heartbeats.is_empty() && !self.has_progress
    }

    fn next(&mut self, peer: &NodeName) -> Option<Event> {
        let peer = peer.clone();
        if let Some(session) = self.ended.take() {
            return Some(Event::Disconnected { peer, session });
        }
        if let Some(session) = self.begins.take() {
            return Some(Event::Connected { peer, session });
        }
        if let Some(body) = self.heartbeats.pop_front() {
            return Some(Event::Heartbeat { peer, body });
        }
        if std::mem::take(&mut self.has_progress) {
            return Some(Event::Progress { peer });
        }
        let body = self.messages.pop_front()?;
        self.bytes -= body.len();
        Some(Event::Message { peer, session: self.session, body })
    }
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeName, PeerQueue>,
    /// Peers with events, in turn.
    ready: VecDeque<NodeName>,
}

impl State {
    fn change<R>(&mut self, peer: &NodeName, change: impl FnOnce(&mut PeerQueue) -> R) -> R {
        let queue = self.peers.entry(peer.clone()).or_default();
        let result = change(queue);
        if !queue.is_empty() && !queue.is_ready {
            queue.is_ready = true;
            self.ready.push_back(peer.clone());
        }
        result
    }

    fn next(&mut self) -> Option<Event> {
        while let Some(peer) = self.ready.pop_front() {
            let Some(queue) = self.peers.get_mut(&peer) else { continue };
            let event = queue.next(&peer);
            queue.is_ready = !queue.is_empty();
            if queue.is_ready {
                self.ready.push_back(peer);
            }
            if event.is_some() {
                return event;
            }
        }
        None
    }
}

/// The event queue of a group's application.
pub(crate) struct GroupQueue {
    state: Mutex<State>,
    wake: Notify,
    messages_max: usize,
    bytes_max: usize,
    heartbeats_max: usize,
}

impl GroupQueue {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            messages_max: limits.link_messages_max,
            bytes_max: limits.link_bytes_max,
            heartbeats_max: limits.heartbeats_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, peer: &NodeName, change: impl FnOnce(&mut PeerQueue) -> R) -> R {
        let result = self.lock().change(peer, change);
        self.wake.notify_one();
        result
    }

    pub(crate) fn begin(&self, peer: &NodeName, session: u64) {
        self.change(peer, |queue| {
            queue.begins = Some(session);
            queue.session = session;
        });
    }

    pub(crate) fn end(&self, peer: &NodeName, session: u64) {
        self.change(peer, |queue| {
            queue.messages.clear();
            queue.messages.shrink_to(0);
            queue.bytes = 0;
            queue.has_progress = false;
            if queue.begins.take().is_none() {
                queue.ended = Some(session);
            }
        });
    }

    pub(crate) fn message(&self, peer: &NodeName, body: Bytes) -> Result<(), Full> {
        self.change(peer, |queue| {
            let is_full = queue.messages.len() >= self.messages_max
                || queue.bytes.saturating_add(body.len()) > self.bytes_max;
            if is_full {
                return Err(Full);
            }
            queue.bytes += body.len();
            queue.messages.push_back(body);
            Ok(())
        })
    }

    pub(crate) fn progress(&self, peer: &NodeName) {
        self.change(peer, |queue| queue.has_progress = true);
    }

    pub(crate) fn heartbeat(&self, peer: &NodeName, body: Bytes) {
        self.change(peer, |queue| {
            if queue.heartbeats.len() >= self.heartbeats_max {
                queue.heartbeats.pop_front();
            }
            queue.heartbeats.push_back(body);
        });
    }

    pub(crate) fn forget(&self, peer: &NodeName) {
        self.lock().peers.remove(peer);
    }

    pub(crate) fn try_next(&self) -> Option<Event> {
        self.lock().next()
    }

    /// Waits for an event. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&self) -> Event {
        loop {
            let notified = self.wake.notified();
            if let Some(event) = self.try_next() {
                return event;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(messages_max: usize) -> (GroupQueue, NodeName) {
        let limits = Limits {
            link_messages_max: messages_max,
            link_bytes_max: 10,
            heartbeats_max: 2,
            ..Limits::default()
        };
        (GroupQueue::new(&limits), "a".parse().unwrap())
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_full_queue_refuses_by_messages_and_by_bytes() {
        let (queue, a) = queue(2);
        queue.begin(&a, 1);
        assert_eq!(queue.message(&a, bytes("12345678901")), Err(Full));
        assert_eq!(queue.message(&a, bytes("1")), Ok(()));
        assert_eq!(queue.message(&a, bytes("1")), Ok(()));
        assert_eq!(queue.message(&a, bytes("1")), Err(Full));
    }

    #[test]
    fn an_unread_session_that_ended_leaves_no_trace() {
        let (queue, a) = queue(2);
        for session in 1..1000 {
            queue.begin(&a, session);
            queue.message(&a, bytes("1")).unwrap();
            queue.end(&a, session);
        }
        assert_eq!(queue.try_next(), None);
    }

    #[test]
    fn a_session_that_was_read_ends_before_the_next_one_begins() {
        let (queue, a) = queue(2);
        queue.begin(&a, 1);
        let connected = |session| Some(Event::Connected { peer: a.clone(), session });
        assert_eq!(queue.try_next(), connected(1));
        queue.message(&a, bytes("old")).unwrap();
        queue.end(&a, 1);
        queue.begin(&a, 2);
        queue.message(&a, bytes("new")).unwrap();
        let ended = Event::Disconnected { peer: a.clone(), session: 1 };
        assert_eq!(queue.try_next(), Some(ended));
        assert_eq!(queue.try_next(), connected(2));
        let message = Event::Message { peer: a.clone(), session: 2, body: bytes("new") };
        assert_eq!(queue.try_next(), Some(message));
        assert_eq!(queue.try_next(), None);
    }

    #[test]
    fn the_oldest_heartbeats_are_dropped() {
        let (queue, a) = queue(2);
        for text in ["1", "2", "3"] {
            queue.heartbeat(&a, bytes(text));
        }
        let heartbeat = |text| Some(Event::Heartbeat { peer: a.clone(), body: bytes(text) });
        assert_eq!(queue.try_next(), heartbeat("2"));
        assert_eq!(queue.try_next(), heartbeat("3"));
        assert_eq!(queue.try_next(), None);
    }
}
