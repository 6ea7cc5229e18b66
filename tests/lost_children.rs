//! Calls whose children may be gone: after a restore of an older snapshot, and in keys that got
//! another owner while no replica led the partition of the parent.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay::{
    Builder, Context, Drain, Entry, EntryHandle, EntryId, HandlerError, HandlerOptions, Json,
    Outcome, PartitionId, PartitionSpec, Runtime, Stage, snapshot, testkit::TestRuntime,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const PARENTS: u32 = 24;
const CHILDREN: u32 = 6;

/// The entries that ran as each child: of parent and number.
type Seen = Arc<Mutex<BTreeMap<(u32, u32), Vec<EntryId>>>>;

fn families(seen: &Seen) -> Builder {
    let seen = Arc::clone(seen);
    let options = HandlerOptions {
        suspend_after: Some(Duration::from_millis(5)),
        interruptions_max: Some(u32::MAX),
        ..HandlerOptions::default()
    };
    Runtime::builder()
        .partitions(4)
        .handler_with("parent", options, |context: Context, Json(of): Json<u32>| async move {
            let call = |n: u32| {
                let key = format!("{of}-{n}");
                context.call::<u32>("call", Entry::to("child").key(&key).json(&(of, n)).unwrap())
            };
            let all = context.join((0..CHILDREN).map(call).collect::<Vec<_>>()).await;
            let mut sum = 0;
            for part in all {
                sum += part?;
            }
            Ok::<_, HandlerError>(Json(sum))
        })
        .handler_with("child", options, move |context: Context, Json(of): Json<(u32, u32)>| {
            seen.lock().unwrap().entry(of).or_default().push(context.entry());
            async move {
                // Some are waiting for delivery, some run, some have ended when it is copied.
                context.sleep("work", Duration::from_millis(u64::from(40 * of.1))).await?;
                Ok::<_, HandlerError>(Json(of.1))
            }
        })
}

async fn outcomes(parents: &[EntryHandle]) {
    for parent in parents {
        let ended = tokio::time::timeout(60 * SECOND, parent.outcome()).await;
        let Outcome::Success(sum) = ended.expect("it ends").unwrap() else {
            panic!("{} failed", parent.id());
        };
        assert_eq!(sum, (0..CHILDREN).sum::<u32>().to_string());
    }
}

/// Every child of each parent is there once and has ended.
async fn check_children(runtime: &Runtime, parents: &[EntryHandle]) {
    for parent in parents {
        let tree = runtime.tree(parent.id()).await.unwrap();
        assert_eq!(tree.entries.len(), 1 + CHILDREN as usize);
        assert!(tree.entries.iter().all(|entry| entry.stage == Some(Stage::Finished)), "{tree:?}");
    }
    let children = runtime.entries().service("child").list(0).await.unwrap();
    assert_eq!(children.len() as u32, PARENTS * CHILDREN, "each exists once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_end_after_the_restore_of_an_older_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let seen = Seen::default();
    let start = async |name: &str| families(&seen).data_dir(path(name)).start().await.unwrap();
    let runtime = start("first").await;
    let entry = |n: u32| Entry::to("parent").key(&n.to_string()).json(&n).unwrap();
    let mut parents = Vec::new();
    for n in 0..PARENTS {
        parents.push(runtime.enqueue(entry(n)).await.unwrap());
        if n == PARENTS / 2 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    runtime.snapshot(path("snapshot")).await.unwrap();
    // What happens from here on is undone by the restore.
    outcomes(&parents).await;
    check_children(&runtime, &parents).await;
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);

    for name in ["restored", "again"] {
        snapshot::restore(&path("snapshot"), &path(name), None).unwrap();
        let runtime = start(name).await;
        let restored: Vec<_> = parents.iter().map(|parent| runtime.attach(parent.id())).collect();
        outcomes(&restored).await;
        check_children(&runtime, &restored).await;
        // New calls reach their targets as well, after another restart.
        runtime.shutdown(Drain::now()).await.unwrap();
        drop(runtime);
        let runtime = start(name).await;
        let late = runtime.enqueue(entry(PARENTS + 1)).await.unwrap();
        outcomes(&[late]).await;
        runtime.shutdown(Drain::now()).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    for (of, entries) in seen.iter().filter(|((parent, _), _)| *parent < PARENTS) {
        assert!(
            entries.iter().all(|entry| *entry == entries[0]),
            "{of:?} is one entry: {entries:?}"
        );
    }
}

/// The keys of a partition of four.
fn quarter(number: u64) -> std::ops::RangeInclusive<u64> {
    let len = 1 << 62;
    number * len..=number * len + (len - 1)
}

/// An object key whose entries of a service are in a partition of four.
fn key_in(partition: u64, service: &str) -> String {
    let keys = (0..).map(|n: u32| n.to_string());
    let is_there = |key: &String| {
        let vqueue = Entry::to(service).key(key).vqueue().clone();
        quarter(partition).contains(&vqueue.partition_key(None, &[0; 16]).0)
    };
    keys.into_iter().find(is_there).unwrap()
}

/// A parent in the first partition that calls a child in each of the others. No handler serves
/// them.
fn spread() -> TestRuntime {
    let is_new = Cell::new(true);
    TestRuntime::start(move || {
        let builder = Runtime::builder();
        let builder = if is_new.take() { builder.partitions(4) } else { builder };
        builder.handler("parent", |context: Context, ()| async move {
            let call = |n: u64| {
                let child = Entry::to("ghost").key(&key_in(n, "ghost"));
                context.call::<()>("call", child)
            };
            let ends = context.join((1..4).map(call).collect::<Vec<_>>()).await;
            let text =
                |end: Result<(), _>| end.map_or_else(|error| format!("{error}"), |()| "ok".into());
            Ok::<_, HandlerError>(Json(ends.into_iter().map(text).collect::<Vec<String>>()))
        })
    })
}

/// Regression: the call waited until it was canceled.
#[test]
fn a_call_ends_although_its_keys_have_a_new_owner_when_the_next_leader_looks() {
    for is_crash in [false, true] {
        let mut app = spread();
        let parent = app.enqueue(Entry::to("parent").key(&key_in(0, "parent")));
        app.advance(HOUR);
        let runtime = app.runtime();
        // No replica leads the parent's partition while the keys lose their owner and get another.
        app.run(runtime.partitions().step_down(PartitionId(0), Duration::ZERO)).unwrap();
        app.run(runtime.drop_partition(PartitionId(3))).unwrap();
        app.run(runtime.spawn_partition(PartitionSpec::range(quarter(3)))).unwrap();
        app.advance(SECOND);
        if is_crash {
            drop(runtime);
            app.crash();
            app.restart();
        } else {
            app.run(runtime.partitions().lead(PartitionId(0))).unwrap();
        }
        app.advance(60 * SECOND);
        let runtime = app.runtime();
        let waits = app.run(runtime.tree(parent.id())).unwrap().entries[0].waits_for.len();
        assert_eq!(waits, 2, "the other children are there, and it waits for them");
        app.run(runtime.entries().service("ghost").kill()).unwrap();
        let Outcome::Success(texts) = app.outcome(&parent) else { panic!("it failed") };
        let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
        let has = |text: &String, part: &str| text.contains(part);
        assert!(has(&texts[0], "killed") && has(&texts[1], "killed"), "{texts:?}");
        assert!(has(&texts[2], "partition dropped"), "{texts:?}");
    }
}

#[test]
fn a_leader_that_dies_between_a_drop_and_its_walk_leaves_the_walk_to_the_next_one() {
    for wait_ms in 0..12 {
        let mut app = spread();
        let parent = app.enqueue(Entry::to("parent").key(&key_in(0, "parent")));
        app.advance(HOUR);
        let runtime = app.runtime();
        app.run(runtime.drop_partition(PartitionId(3))).unwrap();
        app.advance(Duration::from_millis(wait_ms));
        drop(runtime);
        app.crash();
        app.restart();
        app.advance(60 * SECOND);
        let runtime = app.runtime();
        app.run(runtime.entries().service("ghost").kill()).unwrap();
        let Outcome::Success(texts) = app.outcome(&parent) else { panic!("it failed") };
        let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
        assert!(texts[2].contains("partition dropped"), "after {wait_ms} ms: {texts:?}");
    }
}
