//! Links of all groups to one peer, over the connection of class consensus.
//!
//! Must always hold: an overflow of a send or receive queue resets that link and no other; links
//! take turns, one piece each, so that a long message of one group does not delay the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::group::GroupQueue;
use crate::identity::NodeName;
use crate::lane::link::{Link, Output};
use crate::lane::{Incoming, LaneState, Outgoing};
use crate::limits::Limits;
use crate::wire::frame::{BadFrame, Frame};

/// Why a message was not sent. No part of it reaches the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// There is no session with this number.
    #[error("there is no such session with the peer")]
    NoSession,
    /// The send queue was full: the session was ended, and both sides are informed.
    #[error("the queue of the link is full: the session was ended")]
    Overflow,
    /// The message is longer than the limit; the session continues.
    #[error("the message is longer than the limit")]
    TooLong,
}

struct Entry {
    link: Link,
    queue: Option<Arc<GroupQueue>>,
    out: VecDeque<Outgoing>,
    out_bytes: usize,
    is_in_turn: bool,
    partial: Incoming,
}

/// The links to one peer.
pub(crate) struct Links {
    peer: NodeName,
    limits: Arc<Limits>,
    is_connected: bool,
    control: VecDeque<Frame>,
    links: BTreeMap<u32, Entry>,
    /// Groups with something to send.
    turns: VecDeque<u32>,
    /// The greatest session number of any link: a link that is forgotten and added again continues
    /// above it.
    greatest: u64,
}

impl Links {
    pub(crate) fn new(peer: NodeName, limits: Arc<Limits>) -> Self {
        let (control, turns, links) = (VecDeque::new(), VecDeque::new(), BTreeMap::new());
        Self { peer, limits, is_connected: false, control, links, turns, greatest: 0 }
    }

    /// Whether a group wants a link to this peer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.links.values().any(|entry| entry.queue.is_some())
    }

    /// The group wants sessions; their events go to `queue`.
    pub(crate) fn want(&mut self, group: u32, queue: Arc<GroupQueue>) {
        self.entry(group).queue = Some(queue);
        self.step(group, Link::want);
    }

    /// The group wants no more sessions.
    pub(crate) fn leave(&mut self, group: u32) {
        // A group that leaves gets no event of the end.
        let queue = self.links.get_mut(&group).and_then(|entry| entry.queue.take());
        if let Some(queue) = queue {
            self.step(group, Link::leave);
            queue.forget(&self.peer);
        }
    }

    pub(crate) fn reset(&mut self, group: u32, session: u64) {
        if self.session(group) == Some(session) {
            self.step(group, Link::reset);
        }
    }

    pub(crate) fn session(&self, group: u32) -> Option<u64> {
        self.links.get(&group).and_then(|entry| entry.link.session())
    }

    pub(crate) fn send(&mut self, group: u32, session: u64, body: Bytes) -> Result<(), NotSent> {
        if self.session(group) != Some(session) {
            return Err(NotSent::NoSession);
        }
        if body.len() > self.limits.message_bytes_max {
            return Err(NotSent::TooLong);
        }
        let limits = Arc::clone(&self.limits);
        let entry = self.entry(group);
        let is_full = entry.out.len() >= limits.link_messages_max
            || entry.out_bytes.saturating_add(body.len()) > limits.link_bytes_max;
        if is_full {
            tracing::warn!(peer = %self.peer, group, session, "the send queue of a link is full: the link is reset");
            self.step(group, Link::reset);
            return Err(NotSent::Overflow);
        }
        entry.out_bytes += body.len();
        entry.out.push_back(Outgoing::new(body));
        if !entry.is_in_turn {
            entry.is_in_turn = true;
            self.turns.push_back(group);
        }
        Ok(())
    }

    fn entry(&mut self, group: u32) -> &mut Entry {
        let (is_connected, greatest) = (self.is_connected, self.greatest);
        self.links.entry(group).or_insert_with(|| {
            let mut link = Link::new(group, greatest);
            if is_connected {
                link.connected(&mut Vec::new());
            }
            let (out, partial) = (VecDeque::new(), Incoming::default());
            Entry { link, queue: None, out, out_bytes: 0, is_in_turn: false, partial }
        })
    }

    fn step(&mut self, group: u32, call: impl FnOnce(&mut Link, &mut Vec<Output>)) {
        let mut outputs = Vec::new();
        let entry = self.entry(group);
        call(&mut entry.link, &mut outputs);
        for output in outputs {
            self.perform(group, output);
        }
    }

    fn perform(&mut self, group: u32, output: Output) {
        let Some(entry) = self.links.get_mut(&group) else { return };
        match output {
            Output::Send(frame) => self.control.push_back(frame),
            Output::Up(session) => {
                tracing::debug!(peer = %self.peer, group, session, "a session began");
                self.greatest = self.greatest.max(session);
                if let Some(queue) = &entry.queue {
                    queue.begin(&self.peer, session);
                }
            }
            Output::Down(session) => {
                tracing::debug!(peer = %self.peer, group, session, "a session ended");
                entry.out = VecDeque::new();
                entry.out_bytes = 0;
                entry.partial.clear();
                if let Some(queue) = &entry.queue {
                    queue.end(&self.peer, session);
                }
            }
        }
    }

    fn part(&mut self, group: u32, is_last: bool, body: Bytes) {
        let Some(entry) = self.links.get_mut(&group) else { return };
        let (Some(queue), Some(session)) = (&entry.queue, entry.link.session()) else { return };
        if entry.partial.len() + body.len() > self.limits.message_bytes_max {
            tracing::warn!(peer = %self.peer, group, session, "a message is too long: the link is reset");
            self.step(group, Link::reset);
            return;
        }
        match entry.partial.add(body, is_last) {
            None => queue.progress(&self.peer),
            Some(message) => {
                // A short message may wait for long: copy it, to release the buffer that it arrived
                // in.
                let is_short = message.len() * 2 < self.limits.frame_bytes_max;
                let message = if is_short { Bytes::copy_from_slice(&message) } else { message };
                if queue.message(&self.peer, message).is_err() {
                    tracing::warn!(
                        peer = %self.peer, group, session,
                        "messages are not received fast enough: the link is reset"
                    );
                    self.step(group, Link::reset);
                }
            }
        }
    }

    fn check_flood(&self) -> Result<(), BadFrame> {
        let control_max = 4 * self.limits.groups_max + 16;
        if self.links.len() > 2 * self.limits.groups_max || self.control.len() > control_max {
            return Err(BadFrame("too many links are opened"));
        }
        Ok(())
    }
}

impl LaneState for Links {
    fn connected(&mut self, _connection: u64) {
        self.is_connected = true;
        for group in self.links.keys().copied().collect::<Vec<_>>() {
            self.step(group, Link::connected);
        }
    }

    fn receive(&mut self, frame: Frame) -> Result<(), BadFrame> {
        match frame {
            Frame::Open { group, number } => {
                let mut outputs = Vec::new();
                self.entry(group).link.received_open(number, &mut outputs)?;
                for output in outputs {
                    self.perform(group, output);
                }
                self.check_flood()
            }
            Frame::Shut { group } => {
                self.step(group, Link::received_shut);
                self.check_flood()
            }
            Frame::Part { group, is_last, body } => {
                self.part(group, is_last, body);
                Ok(())
            }
            _ => Err(BadFrame("it belongs to another class of connections")),
        }
    }

    fn fill(&mut self, out: &mut BytesMut, room: usize) {
        while let Some(frame) = self.control.pop_front() {
            frame.encode(out);
        }
        while out.len() < room
            && let Some(group) = self.turns.pop_front()
        {
            let Some(entry) = self.links.get_mut(&group) else { continue };
            if let Some(first) = entry.out.front_mut() {
                let piece = first.next(self.limits.frame_bytes_max);
                entry.out_bytes -= piece.body.len();
                if piece.is_last {
                    entry.out.pop_front();
                }
                Frame::Part { group, is_last: piece.is_last, body: piece.body }.encode(out);
            }
            entry.is_in_turn = !entry.out.is_empty();
            if entry.is_in_turn {
                self.turns.push_back(group);
            }
        }
    }

    fn has_frames(&self) -> bool {
        !self.control.is_empty() || !self.turns.is_empty()
    }

    fn closed(&mut self) {
        self.is_connected = false;
        for group in self.links.keys().copied().collect::<Vec<_>>() {
            self.step(group, Link::lost);
        }
        self.control.clear();
        self.links.retain(|_, entry| entry.queue.is_some());
        self.turns.retain(|group| self.links.contains_key(group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Event;

    struct End {
        links: Links,
        queues: [Arc<GroupQueue>; 2],
    }

    fn ends(limits: &Limits) -> [End; 2] {
        ["b", "a"].map(|peer| {
            let mut links = Links::new(peer.parse().unwrap(), Arc::new(limits.clone()));
            let queues = [(); 2].map(|()| Arc::new(GroupQueue::new(limits)));
            links.want(0, Arc::clone(&queues[0]));
            links.want(1, Arc::clone(&queues[1]));
            links.connected(1);
            End { links, queues }
        })
    }

    fn frames(mut bytes: BytesMut) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let len = bytes::Buf::get_u32(&mut bytes) as usize;
            frames.push(Frame::decode(bytes.split_to(len).freeze()).unwrap());
        }
        frames
    }

    fn exchange([a, b]: &mut [End; 2]) {
        loop {
            let (mut from_a, mut from_b) = (BytesMut::new(), BytesMut::new());
            a.links.fill(&mut from_a, 1 << 20);
            b.links.fill(&mut from_b, 1 << 20);
            if from_a.is_empty() && from_b.is_empty() {
                return;
            }
            frames(from_a).into_iter().for_each(|frame| b.links.receive(frame).unwrap());
            frames(from_b).into_iter().for_each(|frame| a.links.receive(frame).unwrap());
        }
    }

    fn sessions(ends: &[End; 2]) -> Vec<Option<u64>> {
        ends.iter().flat_map(|end| [end.links.session(0), end.links.session(1)]).collect()
    }

    fn body(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    #[test]
    fn an_overflow_while_sending_resets_that_link_only() {
        let limits = Limits { link_messages_max: 2, ..Limits::default() };
        let mut ends = ends(&limits);
        exchange(&mut ends);
        assert_eq!(sessions(&ends), [Some(1); 4]);
        let links = &mut ends[0].links;
        assert_eq!(links.send(0, 1, body(1)), Ok(()));
        assert_eq!(links.send(0, 1, body(1)), Ok(()));
        assert_eq!(links.send(0, 1, body(1)), Err(NotSent::Overflow));
        assert_eq!(links.send(0, 1, body(1)), Err(NotSent::NoSession));
        assert_eq!(links.send(1, 1, body(1)), Ok(()), "the other link continues");
        exchange(&mut ends);
        assert_eq!(sessions(&ends), [Some(2), Some(1), Some(2), Some(1)]);
        let b = &ends[1].queues;
        assert!(matches!(b[0].try_next(), Some(Event::Connected { session: 2, .. })));
        assert_eq!(b[0].try_next(), None, "what was not sent is not received");
        assert!(matches!(b[1].try_next(), Some(Event::Connected { session: 1, .. })));
        assert!(matches!(b[1].try_next(), Some(Event::Message { session: 1, .. })));
    }

    #[test]
    fn an_overflow_at_the_receiver_resets_that_link_only() {
        let limits = Limits { link_bytes_max: 100, ..Limits::default() };
        let mut ends = ends(&limits);
        exchange(&mut ends);
        for _ in 0..3 {
            ends[0].links.send(0, 1, body(50)).unwrap();
            ends[0].links.send(1, 1, body(20)).unwrap();
            exchange(&mut ends);
        }
        assert_eq!(sessions(&ends), [Some(2), Some(1), Some(2), Some(1)]);
        let events: Vec<_> = std::iter::from_fn(|| ends[1].queues[1].try_next()).collect();
        assert_eq!(events.len(), 4, "{events:?}");
    }

    #[test]
    fn a_long_message_takes_turns_with_others_and_reports_progress() {
        let limits = Limits { frame_bytes_max: 10, ..Limits::default() };
        let mut ends = ends(&limits);
        exchange(&mut ends);
        ends[0].links.send(0, 1, body(35)).unwrap();
        ends[0].links.send(1, 1, body(5)).unwrap();
        let mut out = BytesMut::new();
        ends[0].links.fill(&mut out, 1 << 20);
        let groups = frames(out).into_iter().map(|frame| {
            ends[1].links.receive(frame.clone()).unwrap();
            let Frame::Part { group, .. } = frame else { panic!("{frame:?}") };
            group
        });
        assert_eq!(groups.collect::<Vec<_>>(), [0, 1, 0, 0, 0]);
        let b = &ends[1].queues[0];
        assert!(matches!(b.try_next(), Some(Event::Connected { .. })));
        assert!(matches!(b.try_next(), Some(Event::Progress { .. })));
        let Some(Event::Message { body, .. }) = b.try_next() else { panic!("no message") };
        assert_eq!(body.len(), 35);
    }

    #[test]
    fn a_message_longer_than_the_receiver_allows_resets_the_link() {
        let mut ends = ends(&Limits { frame_bytes_max: 10, ..Limits::default() });
        exchange(&mut ends);
        let limits = Limits { message_bytes_max: 30, ..Limits::default() };
        ends[1].links.limits = Arc::new(limits);
        ends[0].links.send(0, 1, body(35)).unwrap();
        exchange(&mut ends);
        assert_eq!(sessions(&ends), [Some(2), Some(1), Some(2), Some(1)]);
        assert_eq!(ends[1].links.send(0, 2, body(31)), Err(NotSent::TooLong));
    }

    #[test]
    fn unrequested_links_are_bounded() {
        let limits = Limits { groups_max: 4, ..Limits::default() };
        let mut ends = ends(&limits);
        let open = |group| Frame::Open { group, number: 1 };
        let refused = (10..1000).find(|group| ends[0].links.receive(open(*group)).is_err());
        assert!(refused.is_some_and(|group| group < 20));
        ends[0].links.closed();
        assert_eq!(ends[0].links.links.len(), 2);
    }
}
