//! Requests that wait: for a proposal, for a decision, for a barrier.
//!
//! Must always hold: every request is answered once.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_engine::cluster::{ListedRow, NodeAnswer};
use forebay_engine::consensus::{Answer, Input, ProposalRefusal, RequestId};
use forebay_engine::metadata::{
    BLOCK_COMMANDS_MAX, COMMAND_BYTES_MAX, Command, Outcome, Row, State, encode_block,
};
use tokio::sync::oneshot;

use super::Driver;

/// Rows of one answer.
const LIST_ROWS_MAX: usize = 1000;
/// Bytes of one answer.
const LIST_BYTES_MAX: usize = 4 << 20;

type Reply = oneshot::Sender<NodeAnswer>;

/// A read that waits for its barrier.
pub(super) enum Read {
    Get(Vec<String>),
    List { prefix: String, after: String },
}

/// All of them.
#[derive(Default)]
pub(super) struct Waiting {
    next: u64,
    /// Commands that are not proposed yet.
    commands: Vec<(Command, Reply)>,
    /// Blocks that are not decided yet.
    proposed: BTreeMap<RequestId, Vec<Reply>>,
    reads: BTreeMap<RequestId, (Read, Reply)>,
    /// Outcomes of blocks that were applied in this step, by index.
    outcomes: BTreeMap<u64, Vec<Outcome>>,
}

impl Waiting {
    pub(super) fn request(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    pub(super) fn change(&mut self, command: Command, reply: Reply) {
        match command.check() {
            Ok(()) => self.commands.push((command, reply)),
            Err(error) => drop(reply.send(NodeAnswer::Refused(error.to_string().into()))),
        }
    }

    /// The commands of the next block, in the order in which they came.
    fn block(&mut self) -> Option<(Bytes, Vec<Reply>)> {
        let (mut commands, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut count = 0;
        for (command, _) in &self.commands {
            bytes += command.weight();
            if count == BLOCK_COMMANDS_MAX || (count > 0 && bytes > COMMAND_BYTES_MAX) {
                break;
            }
            count += 1;
        }
        for (command, reply) in self.commands.drain(..count) {
            // A caller that is gone, and whose command was not proposed, wants nothing.
            if !reply.is_closed() {
                commands.push(command);
                replies.push(reply);
            }
        }
        (count > 0).then(|| (encode_block(&commands), replies))
    }

    pub(super) fn applied(&mut self, index: u64, outcomes: Vec<Outcome>) {
        if !self.proposed.is_empty() {
            self.outcomes.insert(index, outcomes);
        }
    }

    pub(super) fn forget_outcomes(&mut self) {
        self.outcomes.clear();
    }

    fn decided(&mut self, request: RequestId, index: u64) {
        let Some(replies) = self.proposed.remove(&request) else { return };
        let outcomes =
            self.outcomes.remove(&index).expect("a block is applied before it is answered");
        assert_eq!(outcomes.len(), replies.len(), "a block has an outcome per command");
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            let _ = reply.send(NodeAnswer::Outcome(outcome));
        }
    }

    fn answer_all(&mut self, request: RequestId, answer: &NodeAnswer) {
        let proposed = self.proposed.remove(&request).unwrap_or_default();
        let read = self.reads.remove(&request).map(|(_, reply)| reply);
        for reply in proposed.into_iter().chain(read) {
            let _ = reply.send(answer.clone());
        }
    }

    /// The task ends: proposals may still be decided.
    pub(super) fn end(&mut self) {
        let stops = NodeAnswer::Unavailable("the node stops".into());
        for replies in std::mem::take(&mut self.proposed).into_values() {
            replies.into_iter().for_each(|reply| drop(reply.send(NodeAnswer::Unknown)));
        }
        let commands = std::mem::take(&mut self.commands).into_iter().map(|(_, reply)| reply);
        let reads = std::mem::take(&mut self.reads).into_values().map(|(_, reply)| reply);
        commands.chain(reads).for_each(|reply| drop(reply.send(stops.clone())));
    }
}

impl Read {
    fn answer(self, state: &State) -> NodeAnswer {
        let is_live = |(_, row): &(_, &Row)| row.value.is_some();
        match self {
            Self::Get(keys) => {
                let row = |key: String| Some((key.as_str().into(), state.get(&key)?.clone()));
                let rows = keys.into_iter().filter_map(row).collect();
                NodeAnswer::Rows { rows, more: false }
            }
            Self::List { prefix, after } => {
                let after = (!after.is_empty()).then_some(after);
                let all = state.range(&prefix, after.as_deref()).filter(is_live);
                let (mut rows, mut bytes): (Vec<ListedRow>, _) = (Vec::new(), 0);
                for (key, row) in all {
                    bytes += key.len() + row.value.as_ref().map_or(0, Bytes::len);
                    if rows.len() == LIST_ROWS_MAX || (!rows.is_empty() && bytes > LIST_BYTES_MAX) {
                        return NodeAnswer::Rows { rows, more: true };
                    }
                    rows.push((key.clone(), row.clone()));
                }
                NodeAnswer::Rows { rows, more: false }
            }
        }
    }
}

impl Driver {
    /// Proposes everything that waits: commands that came together share a block and a sync. While
    /// the segment changes they wait longer: it is shorter than a caller's pause between attempts.
    pub(super) fn propose_waiting(&mut self) {
        while self.ended.is_none()
            && !self.group.is_rolling()
            && let Some((block, replies)) = self.waiting.block()
        {
            if replies.is_empty() {
                continue;
            }
            let request = self.waiting.request();
            self.waiting.proposed.insert(request, replies);
            self.step(Input::Propose { request, block });
        }
    }

    pub(super) fn read(&mut self, read: Read, reply: Reply) {
        let request = self.waiting.request();
        self.waiting.reads.insert(request, (read, reply));
        self.step(Input::Read { request });
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        let request = match answer {
            Answer::Decided { request, .. }
            | Answer::ReadAt { request, .. }
            | Answer::Refused { request, .. }
            | Answer::Unknown { request } => request,
        };
        if self.roll == Some(request) {
            self.roll = None;
            tracing::debug!(node = %self.parts.me.name, ?answer, "a change of members");
            return;
        }
        match answer {
            Answer::Decided { request, index } => self.waiting.decided(request, index),
            Answer::ReadAt { request, index } => {
                assert!(self.applied >= index, "a read is answered by a state that covers it");
                if let Some((read, reply)) = self.waiting.reads.remove(&request) {
                    let _ = reply.send(read.answer(&self.state));
                }
            }
            Answer::Refused { request, refusal } => {
                let answer = self.refusal(&refusal);
                self.waiting.answer_all(request, &answer);
            }
            Answer::Unknown { request } => self.waiting.answer_all(request, &NodeAnswer::Unknown),
        }
    }

    fn refusal(&self, refusal: &ProposalRefusal) -> NodeAnswer {
        match refusal {
            ProposalRefusal::NotLeader(leader) => {
                let name = leader.and_then(|leader| self.name_of(leader));
                NodeAnswer::NotLeader { leader: name.map(|name| name.to_string().into()) }
            }
            ProposalRefusal::Busy => NodeAnswer::Unavailable("too much is in flight".into()),
            ProposalRefusal::Rolling => NodeAnswer::Unavailable("a segment is changing".into()),
            other => NodeAnswer::Refused(format!("the leader refuses it: {other:?}").into()),
        }
    }
}
