//! The requirements of the bare crate on its links.

use crate::random::Random;

use super::net::{NEVER, Net, Options};

/// Number of entries of a suffix of 2 MiB in blocks of 4 KiB.
const SUFFIX_ENTRIES: u64 = 512;

/// Follower 1 lacks a suffix that takes 200 ticks to arrive. Returns the number of suffixes sent to
/// it within 400 ticks.
fn suffixes_sent(resend_ticks: u64) -> usize {
    let mut net = Net::new(Options { resend_ticks, ..Options::default() });
    let leader = net.until_leader();
    let follower = leader % 3 + 1;
    net.set_cut(leader, follower, true);
    for value in 0..SUFFIX_ENTRIES {
        net.append(leader, value);
    }
    net.ticks(5);
    assert_eq!(net.decided(leader).len(), SUFFIX_ENTRIES as usize);
    net.set_cut(leader, follower, false);
    net.suffixes.clear();
    net.suffix_ticks = 200;
    net.call(leader, |node| node.reconnected(follower));
    net.call(follower, |node| node.reconnected(leader));
    net.ticks(400);
    assert_eq!(net.leader(), Some(leader));
    assert_eq!(net.decided(follower).len(), SUFFIX_ENTRIES as usize);
    net.suffixes.iter().filter(|entries| **entries == SUFFIX_ENTRIES as usize).count()
}

#[test]
fn b2_each_resent_promise_is_answered_by_the_whole_suffix() {
    let sent = suffixes_sent(20);
    assert!((10..=12).contains(&sent), "{sent} times");
}

#[test]
fn b2_without_the_resend_timer_the_suffix_is_sent_once() {
    assert_eq!(suffixes_sent(NEVER), 1);
}

#[derive(Clone, Copy, Default)]
struct Faults {
    take_once: bool,
    resend: bool,
    loss_permille: u64,
    /// Share of messages that arrive after later ones.
    late_permille: u64,
    /// Share of steps in which a link ends and a new session begins, instead of losing single
    /// messages.
    reset_permille: u64,
}

/// Whether agreement was violated under `seed`.
fn is_violated(seed: u64, faults: Faults) -> bool {
    let mut random = Random::new(seed);
    let mut net = Net::new(Options {
        take_every_call: !faults.take_once,
        resend_ticks: if faults.resend { 10 } else { NEVER },
        ..Options::default()
    });
    let mut value = 0;
    for _ in 0..400 {
        for pid in 1..=3 {
            if net.node(pid).get_current_leader() == Some((pid, true)) && random.permille(400) {
                value += 1;
                net.append(pid, value);
                value += 1;
                net.append(pid, value);
            }
        }
        if random.permille(30) {
            net.call(random.below(3) + 1, super::net::Instance::try_become_leader);
        }
        for from in 1..=3 {
            for to in (1..=3).filter(|to| *to != from) {
                disturb(&mut net, (from, to), &mut random, faults);
            }
        }
        let step = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| net.tick()));
        let is_damaged = net.disks.iter().any(|disk| disk.rows().is_damaged);
        if step.is_err() || is_damaged || net.disagrees() {
            return true;
        }
    }
    false
}

fn disturb(net: &mut Net, (from, to): (u64, u64), random: &mut Random, faults: Faults) {
    let now = net.now;
    let link = net.link(from, to);
    link.retain(|_| !random.permille(faults.loss_permille));
    if random.permille(faults.late_permille)
        && let Some((_, message)) = link.pop_front()
    {
        net.late.push((now + random.below(60), message));
    }
    if random.permille(faults.reset_permille) {
        net.link(from, to).clear();
        net.link(to, from).clear();
        net.call(from, |node| node.reconnected(to));
        net.call(to, |node| node.reconnected(from));
    }
}

fn violations(seeds: u64, faults: Faults) -> usize {
    (0..seeds).filter(|seed| is_violated(*seed, faults)).count()
}

#[test]
fn outgoing_messages_taken_once_for_many_inputs_violate_agreement() {
    let faults = Faults { take_once: true, resend: true, loss_permille: 20, ..Faults::default() };
    assert!(violations(60, faults) > 0);
}

#[test]
fn outgoing_messages_taken_after_every_call_keep_agreement() {
    let faults = Faults { resend: true, loss_permille: 20, ..Faults::default() };
    assert_eq!(violations(60, faults), 0);
}

#[test]
fn reordering_inside_a_link_violates_agreement() {
    let faults = Faults { late_permille: 50, resend: true, ..Faults::default() };
    assert!(violations(60, faults) > 0);
}

#[test]
fn sessions_that_end_keep_agreement_without_the_resend_timer() {
    assert_eq!(violations(60, Faults { reset_permille: 20, ..Faults::default() }), 0);
}
