//! Calls to a partition that takes none: they wait when its share of the outbox is full, and
//! nothing else does.

use std::time::Duration;

use forebay::{
    Context, Entry, EntryHandle, FailureKind, HandlerError, HandlerOptions, Json, Outcome,
    PartitionId, Runtime, Stage, explain::Reason, testkit::TestRuntime,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// Number of messages to one partition beyond which calls wait.
const MESSAGES_MAX: usize = 4;
/// The lower half of the keys, and the upper one.
const HERE: PartitionId = PartitionId(0);
const THERE: PartitionId = PartitionId(1);

/// An object key whose entries of a service are in a partition.
fn key_in(partition: PartitionId, service: &str, number: usize) -> String {
    let keys = (0..).map(|n| format!("{number}-{n}"));
    let is_there = |key: &String| {
        let vqueue = Entry::to(service).key(key).vqueue().clone();
        let is_upper = vqueue.partition_key(None, &[0; 16]).0 > u64::MAX / 2;
        is_upper == (partition == THERE)
    };
    keys.into_iter().find(is_there).unwrap()
}

/// `parent` calls a number of `child`ren in a partition, and counts the ones that end.
fn start() -> TestRuntime {
    TestRuntime::start(|| {
        let options = HandlerOptions {
            suspend_after: Some(5 * SECOND),
            interruptions_max: Some(u32::MAX),
            ..HandlerOptions::default()
        };
        Runtime::builder()
            .partitions(2)
            .outbox_per_target_max(MESSAGES_MAX)
            .handler_with(
                "parent",
                options,
                |context: Context, Json((to, count)): Json<(u32, usize)>| async move {
                    let call = |n: usize| {
                        let key = key_in(PartitionId(to), "child", n);
                        let name = format!("{}-{key}", context.entry());
                        let child = Entry::to("child").key(&key).json(&name);
                        context.call::<()>("call", child.expect("a name is JSON"))
                    };
                    let ends = context.join((0..count).map(call).collect::<Vec<_>>()).await;
                    Ok::<_, HandlerError>(Json(ends.into_iter().filter(Result::is_ok).count()))
                },
            )
            .handler("child", |_: Context, Json(_): Json<String>| async { Ok(()) })
            .handler("plain", |_: Context, ()| async { Ok(()) })
    })
}

/// A parent in a partition that calls children in another one.
fn parent(from: PartitionId, to: PartitionId, number: usize, count: usize) -> Entry {
    let key = key_in(from, "parent", number);
    Entry::to("parent").key(&key).json(&(to.0, count)).unwrap()
}

fn reasons(app: &mut TestRuntime, entry: &EntryHandle) -> Vec<Reason> {
    let runtime = app.runtime();
    let explained = app.run(runtime.explain(entry.id())).unwrap().unwrap();
    explained.blocked_by.into_iter().map(|block| block.reason).collect()
}

/// Number of calls in the journal of an entry.
fn calls(app: &mut TestRuntime, entry: &EntryHandle) -> usize {
    let runtime = app.runtime();
    app.run(runtime.tree(entry.id())).unwrap().entries.len() - 1
}

fn count(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Success(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Outcome::Failure(failure) => panic!("{failure:?}"),
    }
}

fn stop(app: &mut TestRuntime, partition: PartitionId) {
    let runtime = app.runtime();
    app.run(runtime.partitions().step_down(partition, Duration::ZERO)).unwrap();
}

fn lead(app: &mut TestRuntime, partition: PartitionId) {
    let runtime = app.runtime();
    app.run(runtime.partitions().lead(partition)).unwrap();
}

#[test]
fn calls_to_a_stopped_partition_wait_within_a_bound_and_continue_when_it_is_back() {
    let mut app = start();
    stop(&mut app, THERE);
    let first = app.enqueue(parent(HERE, THERE, 1, 30));
    let second = app.enqueue(parent(HERE, THERE, 2, 5));
    app.advance(HOUR);
    assert_eq!(calls(&mut app, &first), MESSAGES_MAX, "only these are stored");
    assert_eq!(calls(&mut app, &second), 0);
    for (parent, waiting) in [(&first, 30 - MESSAGES_MAX), (&second, 5)] {
        let full = Reason::OutboxFull { partition: THERE, calls: waiting, messages: MESSAGES_MAX };
        assert_eq!(reasons(&mut app, parent), [full]);
    }

    // Calls to another partition, and entries without calls, do not wait.
    let near = app.enqueue(parent(HERE, HERE, 3, 30));
    assert_eq!(count(app.outcome(&near)), 30);
    let plain = app.enqueue(Entry::to("plain").key(&key_in(HERE, "plain", 0)));
    assert!(app.outcome(&plain).is_success());

    lead(&mut app, THERE);
    assert_eq!(count(app.outcome(&first)), 30);
    assert_eq!(count(app.outcome(&second)), 5);
    assert_eq!(reasons(&mut app, &first), []);
}

#[test]
fn cancels_go_beyond_the_bound_and_a_canceled_parent_drops_its_waiting_calls() {
    let mut app = start();
    stop(&mut app, THERE);
    let parent = app.enqueue(parent(HERE, THERE, 1, 30));
    app.advance(HOUR);
    let runtime = app.runtime();
    app.run(runtime.attach(parent.id()).cancel()).unwrap();
    let Outcome::Failure(failure) = app.outcome(&parent) else { panic!("it was canceled") };
    assert_eq!(failure.kind, FailureKind::Canceled, "although nothing was delivered");
    lead(&mut app, THERE);
    app.advance(60 * SECOND);
    let tree = app.run(runtime.tree(parent.id())).unwrap();
    assert_eq!(tree.entries.len() - 1, MESSAGES_MAX);
    let is_over = |stage: Option<Stage>| stage == Some(Stage::Finished);
    assert!(tree.entries.iter().all(|entry| is_over(entry.stage)), "{tree:?}");
}

#[test]
fn two_partitions_that_are_full_towards_each_other_continue() {
    for crashes in [false, true] {
        let mut app = start();
        let parents: Vec<_> = (0..8)
            .flat_map(|n| [parent(HERE, THERE, n, 25), parent(THERE, HERE, n, 25)])
            .map(|entry| app.enqueue(entry))
            .collect();
        if crashes {
            app.advance(Duration::from_millis(20));
            app.crash();
            app.restart();
        }
        for parent in &parents {
            assert_eq!(count(app.outcome(parent)), 25);
        }
    }
}
