//! A runtime controlled by a test: virtual time, crashes, and a reproducible order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay::{
    Builder, Context, Entry, HandlerError, Limits, Outcome, RetryPolicy, Runtime,
    testkit::{SiteFaults, TestRuntime},
};

const HOUR: Duration = Duration::from_secs(3600);

fn echo() -> Builder {
    Runtime::builder().partitions(2).handler("echo", |_: Context, payload: Bytes| async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok::<_, HandlerError>(payload)
    })
}

#[test]
fn a_delayed_entry_waits_for_virtual_time() {
    let mut app = TestRuntime::start(echo);
    let at = app.now().after(HOUR);
    let entry = app.enqueue(Entry::to("echo").payload("late").run_at(at));
    app.advance(HOUR - Duration::from_millis(1));
    assert_eq!(app.outcome_now(&entry), None);
    app.advance(Duration::from_millis(1));
    assert_eq!(app.outcome_now(&entry), None, "its handler takes two seconds");
    app.advance(Duration::from_secs(2));
    assert_eq!(app.outcome_now(&entry), Some(Outcome::Success(Bytes::from("late"))));
}

#[test]
fn acknowledged_entries_survive_a_crash() {
    let mut app = TestRuntime::start(echo);
    let entries: Vec<_> =
        (0..20).map(|n| app.enqueue(Entry::to("echo").payload(format!("{n}")))).collect();
    app.settle();
    app.restart();
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(app.outcome(entry), Outcome::Success(Bytes::from(format!("{n}"))));
    }
}

#[test]
fn a_limit_is_respected_and_raised() {
    let running = Arc::new(AtomicU32::new(0));
    let running_now = Arc::clone(&running);
    let mut app = TestRuntime::start(move || {
        let running = Arc::clone(&running);
        Runtime::builder().handler("work", move |_: Context, (): ()| {
            let running = Arc::clone(&running);
            async move {
                running.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(HOUR).await;
                running.fetch_sub(1, Ordering::Relaxed);
                Ok::<_, HandlerError>(())
            }
        })
    });
    let rules = app.runtime().rules();
    app.run(rules.upsert("tenant/*", Limits::concurrency(3))).unwrap();
    for _ in 0..10 {
        app.enqueue(Entry::to("work").scope("tenant").limit_key("user"));
    }
    app.settle();
    assert_eq!(running_now.load(Ordering::Relaxed), 3);
    app.run(rules.upsert("tenant/*", Limits::concurrency(5))).unwrap();
    app.settle();
    assert_eq!(running_now.load(Ordering::Relaxed), 5);
}

/// A run that covers everything that could differ between runs.
fn trace_of(seed: u64) -> String {
    let mut app =
        TestRuntime::builder().seed(seed).start_at(forebay::Timestamp(1 << 40)).start(echo);
    app.set_site_faults(SiteFaults {
        scans_late_percent: 50,
        scan_delay_ms_max: 30,
        scans_fail_percent: 20,
        ..SiteFaults::default()
    });
    let mut entries = Vec::new();
    for n in 0..40_u8 {
        let entry = Entry::to(if n % 7 == 0 { "unserved" } else { "echo" })
            .scope(&format!("s{}", n % 3))
            .key(&format!("k{}", n % 5))
            .retry(RetryPolicy::NONE)
            .uuid([n; 16])
            .payload(vec![n; 3]);
        entries.push(app.enqueue(entry));
        if n % 13 == 0 {
            app.restart();
        }
    }
    app.advance(Duration::from_secs(60));
    for entry in &entries {
        app.outcome_now(entry);
    }
    app.trace()
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = trace_of(3);
    assert!(first.lines().count() > 500, "something happened:\n{first}");
    assert_eq!(first, trace_of(3));
    assert_ne!(first, trace_of(4));
}
