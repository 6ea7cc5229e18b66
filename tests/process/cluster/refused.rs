//! Bad input and disks that must not vote: one clear error each, and nothing is changed.

use super::*;

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.unwrap().success());
}

fn whys(status: &Value) -> String {
    let refused = status["refused"].as_array().unwrap();
    refused.iter().map(|refused| refused["why"].as_str().unwrap()).collect()
}

#[test]
fn a_rolled_back_disk_is_refused() {
    let mut cluster = Cluster::provisioned();
    cluster.put(0, "key", "old");
    cluster.stop(1);
    let (place, kept) = (cluster.place.path("b"), cluster.place.path("b.kept"));
    copy(&place, &kept);
    cluster.start(1);
    cluster.all_healthy();
    for value in 0..5 {
        cluster.put(1, "key", &value.to_string());
    }
    cluster.all_healthy();
    cluster.stop(1);
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&kept, &place).unwrap();
    cluster.start(1);
    let is_refused = |status: &Value| whys(status).contains("rolled back");
    let status = cluster.until_status("b is refused", 1, is_refused);
    assert_eq!(status["serves"], false, "{status:#}");
    assert!(status["health"].as_str().unwrap().contains("refuses this one"), "{status:#}");
    // The others continue without it, and it joins with an empty disk.
    cluster.put(0, "key", "new");
    cluster.kill(1);
    cluster.wipe(1);
    cluster.start(1);
    cluster.until_status("b votes again", 1, |status| status["is_healthy"] == true);
    assert_eq!(cluster.get(1, "key"), "new");
}

#[test]
fn a_copied_disk_is_refused_while_the_original_runs() {
    let mut cluster = Cluster::provisioned();
    cluster.stop(1);
    copy(&cluster.place.path("b"), &cluster.place.path("b.copy"));
    cluster.start(1);
    cluster.all_healthy();
    let mut arguments = cluster.arguments(1);
    arguments[2] = "b.copy".to_owned();
    arguments[6] = free_address();
    let copied = cluster.start_with(&arguments);
    let ask = || cluster.place.run(&["cluster", "status", "--data-dir", "b.copy", "--json"]);
    let is_refused = || {
        let status: Value = serde_json::from_slice(&ask().stdout).ok()?;
        let why = whys(&status);
        why.contains("is a copy").then_some(())
    };
    until("the copy is refused", is_refused);
    assert_eq!(cluster.put(0, "key", "1"), 1);
    copied.kill();
    cluster.all_healthy();
}

#[test]
fn certificates_of_others_are_refused() {
    let mut cluster = Cluster::provisioned();
    // For another name: it does not start.
    cluster.stop(2);
    let mut arguments = cluster.arguments(2);
    let at = arguments.iter().position(|text| text == "tls/c").unwrap();
    arguments[at] = "tls/a".to_owned();
    let other = cluster.start_with(&arguments).end();
    other.expect_refused(&["is not a certificate for the node c"]);
    // Of another authority: it starts, and says why it is not let in.
    let foreign = ["cluster", "init-tls", "foreign", "--node", "c"];
    cluster.place.run(&foreign).expect(0, &[]);
    arguments[at] = "foreign/c".to_owned();
    cluster.processes[2] = Some(cluster.start_with(&arguments));
    let status = cluster.until_status("c is alone", 2, |status| {
        status["nodes"].as_array().unwrap().iter().any(|node| node["error"].is_string())
    });
    assert_eq!(status["serves"], false);
    let errors = status["nodes"].to_string();
    assert!(errors.contains("ertificate"), "{errors}");
    cluster.put(0, "key", "works");
    cluster.kill(2);
    cluster.start(2);
    cluster.all_healthy();
}

#[test]
fn provisioning_is_done_once_and_with_every_peer() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    cluster.start(0);
    cluster.start(1);
    cluster.ask(0, &["get", "key"]).expect_refused(&["part of no cluster yet"]);
    let absent = cluster.ask(0, &["provision"]);
    absent.expect_refused(&["nothing was provisioned: c at", "--peer-absent"]);
    let state = cluster.status(0).unwrap();
    assert_eq!((&state["state"], &state["cluster"]), (&"uninitialized".into(), &Value::Null));
    cluster.ask(0, &["provision", "--peer-absent", "z"]).expect_refused(&["no peer is called z"]);
    cluster.ask(0, &["provision", "--peer-absent", "c", "--within", "5s"]).expect(0, &[]);
    cluster.ask(0, &["provision"]).expect_refused(&["already", "once"]);
    cluster.until_status("b follows", 1, |status| status["state"] == "standby");
    cluster.ask(1, &["provision"]).expect_refused(&["already"]);
    cluster.start(2);
    cluster.all_healthy();
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::provisioned();
    let mut second = Cluster::new(&["c"]);
    second.start_all();
    second.ask(0, &["provision"]).expect(0, &[]);
    second.stop(0);
    cluster.stop(2);
    cluster.wipe(2);
    copy(&second.place.path("c"), &cluster.place.path("c"));
    cluster.start(2);
    let status = cluster
        .until_status("c is refused", 2, |status| whys(status).contains("different clusters"));
    assert_ne!(status["cluster"], cluster.status(0).unwrap()["cluster"]);
    assert_eq!(cluster.put(0, "key", "1"), 1);
}

#[test]
fn directories_and_names_that_do_not_fit_are_refused() {
    let mut cluster = Cluster::provisioned();
    cluster.stop(2);
    let with = |at: usize, text: &str| {
        let mut arguments = cluster.arguments(2);
        arguments[at] = text.to_owned();
        cluster.start_with(&arguments).end()
    };
    with(2, "b").expect_refused(&["in use by process"]);
    with(4, "c_1").expect_refused(&["is not a node name"]);
    with(4, "a").expect_refused(&["has this node's own name"]);
    let mut arguments = cluster.arguments(2);
    arguments.drain(7..9);
    arguments[6] = "0.0.0.0:0".to_owned();
    let public = cluster.start_with(&arguments).end();
    public.expect_refused(&["0.0.0.0", "TLS"]);
    cluster.stop(1);
    let mut arguments = cluster.arguments(2);
    arguments[2] = "b".to_owned();
    let other = cluster.start_with(&arguments).end();
    other.expect_refused(&["belongs to the node `b`, not to `c`"]);
    cluster.place.write("c/FORMAT", "forebay data directory, version 9\n");
    let newer = cluster.start_with(&cluster.arguments(2)).end();
    newer.expect_refused(&["use a newer forebay"]);
}
