//! Nodes over one log, with events in any order: the possible next events are listed, and a number
//! chooses one.

mod any_limiter;
mod checks;
mod fake_limiter;
mod log;
mod node;

use std::time::Duration;

use forebay_engine::leadership::LeadershipInput;
use forebay_engine::partition::{
    machine::{Answer, PartitionInput, VQueueLimits},
    mem::MemTables,
};
use forebay_messages::{
    AttemptToken, Epoch, ReplyId, Timestamp, VQueueHandle,
    actor::{AttemptEnd, VQueueMessage},
    command::Command,
};

use log::Outcome;
use node::{Node, Shared};

/// A possible next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Log,
    Deliver(usize),
    Partition(usize),
    Supervisor(usize),
    Limiter(usize),
    VQueue(usize, VQueueHandle),
    Refill(usize, VQueueHandle),
    Wake(usize),
    VQueueWake(usize, VQueueHandle),
    RetryDue(usize),
    Stops(usize, AttemptToken),
}

/// Configuration of the nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) reads_block: bool,
    pub(crate) vqueues: VQueueLimits,
    pub(crate) limiter_is_real: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) shared: Shared,
    pub(crate) nodes: Vec<Node>,
    /// The node that each reply was requested from.
    asked_of: Vec<usize>,
}

impl World {
    pub(crate) fn new(nodes: usize, setting: Setting) -> Self {
        let shared = Shared {
            now: Timestamp(1_000),
            reads_block: setting.reads_block,
            vqueues: setting.vqueues,
            limiter_is_real: setting.limiter_is_real,
            ..Shared::default()
        };
        let nodes = (0..nodes)
            .map(|index| Node::new(index, MemTables::default(), setting.vqueues))
            .collect();
        Self { shared, nodes, asked_of: Vec::new() }
    }

    fn ready(&self) -> Vec<Ready> {
        let mut ready = Vec::new();
        if !self.shared.log.requests.is_empty() {
            ready.push(Ready::Log);
        }
        let is_due = |at: &Timestamp| *at <= self.shared.now;
        for (n, node) in self.nodes.iter().enumerate() {
            let mut add = |is_ready: bool, what: Ready| {
                if is_ready {
                    ready.push(what);
                }
            };
            add(node.delivered < self.shared.log.records.len(), Ready::Deliver(n));
            add(!node.mailbox.is_empty(), Ready::Partition(n));
            add(!node.orders.is_empty(), Ready::Supervisor(n));
            add(!node.asked.is_empty() && node.limiter.is_some(), Ready::Limiter(n));
            add(node.wake_at.as_ref().is_some_and(is_due), Ready::Wake(n));
            add(node.retry_at.iter().any(is_due), Ready::RetryDue(n));
            for (token, handler) in &node.handlers {
                add(handler.is_stopping, Ready::Stops(n, *token));
            }
            for (handle, active) in &node.vqueues {
                add(!active.mailbox.is_empty(), Ready::VQueue(n, *handle));
                add(active.refill.is_some(), Ready::Refill(n, *handle));
                add(active.timer.as_ref().is_some_and(is_due), Ready::VQueueWake(n, *handle));
            }
        }
        ready
    }

    /// Performs one of the possible events; returns false if there is none.
    pub(crate) fn step(&mut self, choice: usize) -> bool {
        let ready = self.ready();
        if ready.is_empty() {
            return false;
        }
        self.take(ready[choice % ready.len()], 1 + choice / 7 % 5);
        true
    }

    #[expect(clippy::too_many_lines, reason = "one arm per step")]
    fn take(&mut self, what: Ready, count: usize) {
        let Self { shared, nodes, .. } = self;
        match what {
            Ready::Log => match shared.log.step() {
                Outcome::Nothing => {}
                Outcome::Refused(n, refusal) => {
                    nodes[n].mailbox.push_back(PartitionInput::AppendRefused(refusal));
                }
                Outcome::Fenced(n, asked, current) => {
                    nodes[n].orders.push_back(if asked == current {
                        LeadershipInput::LogFenced { epoch: asked }
                    } else {
                        LeadershipInput::FenceFailed { epoch: asked, current }
                    })
                }
            },
            Ready::Deliver(n) => {
                let node = &mut nodes[n];
                let left = &shared.log.records[node.delivered..];
                let records = left[..left.len().min(count)].to_vec();
                let first = forebay_messages::Lsn(node.delivered as u64 + 1);
                node.delivered += records.len();
                node.mailbox.push_back(PartitionInput::Committed { first, records });
            }
            Ready::Partition(n) => {
                let input = nodes[n].mailbox.pop_front().unwrap();
                nodes[n].step_partition(input, shared);
            }
            Ready::Supervisor(n) => {
                let input = nodes[n].orders.pop_front().unwrap();
                nodes[n].step_supervisor(input, shared);
            }
            Ready::Limiter(n) => nodes[n].step_limiter(shared),
            Ready::VQueue(n, handle) => {
                let active = nodes[n].vqueues.get_mut(&handle).unwrap();
                let message = active.mailbox.pop_front().unwrap();
                nodes[n].step_vqueue(handle, message, shared);
            }
            Ready::Refill(n, handle) => {
                let active = nodes[n].vqueues.get_mut(&handle).unwrap();
                let request = active.refill.take().unwrap();
                if count == 5 {
                    nodes[n].fail_read(handle, &request, shared);
                } else {
                    nodes[n].read(handle, &request, shared);
                }
            }
            Ready::Stops(n, token) => nodes[n].stop_handler(token),
            Ready::Wake(n) => {
                nodes[n].wake_at = None;
                nodes[n].mailbox.push_back(PartitionInput::Tick);
            }
            Ready::VQueueWake(n, handle) => {
                nodes[n].vqueues.get_mut(&handle).unwrap().timer = None;
                nodes[n].tell_vqueue(handle, VQueueMessage::Wake);
            }
            Ready::RetryDue(n) => {
                let now = shared.now;
                let at = nodes[n].retry_at.iter().position(|at| *at <= now).unwrap();
                nodes[n].retry_at.remove(at);
                nodes[n].orders.push_back(LeadershipInput::RetryDue);
            }
        }
    }

    fn reply(&mut self, n: usize) -> ReplyId {
        let reply = ReplyId(self.asked_of.len() as u64);
        self.asked_of.push(n);
        self.shared.answers.insert(reply, None);
        reply
    }

    pub(crate) fn propose(&mut self, n: usize, command: Command) -> ReplyId {
        let reply = self.reply(n);
        self.nodes[n]
            .mailbox
            .push_back(PartitionInput::Propose { command: Box::new(command), reply });
        reply
    }

    pub(crate) fn attach(&mut self, n: usize, entry: forebay_messages::EntryId) -> ReplyId {
        let reply = self.reply(n);
        self.nodes[n].mailbox.push_back(PartitionInput::Attach { waits: vec![(entry, reply)] });
        reply
    }

    pub(crate) fn order(&mut self, n: usize, input: LeadershipInput) {
        self.nodes[n].orders.push_back(input);
    }

    /// A handler of a node ends.
    pub(crate) fn end_handler(&mut self, n: usize, choice: usize, how: u8) {
        let node = &mut self.nodes[n];
        if node.handlers.is_empty() {
            return;
        }
        let token = *node.handlers.keys().nth(choice % node.handlers.len()).unwrap();
        self.end_attempt(n, token, how);
    }

    pub(crate) fn end_attempt(&mut self, n: usize, token: AttemptToken, how: u8) {
        let node = &mut self.nodes[n];
        if node.handlers[&token].is_stopping {
            // How it ends does not matter.
            return node.stop_handler(token);
        }
        let handler = node.handlers.remove(&token).unwrap();
        let ended = match how % 6 {
            _ if handler.is_canceled => {
                AttemptEnd::Canceled { message: "asked to".into(), detail: Default::default() }
            }
            0 | 1 => AttemptEnd::Success(bytes::Bytes::from_static(b"ok")),
            2 => AttemptEnd::Terminal { message: "no".into(), detail: Default::default() },
            3 | 4 => AttemptEnd::Retry {
                message: "again".into(),
                detail: Default::default(),
                random: u32::from(how) << 24,
            },
            _ => AttemptEnd::Snooze { wait: Duration::from_millis(u64::from(how)) },
        };
        node.mailbox.push_back(PartitionInput::Ended { entry: handler.entry, token, ended });
    }

    pub(crate) fn kill_vqueue(&mut self, n: usize, choice: usize) {
        let node = &mut self.nodes[n];
        if node.vqueues.is_empty() {
            return;
        }
        let handle = *node.vqueues.keys().nth(choice % node.vqueues.len()).unwrap();
        node.vqueues.remove(&handle);
        node.mailbox.push_back(PartitionInput::VQueueDied(handle));
    }

    pub(crate) fn kill_limiter(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let unseeded = node.started.back_mut().and_then(Option::take);
        let limiter = unseeded.or_else(|| {
            node.asked.clear();
            node.limiter.take()
        });
        if let Some(limiter) = limiter {
            let incarnation = limiter.incarnation();
            node.orders.push_back(LeadershipInput::LimiterDied { incarnation });
        }
    }

    pub(crate) fn flush(&mut self, n: usize) {
        self.nodes[n].flushed = self.nodes[n].replica.tables.clone();
    }

    /// The process ends and starts again; its clients get no answer.
    pub(crate) fn crash(&mut self, n: usize) {
        let (tables, served) = (self.nodes[n].flushed.clone(), self.nodes[n].served);
        self.nodes[n] = Node::new(n, tables, self.shared.vqueues);
        self.nodes[n].served = served;
        self.nodes[n].lost_through = Epoch(self.shared.epoch);
        for (reply, answer) in &mut self.shared.answers {
            if answer.is_none() && self.asked_of[reply.0 as usize] == n {
                *answer = Some(Answer::LostLeadership);
            }
        }
    }

    pub(crate) fn advance(&mut self, millis: u64) {
        self.shared.now = Timestamp(self.shared.now.0 + millis);
    }

    /// The next time at which a timer fires.
    fn next_timer(&self) -> Option<Timestamp> {
        let of_node = |node: &Node| {
            let timers = node.vqueues.values().filter_map(|active| active.timer);
            timers.chain(node.wake_at).chain(node.retry_at.iter().copied()).min()
        };
        self.nodes.iter().filter_map(of_node).min()
    }

    /// Advances to that time; returns false if there is none.
    pub(crate) fn advance_to_timer(&mut self) -> bool {
        let next = self.next_timer();
        if let Some(at) = next {
            self.shared.now = self.shared.now.max(at);
        }
        next.is_some()
    }

    /// The leader and candidates, for display.
    pub(crate) fn roles(&self) -> String {
        let roles = self.nodes.iter().map(|node| {
            let (role, phase) = (node.supervisor.role(), node.partition.phase());
            format!("{role:?} over {phase:?}, retries at {:?}; ", node.retry_at)
        });
        roles.collect()
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(Node::leads)
    }

    /// Performs all events until there are none; handlers continue to run.
    pub(crate) fn run_all(&mut self) {
        for count in 0.. {
            assert!(count < 100_000, "it never becomes idle: {:?}", self.ready());
            if !self.step(count * 7) {
                return;
            }
        }
    }
}
