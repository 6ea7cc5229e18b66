//! The log that the nodes share: what is appended waits until it is committed or
//! refused.

use std::{collections::VecDeque, sync::Arc};

use forebay_engine::partition::machine::Refusal;
use forebay_messages::{Epoch, Record};

#[derive(Debug)]
pub(crate) enum Request {
    Append { node: usize, epoch: Epoch, record: Arc<Record> },
    Fence { node: usize, epoch: Epoch },
}

#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Nothing,
    Refused(usize, Refusal),
    Fenced(usize, Epoch, Epoch),
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) requests: VecDeque<Request>,
    fence: Epoch,
    /// So many appends fail.
    pub(crate) failures: usize,
}

impl Log {
    /// Handles the oldest request.
    pub(crate) fn step(&mut self) -> Said {
        match self.requests.pop_front().unwrap() {
            Request::Append { node, epoch, .. } if epoch < self.fence => {
                Said::Refused(node, Refusal::Fenced { current: self.fence })
            }
            Request::Append { node, .. } if self.failures > 0 => {
                self.failures -= 1;
                Said::Refused(node, Refusal::Failed { reason: "no space".to_owned() })
            }
            Request::Append { record, .. } => {
                self.records.push(record);
                Said::Nothing
            }
            Request::Fence { node, epoch } => {
                self.fence = self.fence.max(epoch);
                Said::Fenced(node, epoch, self.fence)
            }
        }
    }
}
