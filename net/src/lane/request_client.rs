//! Requests by this node to one peer, and their answers.
//!
//! Must always hold: a request is answered once; its number is never reused; a request that was
//! sent, even in part, is lost with its connection, and one that was not sent waits for the next
//! connection. Requests take turns, one piece each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::lane::{Incoming, LaneState, Outgoing};
use crate::limits::Limits;
use crate::wire::frame::{BadFrame, Frame, Status};

/// Why a request has no answer. Each variant says whether the peer may have handled it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// This node knows no peer of that name. The request was not sent.
    #[error("no node called {0} is known here")]
    UnknownPeer(String),
    /// The peer cannot be reached. The request was not sent.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// Too many requests or bytes are in flight. The peer did nothing.
    #[error("too many requests to the node are in flight: try again later")]
    Busy,
    /// The request is longer than the limit at either side. The peer did nothing.
    #[error("the request is longer than the limit")]
    TooLong,
    /// The connection was lost. The peer may have handled the request.
    #[error("the connection was lost before the answer: the node may have handled the request")]
    Lost,
    /// The deadline passed. The peer may have handled the request if it was sent.
    #[error("no answer came before the deadline")]
    Deadline {
        /// Whether a part of it was sent.
        was_sent: bool,
    },
    /// The peer's handler failed.
    #[error("{0}")]
    Failed(String),
    /// The network of this node was stopped.
    #[error("the network of this node is stopped")]
    Stopped,
}

type Reply = oneshot::Sender<Result<Bytes, RequestError>>;

struct Pending {
    reply: Reply,
    deadline: Instant,
    out: Option<Outgoing>,
    was_sent: bool,
    answer: Incoming,
    bytes: usize,
}

/// Requests to one peer.
pub(crate) struct RequestClient {
    limits: Arc<Limits>,
    is_connected: bool,
    is_stopped: bool,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    bytes: usize,
    turns: VecDeque<u64>,
    cancels: VecDeque<u64>,
}

impl RequestClient {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            limits,
            is_connected: false,
            is_stopped: false,
            next_id: 1,
            pending: BTreeMap::new(),
            bytes: 0,
            turns: VecDeque::new(),
            cancels: VecDeque::new(),
        }
    }

    /// Whether a request waits for a connection.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn start(
        &mut self,
        body: Bytes,
        deadline: Instant,
        reply: Reply,
    ) -> Result<u64, RequestError> {
        if self.is_stopped {
            return Err(RequestError::Stopped);
        }
        if body.len() > self.limits.request_bytes_max {
            return Err(RequestError::TooLong);
        }
        let is_full = self.pending.len() >= self.limits.requests_max
            || self.bytes + body.len() > self.limits.requests_bytes_max;
        if is_full {
            return Err(RequestError::Busy);
        }
        let (id, bytes) = (self.next_id, body.len());
        self.next_id += 1;
        self.bytes += bytes;
        let (out, answer) = (Some(Outgoing::new(body)), Incoming::default());
        self.pending.insert(id, Pending { reply, deadline, out, was_sent: false, answer, bytes });
        self.turns.push_back(id);
        Ok(id)
    }

    /// The caller dropped the request. Returns whether a part of it was sent.
    pub(crate) fn cancel(&mut self, id: u64) -> bool {
        let Some(pending) = self.remove(id) else { return false };
        if pending.was_sent && self.is_connected {
            self.cancels.push_back(id);
        }
        pending.was_sent
    }

    /// No connection can be made: fails the waiting requests.
    pub(crate) fn fail_waiting(&mut self, error: &RequestError) {
        for id in self.pending.keys().copied().collect::<Vec<_>>() {
            self.answer(id, Err(error.clone()));
        }
    }

    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
        self.fail_waiting(&RequestError::Stopped);
    }

    fn remove(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.bytes -= pending.bytes;
        Some(pending)
    }

    fn answer(&mut self, id: u64, answer: Result<Bytes, RequestError>) {
        if let Some(pending) = self.remove(id) {
            // The caller may have dropped the request.
            let _ = pending.reply.send(answer);
        }
    }

    fn received(
        &mut self,
        id: u64,
        status: Status,
        is_last: bool,
        body: Bytes,
    ) -> Result<(), BadFrame> {
        let Some(pending) = self.pending.get_mut(&id) else { return Ok(()) };
        if pending.answer.len() + body.len() > self.limits.request_bytes_max {
            return Err(BadFrame("an answer is too long"));
        }
        if let Some(body) = pending.answer.add(body, is_last) {
            let text = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
            self.answer(
                id,
                match status {
                    Status::Done => Ok(body),
                    Status::Failed => Err(RequestError::Failed(text(&body))),
                    Status::Busy => Err(RequestError::Busy),
                    Status::TooLong => Err(RequestError::TooLong),
                    Status::Late => Err(RequestError::Deadline { was_sent: true }),
                },
            );
        }
        Ok(())
    }
}

impl LaneState for RequestClient {
    fn connected(&mut self, _connection: u64) {
        self.is_connected = true;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame> {
        match frame {
            Frame::Answer { id, status, is_last, body } => self.received(id, status, is_last, body),
            _ => Err(BadFrame("it belongs to another class of connections")),
        }
    }

    fn fill(&mut self, out: &mut BytesMut, room: usize) {
        while let Some(id) = self.cancels.pop_front() {
            Frame::Cancel { id }.encode(out);
        }
        while out.len() < room
            && let Some(id) = self.turns.pop_front()
        {
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            let Some(message) = &mut pending.out else { continue };
            let piece = message.next(self.limits.frame_bytes_max);
            let (is_last, body) = (piece.is_last, piece.body);
            pending.was_sent = true;
            if piece.is_first {
                let left = pending.deadline.saturating_duration_since(Instant::now());
                let within_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
                Frame::Ask { id, within_ms, is_last, body }.encode(out);
            } else {
                Frame::More { id, is_last, body }.encode(out);
            }
            if is_last {
                pending.out = None;
            } else {
                self.turns.push_back(id);
            }
        }
    }

    fn has_frames(&self) -> bool {
        !self.turns.is_empty() || !self.cancels.is_empty()
    }

    fn closed(&mut self) {
        self.is_connected = false;
        self.cancels.clear();
        let sent = self.pending.iter().filter(|(_, pending)| pending.was_sent);
        for id in sent.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.answer(id, Err(RequestError::Lost));
        }
        self.turns.retain(|id| self.pending.contains_key(id));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(limits: Limits) -> RequestClient {
        RequestClient::new(Arc::new(limits))
    }

    fn start(
        client: &mut RequestClient,
        len: usize,
    ) -> Result<oneshot::Receiver<Result<Bytes, RequestError>>, RequestError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(5);
        client.start(Bytes::from(vec![1; len]), deadline, reply).map(|_| answer)
    }

    #[test]
    fn requests_in_flight_are_bounded_in_number_and_bytes() {
        let limits = Limits { requests_max: 2, requests_bytes_max: 10, ..Limits::default() };
        let mut client = client(Limits { request_bytes_max: 9, ..limits });
        assert_eq!(start(&mut client, 10).unwrap_err(), RequestError::TooLong);
        let _first = start(&mut client, 9).unwrap();
        assert_eq!(start(&mut client, 9).unwrap_err(), RequestError::Busy);
        let _second = start(&mut client, 1).unwrap();
        assert_eq!(start(&mut client, 0).unwrap_err(), RequestError::Busy);
        client.cancel(1);
        start(&mut client, 9).unwrap();
    }

    #[test]
    fn a_lost_connection_answers_what_was_sent_and_keeps_what_was_not() {
        let mut client = client(Limits { frame_bytes_max: 4, ..Limits::default() });
        client.connected(1);
        let mut sent = start(&mut client, 8).unwrap();
        client.fill(&mut BytesMut::new(), 1);
        let mut waits = start(&mut client, 2).unwrap();
        client.closed();
        assert_eq!(sent.try_recv().unwrap(), Err(RequestError::Lost));
        assert!(waits.try_recv().is_err());
        client.connected(2);
        let mut out = BytesMut::new();
        client.fill(&mut out, 1 << 10);
        let frame = Frame::decode(out.split_off(4).freeze()).unwrap();
        let Frame::Ask { id, is_last, .. } = frame else { panic!("{frame:?}") };
        assert_eq!((id, is_last), (2, true));
        let answer = |id| Frame::Answer {
            id,
            status: Status::Done,
            is_last: true,
            body: Bytes::from_static(b"y"),
        };
        client.receive(answer(1)).unwrap();
        client.receive(answer(2)).unwrap();
        assert_eq!(waits.try_recv().unwrap(), Ok(Bytes::from_static(b"y")));
        assert_eq!(client.bytes, 0);
    }
}
