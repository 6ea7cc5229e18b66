//! The wall clock steps by an hour in both directions or runs slow, during a run and between two
//! runs: every wait has its correct duration, and nothing stops.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay::{
    Context, Entry, HandlerError, HandlerOptions, Limits, Rate, RetryPolicy, Runtime, Timestamp,
    testkit::TestRuntime,
};

const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: i64 = 3_600_000;
const SECOND: Duration = Duration::from_secs(1);

/// Clock errors under test: milliseconds ahead.
const STEPS_MS: [i64; 3] = [-HOUR_MS, -60_000, HOUR_MS];

/// Start time of each attempt, in milliseconds since the start of the test.
type Starts = Arc<Mutex<Vec<u64>>>;

/// A test runtime whose handler `work` records its start times and then runs `work`.
fn app<F, R>(nodes: usize, options: HandlerOptions, work: F) -> (TestRuntime, Starts)
where
    F: Fn(Context) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let starts = Starts::default();
    let noted = Arc::clone(&starts);
    let app = TestRuntime::builder().nodes(nodes).start(move || {
        let (work, starts) = (work.clone(), Arc::clone(&noted));
        // tokio's time is the monotonic clock of the test.
        let origin = tokio::time::Instant::now();
        Runtime::builder().partitions(1).handler_with("work", options, move |context, (): ()| {
            let at = origin.elapsed().as_millis();
            starts.lock().unwrap().push(u64::try_from(at).unwrap());
            work(context)
        })
    });
    (app, starts)
}

fn quick() -> (TestRuntime, Starts) {
    app(1, HandlerOptions::default(), |_| async { Ok(()) })
}

fn started(starts: &Starts) -> usize {
    starts.lock().unwrap().len()
}

#[test]
fn new_work_starts_at_once_whatever_the_clock_does() {
    let (mut app, starts) = quick();
    for (round, step_ms) in STEPS_MS.into_iter().chain([0]).enumerate() {
        app.enqueue(Entry::to("work"));
        app.set_clock_ahead(step_ms);
        app.advance(SECOND);
        app.enqueue(Entry::to("work"));
        app.settle();
        assert_eq!(started(&starts), 2 * (round + 1), "{step_ms}");
    }
}

/// Regression: a clock that was ahead determined the places of new entries; after a restart with
/// the correct time nothing started for that long.
#[test]
fn work_starts_at_once_after_a_restart_under_another_clock() {
    let (mut app, starts) = quick();
    for (round, step_ms) in [HOUR_MS, 0, -HOUR_MS, 0].into_iter().enumerate() {
        app.set_clock_ahead(step_ms);
        app.restart();
        let entry = app.enqueue(Entry::to("work"));
        app.advance(SECOND);
        assert_eq!(started(&starts), round + 1, "{step_ms} ms ahead");
        assert!(app.outcome_now(&entry).is_some());
    }
}

#[test]
fn entries_keep_their_order_over_a_clock_that_steps_back() {
    let ran = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&ran);
    let mut app = TestRuntime::start(move || {
        let ran = Arc::clone(&noted);
        Runtime::builder().partitions(1).handler(
            "work",
            move |_: Context, number: forebay::Json<u32>| {
                ran.lock().unwrap().push(number.0);
                async { Ok::<_, HandlerError>(()) }
            },
        )
    });
    let rules = app.runtime().rules();
    app.run(rules.upsert("t", Limits::concurrency(1))).unwrap();
    for number in 0..12_u32 {
        app.set_clock_ahead(if number % 2 == 0 { 0 } else { -HOUR_MS });
        app.enqueue(Entry::to("work").scope("t").json(&number).unwrap());
    }
    app.advance(SECOND);
    assert_eq!(*ran.lock().unwrap(), (0..12).collect::<Vec<_>>());
}

#[test]
fn an_entry_with_a_start_time_runs_when_the_clock_or_the_elapsed_time_reaches_it() {
    let due = |app: &TestRuntime, after: Duration| Timestamp(app.now().0).after(after);
    // Forward: it is due at once.
    let (mut app, starts) = quick();
    let run_at = due(&app, HOUR / 2);
    app.enqueue(Entry::to("work").run_at(run_at));
    app.set_clock_ahead(HOUR_MS);
    app.advance(2 * SECOND);
    assert_eq!(started(&starts), 1, "the clock stepped over its time");
    // Back: it waits no longer than originally.
    let (mut app, starts) = quick();
    let run_at = due(&app, HOUR / 2);
    app.enqueue(Entry::to("work").run_at(run_at));
    app.set_clock_ahead(-HOUR_MS);
    app.advance(HOUR / 2 - SECOND);
    assert_eq!(started(&starts), 0);
    app.advance(2 * SECOND);
    assert_eq!(started(&starts), 1);
}

#[test]
fn a_retry_waits_as_long_as_its_backoff_says() {
    for step_ms in STEPS_MS {
        let retry =
            RetryPolicy { backoff_first_ms: 10_000, jitter_percent: 0, ..RetryPolicy::default() };
        let options = HandlerOptions { retry, ..HandlerOptions::default() };
        let (mut app, starts) = app(1, options, |context: Context| async move {
            match context.attempt() {
                1 => Err(HandlerError::retry("the first attempt fails")),
                _ => Ok(()),
            }
        });
        app.enqueue(Entry::to("work"));
        app.advance(SECOND);
        app.set_clock_ahead(step_ms);
        app.advance(2 * SECOND);
        let early = if step_ms > 0 { 2 } else { 1 };
        assert_eq!(started(&starts), early, "{step_ms}: a clock that jumps forward ends the wait");
        app.advance(8 * SECOND);
        assert_eq!(started(&starts), 2, "{step_ms}");
    }
}

#[test]
fn a_rate_is_kept_while_the_clock_steps() {
    for step_ms in STEPS_MS {
        let (mut app, starts) = quick();
        let rate = Rate { tokens: 1, period_ms: 1_000, burst: 2 };
        let rules = app.runtime().rules();
        app.run(rules.upsert("t", Limits { rate: Some(rate), ..Limits::default() })).unwrap();
        for _ in 0..20 {
            app.enqueue(Entry::to("work").scope("t"));
        }
        app.advance(3 * SECOND);
        let before = started(&starts);
        assert_eq!(before, 5, "two at once, then one a second");
        app.set_clock_ahead(step_ms);
        app.advance(5 * SECOND);
        let after = started(&starts) - before;
        // A forward jump fills the bucket, but no further than the burst.
        let most = if step_ms > 0 { 7 } else { 5 };
        assert!((5..=most).contains(&after), "{step_ms}: {after} in five seconds");
    }
}

#[test]
fn an_attempt_times_out_by_elapsed_time() {
    for step_ms in STEPS_MS {
        let options = HandlerOptions {
            timeout: Some(10 * SECOND),
            retry: RetryPolicy::NONE,
            ..HandlerOptions::default()
        };
        let (mut app, _) = app(1, options, |_| std::future::pending());
        let entry = app.enqueue(Entry::to("work"));
        app.advance(SECOND);
        app.set_clock_ahead(step_ms);
        app.advance(8 * SECOND);
        assert!(app.outcome_now(&entry).is_none(), "{step_ms}");
        app.advance(2 * SECOND);
        assert!(app.outcome_now(&entry).is_some_and(|outcome| !outcome.is_success()), "{step_ms}");
    }
}

#[test]
fn a_snooze_lasts_as_long_as_it_was_asked_for() {
    for step_ms in [-HOUR_MS, -60_000] {
        let first = Arc::new(Mutex::new(true));
        let (mut app, starts) = app(1, HandlerOptions::default(), move |_| {
            let is_first = std::mem::take(&mut *first.lock().unwrap());
            async move {
                match is_first {
                    true => Err(HandlerError::snooze(10 * SECOND)),
                    false => Ok(()),
                }
            }
        });
        app.enqueue(Entry::to("work"));
        app.settle();
        app.set_clock_ahead(step_ms);
        app.advance(9 * SECOND);
        assert_eq!(started(&starts), 1, "{step_ms}");
        app.advance(2 * SECOND);
        assert_eq!(started(&starts), 2, "{step_ms}");
    }
}

/// Results expire when their retention is over by the partition's time, together with their
/// idempotency keys.
#[test]
fn results_and_idempotency_keys_last_as_long_as_their_retention() {
    let once = || Entry::to("work").idempotency_key("once").retention(2 * HOUR);
    for (step_ms, after, is_kept) in [
        (-HOUR_MS, HOUR, true),
        (-HOUR_MS, HOUR + HOUR / 2, true),
        (-HOUR_MS, 2 * HOUR + 2 * Duration::from_secs(60), false),
        (HOUR_MS, HOUR / 2, true),
        (HOUR_MS, HOUR + 2 * Duration::from_secs(60), false),
    ] {
        let (mut app, _) = quick();
        let first = app.enqueue(once());
        assert!(app.outcome(&first).is_success());
        app.set_clock_ahead(step_ms);
        app.advance(after);
        let again = app.enqueue(once());
        assert_eq!(again.was_existing(), is_kept, "{step_ms}, {after:?}");
        assert_eq!(again.id() == first.id(), is_kept);
    }
}

/// Leases are measured by the monotonic clock: a step neither deposes a leader nor keeps a dead
/// one.
#[test]
fn a_step_of_the_clock_changes_no_leader_and_a_dead_one_is_replaced() {
    for step_ms in STEPS_MS {
        let (mut app, starts) = app(2, HandlerOptions::default(), |_| async { Ok(()) });
        let epoch = |app: &TestRuntime| {
            let node = Arc::clone(app.runtime().node());
            node.inspect().status().unwrap()[0].epoch
        };
        app.enqueue(Entry::to("work"));
        app.advance(SECOND);
        let before = epoch(&app);
        app.set_clock_ahead(step_ms);
        app.advance(5 * SECOND);
        assert_eq!(epoch(&app), before, "{step_ms}: the leader is unchanged");
        app.enqueue(Entry::to("work"));
        app.settle();
        assert_eq!(started(&starts), 2);
        app.fail_over();
        app.enqueue(Entry::to("work"));
        app.advance(5 * SECOND);
        assert_eq!(started(&starts), 3, "{step_ms}");
    }
}

#[test]
fn a_clock_that_stands_still_or_runs_slow_delays_nothing() {
    for percent in [0, 10] {
        let (mut app, starts) = quick();
        for member in app.clocks() {
            member.set_rate_percent(percent);
        }
        let run_at = Timestamp(app.now().0).after(10 * SECOND);
        app.enqueue(Entry::to("work").run_at(run_at));
        app.enqueue(Entry::to("work"));
        app.advance(9 * SECOND);
        assert_eq!(started(&starts), 1);
        app.advance(2 * SECOND);
        assert_eq!(started(&starts), 2);
    }
}

#[test]
fn status_shows_how_far_a_partition_is_ahead_of_the_clock() {
    let (mut app, _) = quick();
    let ahead = |app: &TestRuntime| app.runtime().node().inspect().status().unwrap()[0].ahead_ms;
    app.enqueue(Entry::to("work"));
    app.settle();
    assert_eq!(ahead(&app), 0);
    app.set_clock_ahead(-HOUR_MS);
    assert_eq!(ahead(&app), 3_600_000);
    // Forward again: they agree.
    app.set_clock_ahead(5_000);
    app.advance(SECOND);
    assert_eq!(ahead(&app), 0);
}
