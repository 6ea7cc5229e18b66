//! `Runtime::explain` and `Runtime::limits`.

use std::time::{Duration, SystemTime};

use forebay::{
    Drain, EntryAction, EntryId, Limits, PartitionKey, Rate, Runtime, Stage,
    explain::{ExplainView, RankView, Reason},
};
use forebay_actors::access::EntryTarget;

use super::{Gate, enqueue, entry};

async fn explain(runtime: &Runtime, id: EntryId) -> ExplainView {
    runtime.explain(id).await.unwrap().unwrap()
}

/// The reasons, in short form.
fn reasons(explained: &ExplainView) -> Vec<String> {
    let word = |reason: &Reason| match reason {
        Reason::Concurrency { key, usage, limit, pattern, .. } => {
            format!("{key} {usage}/{limit} by {pattern}")
        }
        Reason::Rate { key, pattern, .. } => format!("{key} dry by {pattern}"),
        Reason::Behind { entries } => format!("behind {entries}"),
        Reason::Capacity { running_max, .. } => format!("capacity {running_max}"),
        Reason::Lock { holder } => format!("lock {}", holder.unwrap()),
        other => format!("{other:?}").chars().take_while(char::is_ascii_alphanumeric).collect(),
    };
    explained.blocked_by.iter().map(|block| word(&block.reason)).collect()
}

#[tokio::test]
async fn a_waiting_entry_has_a_rank_and_lists_the_holders() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().partitions(1).start().await.unwrap();
    runtime.rules().upsert("s", Limits::concurrency(2)).await.unwrap();
    let first = enqueue(&runtime, "s/a").await;
    gate.until_running(1).await;
    let second = enqueue(&runtime, "s").await;
    gate.until_running(2).await;
    let (third, fourth) = (enqueue(&runtime, "s/a").await, enqueue(&runtime, "s/b").await);
    let ranks =
        |explained: &ExplainView| explained.rank.clone().map(|rank| (rank.ahead, rank.waiting));
    let mut seen = Vec::new();
    while seen != [Some((0, 2)), Some((1, 2))] {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (a, b) = (explain(&runtime, third.id()).await, explain(&runtime, fourth.id()).await);
        seen = vec![ranks(&a), ranks(&b)];
        let holders: Vec<_> = a.holders.iter().map(|holder| holder.entry).collect();
        assert_eq!(holders, [first.id(), second.id()], "the one that runs longest first");
        assert_eq!(a.holders, b.holders);
    }
    gate.open(100);
    for entry in [&first, &second, &third, &fourth] {
        entry.outcome().await.unwrap();
    }
    let ended = explain(&runtime, fourth.id()).await;
    assert_eq!((ended.rank, ended.holders), (None, Vec::new()));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn every_entry_gets_all_its_reasons() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().partitions(1).max_running(3).start().await.unwrap();
    let slow = Limits {
        rate: Some(Rate { tokens: 1, period_ms: 3_600_000, burst: 1 }),
        ..Limits::concurrency(9)
    };
    for (pattern, limits) in
        [("s", Limits::concurrency(2)), ("s/*", Limits::concurrency(1)), ("t", slow)]
    {
        runtime.rules().upsert(pattern, limits).await.unwrap();
    }
    let first = enqueue(&runtime, "s/a#k").await;
    enqueue(&runtime, "s/b").await;
    enqueue(&runtime, "t").await;
    gate.until_running(3).await;
    let second = enqueue(&runtime, "s/a#k").await;
    let third = enqueue(&runtime, "s/a#k").await;
    let fourth = enqueue(&runtime, "t").await;
    let waits = || async { runtime.limits().await.unwrap().iter().map(|l| l.waiters).sum::<u32>() };
    while waits().await < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let runs = explain(&runtime, first.id()).await;
    assert_eq!((runs.entry.stage, runs.blocked_by.len()), (Stage::Running, 0));
    let lock = format!("lock {}", first.id());
    let all = [&*lock, "s/a 1/1 by s/*", "s 2/2 by s", "capacity 3"];
    let head = explain(&runtime, second.id()).await;
    assert_eq!((reasons(&head), head.ahead), (all.map(str::to_owned).to_vec(), Some(0)));
    assert_eq!(head.rank, None, "it waits for its lock before any limit");
    let holders: Vec<_> = head.holders.iter().map(|holder| holder.entry).collect();
    assert_eq!(holders, [first.id()], "the narrowest full limit is s/a");
    assert_eq!(head.holders[0].service, head.entry.service);
    let now = u64::try_from(
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis(),
    )
    .unwrap();
    for block in &head.blocked_by {
        let since = block.since.unwrap();
        assert!((head.entry.created_at..=now).contains(&since), "{block:?}");
    }
    let tail = explain(&runtime, third.id()).await;
    assert_eq!(tail.ahead, Some(1));
    assert_eq!(reasons(&tail)[0], "behind 1", "not the head: the same, plus its place");
    assert_eq!(reasons(&tail)[1..], all);
    let dry = explain(&runtime, fourth.id()).await;
    assert_eq!(reasons(&dry), ["t dry by t", "capacity 3"]);
    assert_eq!(dry.rank, Some(RankView { key: Some("t".into()), ahead: 0, waiting: 1 }));
    assert_eq!(dry.holders, [], "a rate has no holders");
    let governed: Vec<_> = head.rules.iter().map(|rule| (&*rule.key, &*rule.pattern)).collect();
    assert_eq!(governed, [("s", "s"), ("s/a", "s/*")]);

    gate.open(100);
    first.outcome().await.unwrap();
    let ended = explain(&runtime, first.id()).await;
    assert_eq!((ended.entry.stage, ended.blocked_by.len()), (Stage::Finished, 0));
    let unknown = EntryId { partition_key: PartitionKey(1), uuid: [9; 16] };
    assert_eq!(runtime.explain(unknown).await.unwrap(), None);
    runtime.shutdown(Drain::now()).await.unwrap();
    assert!(runtime.explain(first.id()).await.is_err(), "shut down");
}

#[tokio::test]
async fn pauses_and_times_are_reported_too() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().start().await.unwrap();
    let at = SystemTime::now() + Duration::from_secs(3600);
    let later = runtime.enqueue(entry("s").run_at(at)).await.unwrap();
    let explained = explain(&runtime, later.id()).await;
    assert_eq!(reasons(&explained), ["RunAt"]);
    assert_eq!(explained.blocked_by[0].since, Some(explained.entry.created_at));

    let select = EntryTarget::Named(vec![later.id()]);
    let paused = runtime.node().access().act(EntryAction::Pause, &select, false).await.unwrap();
    assert_eq!(paused.changed, 1);
    assert_eq!(reasons(&explain(&runtime, later.id()).await), ["Paused"]);
    runtime.node().access().act(EntryAction::Resume, &select, false).await.unwrap();
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn limits_are_listed_while_in_use_or_with_waiters() {
    let gate = Gate::new();
    let runtime = gate.builder().in_memory().partitions(2).start().await.unwrap();
    assert_eq!(runtime.limits().await.unwrap(), []);
    runtime.rules().upsert("*", Limits::concurrency(1)).await.unwrap();
    for text in ["a#1", "a#2", "a#3", "b", ""] {
        enqueue(&runtime, text).await;
    }
    gate.until_running(3).await;
    let mut limits = runtime.limits().await.unwrap();
    while limits.iter().map(|limit| limit.waiters).sum::<u32>() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        limits = runtime.limits().await.unwrap();
    }
    let mut rows: Vec<_> =
        limits.iter().map(|limit| (&*limit.key, limit.usage, limit.limit, limit.waiters)).collect();
    rows.sort_unstable();
    assert_eq!(rows, [("a", 1, Some(1), 2), ("b", 1, Some(1), 0)]);
    assert!(limits.iter().all(|limit| limit.pattern.as_deref() == Some("*")));
    gate.open(100);
    runtime.shutdown(Drain::now()).await.unwrap();
}
