//! Regression tests for bugs found by the simulation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay::{
    Builder, Candidacy, Context, Drain, Entry, HandlerError, Limits, Runtime, Timestamp,
    explain::Reason,
    testkit::{Disk, Sim, TestRuntime, launch},
};
use forebay_actors::node::KeyRange;
use forebay_messages::PartitionKey;

/// A service whose handler stops when asked to, and reports it.
fn yielding() -> Builder {
    Runtime::builder().partitions(2).max_running(4).handler(
        "work",
        |context: Context, (): ()| async move {
            tokio::select! {
                () = context.canceled() => Err(HandlerError::canceled("as asked")),
                () = tokio::time::sleep(Duration::from_secs(3)) => Ok(()),
            }
        },
    )
}

/// Regression: the entry ended permanently as canceled, although it had not been canceled.
#[test]
fn a_handler_that_stops_for_a_shutdown_runs_again() {
    let mut app = TestRuntime::start(yielding);
    let entry = app.enqueue(Entry::to("work"));
    app.settle();
    let runtime = app.runtime();
    app.run(runtime.shutdown(Drain::within(Duration::from_millis(100)))).unwrap();
    drop(runtime);
    app.restart();
    assert!(app.outcome(&entry).is_success());
}

/// Regression: every limiter waited for slots of a pool that no longer existed.
#[test]
fn a_node_continues_when_its_capacity_actor_dies() {
    let mut app = TestRuntime::start(yielding);
    let entries: Vec<_> = (0..20).map(|_| app.enqueue(Entry::to("work"))).collect();
    app.advance(Duration::from_secs(4));
    assert_eq!(app.kill("capacity"), 1);
    for entry in &entries {
        assert!(app.outcome(entry).is_success());
    }
}

/// Runs a test that drives the simulation itself: its time is not tokio's.
fn in_paused_time(test: impl Future<Output = ()>) {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio.block_on(test);
}

/// Regression: a node that forwarded a command waited forever for a node that was gone, and kept
/// that node's rows open: it could not be started again.
#[test]
fn a_request_to_a_node_that_is_gone_is_answered() {
    in_paused_time(async {
        let mut sim = Sim::new(1, Timestamp(1_000_000));
        let disk = Disk::new().unwrap();
        let (log, shared) = sim.share(&disk);
        let soon = |sim: &Sim| sim.now().after(Duration::from_secs(60));
        let member = async |sim: &mut Sim, disk: &Disk, candidacy| {
            let (site, node) = sim.add_node(disk);
            let builder = yielding().shared_log(&shared).candidacy(candidacy);
            let starting = launch(sim, node, builder);
            (site, sim.run(starting, soon(sim)).await.expect("in time").unwrap())
        };
        let (leads, leader) = member(&mut sim, &disk, Candidacy::First).await;
        let replica = disk.replica().unwrap();
        let (_, follower) = member(&mut sim, &replica, Candidacy::Never).await;
        // Long enough that the leader is gone before it can answer.
        sim.set_log_delay(log, 60_000);
        let now = sim.now();
        let mut asking = Box::pin(follower.enqueue(Entry::to("work")));
        // Some writes take no time at all.
        while sim.run(asking.as_mut(), now).await.is_some() {
            asking = Box::pin(follower.enqueue(Entry::to("work")));
        }
        sim.crash(leads);
        drop(leader);
        let until = soon(&sim);
        assert!(sim.run(asking, until).await.is_some(), "it is answered");
        sim.set_log_delay(log, 0);
        member(&mut sim, &disk, Candidacy::First).await;
    });
}

/// Regression: records handed to the log's writer were lost when it died, and their callers waited
/// forever, unless another write followed.
#[test]
fn callers_are_answered_when_the_logs_writer_dies() {
    in_paused_time(async {
        let mut sim = Sim::new(3, Timestamp(1_000_000));
        let disk = Disk::new().unwrap();
        let soon = |sim: &Sim| sim.now().after(Duration::from_secs(60));
        let (site, node) = sim.add_node(&disk);
        let (starting, until) = (launch(&mut sim, node, yielding()), soon(&sim));
        let node = sim.run(starting, until).await.expect("in time").unwrap();
        let until = soon(&sim);
        let stored = node.enqueue(Entry::to("work"));
        let stored = sim.run(stored, until).await.expect("in time").unwrap();
        sim.set_log_delay(site, 60_000);
        let now = sim.now();
        let mut asking = Box::pin(node.enqueue(Entry::to("work")));
        // Some writes take no time at all.
        while sim.run(asking.as_mut(), now).await.is_some() {
            asking = Box::pin(node.enqueue(Entry::to("work")));
        }
        sim.kill_log(site);
        let answer = sim.run(asking, now).await.expect("it is answered");
        let Err(error) = answer.map_err(|error| error.to_string()) else {
            panic!("it was not stored")
        };
        assert!(error.contains("log"), "{error}");
        drop(node);
        sim.crash(site);
        let (_, node) = sim.add_node(&disk);
        let (starting, until) = (launch(&mut sim, node, yielding()), soon(&sim));
        let node = sim.run(starting, until).await.expect("in time").unwrap();
        let until = soon(&sim);
        let ended = sim.run(node.attach(stored.id()).outcome(), until).await;
        assert!(ended.expect("in time").unwrap().is_success());
    });
}

/// Regression: it remained a candidate forever, and the caller got an error that said that the
/// runtime was shut down.
#[test]
fn a_partition_started_without_the_logs_writer_stops_with_an_error() {
    in_paused_time(async {
        let mut sim = Sim::new(3, Timestamp(1_000_000));
        let disk = Disk::new().unwrap();
        let (site, node) = sim.add_node(&disk);
        let until = sim.now().after(Duration::from_secs(60));
        let starting = launch(&mut sim, node, yielding());
        let runtime = sim.run(starting, until).await.expect("in time").unwrap();
        let node = runtime.node();
        let view = node.inspect().partition_views().unwrap().remove(0);
        let dropped = node.drop_partition(view.id);
        sim.run(dropped, until).await.expect("in time").unwrap();
        sim.kill_log(site);
        let (first, last) = view.range;
        let range = KeyRange { first: PartitionKey(first), last: PartitionKey(last) };
        let spawned = sim.run(node.spawn_partition(range), until).await.expect("in time");
        let error = spawned.unwrap_err();
        assert!(error.to_string().contains("the log's writer is gone"), "{error}");
        sim.settle().await;
        assert!(
            node.inspect().status().unwrap().iter().all(|partition| partition.stopped.is_some())
        );
    });
}

/// Regression: the slots of entries that continued while their limiter was restarted were leased to
/// another partition.
#[test]
fn the_capacity_holds_when_a_limiter_dies() {
    let mut app = TestRuntime::builder().seed(7).start(yielding);
    for number in 0..40 {
        app.enqueue(Entry::to("work").scope(&format!("s{number}")));
    }
    for _ in 0..3 {
        app.advance(Duration::from_millis(3_100));
        assert_eq!(app.kill("limiter"), 2);
        for _ in 0..20 {
            app.advance(Duration::from_millis(1));
            let running = app.runtime().node().executor().running();
            assert!(running <= 4, "{running} of 4 run");
        }
    }
}

/// Regression: each partition was leased slots for entries that had run before the crash, and
/// started other entries in these slots once the former were undone. (Found by kill -9 of a
/// process.)
#[test]
fn the_capacity_holds_after_a_crash() {
    in_paused_time(async {
        for seed in 0..8 {
            let counts = Arc::new(Counts::default());
            let mut sim = Sim::new(seed, Timestamp(1_000_000));
            let disk = Disk::new().unwrap();
            for round in 0..4 {
                let (site, node) = sim.add_node(&disk);
                sim.set_log_delay(site, 40);
                let starting = launch(&mut sim, node, counting(&counts));
                let soon = sim.now().after(Duration::from_secs(60));
                let node = sim.run(starting, soon).await.expect("in time").unwrap();
                for number in 0..20 {
                    let entry = Entry::to("work").scope(&format!("{round}-{number}"));
                    let soon = sim.now().after(Duration::from_secs(60));
                    sim.run(node.enqueue(entry), soon).await.expect("in time").unwrap();
                }
                let until = sim.now().after(Duration::from_secs(4));
                assert!(sim.run(std::future::pending::<()>(), until).await.is_none());
                sim.crash(site);
            }
            let most = counts.most.load(Ordering::Relaxed);
            assert_eq!(most, 6, "most that ran at once, seed {seed}");
        }
    });
}

/// Regression: a rule was in force and acknowledged, but a partition that had no leader at that
/// time later started entries without it, until the rule had gone through its log.
#[test]
fn rules_set_without_a_leader_apply_from_the_first_start() {
    in_paused_time(async {
        for seed in 0..8 {
            let counts = Arc::new(Counts::default());
            let mut sim = Sim::new(seed, Timestamp(1_000_000));
            let (site, node) = sim.add_node(&Disk::new().unwrap());
            let soon = |sim: &Sim| sim.now().after(Duration::from_secs(60));
            let starting = launch(&mut sim, node, counting(&counts));
            let until = soon(&sim);
            let node = sim.run(starting, until).await.expect("in time").unwrap();
            let at = sim.now().after(Duration::from_secs(5));
            for _ in 0..5 {
                let entry = Entry::to("work").scope("s").run_at(at);
                sim.run(node.enqueue(entry), until).await.expect("in time").unwrap();
            }
            for partition in node.node().partitions().ids() {
                let left = node.node().partitions().step_down(partition, Duration::ZERO);
                sim.run(left, until).await.expect("in time").unwrap();
            }
            let rules = node.rules();
            let set = rules.upsert("*", Limits::concurrency(1));
            sim.run(set, until).await.expect("in time").unwrap();
            sim.advance(Duration::from_secs(6)).await;
            sim.set_log_delay(site, 50);
            for partition in node.node().partitions().ids() {
                sim.run(node.node().partitions().lead(partition), until)
                    .await
                    .expect("in time")
                    .unwrap();
            }
            sim.advance(Duration::from_secs(10)).await;
            assert_eq!(
                counts.most.load(Ordering::Relaxed),
                1,
                "most that ran at once, seed {seed}"
            );
        }
    });
}

fn counting(counts: &Arc<Counts>) -> Builder {
    let counts = Arc::clone(counts);
    Runtime::builder().partitions(3).max_running(6).handler("work", move |_: Context, (): ()| {
        let running = Arc::clone(&counts).enter();
        async move {
            let _running = running;
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok::<_, HandlerError>(())
        }
    })
}

/// Number of running handlers, and its maximum.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) now: AtomicUsize,
    pub(crate) most: AtomicUsize,
}

pub(crate) struct Entered(Arc<Counts>);

impl Counts {
    pub(crate) fn enter(self: Arc<Self>) -> Entered {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        Entered(self)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Regression: `explain` named the node's capacity although half of it was free: the partition had
/// used up its lease and had no need to ask for more.
#[test]
fn free_capacity_is_not_reported_as_a_reason() {
    let mut app = TestRuntime::start(yielding);
    let at = app.now().after(Duration::from_secs(60));
    let later = app.enqueue(Entry::to("work").scope("s").run_at(at));
    for running in 1..=4 {
        app.enqueue(Entry::to("work").scope("s"));
        app.settle();
        let runtime = app.runtime();
        assert_eq!(runtime.node().executor().running(), running);
        let explained = app.run(runtime.explain(later.id())).unwrap().unwrap();
        let names_capacity = explained
            .blocked_by
            .iter()
            .any(|block| matches!(block.reason, Reason::Capacity { .. }));
        assert_eq!(names_capacity, running == 4, "{running} of 4 run: {explained:?}");
    }
}
