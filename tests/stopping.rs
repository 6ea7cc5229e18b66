//! Handlers that were asked to stop but still run: they keep their resources until they have
//! stopped. The seed determines when a handler is dropped relative to other events. Each test is a
//! regression test.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use forebay::{
    Builder, Context, Entry, EntryHandle, HandlerError, Json, Limits, PartitionId, Runtime,
    testkit::{Script, SiteFaults, TestRuntime},
};

use super::sim_found::Counts;

const SEEDS: std::ops::Range<u64> = 0..24;
/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(30);

/// A service whose handlers count themselves; at most `max` run at once on the node.
fn counting(counts: &Arc<Counts>, max: u32) -> impl Fn() -> Builder + 'static {
    let counts = Arc::clone(counts);
    move || {
        let counts = Arc::clone(&counts);
        let builder = Runtime::builder().partitions(2).max_running(max);
        builder.handler("work", move |_: Context, (): ()| {
            let running = Arc::clone(&counts).enter();
            async move {
                let _running = running;
                tokio::time::sleep(LONG).await;
                Ok::<_, HandlerError>(())
            }
        })
    }
}

/// With every third seed, handlers stop at once.
fn start(seed: u64, counts: &Arc<Counts>, max: u32) -> TestRuntime {
    let mut app = TestRuntime::builder().seed(seed).start(counting(counts, max));
    let stop_delay_ms_max = if seed.is_multiple_of(3) { 0 } else { 700 };
    app.set_site_faults(SiteFaults { stop_delay_ms_max, ..SiteFaults::default() });
    app
}

fn most(counts: &Counts) -> usize {
    counts.most.load(Ordering::Relaxed)
}

/// Entries of many scopes, and so of both partitions.
fn spread(app: &mut TestRuntime, count: usize) -> Vec<EntryHandle> {
    (0..count).map(|n| app.enqueue(Entry::to("work").scope(&format!("s{n}")))).collect()
}

fn kill(app: &mut TestRuntime, entry: &EntryHandle) {
    let entry = entry.clone();
    app.run(async move { entry.kill().await }).unwrap();
}

/// Regression: the next entry of the key was granted its lock before the handler was dropped.
#[test]
fn the_next_of_a_key_waits_for_the_killed_one() {
    for seed in SEEDS {
        let counts = Arc::default();
        let mut app = start(seed, &counts, 100);
        let entries: Vec<_> =
            (0..8).map(|_| app.enqueue(Entry::to("work").scope("s").key("k"))).collect();
        app.settle();
        for entry in &entries {
            kill(&mut app, entry);
            app.advance(Duration::from_millis(seed * 20));
        }
        assert_eq!(most(&counts), 1, "most that ran at once, seed {seed}");
    }
}

/// The same for a limit and for the node's capacity.
#[test]
fn a_killed_handler_counts_until_it_has_stopped() {
    for seed in SEEDS {
        let counts = Arc::default();
        let mut app = start(seed, &counts, if seed.is_multiple_of(2) { 2 } else { 100 });
        let runtime = app.runtime();
        app.run(runtime.rules().upsert("*", Limits::concurrency(2))).unwrap();
        let entries: Vec<_> = (0..10).map(|_| app.enqueue(Entry::to("work").scope("s"))).collect();
        app.settle();
        for entry in &entries {
            kill(&mut app, entry);
            app.advance(Duration::from_millis(seed * 20));
        }
        assert_eq!(most(&counts), 2, "most that ran at once, seed {seed}");
    }
}

/// Regression: the slots of handlers that were asked to stop were leased to another partition.
#[test]
fn a_leader_that_steps_down_keeps_the_slots_of_its_handlers() {
    for seed in SEEDS {
        let counts = Arc::default();
        let mut app = start(seed, &counts, 4);
        spread(&mut app, 40);
        app.settle();
        for round in 0..6 {
            let (runtime, partition) = (app.runtime(), PartitionId(round % 2));
            app.run(runtime.node().partitions().step_down(partition, Duration::ZERO)).unwrap();
            app.advance(Duration::from_millis(round.into()));
            // Under the same limits, and beside the handlers it started before.
            app.run(runtime.node().partitions().lead(partition)).unwrap();
            app.advance(Duration::from_millis(100 + 300 * u64::from(round)));
            assert_eq!(most(&counts), 4, "most that ran at once, seed {seed}");
        }
        app.advance(Duration::from_secs(1));
        assert_eq!(counts.now.load(Ordering::Relaxed), 4, "all slots are in use again");
    }
}

/// Regression: an entry was started again while its former handler still ran.
#[test]
fn a_new_leadership_does_not_start_an_entry_twice() {
    let entry = || Entry::to("work").scope("s");
    let limit = [("s", Limits::concurrency(1))];
    let kinds = [
        (&limit[..], vec![entry(), entry()]),
        (&[], vec![entry().key("k"), entry().key("k")]),
        (&[], vec![entry()]),
    ];
    for (seed, (rules, entries)) in SEEDS.flat_map(|seed| kinds.iter().map(move |of| (seed, of))) {
        let counts = Arc::default();
        let mut app = start(seed, &counts, 100);
        let runtime = app.runtime();
        for (pattern, limits) in *rules {
            app.run(runtime.rules().upsert(pattern, *limits)).unwrap();
        }
        entries.iter().for_each(|entry| drop(app.enqueue(entry.clone())));
        app.settle();
        for _ in 0..4 {
            for partition in runtime.node().partitions().ids() {
                app.run(runtime.node().partitions().step_down(partition, Duration::ZERO)).unwrap();
                app.run(runtime.node().partitions().lead(partition)).unwrap();
            }
            app.advance(Duration::from_millis(50));
        }
        app.advance(Duration::from_secs(1));
        assert_eq!(most(&counts), 1, "most that ran at once, seed {seed}");
        assert_eq!(counts.now.load(Ordering::Relaxed), 1, "it runs again");
    }
}

/// Regression: a rebuilt partition actor did not know the handlers of its predecessor.
#[test]
fn a_rebuilt_partition_waits_for_the_handlers_of_its_predecessor() {
    for seed in SEEDS {
        let counts = Arc::default();
        let mut app = start(seed, &counts, 4);
        spread(&mut app, 40);
        app.settle();
        for _ in 0..3 {
            assert_eq!(app.kill("partition"), 2);
            app.advance(Duration::from_secs(2));
            assert_eq!(most(&counts), 4, "most that ran at once, seed {seed}");
            assert_eq!(counts.now.load(Ordering::Relaxed), 4, "all slots are in use again");
        }
    }
}

/// Regression: a new pool leased everything to the first partition that joined.
#[test]
fn the_capacity_holds_when_its_actor_dies() {
    for seed in SEEDS {
        let counts = Arc::default();
        let mut app = start(seed, &counts, 4);
        spread(&mut app, 40);
        app.settle();
        for _ in 0..3 {
            // One of the partitions is notified late, and continues meanwhile.
            let late = Script::delay("supervisor", "Refused", Duration::from_millis(500));
            let late = app.script(late.times(1));
            assert_eq!(app.kill("capacity"), 1);
            app.advance(Duration::from_secs(3));
            assert_eq!(late.acted(), 1);
            assert_eq!(most(&counts), 4, "most that ran at once, seed {seed}");
            assert_eq!(counts.now.load(Ordering::Relaxed), 4, "all slots are in use again");
        }
    }
}

/// Regression: its handlers continued, and their ends were lost.
#[test]
fn a_dropped_partition_drops_its_handlers() {
    for seed in SEEDS {
        let counts = Arc::default();
        let mut app = start(seed, &counts, 4);
        let runtime = app.runtime();
        spread(&mut app, 40);
        app.settle();
        app.run(runtime.node().drop_partition(PartitionId(0))).unwrap();
        app.advance(Duration::from_secs(1));
        assert_eq!(most(&counts), 4, "most that ran at once, seed {seed}");
        assert_eq!(counts.now.load(Ordering::Relaxed), 4, "the other one has all slots");
        app.run(runtime.node().drop_partition(PartitionId(1))).unwrap();
        assert_eq!(counts.now.load(Ordering::Relaxed), 0, "they have stopped when it is gone");
    }
}

/// Regression: an entry that snoozes keeps its key, and its vqueue sleeps. When the entry was
/// killed, the entries behind it continued to sleep.
#[test]
fn the_next_of_a_key_wakes_when_the_sleeping_holder_is_killed() {
    let hour = Duration::from_secs(3_600);
    let build = move || {
        let builder = Runtime::builder().idle_vqueues_max(0);
        builder.handler("work", move |_: Context, Json(snoozes): Json<bool>| async move {
            if snoozes { Err(HandlerError::snooze(hour)) } else { Ok(()) }
        })
    };
    let mut app = TestRuntime::builder().seed(1).start(build);
    let of_key = |snoozes: bool| Entry::to("work").key("k").json(&snoozes).unwrap();
    let holder = app.enqueue(of_key(true));
    app.advance(Duration::from_secs(300));
    let next = app.enqueue(of_key(false));
    app.advance(Duration::from_secs(300));
    kill(&mut app, &holder);
    app.settle();
    assert!(app.outcome_now(&next).is_some(), "it still sleeps");
}
