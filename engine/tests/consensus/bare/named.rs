//! Single calls of the bare crate.

use omnipaxos::messages::Message;
use omnipaxos::messages::sequence_paxos::{PaxosMessage, PaxosMsg};
use omnipaxos::{ClusterConfig, OmniPaxosConfig, ServerConfig};

use super::net::{Instance, Net, Options};
use super::store::{Disk, Value};

#[test]
fn one_node_is_refused() {
    let cluster = ClusterConfig { configuration_id: 1, nodes: vec![1], flexible_quorum: None };
    let server = ServerConfig { pid: 1, ..ServerConfig::default() };
    let config = OmniPaxosConfig { cluster_config: cluster, server_config: server };
    let refusal = config.build::<Value, _>(Disk::default()).err().unwrap();
    assert!(refusal.to_string().contains("Need more than 1 node"), "{refusal}");
}

#[test]
fn the_leader_counts_itself_before_any_disk() {
    let mut net = Net::new(Options::default());
    let leader = net.until_leader();
    net.append(leader, 1);
    // One Accepted of a peer is enough at once: the crate does not wait for the leader's own sync.
    net.ticks(2);
    assert_eq!(net.node(leader).get_decided_idx(), 1);
}

#[test]
fn a_proposal_in_the_prepare_phase_is_buffered_without_bound_and_appended_later() {
    let mut net = Net::new(Options::default());
    net.isolate(3, true);
    net.call(3, Instance::try_become_leader);
    for value in 0..1000 {
        net.append(3, value);
    }
    assert_eq!(net.node(3).get_current_leader(), Some((3, false)));
    assert_eq!(net.node(3).get_accepted_idx(), 0);
    net.isolate(3, false);
    for other in [1, 2] {
        net.call(3, |node| node.reconnected(other));
        net.call(other, |node| node.reconnected(3));
    }
    net.call(3, Instance::try_become_leader);
    net.ticks(5);
    assert_eq!(net.node(3).get_accepted_idx(), 1000);
}

#[test]
fn a_proposal_at_a_follower_leaves_for_the_leader() {
    let mut net = Net::new(Options::default());
    let leader = net.until_leader();
    let follower = leader % 3 + 1;
    net.append(follower, 1);
    let forwarded = net.link(follower, leader).iter().any(|(_, message)| {
        matches!(
            message,
            Message::SequencePaxos(PaxosMessage { msg: PaxosMsg::ProposalForward(_), .. })
        )
    });
    assert!(forwarded);
}

#[test]
fn a_forwarded_proposal_of_another_instance_is_appended() {
    let mut net = Net::new(Options::default());
    let leader = net.until_leader();
    let foreign = PaxosMsg::ProposalForward(vec![Value(99)]);
    let foreign = PaxosMessage { from: leader % 3 + 1, to: leader, msg: foreign };
    net.call(leader, |node| node.handle_incoming(Message::SequencePaxos(foreign)));
    assert_eq!(net.node(leader).get_accepted_idx(), 1, "it carries no ballot");
}

#[test]
#[should_panic(expected = "the disk is broken")]
fn a_storage_error_panics_the_instance() {
    let mut net = Net::new(Options::default());
    let leader = net.until_leader();
    net.disks[leader as usize - 1].break_it();
    net.append(leader, 1);
}

#[test]
fn a_fresh_instance_writes_an_empty_promise() {
    // So "started" must tell a fresh segment from one with a promise, not the promise itself: over
    // an existing promise, even an empty one, the crate recovers first.
    use omnipaxos::storage::Storage;
    let net = Net::new(Options::default());
    let promise = net.disks[0].get_promise().unwrap();
    assert_eq!(promise, Some(omnipaxos::ballot_leader_election::Ballot::default()));
}
