//! Answers and grants a node must never give, judged by what it has applied.
//!
//! Must always hold: a client is answered with the result of applying its command, after it was
//! applied; a permit that takes a lock is granted only while no row names a holder.

use std::collections::BTreeMap;

use forebay_engine::partition::{apply::Reply, machine::Answer, mem::MemTables};
use forebay_messages::{
    Producer, Record, VQueueHandle, VQueueId,
    actor::{Granted, LimiterMessage, LockWish},
    command::Command,
};

#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Results of applied client commands that were not delivered yet.
    replies: Vec<Reply>,
    /// The lock requests of the outstanding acquires.
    wishes: BTreeMap<VQueueHandle, (VQueueId, LockWish)>,
}

/// Whether a client may wait for the result of a command.
fn is_of_a_client(record: &Record) -> bool {
    let is_of_leader = matches!(
        record.command,
        Some(
            Command::AnnounceLeader(_)
                | Command::SchedulerDecisions(_)
                | Command::Complete(_)
                | Command::Retry(_)
                | Command::EndAttempts(_)
        )
    );
    matches!(record.producer, Some(Producer::Leader(_))) && !is_of_leader
}

impl Checks {
    pub(super) fn applied(&mut self, record: &Record, reply: &Reply) {
        if is_of_a_client(record) {
            self.replies.push(reply.clone());
        }
    }

    pub(super) fn answered(&mut self, answer: &Answer) {
        let Answer::Reply(reply) = answer else { return };
        let at = self.replies.iter().position(|applied| applied == reply);
        let at = at.unwrap_or_else(|| panic!("{reply:?} was sent, but no command produced it"));
        self.replies.swap_remove(at);
    }

    pub(super) fn asked(&mut self, message: &LimiterMessage) {
        if let LimiterMessage::Acquire(ask) = message {
            self.wishes.insert(ask.handle, (ask.vqueue, ask.lock));
        }
    }

    /// The limiter learns about a freed lock after the rows, so that it never knows fewer locks.
    pub(super) fn granted(&mut self, granted: &Granted, tables: &MemTables) {
        let Some((vqueue, LockWish::Take)) = self.wishes.remove(&granted.handle) else { return };
        let holder = tables.locks.get(&vqueue);
        assert_eq!(holder, None, "the lock of {vqueue} is granted while it is held");
    }
}
