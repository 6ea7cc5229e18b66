//! Messages between the partitions of a node, through its shuffles.

use std::collections::HashMap;

use bytes::Bytes;
use forebay_engine::partition::{
    apply::Reply,
    machine::Answer,
    rows::{DedupKey, DedupRow},
    store::{JournalRows as _, Rows as _},
};
use forebay_messages::{
    EntryId, Incarnation, Outcome, PartitionKey, RecordSeq, Run, VQueueName,
    actor::AttemptEnd,
    command::{Command, Deliver, Invoke, MessageBody, NewEntry, OutboxMessage},
    journal::{KeyParts, OUTBOX_PER_TARGET_MAX, ParentLink},
};

use super::*;
use crate::{
    executor::{AttemptContext, Handler, HandlerFuture},
    shell::WallClock,
};

/// The keys of the upper one of two partitions.
const UPPER: KeyRange = KeyRange { first: PartitionKey(1 << 63), last: PartitionKey(u64::MAX) };

struct Echo;

impl Handler for Echo {
    fn call(&self, _: AttemptContext, payload: Bytes) -> HandlerFuture {
        Box::pin(async move { AttemptEnd::Success(payload) })
    }
}

async fn start(partitions: u32) -> Arc<Node> {
    let handlers: HashMap<_, Arc<dyn Handler>> =
        HashMap::from([("work".to_owned(), Arc::new(Echo) as _)]);
    let executor = Executor::new(tokio::runtime::Handle::current(), handlers, || 0);
    let config = NodeConfig {
        place: DataPlace::Memory,
        in_use_wait: Duration::ZERO,
        small_buffers: true,
        partitions: Some(partitions),
        threads: Some(1),
        running_max: None,
        dispatches: true,
        shared: None,
        trim_log: TrimLog::default(),
        candidacy: Candidacy::First,
        vqueues: VQueueLimits::default(),
        outbox_per_target_max: OUTBOX_PER_TARGET_MAX,
        faults: FaultPlan::default(),
    };
    Node::start(config, executor, Arc::new(WallClock)).await.unwrap()
}

fn entry(key: u64, number: u8) -> EntryId {
    EntryId { partition_key: PartitionKey(key), uuid: [number; 16] }
}

/// The child of an entry with this key, called by it.
fn invoke(parent: EntryId, child: EntryId) -> MessageBody {
    let key = KeyParts::named("call", 0).key().unwrap();
    let parent =
        ParentLink { entry: parent, run: Run(1), key, is_awaited: true, ..ParentLink::default() };
    let child = NewEntry {
        id: child,
        vqueue: VQueueName::service("work"),
        payload: Bytes::from_static(b"paid"),
        run_at: None,
        retry: None,
        retention_ms: None,
        idempotency_key: None,
        payload_hash: None,
        is_fresh: false,
    };
    MessageBody::Invoke(Box::new(Invoke { child, parent }))
}

impl Node {
    /// A message arrives in the partition of a key, from a partition that is not here.
    async fn try_arrive(
        &self,
        index: u64,
        to: u64,
        body: MessageBody,
    ) -> Result<Answer, NodeError> {
        let (index, to) = (RecordSeq(index), PartitionKey(to));
        let messages =
            vec![OutboxMessage { index, to, body: Some(body), ..OutboxMessage::default() }];
        let (source, incarnation) = (PartitionId(99), Incarnation(0));
        let command = Command::Deliver(Deliver { source, incarnation, messages });
        self.access.propose(to, command, 0).await
    }

    async fn arrive(&self, index: u64, to: u64, body: MessageBody) {
        let answer = self.try_arrive(index, to, body).await.unwrap();
        assert_eq!(answer, Answer::Reply(Reply::Changed(1)));
    }

    /// Waits for the number of messages in the outbox of a partition.
    async fn await_outbox(&self, partition: PartitionId, count: usize) {
        let store = &self.registry.replica(partition).unwrap().rows.store;
        for _ in 0..1_000 {
            if store.outbox_after(None, 1_000).unwrap().len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", store.outbox_after(None, 1_000));
    }

    /// The last message of a source that a partition has applied.
    fn mark(&self, of: PartitionId, from: PartitionId) -> Option<DedupRow> {
        let store = &self.registry.replica(of).unwrap().rows.store;
        store.dedup(DedupKey::Partition(from.0)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_a_child_is_handed_over_once_and_then_deleted() {
    let node = start(2).await;
    let (lower, upper) = (PartitionId(0), PartitionId(1));
    // One parent is in another partition than its child, one in the same.
    for (parent, at) in [(entry(u64::MAX, 1), upper), (entry(7, 2), lower)] {
        let child = entry(1, parent.uuid[0] + 10);
        node.arrive(parent.uuid[0].into(), 1, invoke(parent, child)).await;
        let outcome = node.access.attach(child).await.unwrap();
        assert_eq!(outcome, Some(Outcome::Success(Bytes::from_static(b"paid"))));
        node.await_outbox(lower, 0).await;
        let index = u64::from(parent.uuid[0]);
        assert_eq!(node.mark(at, lower), Some(DedupRow { epoch: 0, seq: index }));
    }
    assert!(node.mark(lower, upper).is_none(), "the upper one sent nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_keys_without_an_owner_waits_for_one() {
    let node = start(2).await;
    node.drop_partition(PartitionId(1)).await.unwrap();
    let (parent, child) = (entry(u64::MAX, 1), entry(1, 2));
    node.arrive(1, 1, invoke(parent, child)).await;
    node.access.attach(child).await.unwrap();
    node.await_outbox(PartitionId(0), 1).await;
    let upper = node.spawn_partition(UPPER).await.unwrap();
    node.await_outbox(PartitionId(0), 0).await;
    assert_eq!(node.mark(upper, PartitionId(0)), Some(DedupRow { epoch: 0, seq: 1 }));
}
