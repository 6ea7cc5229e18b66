//! Operating a cluster: leadership, events, dead members, commands from other machines.

use super::*;

/// A fourth node that stands by.
fn with_standby(more: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"]);
    cluster.more = more.iter().map(|text| (*text).to_owned()).collect();
    // The fourth is not named when the cluster is made.
    let (fourth, name) = (cluster.addresses.pop().unwrap(), cluster.names.pop().unwrap());
    cluster.start_all();
    cluster.ask(0, &["provision", "--within", "80s"]).expect(0, &[]);
    cluster.all_healthy();
    cluster.names.push(name);
    cluster.addresses.push(fourth);
    cluster.start(3);
    cluster.until_status("d stands by", 3, |status| status["state"] == "standby");
    cluster
}

fn events(cluster: &Cluster, at: usize) -> Vec<Value> {
    let text = cluster.ask(at, &["events", "--json"]).expect(0, &[]).text();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn has_event(cluster: &Cluster, at: usize, kind: &str, part: &str) -> bool {
    let is_it =
        |event: &Value| event["kind"] == kind && event["text"].as_str().unwrap().contains(part);
    events(cluster, at).iter().any(is_it)
}

#[test]
fn a_dead_member_is_replaced_by_a_standby_and_stands_by_when_it_returns() {
    let mut cluster = with_standby(&["--dead-after", "2s"]);
    cluster.put(0, "key", "kept");
    let leader = cluster.leader();
    let dead = (leader + 1) % 3;
    cluster.kill(dead);
    cluster.until_status("d votes", 3, |status| status["state"] == "member");
    let name = cluster.names[dead].clone();
    assert!(has_event(&cluster, leader, "members", &format!("{name} (not reached for 2s) leave")));
    let status =
        cluster.until_status("it is healthy", leader, |status| status["is_healthy"] == true);
    let health = status["health"].as_str().unwrap();
    assert!(health.contains("3 of 3 members are connected, 1 of them may be lost"), "{health}");
    // Another one may be lost now.
    let other = (leader + 2) % 3;
    cluster.kill(other);
    assert_eq!(cluster.get(3, "key"), "kept");
    cluster.start(other);
    cluster.start(dead);
    cluster.until_status("it stands by", dead, |status| status["state"] == "standby");
    assert_eq!(cluster.get(dead, "key"), "kept");
}

#[test]
fn a_member_that_returns_in_time_is_not_replaced() {
    let mut cluster = with_standby(&["--dead-after", "60s"]);
    let leader = cluster.leader();
    let lost = (leader + 1) % 3;
    cluster.kill(lost);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.status(3).unwrap()["state"], "standby");
    cluster.start(lost);
    cluster.until_status("it votes", lost, |status| status["state"] == "member");
}

#[test]
fn leadership_is_transferred_and_drained_nodes_do_not_lead() {
    let mut cluster = Cluster::provisioned();
    let leader = cluster.leader();
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = |at: usize| cluster.names[at].clone();
    let (first, second, third) = (name(leader), name(one), name(two));
    let moved = cluster.ask(two, &["transfer", "metadata", &second]).expect(0, &[]).text();
    assert_eq!(moved, format!("{second} leads metadata\n"));
    assert!(has_event(&cluster, leader, "hands-over", "as asked"));
    cluster.ask(0, &["transfer", "metadata", "x"]).expect_refused(&["x is no member", "a, b, c"]);
    cluster.ask(0, &["transfer", "other", "a"]).expect_refused(&["there is no log `other`"]);

    let drained = cluster.ask(leader, &["drain", &second]).expect(0, &[]).text();
    assert_eq!(drained, format!("{second} leads nothing\n"));
    cluster.ask(leader, &["drain", &first]).expect(0, &[]);
    for at in 0..3 {
        cluster.until_status("the last one leads", at, |status| {
            status["group"]["leader"] == third.as_str()
        });
    }
    let nodes = cluster.ask(two, &["nodes"]).expect(0, &[]).text();
    assert_eq!(nodes.matches("drained").count(), 2, "{nodes}");
    let last = cluster.ask(one, &["drain", &third, "--within", "1s"]);
    last.expect_refused(&["leads until another member can", "all other nodes are drained"]);
    cluster.ask(one, &["undrain", &third]).expect(0, &[]);
    // Drained nodes lead if no other node can, and no longer than that.
    cluster.kill(two);
    assert_eq!(cluster.put(one, "key", "value"), 1);
    cluster.start(two);
    cluster.until_status("it leads again", two, |status| status["group"]["role"] == "leader");
    cluster.ask(one, &["undrain", &first]).expect(0, &[]);
    cluster.ask(one, &["drain", "x"]).expect_refused(&["there is no node x"]);
}

#[test]
fn a_machine_without_a_data_directory_asks_over_tls() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let certificates = ["cluster", "init-tls", "tls", "--node", "ops"];
    cluster.place.run(&certificates).expect(0, &[]);
    let far = Place::new();
    let (here, there) = (cluster.place.path("tls/ops"), far.path("ops"));
    let copied = std::process::Command::new("cp").arg("-r").args([&here, &there]).status();
    assert!(copied.unwrap().success());
    cluster.start_all();
    let node = format!("a={}", cluster.addresses[0]);
    let ask = |words: &[&str]| {
        let at = ["--node", &node, "--tls", "ops"];
        far.run(&[&["cluster"], words, &at[..]].concat())
    };
    let done = ask(&["provision", "--within", "80s"]).expect(0, &["is provisioned"]);
    assert!(done.text().starts_with("healthy"), "{done:?}");
    ask(&["put", "key", "value"]).expect(0, &[]);
    assert_eq!(ask(&["get", "key"]).expect(0, &[]).text(), "value\n");
    assert_eq!(cluster.get(1, "key"), "value");
    let text = ask(&["status"]).expect(0, &[]).text();
    assert!(text.contains("node a: member"), "{text}");
    assert!(ask(&["events"]).expect(0, &[]).text().contains("provisioned"));
    ask(&["transfer", "metadata", "b"]).expect(0, &[]);

    // What is refused, and by which text.
    let with =
        |node: &str, tls: &str| far.run(&["cluster", "status", "--node", node, "--tls", tls]);
    let wrong_name = format!("b={}", cluster.addresses[0]);
    with(&wrong_name, "ops").expect_refused(&["b: ", "cannot be reached"]);
    with(&node, "nowhere").expect_refused(&["nowhere/cert.pem"]);
    let foreign = ["cluster", "init-tls", "foreign", "--node", "ops"];
    far.run(&foreign).expect(0, &[]);
    with(&node, "foreign/ops").expect_refused(&["a: ", "cannot be reached"]);
    let own = cluster.place.path("tls/a");
    with(&node, own.to_str().unwrap()).expect_refused(&["the one of the node a itself"]);
    let plain = far.run(&["cluster", "status", "--node", "a=192.0.2.1:7000"]);
    plain.expect_refused(&["TLS"]);
    let gone = far.run(&["cluster", "status", "--node", "a=127.0.0.1:1"]);
    gone.expect_refused(&["a: ", "cannot be reached"]);
}

#[test]
fn a_status_has_what_an_operator_and_a_program_need() {
    let cluster = Cluster::provisioned();
    cluster.put(1, "key", "value");
    let leader = cluster.leader();
    let status = cluster.until_status("no node lacks anything", leader, |status| {
        let nodes = status["nodes"].as_array().unwrap();
        status["is_healthy"] == true && nodes.iter().all(|node| node["lag"] == 0)
    });
    let group = &status["group"];
    assert_eq!((&group["role"], &group["leader"]), (&"leader".into(), &status["node"]));
    for number in ["segment", "decided", "applied", "durable", "accepted", "log_bytes"] {
        assert!(group[number].as_u64().unwrap() > 0, "{number}: {group}");
    }
    assert!(group["elections"].as_u64().unwrap() >= 1, "{group}");
    assert_eq!((&group["quorum"], &status["format"]), (&2.into(), &status["format_max"]));
    let storages: Vec<_> =
        status["nodes"].as_array().unwrap().iter().map(|node| &node["storage"]).collect();
    let mut members = group["members"].as_array().unwrap().clone();
    members.sort_by_key(|member| member["name"].as_str().unwrap().to_owned());
    assert_eq!(members.iter().map(|one| &one["storage"]).collect::<Vec<_>>(), storages);
    assert_eq!(members.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(storages.iter().all(|one| one.as_str().unwrap().len() == 32), "{storages:?}");
    cluster.until_status("clocks are compared", leader, |status| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().all(|node| node["clock_ms"].as_i64().is_some_and(|ms| ms.abs() < 500))
    });
    // The transitions, in their order, with segments.
    let all = events(&cluster, leader);
    let numbers: Vec<_> = all.iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    for kind in ["begin", "connected", "leads"] {
        let event = all.iter().find(|event| event["kind"] == kind);
        assert!(event.is_some_and(|event| event["segment"].is_u64()), "{kind}: {all:#?}");
    }
    let text = cluster.ask(leader, &["events"]).expect(0, &[]).text();
    assert_eq!(text.lines().count(), events(&cluster, leader).len(), "{text}");
    // The same is in the log, if it is asked for.
    let mut other = Cluster::new(&["a"]);
    other.more = vec!["--log".to_owned(), "info".to_owned()];
    other.start_all();
    other.ask(0, &["provision"]).expect(0, &[]);
    until("the log names the leader", || {
        let log = other.process(0).stderr();
        let is_it = |line: &str| line.contains("this node leads") && line.contains("segment=");
        log.lines().any(is_it).then_some(())
    });
}

#[test]
fn a_key_and_events_are_followed() {
    let cluster = Cluster::provisioned();
    let watching = cluster.place.start(&["cluster", "watch", "key", "--data-dir", "b"]);
    let following = cluster.place.start(&["cluster", "events", "--follow", "--data-dir", "b"]);
    for value in ["one", "two"] {
        cluster.put(0, "key", value);
        cluster.until_status("b has it", 1, |status| {
            status["group"]["applied"] == status["group"]["decided"]
        });
        std::thread::sleep(Duration::from_millis(500));
    }
    cluster.ask(0, &["put", "key"]).expect(0, &[]);
    cluster.ask(2, &["transfer", "metadata", "b"]).expect(0, &[]);
    std::thread::sleep(Duration::from_secs(1));
    let watched = watching.kill().text();
    assert!(watched.starts_with("version 1: one\nversion 2: two\n"), "{watched}");
    assert!(watched.contains("version 3: deleted"), "{watched}");
    let followed = following.kill().text();
    assert!(followed.contains("begin") && followed.contains("this node leads"), "{followed}");
}

#[test]
fn one_node_grows_to_three_and_shrinks_again() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    let alone: Vec<_> = cluster.arguments(0)[..9].to_vec();
    cluster.processes[0] = Some(cluster.start_with(&alone));
    until("a listens", || cluster.process(0).stderr().contains("listens at").then_some(()));
    cluster.ask(0, &["provision"]).expect(0, &[]);
    cluster.put(0, "key", "kept");
    let first = cluster.addresses[0].clone();
    for at in [1, 2] {
        let mut arguments = cluster.arguments(at)[..9].to_vec();
        arguments.extend(["--peer".to_owned(), format!("a={first}")]);
        cluster.processes[at] = Some(cluster.start_with(&arguments));
    }
    for at in 0..3 {
        cluster.until_status("it votes", at, |status| {
            status["state"] == "member" && status["group"]["members"].as_array().unwrap().len() == 3
        });
    }
    assert_eq!(cluster.get(2, "key"), "kept");
    for (node, left) in [("c", 2), ("b", 1)] {
        cluster.ask(0, &["remove", node, "--within", "80s"]).expect(0, &[]);
        cluster.until_status("it has left", 0, |status| {
            status["group"]["members"].as_array().unwrap().len() == left
        });
    }
    for at in [1, 2] {
        cluster.kill(at);
    }
    assert_eq!(cluster.get(0, "key"), "kept");
    cluster.ask(0, &["remove", "a"]).expect_refused(&["the last node"]);
}
