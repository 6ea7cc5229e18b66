//! What a partition counts: its work while it leads, and messages that came too late.

use forebay_messages::{FailureKind, Outcome};

use super::super::apply::Reply;

/// Messages that arrived too late or from an earlier incarnation, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaleCounts {
    /// From vqueues of an earlier generation.
    pub vqueue: u64,
    /// About attempts that are not known any more.
    pub attempt: u64,
    /// From limiters that were replaced.
    pub limiter: u64,
}

/// Counted while a replica led, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// Entries stored.
    pub enqueued: u64,
    /// Attempts started.
    pub started: u64,
    /// Entries that succeeded.
    pub succeeded: u64,
    /// Entries whose handler reported that a retry is useless.
    pub failed: u64,
    /// Entries that used up their attempts.
    pub dead_letters: u64,
    /// Entries that were canceled.
    pub canceled: u64,
    /// Entries that were killed.
    pub killed: u64,
}

impl WorkCounts {
    pub(super) fn replied(&mut self, reply: &Reply) {
        match reply {
            Reply::Enqueued(stored) => self.enqueued += u64::from(!stored.existing),
            Reply::EnqueuedBatch(stored) => {
                self.enqueued += stored.iter().filter(|one| !one.existing).count() as u64;
            }
            _ => {}
        }
    }

    pub(super) fn finished(&mut self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Success(_) => &mut self.succeeded,
            Outcome::Failure(failure) => match failure.kind {
                FailureKind::Terminal => &mut self.failed,
                FailureKind::Exhausted => &mut self.dead_letters,
                FailureKind::Canceled => &mut self.canceled,
                FailureKind::Killed => &mut self.killed,
            },
        };
        *counter += 1;
    }
}
