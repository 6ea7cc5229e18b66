//! The order of grants: by weight between groups; first come, first served within a group.

use std::{collections::VecDeque, num::NonZeroU32};

use forebay_messages::{actor::LimiterMessage, rule::Limits};

use super::rig::{Rig, handle, limit, upsert};

/// Vqueues that ask again after every grant, and whose entries end in start order.
struct BusyVQueues {
    rig: Rig,
    names: Vec<String>,
    count: u32,
    running: VecDeque<u32>,
}

impl BusyVQueues {
    fn new(rig: Rig, names: Vec<String>, count: u32) -> Self {
        let mut mill = Self { rig, names, count, running: VecDeque::new() };
        mill.rig.checked = mill.names.len() < 100;
        for slot in 0..mill.names.len() {
            let granted = mill.ask(u32::try_from(slot).unwrap());
            mill.start(granted);
        }
        mill
    }

    fn ask(&mut self, slot: u32) -> Vec<u32> {
        let name = self.names[slot as usize].clone();
        self.rig.ask_for(slot, &name, self.count)
    }

    fn start(&mut self, granted: Vec<u32>) {
        for slot in granted {
            self.rig.hand_over(slot);
            let already = self.running.iter().filter(|other| **other == slot).count();
            let held = self.rig.held[&handle(slot)].len();
            self.running.extend(std::iter::repeat_n(slot, held - already));
            let granted = self.ask(slot);
            self.start(granted);
        }
    }

    /// Ends this many entries; returns the number of each vqueue.
    fn turn(&mut self, ends: usize) -> Vec<usize> {
        let mut starts = vec![0; self.names.len()];
        for _ in 0..ends {
            let slot = self.running.pop_front().unwrap();
            starts[slot as usize] += 1;
            let granted = self.rig.end(slot);
            self.start(granted);
        }
        starts
    }
}

fn capacity(slots: u32, rig: Rig, names: Vec<String>, count: u32) -> BusyVQueues {
    let mut mill = BusyVQueues::new(rig, names, count);
    let granted = mill.rig.slots(LimiterMessage::CapacityLeased(slots));
    mill.start(granted);
    mill
}

#[test]
fn a_tenant_with_100_000_vqueues_gets_no_more_than_a_tenant_with_one() {
    for big in ["big", "big/l1", "big/l1/own"] {
        let mut names: Vec<_> = (0..100_000)
            .map(|n| if big.ends_with("own") { format!("{big}{n}") } else { big.to_owned() })
            .collect();
        names.push("small".to_owned());
        let mut mill = capacity(10, Rig::leased(&[]), names, 1);
        let starts = mill.turn(10_000);
        let small = *starts.last().unwrap();
        assert!((4_750..=5_250).contains(&small), "{small} of 10,000 starts beside {big}");
        let most = starts[..100_000].iter().max().unwrap();
        assert!(*most <= 1, "a vqueue had {most} starts before all others of its tenant had one");
    }
}

#[test]
fn a_limited_tenant_leaves_the_rest_of_the_capacity_to_others() {
    // 100,000 waiters behind a limit of the scope, below the capacity: every release opens and
    // closes that counter. Moving the waiters one by one would take hours.
    let mut names: Vec<_> = (0..100_000).map(|_| "big".to_owned()).collect();
    names.push("small".to_owned());
    let mut mill = capacity(10, Rig::leased(&[limit("big", 3)]), names, 16);
    let starts = mill.turn(10_000);
    let small = *starts.last().unwrap();
    assert!((6_650..=7_350).contains(&small), "{small} of 10,000 starts");
}

#[test]
fn weights_share_the_capacity_even_if_a_group_has_one_vqueue() {
    for vqueues in [1, 4] {
        let weight = Limits { weight: NonZeroU32::new(3), ..Limits::default() };
        let mut names = vec!["heavy".to_owned(); vqueues];
        names.extend(vec!["light".to_owned(); vqueues]);
        names.extend(vec!["-".to_owned(); vqueues]);
        let mut mill = capacity(10, Rig::leased(&[upsert("heavy", weight)]), names, 8);
        let starts = mill.turn(10_000);
        let heavy: usize = starts[..vqueues].iter().sum();
        let light: usize = starts[vqueues..2 * vqueues].iter().sum();
        assert!((5_700..=6_300).contains(&heavy), "{heavy} of 10,000 at three fifths");
        assert!((1_900..=2_100).contains(&light), "{light} of 10,000 at one fifth");
    }
}

#[test]
fn a_full_counter_does_not_starve_waiters_above_it() {
    // All ten slots of s are held by s/a, which has more to do; s/b and s arrived later.
    let rig = Rig::new(&[limit("s", 10), limit("s/a", 10)]);
    let mut names = vec!["s/a".to_owned(); 30];
    names.extend(["s/b".to_owned(), "s".to_owned()]);
    let mut mill = BusyVQueues::new(rig, names, 1);
    let starts = mill.turn(3_200);
    for (slot, starts) in starts.iter().enumerate() {
        assert!((60..=140).contains(starts), "vqueue {slot} had {starts} of 3,200 starts");
    }
}

#[test]
fn a_freed_slot_prefers_the_deepest_counter_but_not_forever() {
    let mut rig = Rig::new(&[limit("s", 2), limit("s/a", 1)]);
    rig.run(1, "s/a");
    rig.run(2, "s");
    rig.ask(100, "s/b");
    for slot in 3..20 {
        rig.ask(slot, "s/a");
    }
    for slot in [3, 4, 5, 6] {
        assert_eq!(rig.end(slot - if slot == 3 { 2 } else { 1 }), [slot]);
    }
    assert_eq!(rig.end(6), [100], "the fifth time the oldest goes first");
}

#[test]
fn a_block_of_capacity_is_spread_over_all_waiters() {
    let mut rig = Rig::leased(&[]);
    for (slot, name) in [(1, "a"), (2, "b"), (3, "b"), (4, "-")] {
        rig.ask_for(slot, name, 8);
    }
    assert_eq!(rig.slots(LimiterMessage::CapacityLeased(10)), [1, 2, 4, 3]);
    let held = |slot| rig.held[&handle(slot)].len();
    assert_eq!((held(1), held(2), held(4)), (1, 1, 1));
    assert_eq!(held(3), 7, "the last waiter takes the rest");
}
