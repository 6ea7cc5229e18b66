//! Steps, sleeps, promises and runs, case by case.

use forebay_engine::partition::{
    apply::{Applied, Reply, Skip, Stale},
    read,
    rows::{FsmSlot, Stage},
};
use forebay_messages::{
    EntryId, FailureKind, Outcome, Timestamp, VQueueName,
    command::{AfterRun, Command, EndRun, EntrySelector, Operation, Purge, Restart, SettlePromise},
    journal::{JOURNAL_ROWS_MAX, JournalKind, KeyParts},
};

use super::partitions::{Partitions, child, key, service, step, success};

fn these(entry: EntryId) -> EntrySelector {
    EntrySelector { entries: vec![entry], ..EntrySelector::default() }
}

fn resolve(name: &str, entry: EntryId, bytes: &'static str) -> Command {
    let (name, outcome) = (name.into(), Some(success(bytes)));
    Command::SettlePromise(SettlePromise { entry, name, outcome })
}

fn locked(key: &str) -> VQueueName {
    service("cart").with_object_key(key)
}

// --- Steps.

#[test]
fn a_step_is_remembered_once() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    assert!(all.write_one(order, token, "charge", step("paid")));
    let finished = all.finished_operations(order);
    assert_eq!(finished.len(), 1);
    assert_eq!(
        (finished[0].key.clone(), finished[0].outcome.clone()),
        (key("charge"), success("paid"))
    );
    assert_eq!(finished[0].at, Timestamp(all.now), "the time of the record");

    assert!(all.write_one(order, token, "charge", step("paid twice")));
    assert_eq!(all.finished_operations(order), [], "existing rows are unchanged");
    assert_eq!(all.outcome(order, "charge"), Some(success("paid")));

    assert!(all.write_one(order, token, "charge", Operation::Promise(())));
    let (key, found) = (key("charge"), JournalKind::Step);
    let refused = Applied::WriteRefused { entry: order, token, key, found };
    assert_eq!(all.applied(order), [refused], "another operation");
    assert_eq!(all.row(order).unwrap().journal().unwrap().rows, 1);
}

#[test]
fn an_attempt_that_was_superseded_writes_nothing() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let old = all.start(order);
    all.run(order, Command::Restart(Restart { selector: these(order), from: None }));
    assert!(!all.write_one(order, old, "charge", step("paid")));
    assert!(!all.suspend(order, old, &["charge"]));
    assert!(all.journal(order).is_empty());
}

#[test]
fn now_of_a_run_is_when_its_first_writer_was_decided() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    let decided = all.now;
    all.now += 100;
    all.write_one(order, token, "a", step("1"));
    all.write_one(order, token, "b", step("2"));
    assert_eq!(all.row(order).unwrap().journal().unwrap().first_at, Timestamp(decided));
    let journal = all.journal(order);
    assert!(journal[&key("a")].sequence < journal[&key("b")].sequence);
}

#[test]
fn a_journal_is_read_in_the_order_in_which_its_operations_finished() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    assert_eq!(read::journal(&all.replicas[0].tables, order).unwrap(), None);
    let token = all.start(order);
    let decided = Timestamp(all.now);
    all.write_one(order, token, "pending", Operation::Sleep(Timestamp(900)));
    all.write_one(order, token, "approved", Operation::Promise(()));
    all.write_one(order, token, "z", step("1"));
    all.write_one(order, token, "a", step("2"));
    all.run(order, resolve("approved", order, "yes"));
    let read = read::journal(&all.replicas[0].tables, order).unwrap().unwrap();
    let keys: Vec<_> = read.operations.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys, ["z", "a", "approved", "pending"]);
    assert_eq!((read.run.0, read.first_at), (0, decided));
}

#[test]
fn an_entry_without_a_journal_has_nothing_of_it() {
    let mut all = Partitions::new(1);
    let plain = all.enqueue(service("mail"));
    let token = all.start(plain);
    assert_eq!(all.row(plain).unwrap().extra, None);
    all.succeed(plain, token, "sent");
    assert_eq!(all.finished(plain).unwrap().extra, None);
    let tables = &all.of(plain).tables;
    assert_eq!(tables.fsm.get(&FsmSlot::MinVersion), None, "older binaries may read it");
    assert_eq!(tables.fsm.get(&FsmSlot::OutboxSeq), None);

    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "charge", step("paid"));
    let format = all.of(order).tables.fsm[&FsmSlot::MinVersion].clone();
    assert_eq!(format.as_ref(), 3_u64.to_be_bytes(), "from here on they must not");
}

#[test]
fn a_journal_that_is_full_ends_its_entry_with_a_reason() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    let mut numbers = 0..JOURNAL_ROWS_MAX;
    while !numbers.is_empty() {
        let page = numbers.by_ref().take(1_000);
        let writes: Vec<_> =
            page.map(|n| (KeyParts::named("s", n).key().unwrap(), step("x"))).collect();
        assert!(all.write(order, token, writes));
    }
    assert_eq!(all.stage(order), Some(Stage::Running));
    all.write_one(order, token, "one more", step("x"));
    let (kind, text) = all.failure(order).unwrap();
    assert_eq!(kind, FailureKind::Terminal);
    assert!(text.contains("journal full") && text.contains("continue_with"), "{text}");
    let is_aborted =
        |applied: &Applied| matches!(applied, Applied::AttemptOver { abort: true, .. });
    assert!(all.applied(order).iter().any(is_aborted), "its handler is stopped");

    let purge = |order| Command::Purge(Purge { entries: vec![order], ..Purge::default() });
    all.run(order, purge(order));
    assert!(all.journal(order).is_empty(), "the journal goes with its entry");
}

// --- Sleeps.

#[test]
fn a_sleeper_wakes_by_a_record_and_stands_before_new_work() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order").with_scope("a"));
    let token = all.start(order);
    all.write_one(order, token, "cool", Operation::Sleep(Timestamp(100)));
    assert!(all.applied(order).contains(&Applied::SleepAdded { until: Timestamp(100) }));
    assert!(all.suspend(order, token, &["cool"]));
    let newer = all.enqueue(service("order").with_scope("a"));
    assert_eq!(all.wake(order, 99), Reply::Changed(0));
    assert_eq!(all.stage(order), Some(Stage::Suspended));
    all.restart_all();
    assert_eq!(all.wake(order, 100), Reply::Changed(1));
    assert_eq!(all.stage(order), Some(Stage::Inbox));
    let (woken, new) = (all.row(order).unwrap().key, all.row(newer).unwrap().key);
    assert!(woken < new, "it is first");
    assert_eq!(all.row(order).unwrap().attempts, 0, "it used up no attempt");
    assert!(all.row(order).unwrap().journal().unwrap().waits.is_empty());

    let token = all.start(order);
    all.now = 200;
    all.write_one(order, token, "past", Operation::Sleep(Timestamp(150)));
    assert_eq!(all.outcome(order, "past"), Some(success("")), "over before it began");
}

#[test]
fn a_sleep_goes_with_its_entry() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "cool", Operation::Sleep(Timestamp(100)));
    all.succeed(order, token, "done");
    all.run(order, Command::Purge(Purge { entries: vec![order], ..Purge::default() }));
    assert_eq!(all.wake(order, 200), Reply::Changed(0));
    assert!(all.replicas[0].tables.sleeps.is_empty());
}

// --- Promises.

#[test]
fn a_promise_that_is_resolved_early_is_kept() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    assert_eq!(all.run(order, resolve("approved", order, "true")), Reply::Changed(0));
    all.restart_all();
    let again = all.run(order, resolve("approved", order, "false"));
    assert_eq!(again, Reply::Stale(Stale::AlreadySettled));
    let token = all.start(order);
    all.write_one(order, token, "approved", Operation::Promise(()));
    assert_eq!(all.outcome(order, "approved"), Some(success("true")));
}

#[test]
fn a_promise_wakes_its_suspended_entry() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    let again = KeyParts::named("approved", 1).key().unwrap();
    let waits = [key("approved"), again.clone()].map(|key| (key, Operation::Promise(())));
    all.write(order, token, waits);
    assert!(all.suspend(order, token, &["approved"]));
    assert_eq!(all.run(order, resolve("other", order, "1")), Reply::Changed(0));
    assert_eq!(all.stage(order), Some(Stage::Suspended), "another promise");
    assert_eq!(all.run(order, resolve("approved", order, "true")), Reply::Changed(2));
    assert_eq!(all.stage(order), Some(Stage::Inbox));
    assert_eq!(all.journal(order)[&again].outcome(), Some(success("true")));
}

#[test]
fn a_promise_of_an_entry_that_is_not_there_is_refused() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(service("order"));
    let unknown = EntryId { uuid: [9; 16], ..order };
    assert_eq!(all.run(order, resolve("a", unknown, "1")), Reply::Stale(Stale::Unknown));
    all.serve(order, "done");
    assert_eq!(all.run(order, resolve("a", order, "1")), Reply::Stale(Stale::Finished));
}

// --- Runs.

fn restart(all: &mut Partitions, entry: EntryId, from: Option<&str>) -> Reply {
    let restart = Restart { selector: these(entry), from: from.map(key) };
    all.run(entry, Command::Restart(restart))
}

#[test]
fn a_restart_begins_with_an_empty_journal_and_new_children() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    all.write_one(order, token, "charge", step("paid"));
    all.write_one(order, token, "ship", Operation::Call(child(locked("a"))));
    all.write_one(order, token, "cool", Operation::Sleep(Timestamp(500)));
    all.write_one(order, token, "approved", Operation::Promise(()));
    let old = all.child_of(order, "ship");
    all.deliver_all();
    all.start(old);
    assert!(all.suspend(order, token, &["ship"]));
    assert!(matches!(restart(&mut all, order, None), Reply::Acted(acted) if acted.changed == 1));
    assert!(all.journal(order).is_empty());
    assert_eq!(all.stage(order), Some(Stage::Inbox));
    all.deliver_all();
    assert!(all.row(old).unwrap().cancel_requested, "children of the old run are canceled");

    let token = all.start(order);
    all.write_one(order, token, "ship", Operation::Call(child(locked("b"))));
    assert_ne!(all.child_of(order, "ship"), old);
    let running = all.row(old).unwrap().token;
    all.succeed(old, running, "shipped");
    all.deliver_all();
    assert_eq!(all.outcome(order, "ship"), None, "the answer to the old run is dropped");
    assert_eq!(all.run(order, resolve("approved", order, "yes")), Reply::Changed(0));
}

#[test]
fn a_restart_from_an_operation_keeps_what_finished_before_it() {
    let mut all = Partitions::new(2);
    let order = all.enqueue(service("order"));
    let token = all.start(order);
    for name in ["a", "b", "c"] {
        all.write_one(order, token, name, step("done"));
    }
    all.write_one(order, token, "pending", Operation::Promise(()));
    let skipped = Reply::Acted(forebay_engine::partition::apply::Acted {
        changed: 0,
        skipped: vec![(order, Skip::NoSuchOperation)],
    });
    assert_eq!(restart(&mut all, order, Some("typo")), skipped);
    assert_eq!(all.journal(order).len(), 4, "nothing is lost for a typing error");
    restart(&mut all, order, Some("b"));
    let left: Vec<_> = all.journal(order).into_keys().collect();
    assert_eq!(left, [key("a")]);
    assert_eq!(all.row(order).unwrap().journal().unwrap().run.0, 1);

    let token = all.start(order);
    all.end(order, token, Outcome::failure(FailureKind::Terminal, "no"));
    restart(&mut all, order, None);
    assert_eq!(all.stage(order), Some(Stage::Inbox), "one that failed is redriven");
    assert!(all.journal(order).is_empty());
    all.serve(order, "done");
    let skipped = Reply::Acted(forebay_engine::partition::apply::Acted {
        changed: 0,
        skipped: vec![(order, Skip::Succeeded)],
    });
    assert_eq!(restart(&mut all, order, None), skipped);
}

#[test]
fn a_run_that_continues_has_another_payload_and_no_journal() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(locked("a"));
    let token = all.start(order);
    all.write_one(order, token, "page", step("1"));
    let then = Some(AfterRun::ContinueWith("page 2".into()));
    let end = EndRun { entry: order, token, then };
    assert_eq!(all.run(order, Command::EndRun(end.clone())), Reply::Changed(1));
    assert_eq!(all.of(order).tables.payloads[&order], "page 2");
    assert!(all.journal(order).is_empty());
    assert!(all.row(order).unwrap().key.has_lock, "the order of its key is kept");
    assert_eq!(all.run(order, Command::EndRun(end)), Reply::Stale(Stale::Superseded));
}

#[test]
fn an_entry_whose_code_changed_is_set_aside_with_its_journal() {
    let mut all = Partitions::new(1);
    let order = all.enqueue(locked("a"));
    let next = all.enqueue(locked("a"));
    let token = all.start(order);
    all.write_one(order, token, "charge", step("paid"));
    let then = Some(AfterRun::Pause("journal mismatch".into()));
    all.run(order, Command::EndRun(EndRun { entry: order, token, then }));
    assert_eq!(all.stage(order), Some(Stage::Paused));
    assert_eq!(all.row(order).unwrap().last_failure, "journal mismatch");
    all.run(order, Command::Resume(these(order)));
    let place = all.row(order).unwrap().key;
    assert!(place < all.row(next).unwrap().key, "it keeps its place");
    assert_eq!(all.outcome(order, "charge"), Some(success("paid")));
    all.start(order);
}
