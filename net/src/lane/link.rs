//! Sessions of one link: how two nodes agree on them over one connection.
//!
//! Each side sends `Open` with a number above every session that it knows. The n-th `Open` of one
//! side and the n-th of the other make a session, whose number at both sides is the greater of the
//! two. A side that ends a session sends its next `Open` at once, or `Shut` when it leaves the
//! group. Messages of the old session before the other side's `Open` are dropped.
//!
//! Must always hold: the session numbers of a link grow; a side sends nothing in a session before
//! it has both `Open`s.

use crate::wire::frame::{BadFrame, Frame};

/// Greatest session number.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// What the caller must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send this frame before anything of a later session.
    Send(Frame),
    /// A session began.
    Up(u64),
    /// The session ended; queued messages in both directions are dropped.
    Down(u64),
}

/// The sessions of a link.
#[derive(Debug)]
pub(crate) struct Link {
    group: u32,
    is_connected: bool,
    /// The application wants sessions.
    is_wanted: bool,
    /// Number of an `Open` that was sent and is not matched yet.
    mine: Option<u64>,
    /// Number of an `Open` that was received and is not matched yet.
    theirs: Option<u64>,
    up: Option<u64>,
    /// The greatest known session number.
    last: u64,
}

impl Link {
    /// `last` is the greatest known session number.
    pub(crate) fn new(group: u32, last: u64) -> Self {
        let (mine, theirs, up) = (None, None, None);
        Self { group, is_connected: false, is_wanted: false, mine, theirs, up, last }
    }

    pub(crate) fn session(&self) -> Option<u64> {
        self.up
    }

    pub(crate) fn connected(&mut self, out: &mut Vec<Output>) {
        self.is_connected = true;
        self.open(out);
    }

    pub(crate) fn lost(&mut self, out: &mut Vec<Output>) {
        self.is_connected = false;
        self.mine = None;
        self.theirs = None;
        self.down(out);
    }

    /// The application wants sessions.
    pub(crate) fn want(&mut self, out: &mut Vec<Output>) {
        self.is_wanted = true;
        self.open(out);
    }

    /// The application wants no more sessions.
    pub(crate) fn leave(&mut self, out: &mut Vec<Output>) {
        self.is_wanted = false;
        if self.up.is_some() {
            self.down(out);
            out.push(Output::Send(Frame::Shut { group: self.group }));
        }
    }

    /// Ends the session; the next one begins once the other side agrees.
    pub(crate) fn reset(&mut self, out: &mut Vec<Output>) {
        if self.up.is_some() {
            self.down(out);
            self.open(out);
        }
    }

    pub(crate) fn received_open(
        &mut self,
        number: u64,
        out: &mut Vec<Output>,
    ) -> Result<(), BadFrame> {
        if self.theirs.is_some() {
            return Err(BadFrame("a link is opened twice"));
        }
        if number > NUMBER_MAX {
            return Err(BadFrame("a session number is too great"));
        }
        self.theirs = Some(number);
        self.down(out);
        self.open(out);
        self.pair(out);
        Ok(())
    }

    pub(crate) fn received_shut(&mut self, out: &mut Vec<Output>) {
        self.reset(out);
    }

    fn down(&mut self, out: &mut Vec<Output>) {
        if let Some(session) = self.up.take() {
            out.push(Output::Down(session));
        }
    }

    fn open(&mut self, out: &mut Vec<Output>) {
        let is_idle = self.mine.is_none() && self.up.is_none();
        if self.is_connected && self.is_wanted && is_idle {
            let number = self.last + 1;
            self.mine = Some(number);
            out.push(Output::Send(Frame::Open { group: self.group, number }));
            self.pair(out);
        }
    }

    fn pair(&mut self, out: &mut Vec<Output>) {
        let (Some(mine), Some(theirs)) = (self.mine, self.theirs) else { return };
        (self.mine, self.theirs) = (None, None);
        self.last = self.last.max(mine).max(theirs);
        if self.is_wanted {
            self.up = Some(self.last);
            out.push(Output::Up(self.last));
        } else {
            out.push(Output::Send(Frame::Shut { group: self.group }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Two ends and the pipes between them; each message carries the number of its session.
    struct World {
        ends: [Link; 2],
        pipes: [VecDeque<Item>; 2],
        sent: [u64; 2],
        next: [u64; 2],
        up: [Option<u64>; 2],
        greatest: [u64; 2],
    }

    #[derive(Debug)]
    enum Item {
        Control(Frame),
        Message { session: u64, number: u64 },
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(usize),
        Deliver(usize),
        Reset(usize),
        Want(usize),
        Leave(usize),
        Break,
    }

    impl World {
        fn new() -> Self {
            let ends = [Link::new(3, 0), Link::new(3, 0)];
            let pipes = [VecDeque::new(), VecDeque::new()];
            let none = [None, None];
            let mut world =
                Self { ends, pipes, sent: [0; 2], next: [0; 2], up: none, greatest: [0; 2] };
            world.call(0, Link::connected);
            world.call(1, Link::connected);
            world
        }

        fn call(&mut self, end: usize, call: impl FnOnce(&mut Link, &mut Vec<Output>)) {
            let mut out = Vec::new();
            call(&mut self.ends[end], &mut out);
            for output in out {
                match output {
                    Output::Send(frame) => self.pipes[end].push_back(Item::Control(frame)),
                    Output::Up(session) => {
                        assert_eq!(self.up[end], None, "one session at a time");
                        assert!(session > self.greatest[end], "numbers grow");
                        self.greatest[end] = session;
                        self.up[end] = Some(session);
                        self.sent[end] = 0;
                        self.next[end] = 0;
                    }
                    Output::Down(session) => {
                        assert_eq!(self.up[end], Some(session));
                        self.up[end] = None;
                    }
                }
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Send(end) => {
                    if let Some(session) = self.up[end] {
                        let number = self.sent[end];
                        self.sent[end] += 1;
                        self.pipes[end].push_back(Item::Message { session, number });
                    }
                }
                Step::Deliver(from) => self.deliver(from),
                Step::Reset(end) => self.call(end, Link::reset),
                Step::Want(end) => self.call(end, Link::want),
                Step::Leave(end) => self.call(end, Link::leave),
                Step::Break => {
                    for end in 0..2 {
                        self.call(end, Link::lost);
                        self.pipes[end].clear();
                    }
                    for end in 0..2 {
                        self.call(end, Link::connected);
                    }
                }
            }
        }

        fn deliver(&mut self, from: usize) {
            let to = 1 - from;
            match self.pipes[from].pop_front() {
                None => {}
                Some(Item::Message { session, number }) => {
                    if let Some(up) = self.up[to] {
                        assert_eq!(session, up, "a message of another session was let in");
                        assert_eq!(number, self.next[to], "a gap within a session");
                        self.next[to] += 1;
                    }
                }
                Some(Item::Control(Frame::Open { number, .. })) => self.call(to, |link, out| {
                    link.received_open(number, out).expect("the other end keeps the rules");
                }),
                Some(Item::Control(Frame::Shut { .. })) => self.call(to, Link::received_shut),
                Some(item) => panic!("{item:?}"),
            }
        }

        fn settle(&mut self) {
            while self.pipes.iter().any(|pipe| !pipe.is_empty()) {
                self.deliver(0);
                self.deliver(1);
            }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0..14, 0..2usize).prop_map(|(kind, end)| match kind {
            0..=4 => Step::Send(end),
            5..=9 => Step::Deliver(end),
            10 => Step::Reset(end),
            11 => Step::Want(end),
            12 => Step::Leave(end),
            _ => Step::Break,
        });
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn sessions_have_no_gaps_and_both_ends_agree(steps in steps()) {
            let mut world = World::new();
            world.step(Step::Want(0));
            world.step(Step::Want(1));
            for step in steps {
                world.step(step);
            }
            world.step(Step::Want(0));
            world.step(Step::Want(1));
            world.settle();
            prop_assert!(world.up[0].is_some(), "the link comes up again");
            prop_assert_eq!(world.up[0], world.up[1]);
            world.step(Step::Leave(0));
            world.settle();
            prop_assert_eq!(world.up, [None, None]);
        }
    }

    #[test]
    fn a_restarted_end_takes_over_the_number_of_the_other() {
        let mut world = World::new();
        world.step(Step::Want(0));
        world.step(Step::Want(1));
        for _ in 0..3 {
            world.settle();
            world.step(Step::Reset(0));
        }
        world.settle();
        assert_eq!(world.up, [Some(4), Some(4)]);
        world.call(0, Link::lost);
        world.call(1, Link::lost);
        world.ends[0] = Link::new(3, 0);
        world.call(0, Link::connected);
        world.call(1, Link::connected);
        world.step(Step::Want(0));
        world.settle();
        assert_eq!(world.up, [Some(5), Some(5)]);
    }

    #[test]
    fn illegal_frames_are_refused() {
        let mut link = Link::new(1, 0);
        let out = &mut Vec::new();
        link.connected(out);
        assert!(link.received_open(u64::MAX, out).is_err());
        link.received_open(1, out).unwrap();
        assert!(link.received_open(2, out).is_err(), "a second one without a partner");
        link.received_shut(out);
        assert_eq!(*out, []);
    }
}
