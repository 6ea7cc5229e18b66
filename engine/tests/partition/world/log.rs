//! The log shared by the nodes: appends wait until they are committed or refused.

use std::{collections::VecDeque, sync::Arc};

use forebay_engine::partition::machine::{AppendRefusal, PartitionInput};
use forebay_messages::{AttemptToken, Epoch, Record, command::Command};

#[derive(Debug)]
pub(crate) enum Request {
    Append { node: usize, epoch: Epoch, record: Arc<Record> },
    Fence { node: usize, epoch: Epoch },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Nothing,
    Refused(usize, AppendRefusal),
    Fenced(usize, Epoch, Epoch),
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) requests: VecDeque<Request>,
    fence: Epoch,
    /// This many appends fail.
    pub(crate) failures: usize,
}

/// Whether a record holds the decision that starts an attempt.
pub(crate) fn decides(record: &Record, token: AttemptToken) -> bool {
    match &record.command {
        Some(Command::SchedulerDecisions(command)) => {
            command.decisions.iter().any(|decision| decision.token == token)
        }
        _ => false,
    }
}

/// Whether a message commits the decision that starts an attempt, or reports that it was refused.
pub(crate) fn settles(input: &PartitionInput, token: AttemptToken) -> bool {
    match input {
        PartitionInput::Committed { records, .. } => {
            records.iter().any(|record| decides(record, token))
        }
        PartitionInput::AppendRefused(_) => true,
        _ => false,
    }
}

impl Log {
    /// Whether a decision waits to be appended, or to be delivered to a node that knows the first
    /// `delivered` records.
    pub(crate) fn has_decision(&self, delivered: usize, token: AttemptToken) -> bool {
        let waits = |request: &Request| match request {
            Request::Append { record, .. } => decides(record, token),
            Request::Fence { .. } => false,
        };
        self.requests.iter().any(waits)
            || self.records[delivered..].iter().any(|record| decides(record, token))
    }

    /// Processes the oldest request.
    pub(crate) fn step(&mut self) -> Outcome {
        match self.requests.pop_front().unwrap() {
            Request::Append { node, epoch, .. } if epoch < self.fence => {
                Outcome::Refused(node, AppendRefusal::Fenced { current: self.fence })
            }
            Request::Append { node, .. } if self.failures > 0 => {
                self.failures -= 1;
                Outcome::Refused(node, AppendRefusal::Failed { reason: "no space".to_owned() })
            }
            Request::Append { record, .. } => {
                self.records.push(record);
                Outcome::Nothing
            }
            Request::Fence { node, epoch } => {
                self.fence = self.fence.max(epoch);
                Outcome::Fenced(node, epoch, self.fence)
            }
        }
    }
}
