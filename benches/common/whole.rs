//! Whole entries through the public API, on disk and synced: enqueue in batches, run,
//! complete, wait for the outcome.

use bytes::Bytes;
use forebay::{Context, Drain, Entry, HandlerError, Outcome, Runtime};

/// Entries per batch, and batches in flight: 4,096 entries, as in the matrix of `scripts/bench`.
const BATCH: u32 = 64;
const BATCHES_IN_FLIGHT: u32 = 64;

/// Runs this many entries to their end, in batches, in a directory that is deleted afterwards.
///
/// # Panics
/// When an entry fails, or the runtime does.
pub(crate) fn run(entries: u32) {
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.expect("a tokio runtime").block_on(run_all(entries));
}

async fn run_all(entries: u32) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = Runtime::builder()
        .data_dir(dir.path())
        .partitions(1)
        .handler("work", |_: Context, _: Bytes| async { Ok::<(), HandlerError>(()) })
        .start()
        .await
        .expect("it starts");
    let batches = entries.div_ceil(BATCH);
    let tasks = (0..BATCHES_IN_FLIGHT).map(|task| {
        let runtime = runtime.clone();
        let batches = batches / BATCHES_IN_FLIGHT + u32::from(task < batches % BATCHES_IN_FLIGHT);
        tokio::spawn(async move {
            for _ in 0..batches {
                run_batch(&runtime).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no task panics");
    }
    runtime.shutdown(Drain::now()).await.expect("it stops");
}

async fn run_batch(runtime: &Runtime) {
    let payload = Bytes::from_static(&[b'x'; 256]);
    let batch = (0..BATCH).map(|_| Entry::to("work").payload(payload.clone())).collect();
    let handles = runtime.enqueue_batch(batch).await.expect("the batch is stored");
    let outcomes = runtime.outcomes(&handles).await.expect("the entries end");
    assert!(outcomes.iter().all(|end| matches!(end, Some(Outcome::Success(_)))));
}
