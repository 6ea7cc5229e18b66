//! Contents too large for a log record: they are refused with their size and the limit, and
//! everything else continues.

use std::time::Duration;

use bytes::Bytes;
use forebay::{
    Context, Drain, EnqueueError, Entry, FailureKind, HandlerError, Limits, ResultError,
    RetryPolicy, Runtime, RuntimeError,
    rules::{Change, RuleChange, RulePatch},
};

const MIB: usize = 1 << 20;
/// Equal to [`forebay_messages::record::RECORD_LEN_MAX`].
const RECORD: usize = 64 * MIB;
const PARTITIONS: u32 = 8;

/// Handlers whose results and errors have the size in bytes given by their payload.
fn builder() -> forebay::Builder {
    let len = |payload: Bytes| std::str::from_utf8(&payload).unwrap().parse::<usize>().unwrap();
    Runtime::builder()
        .handler("echo", |_: Context, payload: Bytes| async move { Ok(payload) })
        .handler("result", move |_: Context, payload: Bytes| async move {
            Ok(Bytes::from(vec![7; len(payload)]))
        })
        .handler("terminal", move |_: Context, payload: Bytes| async move {
            Err::<(), _>(HandlerError::terminal("e".repeat(len(payload))))
        })
        .handler("retry", move |context: Context, payload: Bytes| async move {
            if context.attempt() > 1 {
                return Ok(Bytes::from(context.last_failure().to_owned()));
            }
            Err(HandlerError::retry("e".repeat(len(payload))))
        })
        .handler("panic", move |_: Context, payload: Bytes| async move {
            if true {
                panic!("{}", "p".repeat(len(payload)));
            }
            Ok(())
        })
        .handler("detail", move |_: Context, payload: Bytes| async move {
            Err::<(), _>(HandlerError::terminal("no").with_detail(vec![1; len(payload)]))
        })
}

async fn start(dir: &std::path::Path) -> Runtime {
    builder().data_dir(dir).partitions(PARTITIONS).payload_max(4 * MIB).start().await.unwrap()
}

/// Every partition accepts an entry and runs it.
async fn check_all_continue(runtime: &Runtime) {
    let mut partitions = std::collections::BTreeSet::new();
    for n in 0..64 {
        let entry = Entry::to("echo").scope(&format!("s{n}")).payload("hello");
        let entry = runtime.enqueue(entry).await.unwrap();
        partitions.insert(runtime.node().access().route(entry.id().partition_key).unwrap());
        assert_eq!(entry.result_bytes().await.unwrap(), "hello");
    }
    assert_eq!(partitions.len(), PARTITIONS as usize, "entries reach every partition");
}

async fn failure(runtime: &Runtime, service: &str, len: usize) -> (FailureKind, String, usize) {
    let entry = Entry::to(service).payload(len.to_string()).retry(RetryPolicy::NONE);
    let entry = runtime.enqueue(entry).await.unwrap();
    match entry.result_bytes().await {
        Err(ResultError::Failed { kind, message, detail }) => (kind, message, detail.len()),
        other => panic!("{service}: {:?}", other.map(|bytes| bytes.len())),
    }
}

/// Regression: a result or an error text above the record limit stopped its partition and all
/// partitions that shared its group commit, and stopped them again after every restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_results_and_errors_fail_alone() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let (kind, message, _) = failure(&runtime, "result", 70 * MIB).await;
    assert_eq!(kind, FailureKind::Terminal);
    assert!(message.contains(&format!("{} bytes", 70 * MIB)), "{message}");
    assert!(message.contains(&(RECORD - 4096).to_string()), "{message}");
    for service in ["terminal", "panic"] {
        let (_, message, _) = failure(&runtime, service, 70 * MIB).await;
        assert!(message.len() <= 16 << 10, "{service}: {} bytes", message.len());
        assert!(message.ends_with("(the rest of this text was cut)"), "{service}");
    }
    let (_, message, detail) = failure(&runtime, "detail", 70 * MIB).await;
    assert_eq!(detail, 0);
    assert!(message.starts_with("no (its detail of 73400320 bytes is left out"), "{message}");
    let entry = Entry::to("retry").payload((70 * MIB).to_string());
    let entry = runtime.enqueue(entry).await.unwrap();
    let last_failure = entry.result_bytes().await.unwrap();
    assert!(last_failure.len() <= 16 << 10 && last_failure.ends_with(b"was cut)"));
    check_all_continue(&runtime).await;
    runtime.shutdown(Drain::within(Duration::from_secs(20))).await.unwrap();
    drop(runtime);
    let runtime = start(dir.path()).await;
    check_all_continue(&runtime).await;
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: a batch above the record limit stopped partitions, instead of being refused before
/// anything was proposed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_too_large_batch_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let payload = Bytes::from(vec![7; MIB]);
    let batch = |count: usize| {
        let entry = |_| Entry::to("echo").scope("one").payload(payload.clone());
        (0..count).map(entry).collect::<Vec<_>>()
    };
    let refused = runtime.enqueue_batch(batch(70)).await;
    let Err(EnqueueError::TooLarge { len, len_max }) = refused else {
        panic!("{:?}", refused.map(|handles| handles.len()))
    };
    assert!(len > 70 * MIB && len < 71 * MIB, "{len}");
    assert_eq!(len_max, RECORD);
    assert!(runtime.entries().scope("one").list(1).await.unwrap().is_empty());
    check_all_continue(&runtime).await;
    for handle in runtime.enqueue_batch(batch(63)).await.unwrap() {
        assert_eq!(handle.result_bytes().await.unwrap().len(), MIB);
    }
    runtime.shutdown(Drain::within(Duration::from_secs(20))).await.unwrap();
    drop(runtime);
    let runtime = start(dir.path()).await;
    check_all_continue(&runtime).await;
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: the largest accepted payload limit did not fit into a record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_payload_limit_can_be_stored() {
    let refused = builder().in_memory().payload_max(RECORD).start().await;
    let Some(RuntimeError::PayloadMax { len, len_max }) = refused.err() else {
        panic!("a payload of {RECORD} bytes does not fit")
    };
    assert_eq!(len, RECORD);
    let runtime =
        builder().in_memory().partitions(PARTITIONS).payload_max(len_max).start().await.unwrap();
    let long = "n".repeat(64);
    let entry = Entry::to("echo")
        .scope(&long)
        .limit_key(&format!("{long}/{long}"))
        .key(&"k".repeat(512))
        .idempotency_key(&"i".repeat(512))
        .payload(vec![7; len_max]);
    let entry = runtime.enqueue(entry).await.unwrap();
    assert_eq!(entry.result_bytes().await.unwrap().len(), len_max);
    check_all_continue(&runtime).await;
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// 10,000 rules with descriptions of maximum length take effect on every partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_rule_book_fits_into_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let book = runtime.rules().change("ann", many_rules()).await.unwrap();
    check_all_continue(&runtime).await;
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let runtime = start(dir.path()).await;
    assert_eq!(runtime.rules().book().await.unwrap(), book);
    check_all_continue(&runtime).await;
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// The maximum number of rules, with descriptions of maximum length.
fn many_rules() -> Vec<RuleChange> {
    const RULES: usize = 10_000;
    const DESCRIPTION_LEN: usize = 1024;
    let rule = |n: usize| {
        let description = Some("d".repeat(DESCRIPTION_LEN).into());
        let patch = RulePatch { description, ..RulePatch::limits(Limits::concurrency(1)) };
        RuleChange::new(format!("r{n}").parse().unwrap(), Change::Create(patch))
    };
    (0..RULES).map(rule).collect()
}

/// Regression: a rule book above the record limit was stored, and stopped every partition that
/// received it. The log of this test accepts smaller records than a real one, because the limits of
/// rules keep every book below the real limit.
#[test]
fn a_too_large_rule_book_is_refused_as_a_whole() {
    use forebay::{
        ErrorKind, Timestamp,
        rules::RulesError,
        testkit::{Disk, Sim, launch},
    };
    use forebay_actors::error::NodeError;

    const SMALL: usize = MIB;
    let mut tokio = tokio::runtime::Builder::new_current_thread();
    tokio.enable_time().start_paused(true);
    tokio.build().unwrap().block_on(async {
        let mut sim = Sim::new(1, Timestamp(1_000_000));
        let disk = Disk::with_record_len_max(SMALL).unwrap();
        let (_, node) = sim.add_node(&disk);
        let starting = launch(&mut sim, node, builder().partitions(2));
        let in_a_minute = |sim: &Sim| sim.now().after(Duration::from_secs(60));
        let until = in_a_minute(&sim);
        let runtime = sim.run(starting, until).await.expect("in time").unwrap();
        let rules = runtime.rules();
        let until = in_a_minute(&sim);
        sim.run(rules.upsert("kept", Limits::concurrency(3)), until).await.unwrap().unwrap();
        let before = rules.book().await.unwrap();
        let changed = sim.run(rules.change("ann", many_rules()[1..].to_vec()), until).await;
        let Some(Err(RulesError::Node(error))) = changed else { panic!("it does not fit") };
        assert_eq!(error.kind(), ErrorKind::BadInput);
        let NodeError::RuleBookTooLarge { len, len_max } = *error.cause() else {
            panic!("{error}")
        };
        assert!(len > 9_999 * 1024 && len_max == SMALL - 4096, "{len} of {len_max}");
        assert_eq!(rules.book().await.unwrap(), before);
        assert_eq!(rules.history().await.unwrap().len(), 1);
        let entry = runtime.enqueue(Entry::to("echo").scope("r1").payload("hello"));
        let entry = sim.run(entry, until).await.unwrap().unwrap();
        assert_eq!(sim.run(entry.result_bytes(), until).await.unwrap().unwrap(), "hello");
    });
}
