//! Elections of the bare crate.

use super::net::{ELECTION_TICKS, Instance, Net, Options};
use super::store::Disk;

#[test]
fn b1_the_highest_pid_takes_a_fresh_instance_over() {
    for campaigner in [1, 2] {
        let mut net = Net::new(Options::default());
        net.call(campaigner, Instance::try_become_leader);
        net.ticks(3);
        assert_eq!(net.leader(), Some(campaigner));
        net.ticks(2 * ELECTION_TICKS);
        assert_eq!(net.leader(), Some(3), "the ballot of pid 3 is the highest of round 1");
    }
}

#[test]
fn b1_the_highest_pid_that_campaigns_keeps_a_fresh_instance() {
    let mut net = Net::new(Options::default());
    net.call(3, Instance::try_become_leader);
    net.ticks(3);
    let ballot = net.node(3).get_promise();
    for _ in 0..300 {
        net.tick();
        assert_eq!(net.leader(), Some(3));
        assert_eq!(net.node(3).get_promise(), ballot);
    }
}

#[test]
fn b1_priority_1_that_campaigns_keeps_a_fresh_instance() {
    for campaigner in [1, 2] {
        let mut net = Net::new(Options { preferred: Some(campaigner), ..Options::default() });
        net.call(campaigner, Instance::try_become_leader);
        net.ticks(3);
        let ballot = net.node(campaigner).get_promise();
        for _ in 0..300 {
            net.tick();
            assert_eq!(net.leader(), Some(campaigner));
            assert_eq!(net.node(campaigner).get_promise(), ballot);
        }
    }
}

/// Node 3 has promised a ballot of node 2 that no other node knows, and node 1 leads.
fn with_a_higher_promise() -> Net {
    let mut net = Net::new(Options { preferred: Some(1), ..Options::default() });
    net.call(1, Instance::try_become_leader);
    net.ticks(20);
    net.append(1, 1);
    net.ticks(3);
    assert_eq!(net.leader(), Some(1));
    // Node 2 campaigns, its Prepare reaches only node 3, and both crash. Node 2's own disk loses
    // the promise, which was not synced.
    let disk = net.disks[1].copied();
    net.call(2, Instance::try_become_leader);
    net.link(2, 1).clear();
    net.tick();
    assert_eq!(net.node(3).get_promise().pid, 2);
    net.crash(2);
    net.crash(3);
    net.disks[1] = disk;
    net.restart(2);
    net.call(2, |node| node.reconnected(1));
    net.ticks(3);
    net.restart(3);
    net.call(3, |node| node.reconnected(1));
    net.call(3, |node| node.reconnected(2));
    net
}

#[test]
fn a_node_with_a_higher_promise_never_rejoins_a_healthy_leader() {
    let mut net = with_a_higher_promise();
    net.ticks(500);
    assert_eq!(net.leader(), Some(1), "the leader is healthy and stays");
    net.append(1, 2);
    net.ticks(20);
    assert_eq!(net.decided(2).len(), 2);
    assert_ne!(net.node(3).get_current_leader(), Some((1, true)), "node 3 is out permanently");
    assert_eq!(net.disks[2].rows().log.len(), 1);
}

#[test]
fn a_node_with_a_higher_promise_rejoins_when_it_campaigns() {
    let mut net = with_a_higher_promise();
    net.append(1, 2);
    net.ticks(20);
    net.call(3, Instance::try_become_leader);
    net.ticks(20);
    assert_eq!(net.leader(), Some(3));
    assert_eq!(net.decided(3).len(), 2, "nothing decided was lost");
}

#[test]
fn even_a_fast_restart_loses_leadership() {
    let mut net = Net::new(Options::default());
    let leader = net.until_leader();
    let ballot = net.node(leader).get_promise();
    net.crash(leader);
    net.restart(leader);
    for other in (1..=3).filter(|other| *other != leader) {
        net.call(leader, |node| node.reconnected(other));
        net.call(other, |node| node.reconnected(leader));
    }
    assert!(!net.node(leader).get_current_leader().unwrap().1);
    net.until_leader();
    let now = net.leader().unwrap();
    assert!(net.node(now).get_promise().n > ballot.n, "an election was needed");
}

#[test]
fn a_leader_without_a_quorum_believes_forever_that_it_leads() {
    let mut net = Net::new(Options::default());
    let leader = net.until_leader();
    net.isolate(leader, true);
    net.append(leader, 7);
    net.ticks(500);
    assert_eq!(net.node(leader).get_current_leader(), Some((leader, true)));
    assert!(net.decided(leader).is_empty());
}

#[test]
fn a_read_at_a_leader_that_was_replaced_is_stale() {
    let mut net = Net::new(Options::default());
    let old = net.until_leader();
    net.isolate(old, true);
    net.ticks(10 * ELECTION_TICKS);
    let new = (1..=3).filter(|pid| *pid != old).find(|pid| {
        net.nodes[*pid as usize - 1].as_ref().unwrap().get_current_leader() == Some((*pid, true))
    });
    net.append(new.unwrap(), 1);
    net.ticks(5);
    assert_eq!(net.decided(new.unwrap()).len(), 1);
    assert_eq!(net.node(old).get_current_leader(), Some((old, true)), "it would answer");
    assert!(net.decided(old).is_empty(), "without the entry");
}

#[test]
fn a_wiped_member_that_votes_loses_a_decided_entry() {
    let mut net = Net::new(Options { preferred: Some(1), ..Options::default() });
    net.call(1, Instance::try_become_leader);
    net.ticks(20);
    net.isolate(3, true);
    net.append(1, 1);
    net.ticks(5);
    assert_eq!(net.decided(1).len(), 1);
    // Node 1 dies, node 2 returns empty, and the two remaining nodes make a majority.
    net.crash(1);
    net.crash(2);
    net.disks[1] = Disk::default();
    net.restart(2);
    net.isolate(3, false);
    net.call(2, |node| node.reconnected(3));
    net.call(3, |node| node.reconnected(2));
    net.call(3, Instance::try_become_leader);
    net.ticks(5);
    net.append(3, 2);
    net.ticks(5);
    assert_eq!(net.decided(3).len(), 1);
    net.restart(1);
    assert!(net.disagrees(), "index 0 was decided twice");
}
