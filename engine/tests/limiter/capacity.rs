//! The limiter's side of the node's capacity: asking for slots, keeping spares, returning them.

use forebay_engine::limiter::LimiterEffect::{ReturnCapacity, WantCapacity};
use forebay_messages::actor::LimiterMessage::{CapacityClaimed, CapacityLeased, CapacityRecalled};

use super::desk::{Desk, limit};

#[test]
fn nothing_runs_without_a_slot_and_the_node_is_asked_once() {
    let mut desk = Desk::leased(&[]);
    desk.others();
    assert_eq!(desk.ask_for(1, "s", 3), []);
    assert_eq!(desk.others(), [WantCapacity(1)]);
    assert_eq!(desk.ask(2, "t"), []);
    assert_eq!(desk.others(), [], "the node has not answered yet");
    assert_eq!(desk.slots(CapacityLeased(1)), [1]);
    assert_eq!(desk.others(), [WantCapacity(1)], "t still waits");
    assert_eq!(desk.slots(CapacityLeased(1)), [2]);
    assert_eq!(desk.others(), []);
}

#[test]
fn a_spare_is_kept_until_recalled_and_the_excess_is_returned() {
    let mut desk = Desk::leased(&[]);
    desk.ask(1, "s");
    desk.others();
    desk.send(CapacityLeased(100));
    assert_eq!(desk.others(), [ReturnCapacity(83)], "one runs, sixteen are spare");
    desk.run(2, "s");
    desk.send(CapacityRecalled);
    assert_eq!(desk.others(), [ReturnCapacity(15)]);
    desk.end(1);
    assert_eq!(desk.others(), [ReturnCapacity(1)], "from here on at once");
    desk.end(2);
    desk.ask(3, "s");
    assert_eq!(desk.others(), [ReturnCapacity(1), WantCapacity(1)]);
    assert_eq!(desk.slots(CapacityLeased(2)), [3]);
    assert_eq!(desk.others(), [], "the recall is over: a spare is kept again");
}

#[test]
fn a_claim_takes_the_next_slot_even_if_a_vqueue_waits() {
    let mut desk = Desk::leased(&[]);
    desk.send(CapacityLeased(2));
    desk.run(1, "s");
    desk.run(2, "s");
    desk.ask(3, "s");
    desk.others();
    desk.send(CapacityRecalled);
    desk.send(CapacityClaimed);
    assert_eq!(desk.others(), []);
    assert_eq!(desk.end(1), [], "it is the other partition's turn");
    assert_eq!(desk.others(), [ReturnCapacity(1)]);
    assert_eq!(desk.end(2), [3], "one slot was claimed, not two");
    assert_eq!(desk.others(), []);
    desk.end(3);
    desk.others();
    desk.send(CapacityLeased(3));
    desk.send(CapacityClaimed);
    assert_eq!(desk.others(), [ReturnCapacity(1)], "an unused slot is returned at once");
}

#[test]
fn a_request_stands_until_answered_even_if_the_need_has_passed() {
    let mut desk = Desk::leased(&[]);
    desk.send(CapacityLeased(1));
    desk.run(1, "s");
    desk.others();
    for slot in 2..9 {
        desk.ask(slot, "s");
        desk.withdraw(slot);
    }
    assert_eq!(desk.others(), [WantCapacity(1)], "no message per entry near saturation");
    desk.send(CapacityLeased(1));
    desk.send(CapacityRecalled);
    assert_eq!(desk.others(), [ReturnCapacity(1)]);
}

#[test]
fn an_unlimited_node_is_never_asked() {
    let mut desk = Desk::new(&[limit("s", 1)]);
    desk.others();
    desk.run(1, "s");
    desk.ask(2, "s");
    desk.send(CapacityRecalled);
    desk.send(CapacityClaimed);
    assert_eq!(desk.end(1), [2]);
    assert_eq!(desk.others(), []);
    desk.send(CapacityLeased(5));
    assert_eq!(desk.others(), [ReturnCapacity(5)]);
}

#[test]
fn slots_that_no_waiter_can_use_are_not_requested() {
    let mut desk = Desk::leased(&[limit("s", 1)]);
    desk.send(CapacityLeased(1));
    desk.run(1, "s");
    desk.others();
    desk.ask(2, "s");
    desk.ask(3, "t#k");
    assert_eq!(desk.others(), [WantCapacity(1)], "for t alone");
    desk.send(CapacityLeased(1));
    desk.hand_over(3);
    desk.ask(3, "t#k");
    assert_eq!(desk.others(), [], "blocked by its own lock");
}
