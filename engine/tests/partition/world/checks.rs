//! What a node must never say, seen from what it has applied.
//!
//! Must always hold: a client is answered with what applying its command gave, after it was
//! applied; a permit that takes a lock is granted only while no row says who holds it.

use std::collections::BTreeMap;

use forebay_engine::partition::{apply::Reply, machine::Answer, mem::MemTables};
use forebay_messages::{
    Producer, Record, VQueueHandle, VQueueId,
    actor::{Granted, LimiterMessage, LockWish},
    command::Command,
};

#[derive(Debug, Default)]
pub(super) struct Checks {
    /// What applying the commands of clients gave, and nobody was told yet.
    replies: Vec<Reply>,
    /// What the acquires that stand wish of which lock.
    wishes: BTreeMap<VQueueHandle, (VQueueId, LockWish)>,
}

/// Whether somebody may wait for what comes of a command.
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
        let at = at.unwrap_or_else(|| panic!("{reply:?} is told, and no command gave it"));
        self.replies.swap_remove(at);
    }

    pub(super) fn asked(&mut self, message: &LimiterMessage) {
        if let LimiterMessage::Acquire(ask) = message {
            self.wishes.insert(ask.handle, (ask.vqueue, ask.lock));
        }
    }

    /// The limiter learns of a freed lock after the rows, so that it never knows of fewer.
    pub(super) fn granted(&mut self, granted: &Granted, tables: &MemTables) {
        let Some((vqueue, LockWish::Take)) = self.wishes.remove(&granted.handle) else { return };
        let holder = tables.locks.get(&vqueue);
        assert_eq!(holder, None, "the lock of {vqueue} is granted while somebody has it");
    }
}
