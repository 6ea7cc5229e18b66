//! Entries with children in several partitions: they exist once, their results arrive once, and
//! they end with their parents, whatever dies meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay::{
    Context, Entry, EntryHandle, EntryOutcome, FailureKind, HandlerError, HandlerOptions, Json,
    Outcome, PartitionId, PartitionSpec, RetryPolicy, Runtime, Stage, TreeView,
    explain::Reason,
    testkit::{Script, TestRuntime},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const PARTITIONS: u32 = 8;

/// How often the handler of each entry was started, by its payload.
type Runs = Arc<Mutex<BTreeMap<String, u32>>>;

fn options() -> HandlerOptions {
    HandlerOptions { interruptions_max: Some(u32::MAX), ..HandlerOptions::default() }
}

/// `sum N` calls `leaf` 1 to N and adds up what they return; `tree D N` calls N trees below, and
/// below the last level leaves that wait for a promise.
fn builder(runs: &Runs) -> forebay::Builder {
    let noted = Arc::clone(runs);
    let note = move |what: String| {
        *noted.lock().unwrap().entry(what).or_default() += 1;
    };
    let (of_leaf, of_wait) = (note.clone(), note);
    Runtime::builder()
        .partitions(PARTITIONS)
        .handler_with("sum", options(), |context: Context, Json(count): Json<u64>| async move {
            let call = |n: u64| {
                let entry = Entry::to("leaf").key(&format!("k{n}")).json(&n);
                context.call::<u64>("leaf", entry.expect("a number is JSON"))
            };
            let all = context.join((1..=count).map(call).collect::<Vec<_>>()).await;
            let mut sum = 0;
            for part in all {
                sum += part?;
            }
            Ok::<_, HandlerError>(Json(sum))
        })
        .handler_with("leaf", options(), move |_: Context, Json(n): Json<u64>| {
            of_leaf(format!("leaf {n}"));
            async move { Ok::<_, HandlerError>(Json(n)) }
        })
        .handler_with(
            "tree",
            options(),
            |context: Context, Json((depth, fan)): Json<(u32, u32)>| async move {
                let call = |n: u32| {
                    let (service, below) =
                        if depth == 1 { ("wait", 0) } else { ("tree", depth - 1) };
                    let entry = Entry::to(service).key(&format!("{depth}-{n}-{}", context.entry()));
                    context.call::<()>("below", entry.json(&(below, fan)).expect("it is JSON"))
                };
                for part in context.join((0..fan).map(call).collect::<Vec<_>>()).await {
                    part?;
                }
                Ok::<_, HandlerError>(Json(()))
            },
        )
        .handler_with("wait", options(), move |context: Context, Json(_): Json<(u32, u32)>| {
            of_wait("wait".to_owned());
            async move {
                context.promise::<()>("never").await?;
                Ok::<_, HandlerError>(Json(()))
            }
        })
}

fn start(runs: &Runs) -> TestRuntime {
    let runs = Arc::clone(runs);
    TestRuntime::start(move || builder(&runs))
}

fn result(outcome: Outcome) -> String {
    match outcome {
        Outcome::Success(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Outcome::Failure(failure) => panic!("{failure:?}"),
    }
}

fn tree(app: &mut TestRuntime, root: &EntryHandle) -> TreeView {
    let runtime = app.runtime();
    app.run(runtime.tree(root.id())).unwrap()
}

fn sum(count: u64) -> Entry {
    Entry::to("sum").json(&count).unwrap()
}

fn check_once(runs: &Runs, count: u64) {
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len() as u64, count, "{runs:?}");
    assert!(runs.values().all(|times| *times == 1), "a child ran twice: {runs:?}");
}

#[test]
fn results_of_a_hundred_children_in_eight_partitions_arrive_once() {
    let runs = Runs::default();
    let mut app = start(&runs);
    let parent = app.enqueue(sum(100));
    assert_eq!(result(app.outcome(&parent)), "5050");
    check_once(&runs, 100);
    let tree = tree(&mut app, &parent);
    assert_eq!(tree.entries.len(), 101);
    assert!(tree.entries[1..].iter().all(|child| {
        child.outcome == Some(EntryOutcome::Success)
            && (child.depth, child.parent, child.is_awaited) == (1, Some(parent.id()), true)
    }));
}

#[test]
fn a_shuffle_that_dies_and_messages_that_get_lost_delay_and_change_nothing() {
    let runs = Runs::default();
    let mut app = start(&runs);
    let parents: Vec<_> = (0..4).map(|_| app.enqueue(sum(12))).collect();
    let mut killed = 0;
    let lost = app.script(Script::drop("shuffle", "Added").skip(2).times(5));
    for _ in 0..40 {
        app.advance(Duration::from_millis(20));
        killed += app.kill("shuffle");
    }
    assert!(killed > 0 && lost.acted() == 5, "{killed} were killed, {} lost", lost.acted());
    for parent in &parents {
        assert_eq!(result(app.outcome(parent)), "78");
    }
    assert_eq!(runs.lock().unwrap().values().sum::<u32>(), 48, "each child ran once");
}

#[test]
fn a_leader_change_between_every_two_steps_loses_and_doubles_nothing() {
    let runs = Runs::default();
    let of = Arc::clone(&runs);
    let mut app = TestRuntime::builder().nodes(2).start(move || builder(&of));
    let parent = app.enqueue(sum(10));
    let mut changes = 0;
    while app.outcome_now(&parent).is_none() {
        app.advance(Duration::from_millis(30));
        app.fail_over();
        changes += 1;
        assert!(changes < 100, "the parent does not end");
    }
    assert_eq!(result(app.outcome(&parent)), "55");
}

fn stages(app: &mut TestRuntime, root: &EntryHandle) -> BTreeMap<String, usize> {
    let tree = tree(app, root);
    let mut counts = BTreeMap::new();
    for entry in &tree.entries {
        let stage = match (entry.outcome, entry.stage) {
            (Some(outcome), _) => outcome.to_string(),
            (None, Some(stage)) => stage.to_string(),
            (None, None) => "not stored".to_owned(),
        };
        *counts.entry(stage).or_default() += 1;
    }
    counts
}

#[test]
fn a_cancel_reaches_a_tree_over_all_partitions_also_after_a_crash_halfway() {
    for crash_after_ms in [0, 1, 5, 20, 50, 200] {
        let runs = Runs::default();
        let mut app = start(&runs);
        // 1 + 4 + 16 + 64 entries.
        let root = app.enqueue(Entry::to("tree").json(&(3, 4)).unwrap());
        app.advance(HOUR);
        assert_eq!(stages(&mut app, &root), BTreeMap::from([("suspended".to_owned(), 85)]));
        assert_eq!(runs.lock().unwrap()["wait"], 64);
        let handle = app.runtime().attach(root.id());
        app.run(handle.cancel()).unwrap();
        app.advance(Duration::from_millis(crash_after_ms));
        app.crash();
        app.restart();
        app.advance(60 * SECOND);
        assert_eq!(
            stages(&mut app, &root),
            BTreeMap::from([("canceled".to_owned(), 85)]),
            "with a crash after {crash_after_ms} ms"
        );
    }
}

#[test]
fn a_kill_reaches_the_children_and_a_killed_child_is_an_outcome() {
    let runs = Runs::default();
    let mut app = start(&runs);
    let root = app.enqueue(Entry::to("tree").json(&(2, 3)).unwrap());
    app.advance(HOUR);
    let runtime = app.runtime();
    let child = tree(&mut app, &root).entries[1].id;
    app.run(runtime.attach(child).kill()).unwrap();
    app.advance(60 * SECOND);
    // It took its own children along, and its parent waits for the other two.
    assert_eq!(stages(&mut app, &root)["killed"], 4);
    assert_eq!(tree(&mut app, &root).entries[0].waits_for.len(), 2);
    app.run(runtime.attach(root.id()).kill()).unwrap();
    app.advance(60 * SECOND);
    assert_eq!(stages(&mut app, &root), BTreeMap::from([("killed".to_owned(), 13)]));
}

#[test]
fn a_killed_child_fails_the_parent_that_waits_for_it() {
    let runs = Runs::default();
    let mut app = start(&runs);
    let root = app.enqueue(Entry::to("tree").json(&(1, 1)).unwrap());
    app.advance(HOUR);
    let runtime = app.runtime();
    let child = tree(&mut app, &root).entries[1].id;
    app.run(runtime.attach(child).kill()).unwrap();
    let Outcome::Failure(failure) = app.outcome(&root) else { panic!("it succeeded") };
    assert!(failure.message.contains("below` killed"), "{failure:?}");
}

#[test]
fn explain_says_what_a_suspended_entry_waits_for() {
    let runs = Runs::default();
    let of = Arc::clone(&runs);
    let mut app = TestRuntime::start(move || {
        let once = HandlerOptions { retry: RetryPolicy::NONE, ..options() };
        builder(&of).handler_with("order", once, |context: Context, (): ()| async move {
            let child = Entry::to("unserved").key("k");
            let parts = (
                context.call::<u64>("ship", child),
                context.promise::<bool>("approved"),
                context.sleep("cool down", HOUR * 24),
            );
            let (_, yes, _) = context.join(parts).await;
            Ok::<_, HandlerError>(Json(yes?))
        })
    });
    let order = app.enqueue(Entry::to("order"));
    app.advance(HOUR);
    let runtime = app.runtime();
    let explained = app.run(runtime.explain(order.id())).unwrap().unwrap();
    assert_eq!(explained.entry.stage, Stage::Suspended);
    let reasons: Vec<_> = explained.blocked_by.into_iter().map(|block| block.reason).collect();
    let [
        Reason::Child { operation, stage: Some(Stage::Inbox), outcome: None, .. },
        Reason::Promise { name, .. },
        Reason::Sleep { until, .. },
    ] = &reasons[..]
    else {
        panic!("{reasons:?}");
    };
    assert_eq!((operation.as_str(), name.as_str()), ("join.0[0]/ship", "approved"));
    assert!(*until > app.now().0 + 22 * 3_600_000);
    let suspended = runtime.entries().stage(Stage::Suspended);
    let suspended = app.run(suspended.list(0)).unwrap();
    assert_eq!(suspended.iter().map(|entry| entry.id).collect::<Vec<_>>(), [order.id()]);
    // Settled, it stays suspended: the others have not come.
    app.run(runtime.resolve(order.id(), "approved", &true)).unwrap();
    let tree = tree(&mut app, &order);
    assert_eq!(tree.entries[0].waits_for.len(), 2);
    assert_eq!(tree.entries[1].service.as_deref(), Some("unserved"));
}

#[test]
fn a_restart_keeps_what_finished_before_an_operation_and_cancels_the_rest() {
    let mut app = TestRuntime::start(|| {
        Runtime::builder().partitions(PARTITIONS).handler_with(
            "order",
            options(),
            |context: Context, (): ()| async move {
                let first = context
                    .step("first", |id| async move { Ok::<_, HandlerError>(id.to_string()) });
                let first: String = first.await?;
                let second = context
                    .step("second", |id| async move { Ok::<_, HandlerError>(id.to_string()) });
                let second: String = second.await?;
                context.call::<()>("ship", Entry::to("unserved").key("k")).await?;
                Ok::<_, HandlerError>(Json((first, second)))
            },
        )
    });
    let order = app.enqueue(Entry::to("order"));
    app.advance(HOUR);
    let runtime = app.runtime();
    let children = |app: &mut TestRuntime| {
        let tree = tree(app, &order);
        tree.entries[1..].iter().map(|child| (child.id, child.stage)).collect::<Vec<_>>()
    };
    let before = children(&mut app);
    assert_eq!(before.len(), 1);
    app.run(runtime.attach(order.id()).restart_from("second")).unwrap();
    app.advance(HOUR);
    let after = children(&mut app);
    assert_eq!(after.len(), 1);
    assert_ne!(before[0].0, after[0].0, "another run has another child");
    let first = app.run(runtime.attach(before[0].0).outcome()).unwrap();
    let Outcome::Failure(failure) = first else { panic!("it succeeded") };
    assert_eq!(failure.kind, FailureKind::Canceled);
}

/// The keys of a partition of four.
fn quarter(number: u64) -> std::ops::RangeInclusive<u64> {
    let len = 1 << 62;
    number * len..=number * len + (len - 1)
}

#[test]
fn calls_into_a_dropped_partition_end_whether_they_were_delivered_or_not() {
    let mut app = TestRuntime::start(|| {
        Runtime::builder().partitions(4).handler_with(
            "parent",
            options(),
            |context: Context, Json(count): Json<u32>| async move {
                let call = |n: u32| {
                    let entry = Entry::to("unserved").key(&format!("k{n}"));
                    context.call::<()>("call", entry)
                };
                let ends = context.join((0..count).map(call).collect::<Vec<_>>()).await;
                let texts: Vec<_> =
                    ends.into_iter().map(|end| end.unwrap_err().to_string()).collect();
                Ok::<_, HandlerError>(Json(texts))
            },
        )
    });
    let runtime = app.runtime();
    // Each partition has some of the 32 children; the parents are where they are.
    let parents: Vec<_> = (0..4_u8)
        .map(|n| app.enqueue(Entry::to("parent").key(&format!("p{n}")).json(&32).unwrap()))
        .collect();
    app.advance(HOUR);
    app.run(runtime.drop_partition(PartitionId(3))).unwrap();
    app.advance(60 * SECOND);
    let waits =
        |app: &mut TestRuntime, parent: &EntryHandle| tree(app, parent).entries[0].waits_for.len();
    let live: Vec<_> = parents
        .iter()
        .filter(|parent| !quarter(3).contains(&parent.id().partition_key.0))
        .collect();
    assert!(live.len() > 1, "the parents are spread");
    for parent in &live {
        let left = tree(&mut app, parent);
        let ended = left.entries.iter().filter(|entry| entry.stage.is_none()).count();
        assert!(ended > 0 && waits(&mut app, parent) > 0, "{left:?}");
    }
    // One that calls now finds no partition either.
    let late = (0..40).map(|n| Entry::to("parent").key(&format!("late{n}")).json(&32).unwrap());
    let late = late.map(|entry| app.run(runtime.enqueue(entry)));
    let late = late.into_iter().find_map(Result::ok).expect("most keys have a partition");
    app.advance(60 * SECOND);
    // Its other children are killed; all of its calls have an outcome.
    app.run(runtime.entries().service("unserved").kill()).unwrap();
    for parent in live.into_iter().chain([&late]) {
        let texts = result(app.outcome(parent));
        assert!(texts.contains("partition dropped"), "{texts}");
        assert!(texts.contains("killed"), "{texts}");
    }
    // Keys that get an owner again get no child of a call that has ended.
    app.run(runtime.spawn_partition(PartitionSpec::range(quarter(3)))).unwrap();
    app.advance(60 * SECOND);
    let waiting = runtime.entries().service("unserved").stage(Stage::Inbox);
    assert_eq!(app.run(waiting.list(0)).unwrap(), []);
}
