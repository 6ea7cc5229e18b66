//! The events of a partition, for readers of the node's events.
//!
//! Must always hold: without readers nothing is read or made; an event follows the commit of its
//! record. Must not know: what readers want.

use forebay_api::{Event, EventEntry, EventKind};
use forebay_engine::partition::apply::Applied;
use forebay_messages::{EntryId, Timestamp, VQueueId};

use super::PartitionPerformer;
use crate::events::entry_of;

impl PartitionPerformer {
    /// Publishes what a committed batch did.
    pub(super) fn publish(&self, now: Timestamp) {
        if !self.registry.events.has_readers() {
            return;
        }
        for applied in &self.applied {
            let kind = match applied {
                Applied::Started { entry, vqueue, attempt, .. } => {
                    EventKind::Started { entry: self.named(*entry, *vqueue), attempt: *attempt }
                }
                Applied::Finished { entry, outcome } => {
                    EventKind::Ended { entry: self.finished(*entry), outcome: outcome.into() }
                }
                Applied::RulesUpdated(_) => {
                    let version = self.state.rule_book().version().0;
                    EventKind::Rules { partition: self.id, version }
                }
                _ => continue,
            };
            self.registry.events.publish(Event { at: now.0, kind });
        }
    }

    /// An entry with the names of its vqueue.
    fn named(&self, id: EntryId, vqueue: VQueueId) -> EventEntry {
        // Only for display: a failed read is reported where the row is needed.
        let meta = self.store.vqueue(vqueue).ok().flatten();
        entry_of(id, meta.as_ref().map(|meta| &*meta.name))
    }

    /// An ended entry; its rows may be gone.
    fn finished(&self, id: EntryId) -> EventEntry {
        match self.store.finished(id).ok().flatten() {
            Some(row) => self.named(id, row.vqueue),
            None => entry_of(id, None),
        }
    }
}
