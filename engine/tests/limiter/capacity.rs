//! The limiter's side of the node's capacity: asking for slots, keeping spares, returning them.

use forebay_engine::limiter::LimiterEffect::{ReturnCapacity, WantCapacity};
use forebay_messages::actor::LimiterMessage::{CapacityClaimed, CapacityLeased, CapacityRecalled};

use super::rig::{Rig, limit};

#[test]
fn nothing_runs_without_a_slot_and_the_node_is_asked_once() {
    let mut rig = Rig::leased(&[]);
    rig.others();
    assert_eq!(rig.ask_for(1, "s", 3), []);
    assert_eq!(rig.others(), [WantCapacity(1)]);
    assert_eq!(rig.ask(2, "t"), []);
    assert_eq!(rig.others(), [], "the node has not answered yet");
    assert_eq!(rig.slots(CapacityLeased(1)), [1]);
    assert_eq!(rig.others(), [WantCapacity(1)], "t still waits");
    assert_eq!(rig.slots(CapacityLeased(1)), [2]);
    assert_eq!(rig.others(), []);
}

#[test]
fn a_spare_is_kept_until_recalled_and_the_excess_is_returned() {
    let mut rig = Rig::leased(&[]);
    rig.ask(1, "s");
    rig.others();
    rig.send(CapacityLeased(100));
    assert_eq!(rig.others(), [ReturnCapacity(83)], "one runs, sixteen are spare");
    rig.run(2, "s");
    rig.send(CapacityRecalled);
    assert_eq!(rig.others(), [ReturnCapacity(15)]);
    rig.end(1);
    assert_eq!(rig.others(), [ReturnCapacity(1)], "from here on at once");
    rig.end(2);
    rig.ask(3, "s");
    assert_eq!(rig.others(), [ReturnCapacity(1), WantCapacity(1)]);
    assert_eq!(rig.slots(CapacityLeased(2)), [3]);
    assert_eq!(rig.others(), [], "the recall is over: a spare is kept again");
}

#[test]
fn a_claim_takes_the_next_slot_even_if_a_vqueue_waits() {
    let mut rig = Rig::leased(&[]);
    rig.send(CapacityLeased(2));
    rig.run(1, "s");
    rig.run(2, "s");
    rig.ask(3, "s");
    rig.others();
    rig.send(CapacityRecalled);
    rig.send(CapacityClaimed);
    assert_eq!(rig.others(), []);
    assert_eq!(rig.end(1), [], "it is the other partition's turn");
    assert_eq!(rig.others(), [ReturnCapacity(1)]);
    assert_eq!(rig.end(2), [3], "one slot was claimed, not two");
    assert_eq!(rig.others(), []);
    rig.end(3);
    rig.others();
    rig.send(CapacityLeased(3));
    rig.send(CapacityClaimed);
    assert_eq!(rig.others(), [ReturnCapacity(1)], "an unused slot is returned at once");
}

#[test]
fn a_request_stands_until_answered_even_if_the_need_has_passed() {
    let mut rig = Rig::leased(&[]);
    rig.send(CapacityLeased(1));
    rig.run(1, "s");
    rig.others();
    for slot in 2..9 {
        rig.ask(slot, "s");
        rig.withdraw(slot);
    }
    assert_eq!(rig.others(), [WantCapacity(1)], "no message per entry near saturation");
    rig.send(CapacityLeased(1));
    rig.send(CapacityRecalled);
    assert_eq!(rig.others(), [ReturnCapacity(1)]);
}

#[test]
fn an_unlimited_node_is_never_asked() {
    let mut rig = Rig::new(&[limit("s", 1)]);
    rig.others();
    rig.run(1, "s");
    rig.ask(2, "s");
    rig.send(CapacityRecalled);
    rig.send(CapacityClaimed);
    assert_eq!(rig.end(1), [2]);
    assert_eq!(rig.others(), []);
    rig.send(CapacityLeased(5));
    assert_eq!(rig.others(), [ReturnCapacity(5)]);
}

#[test]
fn slots_that_no_waiter_can_use_are_not_requested() {
    let mut rig = Rig::leased(&[limit("s", 1)]);
    rig.send(CapacityLeased(1));
    rig.run(1, "s");
    rig.others();
    rig.ask(2, "s");
    rig.ask(3, "t#k");
    assert_eq!(rig.others(), [WantCapacity(1)], "for t alone");
    rig.send(CapacityLeased(1));
    rig.hand_over(3);
    rig.ask(3, "t#k");
    assert_eq!(rig.others(), [], "blocked by its own lock");
}
