//! Locks: one holder per vqueue, kept across retries, freed when the entry ends.

use forebay_messages::{
    Generation, VQueueHandle,
    actor::{Acquire, LimiterMessage, LockWish, Release},
};

use super::rig::{Rig, entry, handle, id, limit, name};

fn free_lock(text: &str, number: u8) -> LimiterMessage {
    LimiterMessage::FreeLock { vqueue: id(&name(text)), entry: entry(number) }
}

#[test]
fn one_entry_per_key_at_a_time() {
    let mut rig = Rig::new(&[]);
    assert_eq!(rig.ask_for(1, "s#k", 9), [1]);
    assert_eq!(rig.held[&handle(1)].len(), 1, "with a lock one permit at a time");
    rig.hand_over(1);
    assert_eq!(rig.ask(1, "s#k"), [], "its next entry waits for the running one");
    rig.run(2, "s#other");
    rig.run(3, "-#k");
    assert_eq!(rig.end(1), [1]);
}

#[test]
fn a_retry_keeps_the_lock_and_runs_first() {
    let mut rig = Rig::new(&[limit("s", 1)]);
    rig.run(1, "s#k");
    assert_eq!(rig.end_keeping(1, Some(entry(5))), []);
    rig.run(2, "s");
    // The concurrency was returned, the lock was not.
    assert_eq!(rig.ask(1, "s#k"), []);
    assert_eq!(rig.end(2), []);
    assert_eq!(rig.ask_with(1, name("s#k"), 1, LockWish::Held(entry(6))), [], "not its lock");
    assert_eq!(rig.ask_with(1, name("s#k"), 1, LockWish::Held(entry(5))), [1]);
    rig.hand_over(1);
    rig.ask(1, "s#k");
    assert_eq!(rig.end(1), [1], "the end frees it");
}

#[test]
fn an_entry_that_ends_before_its_retry_frees_the_lock() {
    let mut rig = Rig::new(&[]);
    rig.run(1, "s#k");
    rig.end_keeping(1, Some(entry(5)));
    assert_eq!(rig.ask(1, "s#k"), []);
    assert_eq!(rig.slots(free_lock("s#k", 4)), []);
    assert_eq!(rig.slots(free_lock("s#k", 5)), [1]);
    assert_eq!(rig.slots(free_lock("s#k", 5)), [], "another entry cannot free the permit's lock");
    rig.ask(1, "s#k");
    assert_eq!(rig.end(1), [1]);
}

#[test]
fn an_unused_permit_leaves_a_kept_lock_to_its_entry() {
    let mut rig = Rig::new(&[]);
    let held = LockWish::Held(entry(5));
    rig.run(1, "s#k");
    rig.end_keeping(1, Some(entry(5)));
    // Granted under the kept lock, and withdrawn before it was handed over.
    assert_eq!(rig.ask_with(1, name("s#k"), 1, held), [1]);
    rig.held.clear();
    rig.withdraw(1);
    assert_eq!(rig.ask(2, "s#k"), [], "entry 5 still has it");
    assert_eq!(rig.ask_with(1, name("s#k"), 1, held), [1]);
    // Released unused after the entry was killed: the lock is free in either order.
    rig.send(free_lock("s#k", 5));
    assert_eq!(rig.end(1), [2]);
}

#[test]
fn lock_waiters_proceed_in_order_and_a_withdrawn_one_does_not_block() {
    let mut rig = Rig::new(&[limit("s", 1)]);
    rig.run(1, "s#k");
    // Three incarnations of the same vqueue.
    for generation in 2..=4 {
        let handle = VQueueHandle { slot: 1, generation: Generation(generation) };
        let name = name("s#k");
        let (vqueue, name) = (id(&name), std::sync::Arc::new(name));
        let ask = Acquire { handle, vqueue, name, count: 1, lock: LockWish::Take };
        assert_eq!(rig.send(LimiterMessage::Acquire(ask)), []);
    }
    rig.ask(7, "s");
    rig.send(LimiterMessage::Withdraw(VQueueHandle { slot: 1, generation: Generation(2) }));
    let permit = rig.held.get_mut(&handle(1)).unwrap().remove(0);
    let release = |permit| LimiterMessage::Release(vec![Release { permit, keep_lock: None }]);
    assert_eq!(rig.slots(release(permit)), [7], "the waiter at the counter is first");
    let granted = rig.end(7);
    assert_eq!(granted, [1]);
    let third = VQueueHandle { slot: 1, generation: Generation(3) };
    let permit = rig.held[&third][0];
    let granted = rig.send(release(permit));
    assert_eq!(granted[0].handle.generation, Generation(4));
}

#[test]
fn a_lock_is_not_taken_while_the_counters_block() {
    let mut rig = Rig::new(&[limit("s", 1)]);
    rig.run(1, "s");
    assert_eq!(rig.ask(2, "s#k"), []);
    let explained = rig.limiter.explain(handle(2), rig.now).unwrap();
    assert_eq!(explained.reasons.len(), 1, "{explained:?}");
    assert_eq!(rig.ask(3, "-#k"), [3]);
    assert_eq!(rig.end(1), [2]);
}

#[test]
fn a_lock_that_the_seed_left_out_is_learned_and_one_that_is_known_is_not_replaced() {
    let mut rig = Rig::new(&[]);
    let held = |text: &str, number: u8| LimiterMessage::LockHeld {
        vqueue: id(&name(text)),
        entry: entry(number),
    };
    assert_eq!(rig.slots(held("s#k", 5)), []);
    assert_eq!(rig.ask(1, "s#k"), [], "a suspended entry holds it");
    assert_eq!(rig.ask_with(2, name("s#k"), 1, LockWish::Held(entry(5))), [2], "it was woken");
    rig.hand_over(2);
    assert_eq!(rig.slots(held("s#k", 6)), []);
    assert_eq!(rig.end(2), [1], "its permit freed the lock");
    rig.hand_over(1);
    assert_eq!(rig.slots(held("s#k", 5)), []);
    assert_eq!(rig.end_keeping(1, Some(entry(7))), []);
    assert_eq!(rig.slots(free_lock("s#k", 5)), []);
    assert_eq!(rig.ask_with(3, name("s#k"), 1, LockWish::Held(entry(7))), [3]);
}
