//! Requests by one peer to this node, over one connection.
//!
//! Must always hold: requests in flight are bounded in number and bytes, and further ones are
//! answered as busy; a handler's future is dropped at its deadline, when its request is cancelled
//! and when the connection ends.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::identity::Identity;
use crate::lane::{Incoming, LaneState, Outgoing, Slot};
use crate::limits::Limits;
use crate::service::Service;
use crate::wire::frame::{BadFrame, Frame, Status};

struct Asked {
    deadline: Instant,
    incoming: Incoming,
    /// Bytes of the request, later of its answer.
    bytes: usize,
    handler: Option<AbortHandle>,
}

struct Leaving {
    id: u64,
    status: Status,
    message: Outgoing,
}

/// Requests of one peer.
pub(crate) struct RequestServer {
    me: Weak<Slot<Self>>,
    peer: Arc<Identity>,
    service: Arc<dyn Service>,
    limits: Arc<Limits>,
    connection: u64,
    asked: BTreeMap<u64, Asked>,
    bytes: usize,
    out: VecDeque<Leaving>,
}

impl RequestServer {
    pub(crate) fn slot(
        peer: Arc<Identity>,
        service: Arc<dyn Service>,
        limits: Arc<Limits>,
    ) -> Arc<Slot<Self>> {
        Arc::new_cyclic(|me| {
            Slot::new(Self {
                me: Weak::clone(me),
                peer,
                service,
                limits,
                connection: 0,
                asked: BTreeMap::new(),
                bytes: 0,
                out: VecDeque::new(),
            })
        })
    }

    fn piece(&mut self, id: u64, is_last: bool, body: Bytes) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        if asked.handler.is_some() {
            return;
        }
        asked.bytes += body.len();
        self.bytes += body.len();
        if asked.bytes > self.limits.request_bytes_max {
            self.refuse(id, Status::TooLong);
        } else if self.bytes > self.limits.requests_bytes_max {
            self.refuse(id, Status::Busy);
        } else if let Some(body) = asked.incoming.add(body, is_last) {
            self.handle(id, body);
        }
    }

    fn refuse(&mut self, id: u64, status: Status) {
        self.forget(id);
        self.out.push_back(Leaving { id, status, message: Outgoing::new(Bytes::new()) });
    }

    fn forget(&mut self, id: u64) {
        if let Some(asked) = self.asked.remove(&id) {
            self.bytes -= asked.bytes;
            if let Some(handler) = asked.handler {
                handler.abort();
            }
        }
    }

    fn handle(&mut self, id: u64, body: Bytes) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        let (me, connection, deadline) = (Weak::clone(&self.me), self.connection, asked.deadline);
        let (service, peer) = (Arc::clone(&self.service), Arc::clone(&self.peer));
        let handler = tokio::spawn(async move {
            let answer = AssertUnwindSafe(async { service.request(peer, body).await });
            let answer = tokio::time::timeout_at(deadline, answer.catch_unwind()).await;
            let (status, body) = match answer {
                Ok(Ok(Ok(body))) => (Status::Done, body),
                Ok(Ok(Err(text))) => (Status::Failed, Bytes::from(text)),
                Ok(Err(_)) => (Status::Failed, Bytes::from_static(b"the handler panicked")),
                Err(_) => (Status::Late, Bytes::new()),
            };
            if let Some(slot) = me.upgrade() {
                slot.change_for(connection, |server| server.answer(id, status, body));
            }
        });
        asked.handler = Some(handler.abort_handle());
    }

    fn answer(&mut self, id: u64, status: Status, body: Bytes) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        self.bytes = self.bytes - asked.bytes + body.len();
        asked.bytes = body.len();
        if body.len() > self.limits.request_bytes_max {
            tracing::warn!(peer = %self.peer.name, bytes = body.len(), "an answer is too long");
            let text = Bytes::from_static(b"the answer is longer than the limit");
            self.out.push_back(Leaving {
                id,
                status: Status::Failed,
                message: Outgoing::new(text),
            });
        } else {
            self.out.push_back(Leaving { id, status, message: Outgoing::new(body) });
        }
    }

    /// Drops requests whose body is incomplete at their deadline.
    fn drop_late(&mut self) {
        let now = Instant::now();
        let late = self.asked.iter().filter(|(_, one)| one.handler.is_none() && one.deadline < now);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.forget(id);
        }
    }
}

impl LaneState for RequestServer {
    fn connected(&mut self, connection: u64) {
        self.connection = connection;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame> {
        match frame {
            Frame::Ask { id, within_ms, is_last, body } => {
                if self.asked.contains_key(&id) {
                    return Err(BadFrame("two requests have the same number"));
                }
                if self.asked.len() >= self.limits.requests_max {
                    self.drop_late();
                }
                if self.out.len() > 2 * self.limits.requests_max {
                    return Err(BadFrame("too many requests, and their answers are not read"));
                }
                if self.asked.len() >= self.limits.requests_max {
                    self.refuse(id, Status::Busy);
                    return Ok(());
                }
                let within = Duration::from_millis(within_ms.into());
                let deadline = Instant::now() + within.min(self.limits.request_time_max);
                let incoming = Incoming::default();
                self.asked.insert(id, Asked { deadline, incoming, bytes: 0, handler: None });
                self.piece(id, is_last, body);
            }
            // Pieces of a request that was refused or has ended are ignored.
            Frame::More { id, is_last, body } => self.piece(id, is_last, body),
            Frame::Cancel { id } => {
                self.forget(id);
                self.out.retain(|leaving| leaving.id != id);
            }
            _ => return Err(BadFrame("it belongs to another class of connections")),
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut BytesMut, room: usize) {
        while out.len() < room
            && let Some(mut leaving) = self.out.pop_front()
        {
            let piece = leaving.message.next(self.limits.frame_bytes_max);
            let (id, status) = (leaving.id, leaving.status);
            Frame::Answer { id, status, is_last: piece.is_last, body: piece.body }.encode(out);
            if piece.is_last {
                if let Some(asked) = self.asked.remove(&id) {
                    self.bytes -= asked.bytes;
                }
            } else {
                self.out.push_back(leaving);
            }
        }
    }

    fn has_frames(&self) -> bool {
        !self.out.is_empty()
    }

    fn closed(&mut self) {
        for id in self.asked.keys().copied().collect::<Vec<_>>() {
            self.forget(id);
        }
        self.out.clear();
    }
}
