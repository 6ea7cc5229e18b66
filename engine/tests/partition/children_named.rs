//! Children, the effects of a parent's end on them, and messages between partitions, case by case.

use forebay_engine::partition::{
    apply::{Acted, Applied, Reply, Skip},
    rows::Stage,
};
use forebay_messages::{
    EntryId, FailureKind, Incarnation, Outcome, PartitionId, RecordSeq, Timestamp, VQueueName,
    command::{
        Command, Deliver, EntryAction, EntrySelector, MessageBody, NewChild, Operation,
        OutboxMessage, Purge, StopChild,
    },
    journal::{JournalFailureKind, JournalOutcome, KeyParts, TOMBSTONE_RETENTION_MS},
};

use super::partitions::{Partitions, child, key, service, step, success};

fn these(entry: EntryId) -> EntrySelector {
    EntrySelector { entries: vec![entry], ..EntrySelector::default() }
}

fn failure_kind(outcome: Option<JournalOutcome>) -> Option<JournalFailureKind> {
    match outcome? {
        JournalOutcome::Success(_) => None,
        JournalOutcome::Failure(failure) => Some(failure.kind),
    }
}

fn locked(key: &str) -> VQueueName {
    service("cart").with_object_key(key)
}

// --- Children.

#[test]
fn a_hundred_children_over_eight_partitions_answer_their_parent() {
    let mut all = Partitions::new(8);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    let name = |n: u32| KeyParts::named("ship", n).key().unwrap();
    let calls = (0..100).map(|n| (name(n), Operation::Call(child(locked(&n.to_string())))));
    assert!(all.write(order, token, calls));
    assert_eq!(all.sent(order).len(), 100);
    let waits: Vec<_> = (0..100).map(name).collect();
    let attempts = vec![forebay_messages::command::SuspendAttempt {
        entry: order,
        token,
        waits,
        releases_key: false,
    }];
    let suspend = forebay_messages::command::Suspend { attempts };
    assert_eq!(all.run(order, Command::Suspend(suspend)), Reply::Changed(1));
    assert_eq!(all.stage(order), Some(Stage::Suspended));
    all.restart_all();
    all.deliver_all();
    let children: Vec<_> = all.journal(order).values().map(|row| row.child.unwrap()).collect();
    assert_eq!(all.stage(order), Some(Stage::Suspended), "nothing came yet");

    for (n, ship) in children.iter().enumerate() {
        all.serve(*ship, "shipped");
        all.deliver_all();
        assert_eq!(all.stage(order), Some(Stage::Inbox), "woken by child {n}, and not again");
        all.restart_all();
    }
    let mut sequences: Vec<_> = all.journal(order).values().map(|row| row.sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 100, "each has a place among finished operations");
    assert!(all.journal(order).values().all(|row| row.outcome() == Some(success("shipped"))));
    assert!(all.replicas.iter().all(|replica| replica.tables.outbox.is_empty()));
}

#[test]
fn a_child_that_ended_before_its_parent_waits_makes_the_suspend_void() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    let ship = all.child_of(order, "ship");
    all.deliver_all();
    all.serve(ship, "shipped");
    all.deliver_all();
    assert!(!all.suspend(order, token, &["ship"]));
    let void = Applied::SuspendVoid { entry: order, token };
    assert_eq!(all.applied(order), [void]);
    assert_eq!(all.stage(order), Some(Stage::Running), "it continues");
    assert!(!all.suspend(order, token, &[]), "nothing would wake it");
    assert!(!all.suspend(order, token, &["never begun"]), "nothing would wake it");
}

/// Ends a child.
type End = fn(&mut Partitions, EntryId);

#[test]
fn whatever_ends_a_child_answers_its_parent() {
    let ends: [(JournalFailureKind, End); 5] = [
        (JournalFailureKind::Terminal, |all, ship| {
            let token = all.start(ship);
            all.end(ship, token, Outcome::failure(FailureKind::Terminal, "no"));
        }),
        (JournalFailureKind::Exhausted, |all, ship| {
            let token = all.start(ship);
            all.end(ship, token, Outcome::failure(FailureKind::Exhausted, "no"));
        }),
        (JournalFailureKind::Canceled, |all, ship| {
            all.run(ship, Command::Cancel(these(ship)));
        }),
        (JournalFailureKind::Killed, |all, ship| {
            all.start(ship);
            all.run(ship, Command::Kill(these(ship)));
        }),
        (JournalFailureKind::Killed, |all, ship| {
            all.run(ship, Command::Pause(these(ship)));
            all.run(ship, Command::Kill(these(ship)));
        }),
    ];
    for (kind, end) in ends {
        let mut all = Partitions::new(2);
        let order = all.enqueue(service("order"));
        let token = all.start(order);
        all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
        assert!(all.suspend(order, token, &["ship"]));
        let ship = all.child_of(order, "ship");
        all.deliver_all();
        end(&mut all, ship);
        assert_eq!(all.stage(ship), Some(Stage::Finished));
        all.deliver_all();
        assert_eq!(failure_kind(all.outcome(order, "ship")), Some(kind));
        assert_eq!(all.stage(order), Some(Stage::Inbox), "{kind}: it is woken");
    }
}

#[test]
fn the_purge_of_a_child_changes_nothing() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    let gone = NewChild { retention_ms: Some(0), ..child(locked("b")) };
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    all.write_one(order, token, "bill", Operation::Call(gone));
    let (ship, bill) = (all.child_of(order, "ship"), all.child_of(order, "bill"));
    all.deliver_all();
    all.serve(ship, "shipped");
    all.serve(bill, "billed");
    all.run(ship, Command::Purge(Purge { entries: vec![ship], ..Purge::default() }));
    assert_eq!((all.stage(ship), all.stage(bill)), (None, None));
    all.deliver_all();
    assert_eq!(all.outcome(order, "ship"), Some(success("shipped")));
    assert_eq!(all.outcome(order, "bill"), Some(success("billed")));
}

#[test]
fn a_sent_child_sends_no_answer_and_outlives_its_parent() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "mail", Operation::Send(child(locked("a"))));
    let mail = all.child_of(order, "mail");
    assert!(all.journal(order)[&key("mail")].is_finished(), "there is nothing to wait for");
    all.deliver_all();
    all.run(order, Command::Kill(these(order)));
    all.deliver_all();
    assert_eq!(all.stage(mail), Some(Stage::Inbox));
    all.serve(mail, "sent");
    assert_eq!(all.sent(mail).len(), 0);
}

#[test]
fn the_answer_to_a_parent_that_ended_is_kept_for_a_redrive() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "charge", step("paid"));
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    all.deliver_all();
    all.end(order, token, Outcome::failure(FailureKind::Exhausted, "bug"));
    let ship = all.child_of(order, "ship");
    assert_eq!(all.stage(ship), Some(Stage::Inbox), "it is left alone");
    all.serve(ship, "shipped");
    all.deliver_all();
    all.run(order, Command::Redrive(these(order)));
    assert_eq!(all.outcome(order, "charge"), Some(success("paid")), "steps are remembered");
    assert_eq!(all.outcome(order, "ship"), Some(success("shipped")));
}

// --- Cancel and kill.

/// An order that called a shipment, which called a label; every message delivered.
fn tree(all: &mut Partitions) -> [EntryId; 3] {
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "ship", Operation::Call(child(locked("ship"))));
    assert!(all.suspend(order, token, &["ship"]));
    let ship = all.child_of(order, "ship");
    all.deliver_all();
    let token = all.start(ship);
    all.write_one(ship, token, "label", Operation::Call(child(locked("label"))));
    let label = all.child_of(ship, "label");
    all.deliver_all();
    [order, ship, label]
}

#[test]
fn a_cancel_follows_to_the_leaves_of_a_tree() {
    let mut all = Partitions::new(3);
    let [order, ship, label] = tree(&mut all);
    all.run(order, Command::Cancel(these(order)));
    assert_eq!(all.failure(order).unwrap().1, "canceled while it waited");
    all.restart_all();
    all.deliver_all();
    assert!(all.row(ship).unwrap().cancel_requested, "a running child is asked to stop");
    assert_eq!(all.failure(label).unwrap().0, FailureKind::Canceled);
    assert_eq!(
        failure_kind(all.outcome(ship, "label")),
        Some(JournalFailureKind::Canceled),
        "and it gets the ends of its children"
    );
}

#[test]
fn a_kill_follows_to_the_leaves_of_a_tree() {
    let mut all = Partitions::new(3);
    let [order, ship, label] = tree(&mut all);
    all.run(order, Command::Kill(these(order)));
    all.deliver_all();
    for entry in [order, ship, label] {
        assert_eq!(all.failure(entry).unwrap().0, FailureKind::Killed);
    }
}

#[test]
fn children_made_to_clean_up_after_a_cancel_continue() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    all.run(order, Command::Cancel(these(order)));
    all.write_one(order, token, "refund", Operation::Call(child(locked("b"))));
    assert!(!all.suspend(order, token, &["refund"]), "it was asked to stop: it continues");
    all.deliver_all();
    let (ship, refund) = (all.child_of(order, "ship"), all.child_of(order, "refund"));
    assert_eq!(all.failure(ship).unwrap().0, FailureKind::Canceled);
    assert_eq!(all.stage(refund), Some(Stage::Inbox));
}

/// A cancel that overtakes the invoke, for example because the partition of the child was restored
/// and pending calls are sent again.
#[test]
fn a_late_invoke_after_its_cancel_makes_nothing_and_is_answered() {
    for is_kill in [false, true] {
        let mut all = Partitions::new(1);
        let order = all.enqueue(service("order"));
        let token = all.start(order);
        all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
        let ship = all.child_of(order, "ship");
        let invoke = all.pending(0).remove(&0).unwrap();
        let body = Some(MessageBody::Stop(StopChild { child: ship, is_kill }));
        let to = ship.partition_key;
        let index = RecordSeq(1);
        let stop = OutboxMessage { index, to, body, ..OutboxMessage::default() };
        // From another source, whose messages have no order relative to these.
        let deliver =
            Deliver { source: PartitionId(7), incarnation: Incarnation(0), messages: vec![stop] };
        all.run(ship, Command::Deliver(deliver));
        all.deliver(0, 0, invoke);
        assert_eq!(all.stage(ship), None, "it was not made");
        all.truncate(0, vec![RecordSeq(1)]);
        all.deliver_all();
        let kind = if is_kill { JournalFailureKind::Killed } else { JournalFailureKind::Canceled };
        assert_eq!(failure_kind(all.outcome(order, "ship")), Some(kind));

        all.now += TOMBSTONE_RETENTION_MS + 10;
        let until = Some(Timestamp(all.now));
        all.run(order, Command::Purge(Purge { expired_until: until, ..Purge::default() }));
        assert!(all.of(ship).tables.tombstones.is_empty(), "it is kept for a day");
    }
}

// --- Messages.

#[test]
fn a_message_is_applied_once_per_incarnation() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    let messages = all.pending(0).remove(&0).unwrap();
    assert_eq!(all.deliver(0, 0, messages.clone()), Reply::Changed(1));
    assert_eq!(all.deliver(0, 0, messages.clone()), Reply::Changed(0), "a repetition");
    let ship = all.child_of(order, "ship");
    all.serve(ship, "shipped");
    all.incarnations[0] = 1;
    assert_eq!(all.deliver(0, 0, messages), Reply::Changed(1), "sent again after a restore");
    assert_eq!(all.stage(ship), Some(Stage::Finished), "it does not run again");
    let bodies: Vec<_> = all.sent(ship).iter().map(|message| message.body.clone()).collect();
    assert!(matches!(bodies[..], [Some(MessageBody::Response(_))]), "it is answered for again");
}

/// After a restore a call is sent again, and its child answers again.
#[test]
fn an_operation_finishes_once_if_its_child_answers_twice() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    let call = all.pending(0).remove(&0).unwrap();
    all.deliver(0, 0, call.clone());
    let ship = all.child_of(order, "ship");
    all.serve(ship, "shipped");
    all.deliver_all();
    let finished_at = |all: &mut Partitions| all.journal(order)[&key("ship")].sequence;
    let first = finished_at(&mut all);
    assert_ne!(first, 0);
    all.incarnations[0] = 1;
    assert_eq!(all.deliver(0, 0, call), Reply::Changed(1), "sent again");
    all.deliver_all();
    assert_eq!(finished_at(&mut all), first);
    assert_eq!(all.stage(order), Some(Stage::Running), "it continues");
}

#[test]
fn the_outbox_lets_go_of_what_was_delivered_and_of_nothing_else() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    let calls = ["a", "b", "c"].map(|name| (key(name), Operation::Call(child(locked(name)))));
    all.write(order, token, calls);
    let source = all.source_of(order);
    let delivered = vec![RecordSeq(1), RecordSeq(3), RecordSeq(9)];
    assert_eq!(all.truncate(source, delivered), Reply::Changed(2));
    let left: Vec<_> = all.replicas[source].tables.outbox.keys().copied().collect();
    assert_eq!(left, [RecordSeq(2)]);
    all.write_one(order, token, "d", Operation::Call(child(locked("d"))));
    let last = all.replicas[source].tables.outbox.keys().next_back().copied();
    assert_eq!(last, Some(RecordSeq(4)), "an index is never given again");
}

// --- Keys and depth.

#[test]
fn a_call_for_a_key_that_an_ancestor_holds_fails_at_once() {
    let mut all = Partitions::new(2);
    let cart = all.enqueue(locked("a"));
    let token = all.start(cart);
    all.write_one(cart, token, "self", Operation::Call(child(locked("a"))));
    assert_eq!(
        failure_kind(all.outcome(cart, "self")),
        Some(JournalFailureKind::WouldDeadlock),
        "its own key"
    );
    assert_eq!(all.sent(cart).len(), 0, "nothing is made");
    all.write_one(cart, token, "sent", Operation::Send(child(locked("a"))));
    assert!(all.journal(cart)[&key("sent")].child.is_some(), "no operation waits for this one");

    all.write_one(cart, token, "free", Operation::Call(child(service("free"))));
    all.deliver_all();
    let free = all.child_of(cart, "free");
    let token = all.start(free);
    all.write_one(free, token, "back", Operation::Call(child(locked("a"))));
    let Some(JournalOutcome::Failure(failure)) = all.outcome(free, "back") else { panic!() };
    assert_eq!(failure.kind, JournalFailureKind::WouldDeadlock, "the key of its parent");
    assert!(failure.message.contains("key `a` of service `cart`"), "{}", failure.message);
    all.write_one(free, token, "other", Operation::Call(child(locked("b"))));
    assert_eq!(all.outcome(free, "other"), None, "another key is waited for");
}

#[test]
fn calls_within_calls_end_at_their_bound() {
    let mut all = Partitions::new(4);
    let mut entry = all.enqueue(service("order"));
    for depth in 1..=64 {
        let token = all.start(entry);
        all.write_one(entry, token, "down", Operation::Call(child(service("order"))));
        assert_eq!(all.outcome(entry, "down"), None, "{depth} deep");
        let next = all.child_of(entry, "down");
        all.deliver_all();
        entry = next;
    }
    let token = all.start(entry);
    all.write_one(entry, token, "down", Operation::Call(child(service("order"))));
    let Some(JournalOutcome::Failure(failure)) = all.outcome(entry, "down") else { panic!() };
    assert_eq!(failure.kind, JournalFailureKind::CallTooDeep);
    assert!(failure.message.contains("65 deep"), "{}", failure.message);
    all.write_one(entry, token, "sent", Operation::Send(child(service("order"))));
    assert!(all.journal(entry)[&key("sent")].child.is_some(), "a send starts at depth 0");
}

#[test]
fn a_suspended_entry_keeps_its_key_unless_it_releases_it() {
    for releases in [false, true] {
        let mut all = Partitions::new(1);
        let first = all.enqueue(locked("a"));
        let second = all.enqueue(locked("a"));
        let token = all.start(first);
        all.write_one(first, token, "nap", Operation::Sleep(Timestamp(50)));
        assert!(all.suspend_with(first, token, &["nap"], releases));
        let over = all.applied(first).iter().find_map(|applied| match applied {
            Applied::AttemptOver { keeps_lock, abort, .. } => Some((*keeps_lock, *abort)),
            _ => None,
        });
        assert_eq!(over, Some((!releases, true)), "its handler goes when this is applied");
        let vqueue = all.row(first).unwrap().vqueue;
        let holder = all.of(first).tables.locks.get(&vqueue).copied();
        assert_eq!(holder, (!releases).then_some(first));
        if releases {
            all.serve(second, "done");
        }
        all.wake(first, 50);
        assert_eq!(all.row(first).unwrap().key.has_lock, !releases);
        all.start(first);
    }
}

// --- Pauses.

#[test]
fn a_pause_of_an_earlier_version_skips_a_suspended_entry() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "approved", Operation::Promise(()));
    assert!(all.suspend(order, token, &["approved"]));
    let skipped = Acted { changed: 0, skipped: vec![(order, Skip::Suspended)] };
    assert_eq!(all.run(order, Command::Pause(these(order))), Reply::Acted(skipped));
    assert_eq!(all.stage(order), Some(Stage::Suspended));
    all.run(order, EntryAction::Pause.command(these(order)));
    assert_eq!(all.stage(order), Some(Stage::Paused));
}

#[test]
fn a_paused_entry_is_suspended_again_unless_an_answer_came() {
    for comes in [false, true] {
        let mut all = Partitions::new(2);
        let order = all.enqueue(locked("a"));
        let token = all.start(order);
        all.write_one(order, token, "ship", Operation::Call(child(locked("b"))));
        assert!(all.suspend(order, token, &["ship"]));
        all.deliver_all();
        all.run(order, EntryAction::Pause.command(these(order)));
        all.restart_all();
        if comes {
            let ship = all.child_of(order, "ship");
            all.serve(ship, "shipped");
            all.deliver_all();
            assert_eq!(all.outcome(order, "ship"), Some(success("shipped")));
        }
        assert_eq!(all.stage(order), Some(Stage::Paused));
        all.run(order, Command::Resume(these(order)));
        let expected = if comes { Stage::Inbox } else { Stage::Suspended };
        assert_eq!(all.stage(order), Some(expected));
        let row = all.row(order).unwrap();
        assert!(row.key.has_lock, "it kept its lock");
        assert_eq!(row.journal().unwrap().waits.is_empty(), comes);
        if !comes {
            let ship = all.child_of(order, "ship");
            all.serve(ship, "shipped");
            all.deliver_all();
            assert_eq!(all.stage(order), Some(Stage::Inbox), "it is woken");
        }
    }
}
