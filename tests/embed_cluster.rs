//! Programs that embed the runtime as nodes of a cluster.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::{
    Context, Drain, Entry, ErrorKind, Json, Limits, PartitionSpec, Runtime, RuntimeError,
    cluster::ClusterNodeConfig,
    control::cluster::{Answer, Request, ask},
};

const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Running entries of a node, and the most there were.
#[derive(Default)]
struct Running {
    now: AtomicUsize,
    most: AtomicUsize,
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn builder(running: &Arc<Running>) -> forebay::Builder {
    let running = Arc::clone(running);
    Runtime::builder().partitions(2).handler("work", move |_: Context, Json(ms): Json<u64>| {
        let running = Arc::clone(&running);
        async move {
            let now = running.now.fetch_add(1, Ordering::SeqCst) + 1;
            running.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            running.now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    })
}

fn config(at: usize, place: &Path, addresses: &[String]) -> ClusterNodeConfig {
    let others = (0..NAMES.len()).filter(|other| *other != at);
    ClusterNodeConfig {
        name: NAMES[at].to_owned(),
        data_dir: place.join(NAMES[at]),
        listen: addresses[at].clone(),
        peers: others.map(|at| (NAMES[at].to_owned(), addresses[at].clone())).collect(),
        ..ClusterNodeConfig::default()
    }
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Three runtimes; the cluster is provisioned through the socket of the first one, which waits.
async fn cluster(place: &Path, running: &[Arc<Running>; 3]) -> Vec<Runtime> {
    let addresses: Vec<_> = NAMES.iter().map(|_| free_address()).collect();
    let starting: Vec<_> = (0..3)
        .map(|at| {
            let config = config(at, place, &addresses);
            tokio::spawn(builder(&running[at]).cluster(config).start())
        })
        .collect();
    let first = place.join("a");
    until("the cluster is provisioned", || async {
        let asked = ask(&first, &Request::Provision { absent: Vec::new() }).await;
        matches!(asked, Ok(Answer::Provisioned { .. }))
    })
    .await;
    let mut runtimes = Vec::new();
    for one in starting {
        runtimes.push(one.await.unwrap().unwrap());
    }
    for runtime in &runtimes {
        let node = runtime.cluster().unwrap();
        until("it is healthy", || async { node.status().await.is_healthy }).await;
    }
    runtimes
}

async fn limit_of(runtime: &Runtime, pattern: &str) -> Option<u32> {
    let book = runtime.rules().book().await.unwrap();
    let rule = book.get(&pattern.parse().unwrap())?;
    rule.limits.concurrency.map(Into::into)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_runtimes_share_rules_aliases_and_partitions() {
    let place = tempfile::tempdir().unwrap();
    let running: [Arc<Running>; 3] = Default::default();
    let runtimes = cluster(place.path(), &running).await;
    runtimes[0].rules().upsert("s", Limits::concurrency(1)).await.unwrap();
    for runtime in &runtimes {
        assert_eq!(limit_of(runtime, "s").await, Some(1));
    }
    // In force on each node, for its own entries.
    let mut entries = Vec::new();
    for runtime in &runtimes {
        for _ in 0..5 {
            let entry = Entry::to("work").scope("s").json(&20_u64).unwrap();
            entries.push(runtime.enqueue(entry).await.unwrap());
        }
    }
    for entry in &entries {
        assert!(entry.outcome().await.unwrap().is_success());
    }
    for one in &running {
        assert_eq!(one.most.load(Ordering::SeqCst), 1);
    }
    // An alias, and a partition that is dropped and spawned again.
    runtimes[1].aliases().set("old-work", "work").await.unwrap();
    for runtime in &runtimes {
        let renamed = || async {
            let entry = Entry::to("old-work").json(&1_u64).unwrap();
            let entry = runtime.enqueue(entry).await.unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(1), entry.outcome()).await;
            ended.is_ok_and(|outcome| outcome.unwrap().is_success())
        };
        until("the alias is in force", renamed).await;
    }
    let partitions = |runtime: &Runtime| runtime.node().partitions().ids();
    let before = partitions(&runtimes[0]);
    assert_eq!(before.len(), 2);
    runtimes[2].drop_partition(before[1]).await.unwrap();
    for runtime in &runtimes {
        until("it is dropped", || async { partitions(runtime).len() == 1 }).await;
    }
    let spec = PartitionSpec::range(1 << 63..=u64::MAX);
    let spawned = runtimes[1].spawn_partition(spec).await.unwrap();
    for runtime in &runtimes {
        until("it is spawned", || async { partitions(runtime) == [before[0], spawned] }).await;
    }
    for runtime in &runtimes {
        runtime.shutdown(Drain::now()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_without_a_majority_and_a_snapshot_runs_alone() {
    let place = tempfile::tempdir().unwrap();
    let running: [Arc<Running>; 3] = Default::default();
    let mut runtimes = cluster(place.path(), &running).await;
    runtimes[0].rules().upsert("s", Limits::concurrency(2)).await.unwrap();
    runtimes[0].rules().upsert("t", Limits::concurrency(9)).await.unwrap();
    let last = runtimes.pop().unwrap();
    until("it is in force", || async { limit_of(&last, "t").await == Some(9) }).await;
    for runtime in runtimes {
        runtime.shutdown(Drain::now()).await.unwrap();
    }
    // Until it knows that it reaches no majority, a change may be made.
    let refused = loop {
        let refused = last.rules().upsert("s", Limits::concurrency(50)).await.unwrap_err();
        if refused.kind() != ErrorKind::Unknown {
            break refused;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Retry, "{refused}");
    assert!(refused.to_string().contains("nothing was done"), "{refused}");
    let mut entries = Vec::new();
    for _ in 0..8 {
        let entry = Entry::to("work").scope("s").json(&50_u64).unwrap();
        entries.push(last.enqueue(entry).await.unwrap());
    }
    for entry in &entries {
        assert!(entry.outcome().await.unwrap().is_success());
    }
    assert_eq!(running[2].most.load(Ordering::SeqCst), 2);
    // A snapshot has the rules that are known here.
    last.snapshot(place.path().join("kept")).await.unwrap();
    last.shutdown(Drain::now()).await.unwrap();
    drop(last);
    let (kept, alone) = (place.path().join("kept"), place.path().join("alone"));
    forebay::snapshot::restore(&kept, &alone, None).unwrap();
    let runtime = Runtime::builder().data_dir(&alone).start().await.unwrap();
    assert_eq!(limit_of(&runtime, "s").await, Some(2));
    runtime.shutdown(Drain::now()).await.unwrap();
    // The directory itself is not used without the cluster.
    let refused = Runtime::builder().data_dir(place.path().join("c")).start().await;
    let refused = refused.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
}

#[tokio::test]
async fn what_does_not_fit_a_cluster_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let config = || config(0, place.path(), &[free_address(), free_address(), free_address()]);
    let refused = |builder: forebay::Builder| async {
        let started: Result<Runtime, RuntimeError> = builder.start().await;
        started.map(drop).unwrap_err().to_string()
    };
    let elsewhere = refused(Runtime::builder().data_dir("other").cluster(config())).await;
    assert!(elsewhere.contains("different data directories"), "{elsewhere}");
    let memory = refused(Runtime::builder().in_memory().cluster(config())).await;
    assert!(memory.contains("needs a data directory"), "{memory}");
    let public = ClusterNodeConfig { listen: "0.0.0.0:0".to_owned(), ..config() };
    let public = refused(Runtime::builder().cluster(public)).await;
    assert!(public.contains("TLS"), "{public}");
    assert!(!place.path().join("a/cluster").exists());
}
