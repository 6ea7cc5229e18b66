//! Formats, and clocks that are off.

use forebay_api::ClusterRequest;
use forebay_engine::cluster::{CLUSTER_FORMAT, NODES_KEY, NodesConfig};

use crate::consensus::client::Target;

use super::*;

async fn request(nodes: &Nodes, at: usize, request: ClusterRequest) -> Result<(), String> {
    match nodes.node(at).answer(request).await {
        forebay_api::ClusterResponse::Error { message, .. } => Err(message),
        _ => Ok(()),
    }
}

/// Gives the cluster the format of an earlier forebay.
async fn lower_format(nodes: &Nodes) {
    let metadata = nodes.node(0).metadata();
    let row = metadata.get(NODES_KEY, CALL).await.unwrap().unwrap();
    let mut config = NodesConfig::decode(row.value.unwrap()).unwrap();
    assert_eq!(config.format, CLUSTER_FORMAT, "a new cluster has the newest format");
    config.format = 1;
    let expected = Expected::Version(row.version);
    metadata.put(NODES_KEY, config.encode(), expected, CALL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_format_is_raised_when_all_nodes_know_it() {
    let mut nodes = Nodes::in_memory(21, &["a", "b", "c"]).provisioned().await;
    lower_format(&nodes).await;
    nodes.until("the format is old", 1, |status| status.format == Some(1)).await;
    let drain = || ClusterRequest::Drain { node: "a".to_owned(), on: true, within_ms: 10_000 };
    let refused = request(&nodes, 1, drain()).await.unwrap_err();
    assert!(refused.contains("format 1") && refused.contains("finalize"), "{refused}");
    nodes.stop(2).await;
    let finalize = || ClusterRequest::Finalize { within_ms: 10_000 };
    let refused = request(&nodes, 1, finalize()).await.unwrap_err();
    assert!(refused.contains("nothing was changed") && refused.contains('c'), "{refused}");
    nodes.start(2).await;
    nodes.all_healthy().await;
    request(&nodes, 1, finalize()).await.unwrap();
    request(&nodes, 1, finalize()).await.unwrap();
    nodes.until("the format is new", 2, |status| status.format == Some(status.format_max)).await;
    request(&nodes, 1, drain()).await.unwrap();
    nodes
        .until("a is drained", 2, |status| {
            status.nodes[0].is_drained
                && status.group.as_ref().unwrap().leader.as_deref() != Some("a")
        })
        .await;
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_off_says_so_and_does_not_lead() {
    let mut nodes = Nodes::in_memory(22, &["a", "b", "c"]);
    nodes.clocks_ahead_ms = vec![2_000, 0, 0];
    let nodes = nodes.provisioned_unchecked().await;
    for at in 0..3 {
        let status = nodes
            .until("the clock of a is off", at, |status| {
                let leader = status.group.as_ref().and_then(|group| group.leader.as_deref());
                leader.is_some_and(|leader| leader != "a")
                    && status.health.starts_with("the clock of a is")
            })
            .await;
        assert!(!status.is_healthy && status.serves, "{status:#?}");
        assert!(status.health.contains("ahead of the majority's"), "{}", status.health);
        let clock = status.nodes[0].clock_ms.unwrap();
        assert!((1_500..=2_000).contains(&clock), "{clock}");
    }
    assert_eq!(nodes.put(0, "key", "value").await, Ok(1));
    nodes.end().await;
}

/// A change at a follower costs one request, not a question to its own group before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asks_the_leader_that_it_knows_first() {
    let mut nodes = Nodes::in_memory(23, &["a", "b", "c"]).provisioned().await;
    for _ in 0..2 {
        let leader = nodes.leader().await;
        let name: forebay_net::NodeName = nodes.names[leader].parse().unwrap();
        for at in (0..3).filter(|at| nodes.nodes[*at].is_some()) {
            let expected = if at == leader { Target::Here } else { Target::Node(name.clone()) };
            let first = || nodes.node(at).metadata().first();
            let began = Instant::now();
            while first() != expected {
                assert!(began.elapsed() < PATIENCE, "{:?}, not {expected:?}", first());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            nodes.put(at, "key", "value").await.unwrap();
        }
        if nodes.nodes.iter().all(Option::is_some) {
            nodes.stop(leader).await;
        }
    }
    nodes.end().await;
}

/// Newer nodes raised the format: this one must not guess, now and at its next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_know_the_format_of_its_cluster_stops_and_says_so() {
    let mut nodes = Nodes::in_memory(24, &["a"]).provisioned().await;
    let newer = Bytes::from(vec![CLUSTER_FORMAT + 1, 0, 0, 0, 0]);
    let within = Duration::from_secs(1);
    let metadata = nodes.node(0).metadata();
    let _ = metadata.put(NODES_KEY, newer, Expected::Anything, within).await;
    drop(metadata);
    for _ in 0..2 {
        let node = nodes.nodes[0].take().unwrap();
        let why = tokio::time::timeout(PATIENCE, node.ended()).await.unwrap();
        let why = why.unwrap_err().to_string();
        assert!(why.contains("newer forebay"), "{why}");
        drop(node);
        nodes.start(0).await;
    }
}
