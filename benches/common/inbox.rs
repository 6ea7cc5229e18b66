//! The inbox: enqueues, takes and confirms entries while its cache holds them.

use forebay_engine::inbox::Inbox;
use forebay_messages::{EntryKey, VQueueId, actor::RefillDone};

use super::decision::key;

/// An inbox whose entries are all in memory.
pub(crate) struct Inboxes {
    inbox: Inbox,
    next: u64,
}

impl Inboxes {
    pub(crate) fn new() -> Self {
        let mut inbox = Inbox::new(Vec::new());
        let request = inbox.start_refill(VQueueId::default());
        let none = RefillDone { id: request.id, rows: Vec::new(), reached_end: true };
        assert!(inbox.refill_done(&none), "the refill is in flight");
        Self { inbox, next: 0 }
    }

    /// Enqueues, takes and confirms one entry.
    pub(crate) fn pass(&mut self) -> Option<EntryKey> {
        self.next += 1;
        let key = key(self.next);
        self.inbox.enqueue(key);
        let taken = self.inbox.take_head();
        self.inbox.remove(key);
        taken
    }
}
