//! Credits for commands in flight: bounded even if callers abandon their calls, and returned
//! whatever happens to the commands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay::{
    Context, Entry, HandlerError, PartitionId, PartitionSpec, Runtime, testkit::TestRuntime,
};
use forebay_actors::access::{CREDIT_BYTES, CREDITS_PER_PARTITION};
use futures_util::FutureExt;

const MIB: usize = 1 << 20;
const P: PartitionId = PartitionId(0);

/// A payload whose instances in memory are counted.
struct Counted {
    bytes: Arc<Vec<u8>>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Creates payloads of a given size.
struct Payloads {
    bytes: Arc<Vec<u8>>,
    alive: Arc<AtomicUsize>,
}

impl Payloads {
    fn of(len: usize) -> Self {
        Self { bytes: Arc::new(vec![7; len]), alive: Arc::default() }
    }

    fn next(&self) -> Bytes {
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (bytes, alive) = (Arc::clone(&self.bytes), Arc::clone(&self.alive));
        Bytes::from_owner(Counted { bytes, alive })
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

fn app(nodes: usize, seed: u64) -> TestRuntime {
    TestRuntime::builder().seed(seed).nodes(nodes).start(|| {
        Runtime::builder().partitions(2).handler("work", |_: Context, _: Bytes| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, HandlerError>(())
        })
    })
}

/// Proposes an entry and abandons the call immediately.
fn give_up(runtime: &Runtime, payload: Bytes, key: &str) {
    let entry = Entry::to("work").key(key).payload(payload);
    drop(runtime.enqueue(entry).now_or_never());
}

fn in_use(runtime: &Runtime) -> Vec<Option<usize>> {
    runtime
        .node()
        .partitions()
        .ids()
        .iter()
        .map(|id| runtime.node().access().credits_in_use(*id))
        .collect()
}

/// Regression: the credit of an abandoned call was returned while its record was still in flight:
/// 3,000 timed-out calls of 1 MiB held 3 GiB while the disk hung.
#[test]
fn abandoned_calls_count_until_their_commands_are_answered() {
    for nodes in [1, 2] {
        let (mut app, payloads) = (app(nodes, 1), Payloads::of(MIB));
        let runtime = app.runtime();
        for _ in 0..3_000 {
            give_up(&runtime, payloads.next(), "k");
        }
        let bound = CREDITS_PER_PARTITION * CREDIT_BYTES / MIB;
        assert!(payloads.alive() <= bound, "{} MiB are in flight", payloads.alive());
        assert!(payloads.alive() >= bound / 2, "close to the bound");
        let refused = runtime.try_enqueue(Entry::to("work").key("k").payload(vec![7; MIB]));
        let refused = refused.now_or_never().expect("it does not wait");
        assert!(matches!(refused, Err(forebay::EnqueueError::Busy)), "{refused:?}");
        app.settle();
        assert_eq!(in_use(&runtime), [Some(0), Some(0)], "all were answered");
        let last = app.enqueue(Entry::to("work").key("k").payload(vec![7; MIB]));
        drop(last);
    }
}

/// Commands that are answered, abandoned, refused, or affected by a change of leaders, by the death
/// of a partition or of its supervisor, or by dropping a partition.
#[test]
fn credits_are_returned_whatever_happens_to_the_commands() {
    for (seed, nodes) in (0..6).flat_map(|seed| [(seed, 1), (seed, 2)]) {
        let (mut app, payloads) = (app(nodes, seed), Payloads::of(100 << 10));
        let runtime = app.runtime();
        let some = |runtime: &Runtime, round: usize| {
            for n in 0..20 {
                give_up(runtime, payloads.next(), &format!("k{}", n * round));
            }
        };
        for round in 1..4 {
            some(&runtime, round);
            app.enqueue(Entry::to("work").payload(payloads.next()));
            some(&runtime, round);
            for partition in runtime.node().partitions().ids() {
                app.run(runtime.node().partitions().step_down(partition, Duration::ZERO)).unwrap();
            }
            for partition in runtime.node().partitions().ids() {
                app.run(runtime.node().partitions().lead(partition)).unwrap();
            }
            some(&runtime, round);
            assert!(app.kill("partition") > 0);
            app.advance(Duration::from_secs(20));
            some(&runtime, round);
            assert!(app.kill("supervisor") > 0);
            app.advance(Duration::from_secs(20));
        }
        app.advance(Duration::from_secs(60));
        assert_eq!(in_use(&runtime), [Some(0), Some(0)], "seed {seed}, {nodes} nodes");
        if nodes == 1 {
            some(&runtime, 1);
            let views = runtime.node().inspect().partition_views().unwrap();
            let (first, last) = views.iter().find(|view| view.id == P).unwrap().range;
            app.run(runtime.drop_partition(P)).unwrap();
            assert_eq!(runtime.node().access().credits_in_use(P), None);
            let keys = PartitionSpec::range(first..=last);
            let spawned = app.run(runtime.spawn_partition(keys)).unwrap();
            assert_eq!(runtime.node().access().credits_in_use(spawned), Some(0));
            app.settle();
            assert_eq!(in_use(&runtime), [Some(0), Some(0)], "seed {seed}");
        }
    }
}
