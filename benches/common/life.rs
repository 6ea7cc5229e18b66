//! The three records in the life cycle of an entry (enqueue, decision, end), applied to the rows of
//! a partition, 64 entries at a time. The rows are in memory; most never reach a file.

use std::sync::Arc;

use bytes::Bytes;
use forebay_engine::partition::{
    apply::{Applied, apply},
    state::PartitionState,
};
use forebay_messages::{
    AttemptToken, EntryId, Epoch, PartitionId, PartitionKey, Record, Timestamp, VQueueName,
    command::{
        Command, Complete, Decision, EndAttempts, EnqueueBatch, NewEntry, SchedulerDecisions,
    },
};
use forebay_storage::{
    Medium,
    partition::{PartitionStore, Store},
};

/// Number of entries per record.
pub(crate) const BATCH: u64 = 64;
const PAYLOAD_BYTES: usize = 256;

/// A partition whose entries are spread over this many vqueues.
pub(crate) struct LifeCycles {
    store: PartitionStore,
    state: PartitionState,
    names: Vec<VQueueName>,
    next: u64,
    applied: Vec<Applied>,
}

impl LifeCycles {
    pub(crate) fn new(vqueues: u64) -> Self {
        let medium = Medium::memory().expect("memory");
        let store = Store::open("/rows".as_ref(), &medium).expect("a store in memory");
        let store = store.partition(PartitionId(1)).expect("a partition");
        let state = PartitionState::load(&store.begin().expect("a batch")).expect("a state");
        let name = |n| VQueueName::service("resize").with_scope(&format!("tenant-{n}"));
        let names = (0..vqueues).map(name).collect();
        Self { store, state, names, next: 0, applied: Vec::new() }
    }

    fn run(&mut self, command: Command) {
        let created_at = Timestamp(1);
        let record = Record { keys: None, producer: None, created_at, command: Some(command) };
        let lsn = self.state.applied_lsn.next();
        let mut batch = self.store.begin().expect("a batch");
        self.applied.clear();
        apply(&mut self.state, &mut batch, lsn, &Arc::new(record), &mut self.applied)
            .expect("the rows can be read");
        batch.commit(lsn).expect("the rows can be written");
    }

    fn entry(&mut self) -> NewEntry {
        self.next += 1;
        let mut uuid = [7; 16];
        uuid[..8].copy_from_slice(&self.next.to_be_bytes());
        NewEntry {
            id: EntryId { partition_key: PartitionKey(7), uuid },
            vqueue: self.names[usize::try_from(self.next).expect("few") % self.names.len()].clone(),
            payload: Bytes::from(vec![7; PAYLOAD_BYTES]),
            run_at: None,
            idempotency_key: None,
            retry: None,
            retention_ms: Some(0),
            is_fresh: true,
            payload_hash: None,
        }
    }

    /// Runs the life cycles of [`BATCH`] entries.
    pub(crate) fn run_batch(&mut self) {
        let token = AttemptToken { epoch: Epoch(1), seq: self.next };
        let entries = (0..BATCH).map(|_| self.entry()).collect();
        self.run(Command::EnqueueBatch(EnqueueBatch { entries }));
        let decide = |applied: &Applied| match *applied {
            Applied::InboxAdded { vqueue, key } => {
                Some(Decision { vqueue, key, token, executor: None })
            }
            _ => None,
        };
        let decisions: Vec<_> = self.applied.iter().filter_map(decide).collect();
        assert_eq!(decisions.len() as u64, BATCH, "all are in the inbox");
        let end = |decision: &Decision| {
            let entry = decision.key.entry;
            Complete { entry, token, outcome: None, heeds_cancel: false }
        };
        let completed = decisions.iter().map(end).collect();
        self.run(Command::SchedulerDecisions(SchedulerDecisions { decisions }));
        self.run(Command::EndAttempts(EndAttempts { completed, retried: Vec::new() }));
    }
}
