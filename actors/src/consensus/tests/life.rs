//! The life of nodes over TCP with mutual TLS.

use std::sync::{Arc, Mutex};

use forebay_api::NodeStateView;

use super::*;
use crate::consensus::recover;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_serve_and_survive_the_loss_of_the_leader() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c"]).provisioned().await;
    assert_eq!(nodes.put(1, "key", "one").await, Ok(1));
    assert_eq!(nodes.get(2, "key").await.as_deref(), Some("one"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watch = {
        let seen = Arc::clone(&seen);
        let metadata = nodes.node(2).metadata();
        metadata.watch("key", move |row| seen.lock().unwrap().push(row.version))
    };
    assert_eq!(nodes.put(0, "key", "two").await, Ok(2));

    let leader = nodes.leader().await;
    nodes.nodes[leader] = None;
    let other = (leader + 1) % 3;
    assert_eq!(nodes.put(other, "key", "three").await, Ok(3));
    assert_eq!(nodes.get((leader + 2) % 3, "key").await.as_deref(), Some("three"));

    // The lost node returns with its data and receives the rest.
    let began = Instant::now();
    while let Err(error) = nodes.try_start(leader).await {
        assert!(began.elapsed() < PATIENCE, "the directory is not released: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nodes.all_healthy().await;
    assert_eq!(nodes.get(leader, "key").await.as_deref(), Some("three"));
    if leader != 2 {
        let versions = seen.lock().unwrap().clone();
        assert!(versions.is_sorted() && versions.last() == Some(&3), "{versions:?}");
    }
    drop(watch);
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preconditions_hold_over_nodes() {
    let nodes = Nodes::over_tls(&["a", "b", "c"]).provisioned().await;
    let metadata = nodes.node(1).metadata();
    let value = || Bytes::from_static(b"1");
    assert_eq!(metadata.put("k", value(), Expected::Absent, CALL).await, Ok(1));
    let conflict = metadata.put("k", value(), Expected::Absent, CALL).await;
    let expected = MetadataCallError::Conflict { key: "k".to_owned(), found: Some(1) };
    assert_eq!(conflict, Err(expected));
    let invalid = metadata.put("a b", value(), Expected::Absent, CALL).await;
    assert!(matches!(invalid, Err(MetadataCallError::Invalid(_))), "{invalid:?}");
    assert_eq!(metadata.delete("k", Expected::Version(1), CALL).await, Ok(()));
    let row = metadata.get("k", CALL).await.unwrap().unwrap();
    assert_eq!((row.version, row.value), (2, None));
    for key in ["list/b", "list/a", "other"] {
        metadata.put(key, value(), Expected::Anything, CALL).await.unwrap();
    }
    let listed = nodes.node(2).metadata().list("list/", None, CALL).await.unwrap();
    let keys: Vec<_> = listed.rows.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, listed.more), (vec!["list/a", "list/b"], false));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisioning_is_refused_with_a_reason() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c"]);
    nodes.start(0).await;
    nodes.start(1).await;
    let error = |error: ClusterError| error.to_string();
    let absent = nodes.node(0).provision(Vec::new()).await.map_err(error).unwrap_err();
    assert!(absent.contains("c at") && absent.contains("--peer-absent"), "{absent}");
    let unknown = nodes.node(0).provision(vec!["z".to_owned()]).await.map_err(error).unwrap_err();
    assert!(unknown.contains("no peer is called z"), "{unknown}");
    let call = nodes.put(0, "k", "v").await.unwrap_err();
    assert_eq!(call, MetadataCallError::NotProvisioned);

    nodes.node(0).provision(vec!["c".to_owned()]).await.unwrap();
    let again = nodes.node(0).provision(Vec::new()).await.map_err(error).unwrap_err();
    assert!(again.contains("already"), "{again}");
    nodes.until("b follows", 1, |status| status.cluster.is_some()).await;
    nodes.start(2).await;
    nodes.all_healthy().await;
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_takes_its_place_again_and_a_removed_one_does_not() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c"]).provisioned().await;
    nodes.put(0, "key", "before").await.unwrap();
    let before = nodes.node(1).status().await.storage;
    nodes.stop(1).await;
    std::fs::remove_dir_all(nodes.path(1)).unwrap();
    nodes.start(1).await;
    let is_back = |status: &ClusterView| {
        status.is_healthy && status.state == NodeStateView::Member && status.storage != before
    };
    nodes.until("b votes with its new disk", 1, is_back).await;
    assert_eq!(nodes.get(1, "key").await.as_deref(), Some("before"));
    nodes.until("a sees it", 0, |status| status.is_healthy).await;

    nodes.node(0).remove("c", CALL).await.unwrap();
    let removed = nodes.until("c is removed", 2, |status| status.state == NodeStateView::Removed);
    assert_eq!(removed.await.group.unwrap().role, "learner");
    nodes.put(2, "key", "after").await.unwrap();
    let unknown = nodes.node(0).remove("z", CALL).await.unwrap_err().to_string();
    assert!(unknown.contains("there is no node z: the nodes are a, b, c"), "{unknown}");
    nodes.stop(2).await;
    std::fs::remove_dir_all(nodes.path(2)).unwrap();
    nodes.start(2).await;
    nodes.until("c votes again", 2, |status| status.state == NodeStateView::Member).await;
    nodes.all_healthy().await;
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_stands_by_and_five_vote() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c", "d", "e"]);
    for at in 0..3 {
        nodes.start(at).await;
    }
    let absent = vec!["d".to_owned(), "e".to_owned()];
    // Only three are asked for: the others come later.
    let mut config = nodes.config(0);
    config.peers.truncate(2);
    nodes.stop(0).await;
    nodes.nodes[0] = Some(Arc::new(ClusterNode::start(config).await.unwrap()));
    nodes.node(0).provision(Vec::new()).await.unwrap();
    drop(absent);
    for at in 0..3 {
        nodes.until("three vote", at, |status| status.is_healthy).await;
    }
    nodes.start(3).await;
    nodes.until("d stands by", 3, |status| status.state == NodeStateView::Standby).await;
    let leader = nodes.leader().await;
    let seen = nodes.until("it is seen", leader, |status| {
        state_of(status, "d") == Some(NodeStateView::Standby)
    });
    assert!(seen.await.is_healthy);
    nodes.start(4).await;
    for at in 0..5 {
        let votes = |status: &ClusterView| status.state == NodeStateView::Member;
        nodes.until("five vote", at, votes).await;
    }
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_changes_at_once() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c"]).provisioned().await;
    nodes.put(0, "key", "before").await.unwrap();
    for at in 0..3 {
        nodes.stop(at).await;
    }
    nodes.addresses = (0..3).map(|_| free_address()).collect();
    nodes.start_all().await;
    nodes.all_healthy().await;
    assert_eq!(nodes.get(1, "key").await.as_deref(), Some("before"));
    let addresses = nodes.addresses.clone();
    nodes
        .until("the configuration has them", 0, |status| {
            status.nodes.iter().zip(&addresses).all(|(node, address)| node.address == *address)
        })
        .await;
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_recovers_alone_and_the_others_join_with_empty_disks() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c"]).provisioned().await;
    nodes.put(0, "key", "kept").await.unwrap();
    for at in 0..3 {
        nodes.stop(at).await;
    }
    let look = recover(&nodes.path(1), "b", false).unwrap();
    assert!(!look.is_done && look.incarnation == 1 && look.members.len() == 3, "{look:?}");
    assert!(recover(&nodes.path(1), "a", true).is_err(), "another node's directory");
    let done = recover(&nodes.path(1), "b", true).unwrap();
    assert!(done.is_done && done.incarnation == 2, "{done:?}");
    nodes.start(1).await;
    assert_eq!(nodes.get(1, "key").await.as_deref(), Some("kept"));

    // A member of the old incarnation is a stranger.
    nodes.start(0).await;
    let refused = |status: &ClusterView| {
        status.refused.iter().any(|refused| refused.why.contains("different clusters"))
    };
    nodes.until("a is refused", 0, refused).await;
    nodes.stop(0).await;
    for at in [0, 2] {
        std::fs::remove_dir_all(nodes.path(at)).unwrap();
        nodes.start(at).await;
    }
    nodes.all_healthy().await;
    assert_eq!(nodes.get(0, "key").await.as_deref(), Some("kept"));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_copies_a_state_of_many_segments() {
    let mut nodes = Nodes::over_tls(&["a", "b", "c"]).provisioned().await;
    let value = Bytes::from(vec![7; 1 << 20]);
    for key in 0..20 {
        let metadata = nodes.node(0).metadata();
        let key = format!("large/{key}");
        metadata.put(&key, value.clone(), Expected::Anything, CALL).await.unwrap();
    }
    let segment = nodes.node(0).status().await.group.unwrap().segment;
    assert!(segment > 3, "segments are rolled: {segment}");
    nodes.stop(2).await;
    std::fs::remove_dir_all(nodes.path(2)).unwrap();
    nodes.start(2).await;
    nodes.until("c votes again", 2, |status| status.state == NodeStateView::Member).await;
    let status = nodes.node(2).status().await;
    assert!(status.group.unwrap().state_bytes > 20 << 20);
    // It also starts again from its own snapshot.
    nodes.stop(2).await;
    nodes.start(2).await;
    nodes.until("c has it", 2, |status| status.is_healthy).await;
    nodes.end().await;
}
