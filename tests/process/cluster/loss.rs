//! Nodes that are stopped, lose their disks, move, leave, and recover.

use super::*;

#[test]
fn a_stopped_leader_is_replaced_and_reads_nothing_stale_when_it_wakes() {
    let cluster = Cluster::provisioned();
    cluster.put(0, "key", "old");
    let leader = cluster.leader();
    cluster.process(leader).signal("STOP");
    let others: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    assert_eq!(cluster.put(others[0], "key", "new"), 2);
    cluster.process(leader).signal("CONT");
    assert_eq!(cluster.get(leader, "key"), "new");
    cluster.all_healthy();
    assert_eq!(cluster.put(leader, "key", "newer"), 3);
}

#[test]
fn members_killed_one_after_the_other_lose_nothing() {
    let mut cluster = Cluster::provisioned();
    for round in 0..6 {
        let at = round % 3;
        cluster.kill(at);
        let version = cluster.put((at + 1) % 3, "round", &round.to_string());
        assert_eq!(version, round as u64 + 1);
        cluster.start(at);
        assert_eq!(cluster.get(at, "round"), round.to_string());
        cluster.all_healthy();
    }
}

#[test]
fn a_wiped_node_joins_with_its_new_disk() {
    let mut cluster = Cluster::provisioned();
    cluster.put(0, "key", "kept");
    let before = cluster.status(1).unwrap()["storage"].clone();
    cluster.kill(1);
    cluster.wipe(1);
    cluster.start(1);
    let votes = |status: &Value| status["state"] == "member" && status["is_healthy"] == true;
    let status = cluster.until_status("b votes again", 1, votes);
    assert_ne!(status["storage"], before);
    assert_eq!(cluster.get(1, "key"), "kept");
    // Now another one may be lost.
    cluster.kill(2);
    assert_eq!(cluster.put(1, "key", "after"), 2);
}

#[test]
fn all_addresses_change_at_once() {
    let mut cluster = Cluster::provisioned();
    cluster.put(0, "key", "kept");
    for at in 0..3 {
        cluster.stop(at);
    }
    cluster.addresses = (0..3).map(|_| free_address()).collect();
    cluster.start_all();
    cluster.all_healthy();
    assert_eq!(cluster.get(2, "key"), "kept");
    let addresses = cluster.addresses.clone();
    cluster.until_status("the nodes have their addresses", 0, |status| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().zip(&addresses).all(|(node, address)| node["address"] == address.as_str())
    });
}

#[test]
fn a_fourth_node_stands_by_and_replaces_a_removed_one() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"]);
    // The fourth is not named when the cluster is made.
    let fourth = cluster.addresses.pop().unwrap();
    cluster.names.pop();
    cluster.start_all();
    cluster.ask(0, &["provision", "--within", "80s"]).expect(0, &[]);
    cluster.put(0, "key", "kept");
    cluster.names.push("d".to_owned());
    cluster.addresses.push(fourth);
    cluster.processes.resize_with(4, || None);
    cluster.start(3);
    cluster.until_status("d stands by", 3, |status| status["state"] == "standby");
    // The leader knows it first.
    until("a lists d", || {
        let nodes = cluster.ask(0, &["nodes"]).expect(0, &[]).text();
        let is_listed = |line: &str| line.trim().starts_with("d ") && line.contains("standby");
        nodes.lines().any(is_listed).then_some(())
    });

    let done = cluster.ask(1, &["remove", "c", "--within", "80s"]).expect(0, &[]);
    assert_eq!(done.text(), "c was removed\n");
    cluster.until_status("d votes", 3, |status| status["state"] == "member");
    cluster.until_status("c is removed", 2, |status| status["state"] == "removed");
    cluster.kill(2);
    assert_eq!(cluster.get(3, "key"), "kept");
    cluster.ask(1, &["remove", "x"]).expect_refused(&["there is no node x", "a, b, c, d"]);
}

#[test]
fn one_of_three_disks_is_left_and_the_cluster_is_recovered() {
    let mut cluster = Cluster::provisioned();
    cluster.put(0, "key", "kept");
    cluster.until_status("b has it", 1, |status| {
        status["group"]["applied"] == status["group"]["decided"]
    });
    for at in 0..3 {
        cluster.kill(at);
    }
    cluster.wipe(0);
    cluster.wipe(2);
    cluster.start(1);
    cluster.until_status("there is no majority", 1, |status| {
        status["health"].as_str().unwrap().starts_with("no leader is reached: 1 of 3 members")
    });
    let read = cluster.ask(1, &["get", "key", "--within", "1s"]);
    read.expect_refused(&["the metadata are not available"]);
    let running = cluster.ask(1, &["recover", "--name", "b"]);
    running.expect_refused(&["in use by process"]);
    cluster.stop(1);
    let look = cluster.ask(1, &["recover", "--name", "b"]).expect(0, &[]).text();
    assert!(look.contains("incarnation 1") && look.contains("nothing was changed"), "{look}");
    let done = cluster.ask(1, &["recover", "--name", "b", "--accept-data-loss"]).expect(0, &[]);
    assert!(done.text().contains("incarnation 2"), "{done:?}");
    cluster.start(1);
    assert_eq!(cluster.get(1, "key"), "kept");
    cluster.start(0);
    cluster.start(2);
    cluster.all_healthy();
    assert_eq!(cluster.get(2, "key"), "kept");
}
