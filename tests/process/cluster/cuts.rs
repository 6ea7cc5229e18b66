//! One-way cuts and partitions between processes: a majority continues, no read is stale, and all
//! of them agree when the cut ends.

use super::calls::{get, put, time_until_done};
use super::*;

/// A majority that hears each other serves again within this time after a cut, also on a machine
/// that is busy with other tests.
const SERVES_WITHIN: Duration = Duration::from_secs(8);
const CALL: Duration = Duration::from_secs(20);

/// Cuts, then writes and reads at these nodes; returns how long each of them took.
fn serve_under(cluster: &Cluster, what: &str, cuts: &[(usize, usize)], at: &[usize]) -> Duration {
    let key = format!("{}/key", what.replace(' ', "-"));
    cluster.put(at[0], &key, "before");
    let began = Instant::now();
    let proxies = cluster.proxies.as_ref().unwrap();
    cuts.iter().for_each(|(from, to)| proxies.cut(*from, *to));
    let mut longest = Duration::ZERO;
    for (turn, node) in at.iter().enumerate() {
        let (socket, value) = (cluster.socket(*node), format!("during-{turn}"));
        let wrote = time_until_done(&socket, &put(&key, &value, CALL), began);
        let read = time_until_done(&socket, &get(&key, CALL), began);
        crate::place::say(&format!(
            "{what}: node {node} wrote after {wrote:?}, read after {read:?}"
        ));
        longest = longest.max(read);
        for other in at {
            assert_eq!(cluster.get(*other, &key), value, "{what}: node {other}");
        }
    }
    proxies.mend_all();
    cluster.all_healthy();
    for node in 0..3 {
        assert_eq!(cluster.get(node, &key), format!("during-{}", at.len() - 1), "{what}");
    }
    assert!(longest < SERVES_WITHIN * at.len() as u32, "{what}: {longest:?}");
    longest
}

/// The leader, and the two followers.
fn roles(cluster: &Cluster) -> (usize, usize, usize) {
    let leader = cluster.leader();
    (leader, (leader + 1) % 3, (leader + 2) % 3)
}

#[test]
fn a_cut_in_one_direction_stops_no_node_that_reaches_a_majority() {
    let cluster = Cluster::with_proxies();
    let (leader, one, other) = roles(&cluster);
    serve_under(
        &cluster,
        "a follower does not hear the leader",
        &[(leader, one)],
        &[other, leader, one],
    );
    let (leader, one, other) = roles(&cluster);
    serve_under(
        &cluster,
        "the leader does not hear a follower",
        &[(one, leader)],
        &[other, leader, one],
    );
    let (_, one, other) = roles(&cluster);
    serve_under(&cluster, "a follower does not hear the other", &[(one, other)], &[one, other]);
}

#[test]
fn a_leader_that_a_majority_does_not_hear_is_replaced() {
    let cluster = Cluster::with_proxies();
    let (leader, one, other) = roles(&cluster);
    let deaf = [(one, leader), (other, leader)];
    serve_under(&cluster, "the leader hears no follower", &deaf, &[one, other]);
    let (leader, one, other) = roles(&cluster);
    let mute = [(leader, one), (leader, other)];
    serve_under(&cluster, "no follower hears the leader", &mute, &[one, other]);
}

#[test]
fn a_chain_of_nodes_serves_at_all_of_them() {
    let cluster = Cluster::with_proxies();
    let (leader, one, other) = roles(&cluster);
    let ends = [(leader, one), (one, leader)];
    serve_under(&cluster, "a chain from the leader", &ends, &[other, leader, one]);
    let (_, one, other) = roles(&cluster);
    let ends = [(one, other), (other, one)];
    serve_under(&cluster, "a chain around the leader", &ends, &[one, other]);
}

#[test]
fn a_cut_off_leader_serves_nothing_and_follows_when_the_cut_ends() {
    let cluster = Cluster::with_proxies();
    let (leader, one, other) = roles(&cluster);
    cluster.put(leader, "key", "old");
    let proxies = cluster.proxies.as_ref().unwrap();
    proxies.part(leader, one);
    proxies.part(leader, other);
    assert_eq!(cluster.put(one, "key", "new"), 2);
    let read = cluster.ask(leader, &["get", "key", "--within", "1s"]);
    read.expect_refused(&["the metadata are not available", "nothing was done"]);
    let write = cluster.ask(leader, &["put", "key", "lost", "--within", "1s"]);
    assert_eq!(write.code, 2, "{write:?}");
    proxies.mend_all();
    assert_eq!(cluster.get(leader, "key"), "new");
    cluster.all_healthy();
    assert_eq!(cluster.put(leader, "key", "newer"), 3);
}
