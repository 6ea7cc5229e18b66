//! Partitions that continue from an earlier state, and calls whose children may be lost.

use forebay_engine::partition::{
    apply::{Reply, Stale},
    read,
    rows::{FsmSlot, Stage},
    state::PartitionState,
};
use forebay_messages::{
    EntryId, Incarnation, RecordSeq, VQueueName,
    command::{
        BeginIncarnation, CheckCalls, CheckedTable, Command, MessageBody, Operation, PendingCall,
        Purge,
    },
    journal::{JournalFailureKind, JournalOutcome},
};

use super::{
    fixture::Replica,
    partitions::{Partitions, child, key, service, success},
};

/// The partition of the parents.
const SOURCE: usize = 0;

fn locked(key: &str) -> VQueueName {
    service("cart").with_object_key(key)
}

/// A parent in one partition, and the names of children in another one.
fn parent(all: &mut Partitions) -> (EntryId, Vec<Operation>) {
    let names = (0..).map(|n: u32| service("order").with_object_key(&n.to_string()));
    let is_here = |name: &VQueueName| name.partition_key(None, &[0; 16]).0.is_multiple_of(2);
    let order = all.enqueue(names.into_iter().find(is_here).unwrap());
    assert_eq!(all.source_of(order), SOURCE);
    let calls = (0..64).map(|n: u32| Operation::Call(child(locked(&n.to_string()))));
    let is_far = |operation: &Operation| match operation {
        Operation::Call(child) => child.vqueue.partition_key(None, &[0; 16]).0 % 2 == 1,
        _ => false,
    };
    (order, calls.filter(is_far).collect())
}

fn begin(all: &mut Partitions, entry: EntryId, incarnation: u64) -> Reply {
    let incarnation = Incarnation(incarnation);
    all.run(entry, Command::BeginIncarnation(BeginIncarnation { incarnation }))
}

fn check(all: &mut Partitions, order: EntryId, name: &str, child: EntryId) -> Reply {
    let calls = vec![PendingCall { entry: order, key: key(name), child }];
    all.run(order, Command::CheckCalls(CheckCalls { calls, through: None }))
}

fn failure_kind(outcome: Option<JournalOutcome>) -> Option<JournalFailureKind> {
    match outcome? {
        JournalOutcome::Success(_) => None,
        JournalOutcome::Failure(failure) => Some(failure.kind),
    }
}

#[test]
fn messages_after_a_restore_are_not_taken_for_messages_that_were_sent_before() {
    let mut all = Partitions::new(2);
    let (order, calls) = parent(&mut all);
    let token = all.start(order);
    all.write_one(order, token, "first", calls[0].clone());
    all.deliver_all();
    let snapshot = all.replicas[SOURCE].tables.clone();
    // The target sees one more message, which the restored source does not know.
    all.write_one(order, token, "lost", calls[1].clone());
    all.deliver_all();

    all.replicas[SOURCE] = Replica::over(snapshot);
    assert_eq!(begin(&mut all, order, 70), Reply::Changed(1));
    all.write_one(order, token, "next", calls[2].clone());
    let sent = all.sent(order);
    assert_eq!((sent[0].index, sent[0].incarnation), (RecordSeq(2), Incarnation(70)));
    all.deliver_all();
    let next = all.child_of(order, "next");
    assert_eq!(all.stage(next), Some(Stage::Inbox), "its index was used before, but it exists");
    all.restart_all();
    all.write_one(order, token, "another", calls[3].clone());
    assert_eq!(all.sent(order)[0].incarnation, Incarnation(70), "it is stored");
}

#[test]
fn messages_from_before_a_restore_are_not_applied_twice() {
    let mut all = Partitions::new(2);
    let (order, calls) = parent(&mut all);
    let token = all.start(order);
    all.write_one(order, token, "ship", calls[0].clone());
    let ship = all.child_of(order, "ship");
    let snapshot = all.replicas[SOURCE].tables.clone();
    all.deliver_all();
    all.serve(ship, "shipped");
    let purge = Purge { entries: vec![ship], ..Purge::default() };
    all.run(ship, Command::Purge(purge));

    all.replicas[SOURCE] = Replica::over(snapshot);
    begin(&mut all, order, 70);
    assert_eq!(all.pending(SOURCE)[&1][0].incarnation, Incarnation(0), "it keeps its own");
    all.deliver_all();
    assert_eq!(all.stage(ship), None, "the purged child does not start again");
}

#[test]
fn an_incarnation_only_grows_and_asks_for_another_check_of_the_calls() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let through = Some(CheckedTable { hash: 7, next: 3 });
    all.run(order, Command::CheckCalls(CheckCalls { calls: Vec::new(), through }));
    assert_eq!(read::checked_table(&all.of(order).tables).unwrap(), through);
    assert_eq!(begin(&mut all, order, 70), Reply::Changed(1));
    let none = Some(CheckedTable::default());
    assert_eq!(read::checked_table(&all.of(order).tables).unwrap(), none);
    assert_eq!(begin(&mut all, order, 70), Reply::Stale(Stale::Older));
    assert_eq!(begin(&mut all, order, 69), Reply::Stale(Stale::Older));
    let tables = &all.of(order).tables;
    assert_eq!(read::incarnation(tables).unwrap(), Incarnation(70));
    assert_eq!(tables.fsm[&FsmSlot::MinVersion], 4_u64.to_be_bytes().to_vec());
    assert!(PartitionState::load(tables).unwrap().has_journals());
}

#[test]
fn a_partition_that_never_had_journals_has_no_calls_to_check() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    assert_eq!(read::checked_table(&all.of(order).tables).unwrap(), None);
}

#[test]
fn a_child_that_its_owner_does_not_know_is_lost_and_its_call_ends() {
    let mut all = Partitions::new(2);
    let (order, calls) = parent(&mut all);
    let token = all.start(order);
    all.write_one(order, token, "ship", calls[0].clone());
    let ship = all.child_of(order, "ship");
    all.deliver_all();
    assert!(all.suspend(order, token, &["ship"]));
    // Another partition owns the keys now.
    all.replicas[1] = Replica::new();
    assert_eq!(check(&mut all, order, "ship", ship), Reply::Changed(1));
    all.deliver_all();
    let kind = failure_kind(all.outcome(order, "ship"));
    assert_eq!(kind, Some(JournalFailureKind::DroppedPartition));
    assert_eq!(all.stage(order), Some(Stage::Inbox), "it is woken");
}

#[test]
fn a_child_that_is_live_or_still_in_the_outbox_is_not_lost() {
    for is_delivered in [false, true] {
        let mut all = Partitions::new(2);
        let (order, calls) = parent(&mut all);
        let token = all.start(order);
        all.write_one(order, token, "ship", calls[0].clone());
        let ship = all.child_of(order, "ship");
        if is_delivered {
            all.deliver_all();
        }
        check(&mut all, order, "ship", ship);
        all.deliver_all();
        assert_eq!(all.outcome(order, "ship"), None, "it waits for the child");
        all.serve(ship, "shipped");
        all.deliver_all();
        assert_eq!(all.outcome(order, "ship"), Some(success("shipped")));
        assert_eq!(check(&mut all, order, "ship", ship), Reply::Changed(0), "it has its answer");
        assert_eq!(check(&mut all, order, "ship", order), Reply::Changed(0), "another child");
    }
}

#[test]
fn an_answer_that_was_lost_is_sent_again() {
    let mut all = Partitions::new(2);
    let (order, calls) = parent(&mut all);
    let token = all.start(order);
    all.write_one(order, token, "ship", calls[0].clone());
    let ship = all.child_of(order, "ship");
    all.deliver_all();
    let snapshot = all.replicas[SOURCE].tables.clone();
    all.serve(ship, "shipped");
    all.deliver_all();
    // The source is restored: the answer was delivered, and is not in its rows.
    all.replicas[SOURCE] = Replica::over(snapshot);
    begin(&mut all, order, 70);
    assert_eq!(all.outcome(order, "ship"), None);
    check(&mut all, order, "ship", ship);
    let ask = all.sent(order);
    assert!(matches!(ask[0].body, Some(MessageBody::Ask(_))), "{ask:?}");
    all.deliver_all();
    assert_eq!(all.outcome(order, "ship"), Some(success("shipped")));
}
