//! Rolls with a crash at every step, and recovery after a lost quorum.

use super::World;
use super::named::three;

/// Ticks that a roll takes with disks of this speed, and some more.
const ROLL_TICKS: u64 = 14;

/// Begins a roll; `victim` crashes `after` ticks later and restarts after a while.
fn roll_with_a_crash(victim: usize, after: u64, remove: bool) {
    let (mut world, leader) = three();
    for node in &mut world.nodes {
        node.disk.sync_ticks_max = 2;
    }
    let mut members: Vec<_> = (0..3).map(|at| world.nodes[at].member()).collect();
    if remove {
        members.remove((leader + 1) % 3);
    }
    world.propose(leader, 20);
    world.roll(leader, members);
    world.ticks(after);
    world.crash(victim, world.now + 8);
    for _ in 0..60 {
        if let Some(leader) = world.leader() {
            world.propose(leader, 20);
        }
        world.tick();
    }
    let context = format!("{victim} crashes after {after} ticks, remove {remove}");
    let acknowledged = world.checks.acknowledged;
    for _ in 0..300 {
        if let Some(leader) = world.leader() {
            world.propose(leader, 20);
        }
        world.tick();
    }
    assert!(world.checks.acknowledged > acknowledged, "{context}: it serves");
    world.until(&context, |world| {
        let end = world.checks.decided.len() as u64;
        (0..3).all(|at| world.group(at).decided() == end)
    });
}

#[test]
fn a_crash_at_every_step_of_a_roll_loses_nothing() {
    for remove in [false, true] {
        for victim in 0..3 {
            for after in 0..ROLL_TICKS {
                roll_with_a_crash(victim, after, remove);
            }
        }
    }
}

/// Two of three members are permanently lost.
fn alone() -> (World, usize) {
    let (mut world, leader) = three();
    for _ in 0..10 {
        world.propose(leader, 20);
        world.tick();
    }
    world.ticks(5);
    for at in (0..3).filter(|at| *at != leader) {
        world.crash(at, u64::MAX);
    }
    world.crash(leader, u64::MAX);
    let node = &mut world.nodes[leader];
    let me = node.member();
    node.disk.rows.continue_alone(me);
    node.incarnation += 1;
    node.starts_at = 0;
    let segments = node.disk.rows.recover().segments;
    world.began(segments.last().unwrap().clone());
    (world, leader)
}

#[test]
fn a_survivor_continues_alone_with_its_accepted_rows() {
    let (mut world, survivor) = alone();
    let (decided, acknowledged) = (world.checks.decided.len(), world.checks.acknowledged);
    world.until("it leads alone", |world| world.leader() == Some(survivor));
    assert!(world.checks.decided.len() >= decided, "nothing that it had is lost");
    world.propose(survivor, 20);
    world.until("it serves", |world| world.checks.acknowledged > acknowledged);
}

#[test]
fn old_members_that_return_to_a_survivor_are_refused() {
    let (mut world, survivor) = alone();
    world.until("it leads alone", |world| world.leader() == Some(survivor));
    let number = world.group(survivor).segment().number;
    let other = (survivor + 1) % 3;
    world.nodes[other].starts_at = 0;
    world.ticks(100);
    assert!(world.group(survivor).dropped() > 0);
    assert_eq!(world.group(survivor).segment().number, number);
    let storage = world.nodes[other].storage();
    assert!(!world.group(survivor).talks_to(storage));
    assert_eq!(world.leader(), Some(survivor));
}
