//! What the simulation has found: each bug has its test here, by name.

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
use forebay_messages::PartitionKey;

/// A service whose handler stops when it is asked to, and says so.
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

/// The entry had ended as canceled for good, although nobody had canceled it.
#[test]
fn a_handler_that_gives_in_to_a_shutdown_runs_again() {
    let mut app = TestRuntime::start(yielding);
    let entry = app.enqueue(Entry::to("work"));
    app.settle();
    let runtime = app.runtime();
    app.run(runtime.shutdown(Drain::within(Duration::from_millis(100)))).unwrap();
    drop(runtime);
    app.restart();
    assert!(app.outcome(&entry).is_success());
}

/// Every limiter had waited for slots of a pool that was no more.
#[test]
fn a_node_goes_on_when_its_capacity_dies() {
    let mut app = TestRuntime::start(yielding);
    let entries: Vec<_> = (0..20).map(|_| app.enqueue(Entry::to("work"))).collect();
    app.advance(Duration::from_secs(4));
    assert_eq!(app.kill("capacity"), 1);
    for entry in &entries {
        assert!(app.outcome(entry).is_success());
    }
}

/// For whoever drives the simulation himself: its time is not tokio's.
fn in_paused_time(test: impl Future<Output = ()>) {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    tokio.block_on(test);
}

/// A node that forwarded a command waited for ever for another one that was gone, and
/// kept the rows of that one open: it could not be started again.
#[test]
fn whoever_asked_a_node_that_is_gone_is_answered() {
    in_paused_time(async {
        let mut sim = Sim::new(1, Timestamp(1_000_000));
        let disk = Disk::new().unwrap();
        let (log, shared) = sim.share(&disk);
        let soon = |sim: &Sim| sim.now().after(Duration::from_secs(60));
        let member = async |sim: &mut Sim, disk: &Disk, candidacy| {
            let (site, place) = sim.place(disk);
            let builder = yielding().shared_log(&shared).candidacy(candidacy);
            let starting = launch(sim, place, builder);
            (site, sim.run(starting, soon(sim)).await.expect("in time").unwrap())
        };
        let (leads, leader) = member(&mut sim, &disk, Candidacy::First).await;
        let replica = disk.replica().unwrap();
        let (_, follower) = member(&mut sim, &replica, Candidacy::Never).await;
        // Long enough for the leader to be gone before it can answer.
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

/// What had been handed to the log's writer was lost with it; whoever waited for that did so
/// for ever, unless somebody wrote something after him.
#[test]
fn whoever_waits_for_a_log_whose_writer_dies_is_answered() {
    in_paused_time(async {
        let mut sim = Sim::new(3, Timestamp(1_000_000));
        let disk = Disk::new().unwrap();
        let soon = |sim: &Sim| sim.now().after(Duration::from_secs(60));
        let (site, place) = sim.place(&disk);
        let (starting, until) = (launch(&mut sim, place, yielding()), soon(&sim));
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
        let told = sim.run(asking, now).await.expect("it is answered");
        let Err(error) = told.map_err(|error| error.to_string()) else {
            panic!("it was not stored")
        };
        assert!(error.contains("log"), "{error}");
        drop(node);
        sim.crash(site);
        let (_, place) = sim.place(&disk);
        let (starting, until) = (launch(&mut sim, place, yielding()), soon(&sim));
        let node = sim.run(starting, until).await.expect("in time").unwrap();
        let until = soon(&sim);
        let ended = sim.run(node.attach(stored.id()).outcome(), until).await;
        assert!(ended.expect("in time").unwrap().is_success());
    });
}

/// It had stayed a candidate for ever, and whoever started it was told that the runtime was
/// shut down.
#[test]
fn a_partition_that_starts_without_the_logs_writer_stops_and_says_so() {
    in_paused_time(async {
        let mut sim = Sim::new(3, Timestamp(1_000_000));
        let disk = Disk::new().unwrap();
        let (site, place) = sim.place(&disk);
        let until = sim.now().after(Duration::from_secs(60));
        let starting = launch(&mut sim, place, yielding());
        let runtime = sim.run(starting, until).await.expect("in time").unwrap();
        let node = runtime.node();
        let view = node.partition_views().unwrap().remove(0);
        let dropped = node.drop_partition(view.id);
        sim.run(dropped, until).await.expect("in time").unwrap();
        sim.kill_log(site);
        let range = (PartitionKey(view.range.0), PartitionKey(view.range.1));
        let spawned = sim.run(node.spawn_partition(range), until).await.expect("in time");
        let error = spawned.unwrap_err();
        assert!(error.to_string().contains("the log's writer is gone"), "{error}");
        sim.settle().await;
        assert!(node.status().unwrap().iter().all(|partition| partition.stopped.is_some()));
    });
}

/// Another partition was leased the slots of entries that ran on while their limiter
/// was started anew.
#[test]
fn no_more_run_than_may_when_a_limiter_dies() {
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

/// Each partition was leased slots for what had run before the crash, and started other
/// entries in them once that was taken back. (Found by kill -9 of a process.)
#[test]
fn no_more_run_than_may_after_a_crash() {
    in_paused_time(async {
        for seed in 0..8 {
            let counts = Arc::new(Counts::default());
            let mut sim = Sim::new(seed, Timestamp(1_000_000));
            let disk = Disk::new().unwrap();
            for round in 0..4 {
                let (site, place) = sim.place(&disk);
                sim.set_log_delay(site, 40);
                let starting = launch(&mut sim, place, counting(&counts));
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

/// A rule was in force, its client had been told; a partition that nobody led at that
/// time started entries without it, until the rule had gone through its log.
#[test]
fn rules_that_were_set_while_nobody_led_hold_from_the_first_start_on() {
    in_paused_time(async {
        for seed in 0..8 {
            let counts = Arc::new(Counts::default());
            let mut sim = Sim::new(seed, Timestamp(1_000_000));
            let (site, place) = sim.place(&Disk::new().unwrap());
            let soon = |sim: &Sim| sim.now().after(Duration::from_secs(60));
            let starting = launch(&mut sim, place, counting(&counts));
            let until = soon(&sim);
            let node = sim.run(starting, until).await.expect("in time").unwrap();
            let at = sim.now().after(Duration::from_secs(5));
            for _ in 0..5 {
                let entry = Entry::to("work").scope("s").run_at(at);
                sim.run(node.enqueue(entry), until).await.expect("in time").unwrap();
            }
            for partition in node.node().partitions() {
                let left = node.node().step_down(partition, Duration::ZERO);
                sim.run(left, until).await.expect("in time").unwrap();
            }
            let rules = node.rules();
            let set = rules.upsert("*", Limits::concurrency(1));
            sim.run(set, until).await.expect("in time").unwrap();
            sim.advance(Duration::from_secs(6)).await;
            sim.set_log_delay(site, 50);
            for partition in node.node().partitions() {
                sim.run(node.node().lead(partition), until).await.expect("in time").unwrap();
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

/// How many handlers run, and the most there were.
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

/// `explain` named the node's capacity although half of it was free: the partition had
/// used up what it was leased, and had no need to ask for more.
#[test]
fn capacity_is_not_in_the_way_while_the_node_has_some() {
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
