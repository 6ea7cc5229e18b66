//! Over the network in memory: cuts, and links that break.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_and_follows_again() {
    let nodes = Nodes::in_memory(3, &["a", "b", "c"]).provisioned().await;
    let memory = nodes.memory.clone().unwrap();
    nodes.put(0, "key", "one").await.unwrap();
    let leader = nodes.leader().await;
    let others: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    for other in &others {
        memory.cut(&nodes.names[leader], &nodes.names[*other]);
        memory.cut(&nodes.names[*other], &nodes.names[leader]);
    }
    assert_eq!(nodes.put(others[0], "key", "two").await, Ok(2));
    // The old leader serves nothing, neither reads nor writes.
    let short = Duration::from_millis(600);
    let read = nodes.node(leader).metadata().get("key", short).await;
    assert!(matches!(read, Err(MetadataCallError::Unavailable(_))), "{read:?}");
    nodes.until("it knows no leader", leader, |status| !status.serves).await;
    memory.mend_all();
    nodes.all_healthy().await;
    assert_eq!(nodes.get(leader, "key").await.as_deref(), Some("two"));
    nodes.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_made_once_while_connections_break() {
    let nodes = Nodes::in_memory(5, &["a", "b", "c"]).provisioned().await;
    let memory = nodes.memory.clone().unwrap();
    memory.break_after(Some(Duration::from_millis(150)));
    let mut versions = Vec::new();
    let mut unknown = 0;
    for round in 0..60 {
        match nodes.put(round % 3, "counter", &round.to_string()).await {
            Ok(version) => versions.push(version),
            Err(MetadataCallError::OutcomeUnknown) => unknown += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    memory.break_after(None);
    let row = nodes.node(0).metadata().get("counter", CALL).await.unwrap().unwrap();
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
    let made = versions.len() as u64;
    assert!(
        (made..=made + unknown).contains(&row.version),
        "{row:?}, {made} and {unknown} unknown"
    );
    nodes.end().await;
}

/// Regression. A follower that did not reach the leader, in a chain of three, served nothing: it
/// asked the leader again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_reach_the_leader_is_served_through_another_one() {
    let nodes = Nodes::in_memory(9, &["a", "b", "c"]).provisioned().await;
    let memory = nodes.memory.clone().unwrap();
    for round in 0..3 {
        let leader = nodes.leader().await;
        let far = (leader + 1) % 3;
        memory.cut(&nodes.names[leader], &nodes.names[far]);
        memory.cut(&nodes.names[far], &nodes.names[leader]);
        for turn in 0..6 {
            let at = [far, leader, 3 - far - leader][turn % 3];
            let value = format!("{round}/{turn}");
            let metadata = nodes.node(at).metadata();
            let within = Duration::from_secs(10);
            let put = metadata.put("key", value.clone().into(), Expected::Anything, within);
            put.await.unwrap();
            let row = metadata.get("key", within).await.unwrap().unwrap();
            assert_eq!(row.value, Some(value.into()), "node {at}");
        }
        memory.mend_all();
        nodes.all_healthy().await;
    }
    nodes.end().await;
}
