//! Rules and entries on the nodes of a cluster, and directories that ran alone.

use std::sync::Arc;

use forebay::control::{Control, Request as Asked, Response, RuleEdit};

use super::*;

/// Time within which a rule set on one node is in force on all.
const IN_FORCE_WITHIN: Duration = Duration::from_millis(200);
const ROUNDS: u64 = 30;

fn rules(cluster: &Cluster, at: usize, arguments: &[&str]) -> Done {
    let head = ["rules", "--data-dir", &cluster.names[at], "--json"];
    cluster.place.run(&[&head[..], arguments].concat())
}

fn json(done: &Done) -> Value {
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The lowest version of the rule book in force in the partitions of a node.
fn in_force(cluster: &Cluster, at: usize) -> Option<u64> {
    let done = cluster.place.run(&["status", "--data-dir", &cluster.names[at], "--json"]);
    let status: Value = serde_json::from_slice(&done.stdout).ok()?;
    status["partitions"].as_array()?.iter().map(|one| one["rules"].as_u64()).min()?
}

#[track_caller]
fn until_in_force(cluster: &Cluster, at: usize, version: u64) {
    until("the rule is in force", || (in_force(cluster, at)? >= version).then_some(()));
}

async fn ask(control: &Control, request: Asked) -> Response {
    control.ask(request).await.unwrap()
}

async fn version_at(control: &Control) -> u64 {
    match ask(control, Asked::Status).await {
        Response::Status { node } => node.partitions.iter().map(|one| one.rules).min().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_set_on_one_node_is_in_force_on_all_within_200_ms() {
    let cluster = Cluster::provisioned();
    for at in 0..3 {
        until_in_force(&cluster, at, 0);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut took = runtime.block_on(async {
        let mut nodes = Vec::new();
        for name in &cluster.names {
            nodes.push(Arc::new(Control::open(&cluster.place.path(name)).await.unwrap()));
        }
        let mut took = Vec::new();
        for round in 0..ROUNDS {
            let at = round as usize % nodes.len();
            let limits = forebay::Limits::concurrency(round as u32 + 1);
            let limits = forebay::rules::LimitsPatch::keeping_others(limits);
            let change = RuleEdit { limits, ..RuleEdit::default() };
            let request = Asked::RuleSet {
                pattern: format!("tenant-{round}"),
                change,
                if_version: Some(0),
                author: "test".to_owned(),
            };
            let began = Instant::now();
            let answer = ask(&nodes[at], request).await;
            assert!(matches!(answer, Response::Rules { .. }), "{answer:?}");
            let others = nodes.iter().map(|node| async move {
                while version_at(node).await <= round {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            futures_util::future::join_all(others).await;
            took.push(began.elapsed());
        }
        took
    });
    took.sort_unstable();
    let (median, max) = (took[took.len() / 2], took[took.len() - 1]);
    crate::place::say(&format!(
        "a rule is in force on three nodes after {median:?} (median of {ROUNDS}), {max:?} (longest)"
    ));
    // The longest depends on what else the machine does.
    assert!(median < IN_FORCE_WITHIN, "{took:?}");
    for at in 0..3 {
        let book = json(&rules(&cluster, at, &["list"]).expect(0, &[]));
        assert_eq!((&book["version"], book["rules"].as_array().unwrap().len()), (&30.into(), 30));
    }
}

#[test]
fn rules_continue_over_lost_leaders_and_stay_in_force_without_a_majority() {
    let mut cluster = Cluster::provisioned();
    rules(&cluster, 0, &["set", "t", "--concurrency", "3"]).expect(0, &[]);
    let conflict = rules(&cluster, 1, &["set", "t", "--concurrency", "4", "--if-version", "7"]);
    conflict.expect_refused(&["version"]);
    let leader = cluster.leader();
    cluster.kill(leader);
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let set = ["set", "t", "--concurrency", "4", "--if-version", "1"];
    let book = json(&rules(&cluster, one, &set).expect(0, &[]));
    assert_eq!(book["version"], 2);
    until_in_force(&cluster, two, 2);

    // A minority says what it lacks, and keeps the limits. Before it knows that it is one, a change
    // may be made.
    cluster.kill(one);
    cluster.until_status("it is a minority", two, |status| status["serves"] == false);
    let refused = rules(&cluster, two, &["set", "t", "--concurrency", "5"]);
    refused.expect_refused(&["the metadata of the cluster are not available", "nothing was done"]);
    assert_eq!(in_force(&cluster, two), Some(2));
    cluster.kill(two);
    cluster.start(two);
    until_in_force(&cluster, two, 2);

    cluster.start(one);
    cluster.start(leader);
    cluster.all_healthy();
    for at in 0..3 {
        until_in_force(&cluster, at, 2);
        let book = json(&rules(&cluster, at, &["list"]).expect(0, &[]));
        assert_eq!(book["rules"][0]["concurrency"], 4, "{book}");
        let history = json(&rules(&cluster, at, &["history"]).expect(0, &[]));
        assert_eq!(history.as_array().unwrap().len(), 2, "{history}");
    }
    let book = json(&rules(&cluster, leader, &["rollback", "1"]).expect(0, &[]));
    assert_eq!((&book["version"], &book["rules"][0]["concurrency"]), (&3.into(), &3.into()));
}

/// Runs alone in the directory `name`: finished entries, a failed one, rules with a history.
fn ran_alone(place: &Place, name: &str) {
    place.write("items", "1\n2\n3\n");
    let exec = ["exec", "--data-dir", name, "--input", "items", "--rule", "a=2"];
    place.run(&[&exec[..], &["--", "test", "{}", "-ne", "3"]].concat()).expect(1, &[]);
    let set = ["rules", "set", "--data-dir", name, "b", "--concurrency", "5"];
    place.run(&set).expect(0, &[]);
}

fn entries(place: &Place, name: &str) -> String {
    place.run(&["entries", "--data-dir", name, "--json"]).expect(0, &[]).text()
}

#[test]
fn a_directory_that_ran_alone_is_provisioned_and_keeps_everything() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    ran_alone(&cluster.place, "a");
    let before = entries(&cluster.place, "a");
    let alone = json(&rules(&cluster, 0, &["list"]));
    let history = rules(&cluster, 0, &["history"]).text();
    cluster.start_all();
    let status = cluster.status(0).unwrap();
    assert!(status["health"].as_str().unwrap().contains("ran alone"), "{status}");
    cluster.ask(0, &["provision", "--within", "80s"]).expect(0, &[]);
    cluster.all_healthy();
    until_in_force(&cluster, 0, 2);
    assert_eq!(entries(&cluster.place, "a"), before, "the entries stay");
    for at in 0..3 {
        until_in_force(&cluster, at, 2);
        assert_eq!(json(&rules(&cluster, at, &["list"]).expect(0, &[])), alone);
        assert_eq!(rules(&cluster, at, &["history"]).text(), history);
    }
    let book = json(&rules(&cluster, 2, &["rollback", "1"]).expect(0, &[]));
    assert_eq!(book["rules"].as_array().unwrap().len(), 1, "{book}");
    // It is not used without the cluster any more.
    cluster.stop(0);
    let alone = cluster.place.run(&["entries", "--data-dir", "a"]);
    alone.expect_refused(&["belongs to a node of a cluster", "forebay node"]);
}

#[test]
fn a_kill_while_it_is_provisioned_leaves_it_alone_or_a_cluster_with_everything() {
    for delay_ms in [0, 2, 5, 10, 20, 40, 80] {
        let mut cluster = Cluster::new(&["a"]);
        ran_alone(&cluster.place, "a");
        let before = entries(&cluster.place, "a");
        let alone = json(&rules(&cluster, 0, &["list"]));
        cluster.start(0);
        let provision = ["cluster", "--data-dir", "a", "provision", "--within", "1s"];
        let provisioning = cluster.place.start(&provision);
        std::thread::sleep(Duration::from_millis(delay_ms));
        cluster.kill(0);
        drop(provisioning.end());
        cluster.start(0);
        let state = cluster.until_status("it answers", 0, |_| true)["state"].clone();
        crate::place::say(&format!("killed {delay_ms} ms after provision: {state}"));
        if state == "uninitialized" {
            cluster.ask(0, &["provision", "--within", "80s"]).expect(0, &[]);
        }
        cluster.all_healthy();
        until_in_force(&cluster, 0, 2);
        assert_eq!(json(&rules(&cluster, 0, &["list"]).expect(0, &[])), alone);
        assert_eq!(entries(&cluster.place, "a"), before);
    }
}

#[test]
fn a_second_directory_that_ran_alone_is_refused() {
    let mut cluster = Cluster::new(&["a", "b"]);
    for name in ["a", "b"] {
        ran_alone(&cluster.place, name);
    }
    cluster.start_all();
    let refused = cluster.ask(0, &["provision"]);
    refused.expect_refused(&["nothing was provisioned: b has a data directory that ran alone"]);
    cluster.ask(0, &["provision", "--peer-absent", "b", "--within", "5s"]).expect(0, &[]);
    std::thread::sleep(Duration::from_millis(500));
    let status = cluster.status(1).unwrap();
    assert_eq!(status["state"], "uninitialized");
    let health = status["health"].as_str().unwrap();
    assert!(health.contains("start it with an empty data directory"), "{health}");
    assert_eq!(entries(&cluster.place, "a").lines().count(), 3);
    cluster.stop(1);
    assert_eq!(entries(&cluster.place, "b").lines().count(), 3, "nothing was changed");
    cluster.wipe(1);
    cluster.start(1);
    cluster.all_healthy();
    until_in_force(&cluster, 1, 2);
}

#[test]
fn rules_and_entries_are_asked_from_another_machine() {
    let cluster = Cluster::provisioned();
    cluster.place.run(&["cluster", "init-tls", "tls", "--node", "ops"]).expect(0, &[]);
    for at in 0..2 {
        until_in_force(&cluster, at, 0);
    }
    let ask = |at: usize, words: &[&str]| {
        let node = format!("{}={}", cluster.names[at], cluster.addresses[at]);
        let there = ["--json", "--node", &node, "--tls", "tls/ops"];
        cluster.place.run(&[words, &there[..]].concat())
    };
    let set = ["rules", "set", "tenant", "--concurrency", "3"];
    assert_eq!(json(&ask(0, &set).expect(0, &[]))["version"], 1);
    let book = json(&ask(1, &["rules", "list"]).expect(0, &[]));
    assert_eq!(book["rules"][0]["concurrency"], 3, "{book}");
    assert_eq!(json(&rules(&cluster, 2, &["list"]).expect(0, &[]))["version"], 1);
    let conflict = ask(1, &["rules", "set", "tenant", "--concurrency", "4", "--if-version", "7"]);
    conflict.expect_refused(&["version"]);
    let history = json(&ask(1, &["rules", "history"]).expect(0, &[]));
    assert_eq!(history.as_array().unwrap().len(), 1, "{history}");
    let status = json(&ask(1, &["status"]).expect(0, &[]));
    assert!(status["partitions"].is_array(), "{status}");
    for words in [&["entries"][..], &["queues"], &["limits"], &["entries", "--count"]] {
        ask(0, words).expect(0, &[]);
    }
    let unknown = "ent_0DMI9oORqVM5I5G2Xq3JW7loIRUEovcLD";
    ask(0, &["entry", unknown]).expect_refused(&[unknown]);
    assert_eq!(ask(0, &["cancel", unknown]).code, 1);
    // What cannot be reached, and what is no node.
    let gone = ["rules", "list", "--node", "a=127.0.0.1:1", "--tls", "tls/ops"];
    cluster.place.run(&gone).expect_refused(&["a: ", "cannot be reached"]);
    let plain = cluster.place.run(&["rules", "list", "--tls", "tls/ops"]);
    plain.expect_refused(&["--node"]);
}
