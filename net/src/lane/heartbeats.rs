//! Heartbeats to and from one peer, of all groups, on a connection of their own.
//!
//! Must always hold: the queue is bounded per group; the oldest heartbeat is dropped, because a
//! newer one replaces it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::group::GroupQueue;
use crate::identity::NodeName;
use crate::lane::LaneState;
use crate::limits::Limits;
use crate::wire::frame::{BadFrame, Frame};

/// Heartbeats of all groups to one peer.
pub(crate) struct Heartbeats {
    peer: NodeName,
    limits: Arc<Limits>,
    is_connected: bool,
    queues: BTreeMap<u32, Arc<GroupQueue>>,
    out: BTreeMap<u32, VecDeque<Bytes>>,
}

impl Heartbeats {
    pub(crate) fn new(peer: NodeName, limits: Arc<Limits>) -> Self {
        let (queues, out) = (BTreeMap::new(), BTreeMap::new());
        Self { peer, limits, is_connected: false, queues, out }
    }

    pub(crate) fn want(&mut self, group: u32, queue: Arc<GroupQueue>) {
        self.queues.insert(group, queue);
    }

    pub(crate) fn leave(&mut self, group: u32) {
        self.queues.remove(&group);
        self.out.remove(&group);
    }

    /// Sends a heartbeat if there is a connection and the group has a link to the peer.
    pub(crate) fn send(&mut self, group: u32, body: Bytes) {
        let is_fit = body.len() <= self.limits.heartbeat_bytes_max;
        if !is_fit || !self.is_connected || !self.queues.contains_key(&group) {
            return;
        }
        let waiting = self.out.entry(group).or_default();
        if waiting.len() >= self.limits.heartbeats_max {
            waiting.pop_front();
        }
        waiting.push_back(body);
    }
}

impl LaneState for Heartbeats {
    fn connected(&mut self, _connection: u64) {
        self.is_connected = true;
    }

    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame> {
        let Frame::Heartbeat { group, body } = frame else {
            return Err(BadFrame("it belongs to another class of connections"));
        };
        if body.len() > self.limits.heartbeat_bytes_max {
            return Err(BadFrame("a heartbeat is too long"));
        }
        if let Some(queue) = self.queues.get(&group) {
            // A heartbeat may wait for long: copy it, to release the buffer that it arrived in.
            queue.heartbeat(&self.peer, Bytes::copy_from_slice(&body));
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut BytesMut, room: usize) {
        while out.len() < room
            && let Some(mut first) = self.out.first_entry()
        {
            let group = *first.key();
            while let Some(body) = first.get_mut().pop_front() {
                Frame::Heartbeat { group, body }.encode(out);
            }
            first.remove();
        }
    }

    fn has_frames(&self) -> bool {
        !self.out.is_empty()
    }

    fn closed(&mut self) {
        self.is_connected = false;
        self.out.clear();
    }
}
