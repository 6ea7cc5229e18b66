//! State of a connection class: one lane per peer and class, changed by plain calls.
//! [`crate::connection`] drives it.
//!
//! Must always hold: a lane belongs to at most one connection at a time; a call by an earlier
//! connection has no effect. No call of a lane blocks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;

use crate::wire::frame::{BadFrame, Frame};

pub(crate) mod bulk_client;
pub(crate) mod bulk_server;
pub(crate) mod heartbeats;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod request_client;
pub(crate) mod request_server;

/// The state of a lane.
pub(crate) trait LaneState: Send {
    /// A connection with this number was established.
    fn connected(&mut self, connection: u64);
    /// A frame arrived.
    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame>;
    /// Appends frames until none is left or `out` has at least `room` bytes.
    fn fill(&mut self, out: &mut BytesMut, room: usize);
    /// Whether [`Self::fill`] has frames to append.
    fn has_frames(&self) -> bool;
    /// The connection ended.
    fn closed(&mut self);
}

/// The interface of a lane for its connection.
pub(crate) trait Lane: Send + Sync {
    /// Assigns the lane to a new connection; returns its number.
    fn attach(&self) -> u64;
    /// See [`LaneState::receive`].
    fn receive(&self, connection: u64, frame: Frame) -> Result<(), BadFrame>;
    /// See [`LaneState::fill`].
    fn fill(&self, connection: u64, out: &mut BytesMut, room: usize);
    /// The connection ended.
    fn detach(&self, connection: u64);
    /// Notified when there may be something to send.
    fn wake(&self) -> &Notify;
}

/// A lane: its state, and the notification for its connection.
pub(crate) struct Slot<S> {
    state: Mutex<Inner<S>>,
    wake: Notify,
}

struct Inner<S> {
    attached: Option<u64>,
    connections: u64,
    state: S,
}

impl<S: LaneState> Slot<S> {
    pub(crate) fn new(state: S) -> Self {
        let inner = Inner { attached: None, connections: 0, state };
        Self { state: Mutex::new(inner), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the connection if there is something to send.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner.state);
        self.wake_from(inner);
        result
    }

    fn wake_from(&self, inner: MutexGuard<'_, Inner<S>>) {
        let has_frames = inner.state.has_frames();
        drop(inner);
        if has_frames {
            self.wake.notify_one();
        }
    }

    /// Changes the state on behalf of a connection, if it is still attached.
    pub(crate) fn change_for<R>(
        &self,
        connection: u64,
        change: impl FnOnce(&mut S) -> R,
    ) -> Option<R> {
        let mut inner = self.lock();
        let is_attached = inner.attached == Some(connection);
        let result = is_attached.then(|| change(&mut inner.state));
        self.wake_from(inner);
        result
    }

    /// Detaches the connection, if there is one.
    pub(crate) fn disconnect(&self) {
        let mut inner = self.lock();
        if inner.attached.take().is_some() {
            inner.state.closed();
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.lock().attached.is_some()
    }
}

impl<S: LaneState> Lane for Slot<S> {
    fn attach(&self) -> u64 {
        let mut inner = self.lock();
        if inner.attached.take().is_some() {
            inner.state.closed();
        }
        inner.connections += 1;
        let connection = inner.connections;
        inner.attached = Some(connection);
        inner.state.connected(connection);
        connection
    }

    fn receive(&self, connection: u64, frame: Frame) -> Result<(), BadFrame> {
        let mut inner = self.lock();
        if inner.attached != Some(connection) {
            return Ok(());
        }
        inner.state.receive(frame)?;
        self.wake_from(inner);
        Ok(())
    }

    fn fill(&self, connection: u64, out: &mut BytesMut, room: usize) {
        let mut inner = self.lock();
        if inner.attached == Some(connection) {
            inner.state.fill(out, room);
        }
    }

    fn detach(&self, connection: u64) {
        let mut inner = self.lock();
        if inner.attached == Some(connection) {
            inner.attached = None;
            inner.state.closed();
        }
    }

    fn wake(&self) -> &Notify {
        &self.wake
    }
}

/// A message that is sent in pieces.
pub(crate) struct Outgoing {
    body: bytes::Bytes,
    is_first: bool,
}

/// The next piece of a message.
pub(crate) struct Piece {
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
    pub(crate) body: bytes::Bytes,
}

impl Outgoing {
    pub(crate) fn new(body: bytes::Bytes) -> Self {
        Self { body, is_first: true }
    }

    pub(crate) fn next(&mut self, bytes_max: usize) -> Piece {
        let body = self.body.split_to(self.body.len().min(bytes_max));
        let is_first = std::mem::take(&mut self.is_first);
        Piece { is_first, is_last: self.body.is_empty(), body }
    }
}

/// A message that arrives in pieces.
#[derive(Default)]
pub(crate) struct Incoming(BytesMut);

impl Incoming {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a piece; the last one returns the message. A message of one piece is not copied.
    pub(crate) fn add(&mut self, piece: bytes::Bytes, is_last: bool) -> Option<bytes::Bytes> {
        if is_last && self.0.is_empty() {
            return Some(piece);
        }
        self.0.extend_from_slice(&piece);
        is_last.then(|| std::mem::take(&mut self.0).freeze())
    }

    pub(crate) fn clear(&mut self) {
        self.0 = BytesMut::new();
    }
}
