//! Concurrent compare-and-swap over all nodes, with the leader cut off in between: every
//! acknowledged increment counts once.

use super::*;

/// Adds one by compare-and-swap. Whether it is known to be done.
async fn add_one(node: &ClusterNode) -> Result<(), ()> {
    let metadata = node.metadata();
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "no increment in {PATIENCE:?}");
        let Ok(row) = metadata.get("sum", CALL).await else { continue };
        let (version, value) = row.map_or((0, 0), |row| {
            let text = String::from_utf8(row.value.unwrap().to_vec()).unwrap();
            (row.version, text.parse().unwrap())
        });
        let expected = if version == 0 { Expected::Absent } else { Expected::Version(version) };
        let next = Bytes::from((value + 1_u64).to_string());
        match metadata.put("sum", next, expected, CALL).await {
            Ok(_) => return Ok(()),
            Err(MetadataCallError::Conflict { .. } | MetadataCallError::Unavailable(_)) => {}
            Err(MetadataCallError::OutcomeUnknown) => return Err(()),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_of_all_nodes_count_once() {
    let nodes = Nodes::in_memory(11, &["a", "b", "c"]).provisioned().await;
    let memory = nodes.memory.clone().unwrap();
    let adders = (0..6).map(|at| {
        let node = Arc::clone(nodes.node(at % 3));
        tokio::spawn(async move {
            let (mut done, mut unknown) = (0_u64, 0_u64);
            for _ in 0..15 {
                match add_one(&node).await {
                    Ok(()) => done += 1,
                    Err(()) => unknown += 1,
                }
            }
            (done, unknown)
        })
    });
    let adders: Vec<_> = adders.collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = nodes.leader().await;
        for other in (0..3).filter(|at| *at != leader) {
            memory.cut(&nodes.names[leader], &nodes.names[other]);
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        memory.mend_all();
    }
    let (mut done, mut unknown) = (0, 0);
    for adder in adders {
        let (of_done, of_unknown) = adder.await.unwrap();
        done += of_done;
        unknown += of_unknown;
    }
    let sum: u64 = nodes.get(1, "sum").await.unwrap().parse().unwrap();
    assert!((done..=done + unknown).contains(&sum), "{sum} of {done} and {unknown} unknown");
    nodes.end().await;
}
