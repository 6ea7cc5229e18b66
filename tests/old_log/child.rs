//! The process that leaves the data directory behind: this test binary again, running one test that
//! does nothing unless given a directory.

use std::{path::PathBuf, process::Command, time::Duration};

use bytes::Bytes;
use forebay::{
    Context, Drain, Entry, EntryHandle, HandlerError, Limits, RetryPolicy, Runtime, TrimLog,
};

use super::{kept, replayed, tar};
use crate::place::Place;

const TEST: &str = "old_log::child::aborted_process";
const DIRECTORY: &str = "FOREBAY_OLD_LOG_DIRECTORY";
const IS_FIRST: &str = "FOREBAY_OLD_LOG_FIRST";

/// The services with handlers.
pub(super) const SERVICES: [&str; 6] = ["work", "fail", "hang", "yield", "snooze", "keyed"];
/// Scopes and idempotency keys of entries with an object key whose results are kept.
pub(super) const KEYED: [(&str, &str); 4] =
    [("first", "a"), ("first", "b"), ("second", "a"), ("second", "c")];

/// Attempts in quick succession.
const QUICK: RetryPolicy = RetryPolicy {
    attempts_max: 3,
    backoff_first_ms: 2,
    backoff_max_ms: 5,
    growth_percent: 200,
    jitter_percent: 20,
};
const FOREVER: Duration = Duration::MAX;

/// Generates the archive and the dump of a version, with the current code.
pub(super) fn make(version: &str) {
    let place = Place::new();
    for (is_first, ends_well) in [("1", true), ("0", false)] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(DIRECTORY, place.path("data"))
            .env(IS_FIRST, is_first)
            .status()
            .unwrap();
        assert_eq!(status.success(), ends_well, "{status}");
    }
    let archive = kept(&format!("{version}.tar.gz"));
    let _ = std::fs::remove_file(place.path("data").join("control.sock"));
    let (archive, place_path) = (archive.to_str().unwrap(), place.path(""));
    tar(&["-czSf", archive, "-C", place_path.to_str().unwrap(), "data"]);
    let copy = super::unpacked(version);
    std::fs::write(kept(&format!("{version}.txt")), replayed(&copy.path("data"))).unwrap();
}

#[test]
fn aborted_process() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let is_first = std::env::var(IS_FIRST).unwrap() == "1";
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    tokio.unwrap().block_on(live(directory, is_first));
}

async fn live(directory: PathBuf, is_first: bool) {
    let runtime = Runtime::builder()
        .data_dir(directory)
        .partitions(2)
        .trim_log(TrimLog::Never)
        .handler("work", |_: Context, payload: Bytes| async move { Ok(payload) })
        .handler("keyed", |_: Context, payload: Bytes| async move { Ok(payload) })
        .handler("fail", |context: Context, (): ()| async move {
            let error = HandlerError::retry(format!("no luck at attempt {}", context.attempt()));
            Err::<(), _>(error.with_detail("why"))
        })
        .handler("hang", |_: Context, (): ()| std::future::pending::<Result<(), HandlerError>>())
        .handler("yield", |context: Context, (): ()| async move {
            context.canceled().await;
            Err::<(), _>(HandlerError::retry("stopped half way"))
        })
        .handler("snooze", |_: Context, (): ()| async move {
            Err::<(), _>(HandlerError::snooze(Duration::from_secs(30)))
        })
        .start()
        .await
        .unwrap();
    if is_first {
        runtime.rules().upsert("*", Limits::concurrency(12)).await.unwrap();
    }
    let turn = if is_first { "early" } else { "late" };
    work(&runtime, turn).await;
    act(&runtime, turn).await;
    if is_first {
        runtime.shutdown(Drain::now()).await.unwrap();
        return;
    }
    // The abort happens amid decisions and ends.
    let load = runtime.clone();
    tokio::spawn(async move {
        loop {
            let batch = (0..8).map(|n| Entry::to("work").scope("load").payload(format!("{n}")));
            load.enqueue_batch(batch.collect()).await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(60)).await;
    std::process::abort();
}

/// Successes, failures, retries, last attempts, snoozes, idempotency keys and batches.
async fn work(runtime: &Runtime, turn: &str) {
    let stored = |entry: Entry| async move { runtime.enqueue(entry).await.unwrap() };
    let mut ends = Vec::new();
    for n in 0..6 {
        let key = format!("{turn}-{}", n % 3);
        ends.push(stored(Entry::to("work").payload(format!("plain {n}"))).await);
        ends.push(stored(Entry::to("work").scope(turn).key(&key).payload(key.clone())).await);
        ends.push(stored(Entry::to("fail").scope(turn).key(&key).retry(QUICK)).await);
        ends.push(stored(Entry::to("fail").scope(turn).retry(RetryPolicy::NONE)).await);
        stored(Entry::to("snooze").scope(turn).retention(FOREVER)).await;
        stored(Entry::to("hang").scope(turn).key(&format!("held-{n}"))).await;
    }
    // Without an object key, and with one.
    for n in 0..4 {
        let entry = Entry::to("keyed").scope("first").idempotency_key(&format!("{turn}-{}", n / 2));
        ends.push(stored(entry.payload(format!("{n}"))).await);
    }
    for (scope, key) in KEYED {
        let entry = Entry::to("keyed").scope(scope).key("object").idempotency_key(key);
        ends.push(stored(entry.payload(key).retention(FOREVER)).await);
    }
    // An object key, an idempotency key and no scope.
    for object in ["one", "two", "three"] {
        let entry = Entry::to("keyed").key(object).idempotency_key("shared").payload(object);
        ends.push(stored(entry).await);
    }
    let batch = (0..10).map(|n| Entry::to("work").scope("batch").payload(format!("{turn} {n}")));
    ends.extend(runtime.enqueue_batch(batch.collect()).await.unwrap());
    ends.push(stored(Entry::to("work").scope(turn).retention(Duration::ZERO)).await);
    // The last one leaves no row, so it may already be unknown.
    let _ = runtime.outcomes(&ends).await.unwrap();
}

/// Cancels (of waiting and running entries, and in the last attempt), kills, pauses, reschedules,
/// redrives and purges.
async fn act(runtime: &Runtime, turn: &str) {
    let of = |name: &str, n: u32| Entry::to(name).scope(&format!("{turn}-{n}"));
    let stored = |entry: Entry| async move { runtime.enqueue(entry).await.unwrap() };
    let runs = |handle: EntryHandle| async move {
        while !format!("{:?}", runtime.explain(handle.id()).await.unwrap()).contains("running") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        handle
    };
    let later = std::time::SystemTime::now() + Duration::from_secs(20);
    stored(of("work", 1).run_at(later)).await.cancel().await.unwrap();
    for retry in [RetryPolicy::default(), RetryPolicy::NONE] {
        let entry = runs(stored(of("yield", 2).retry(retry)).await).await;
        entry.cancel().await.unwrap();
        let _ = entry.outcome().await.unwrap();
    }
    runs(stored(of("hang", 3)).await).await.kill().await.unwrap();
    // Its handler ignores the request, which is therefore in the row when the process ends.
    runs(stored(of("hang", 4)).await).await.cancel().await.unwrap();
    stored(of("work", 5).run_at(later)).await.pause().await.unwrap();
    let moved = stored(of("work", 6).run_at(later)).await;
    moved.reschedule(std::time::SystemTime::now()).await.unwrap();
    let failed = stored(of("fail", 7).retry(RetryPolicy::NONE)).await;
    let _ = failed.outcome().await.unwrap();
    failed.redrive().await.unwrap();
    let _ = failed.outcome().await.unwrap();
    let purged = stored(of("work", 8)).await;
    let _ = purged.outcome().await.unwrap();
    purged.purge().await.unwrap();
    let vqueue = of("work", 9).key("paused");
    let first = stored(vqueue.clone()).await;
    let paused = runtime.vqueue(vqueue.vqueue().id_for(first.id()));
    let _ = first.outcome().await.unwrap();
    paused.pause().await.unwrap();
    stored(vqueue).await;
}
