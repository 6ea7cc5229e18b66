//! The display of entries: their contents, attempts and outcomes; long lists.

use forebay::{Context, Drain, Entry, HandlerError, RetryPolicy, Runtime};
use serde_json::{Value, json};

use super::exec;
use crate::place::Place;

const SCRIPT: &str = "echo \"out $1\"; echo \"no $1\" >&2; test $1 = 1";

fn text(place: &Place, words: &[&str]) -> String {
    place.run(&[words, &["--data-dir", "data"]].concat()).expect(0, &[]).text()
}

fn asked(place: &Place, words: &[&str]) -> Value {
    place.json(&[words, &["--data-dir", "data"]].concat())
}

#[test]
fn an_item_of_exec_is_shown_with_its_command_attempts_and_outputs() {
    let place = Place::new();
    place.write("items", "1\n2\n");
    let arguments = ["--input", "items", "--retries", "2", "--", "sh", "-c", SCRIPT, "_", "{}"];
    place.run(&exec(&arguments)).expect(1, &[]);
    let command = |n: &str| json!(["sh", "-c", SCRIPT, "_", n]);
    let here = std::fs::canonicalize(place.path("")).unwrap();
    for (outcome, n) in [("success", "1"), ("dead-letter", "2")] {
        let listed = &asked(&place, &["entries", "--outcome", outcome])[0];
        assert_eq!(
            (&listed["command"], &listed["line"]),
            (&command(n), &json!(n.parse::<u64>().unwrap()))
        );
        assert_eq!(listed["item"], n);
        assert_eq!(listed["directory"], here.to_str().unwrap(), "{listed}");
        let id = listed["id"].as_str().unwrap();
        let shown = asked(&place, &["entry", id]);
        assert_eq!(shown["entry"]["command"], command(n), "{shown}");
        assert_eq!(shown["report"]["stdout"]["bytes"]["text"], format!("out {n}\n"));
        assert_eq!(asked(&place, &["explain", id])["entry"]["command"], command(n));
        let shown = text(&place, &["entries", "--outcome", outcome]);
        assert!(shown.contains(&format!("test $1 = 1' _ {n}")), "{shown}");
    }
    let failed = asked(&place, &["entries", "--outcome", "dead-letter"]);
    let id = failed[0]["id"].as_str().unwrap();
    let shown = asked(&place, &["entry", id]);
    let attempts = shown["failed_attempts"].as_array().unwrap();
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt["number"].clone()).collect();
    assert_eq!(numbers, [1, 2], "the third is the outcome");
    assert!(attempts.iter().all(|attempt| attempt["text"] == "exit code 1: no 2"), "{shown}");
    assert!(attempts[0]["ended_at"].as_u64() <= attempts[1]["started_at"].as_u64());
    let shown = text(&place, &["entry", id]);
    for part in
        ["dead letter", "3 of 3", "attempt 1 at", "attempt 2 at", "out 2", "exited", &id[..9]]
    {
        assert!(shown.contains(part), "no `{part}` in {shown}");
    }
    let unknown = "ent_000000000000000000000000000000000";
    place.run(&["entry", unknown, "--data-dir", "data"]).expect_refused(&[unknown]);
    place.run(&["purge", id, "--data-dir", "data"]).expect(0, &[]);
    place.run(&["entry", id, "--data-dir", "data"]).expect_refused(&[id]);
}

/// A runtime with a handler that fails, and one that never ends.
async fn start(place: &Place) -> Runtime {
    Runtime::builder()
        .data_dir(place.path("data"))
        .partitions(2)
        .handler("fail", |context: Context, (): ()| async move {
            let failure = format!("no {} {}", context.attempt(), "x".repeat(300));
            Err::<(), _>(HandlerError::retry(failure))
        })
        .start()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_failed_attempts_and_the_payload_of_any_entry_are_shown() {
    let place = Place::new();
    let runtime = start(&place).await;
    let quick = RetryPolicy { attempts_max: 12, backoff_first_ms: 0, ..RetryPolicy::default() };
    let entry = Entry::to("fail").payload("null").retry(quick);
    let entry = runtime.enqueue(entry).await.unwrap();
    entry.outcome().await.unwrap();
    let details = entry.details(2).await.unwrap();
    let numbers: Vec<u32> = details.failed_attempts.iter().map(|failed| failed.number).collect();
    assert_eq!(numbers, (4..=11).collect::<Vec<_>>());
    assert!(details.failed_attempts.iter().all(|failed| failed.text.len() == 256));
    let payload = details.entry.payload.unwrap();
    assert_eq!((payload.len, &payload.head[..]), (4, &b"nu"[..]));
    let id = entry.id().to_string();
    // Through the socket, and on the directory after the process.
    let mut runtime = Some(runtime);
    for _ in 0..2 {
        let shown = asked(&place, &["entry", &id]);
        assert_eq!(shown["failed_attempts"].as_array().unwrap().len(), 8, "{shown}");
        assert_eq!(shown["entry"]["payload"], json!({ "len": 4, "text": "null" }));
        assert!(text(&place, &["entries"]).contains("null"));
        if let Some(runtime) = runtime.take() {
            runtime.shutdown(Drain::now()).await.unwrap();
        }
    }
}

/// Regression: all entries were one answer, which for a million of them took 16 seconds and failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_paged_and_complete() {
    use forebay::control::{Control, Request, Response};
    use forebay_api::EntryFilter;

    const ENTRIES: usize = 2_500;
    let place = Place::new();
    let runtime = start(&place).await;
    let entry = |n: usize| Entry::to("none").key(&format!("key-{n}")).payload(format!("{n}"));
    runtime.enqueue_batch((0..ENTRIES).map(entry).collect()).await.unwrap();
    let count = |words: &[&str]| asked(&place, words).as_array().unwrap().len();
    let mut runtime = Some(runtime);
    for _ in 0..2 {
        for command in ["entries", "queues"] {
            assert_eq!(count(&[command, "--limit", "0"]), ENTRIES, "{command}");
            assert_eq!(count(&[command, "--limit", "1500"]), 1_500, "{command}");
            let lines = text(&place, &[command, "--limit", "0"]).lines().count();
            assert_eq!(lines, ENTRIES + 1, "{command}: a header and a line for each");
        }
        let ended = place.run(&["queues", "--limit", "2400", "--data-dir", "data"]).expect(0, &[]);
        let (_, cursor) = ended.stderr.trim_end().split_once("--after ").unwrap();
        assert_eq!(count(&["queues", "--limit", "0", "--after", cursor]), 100);
        if let Some(runtime) = runtime.take() {
            runtime.shutdown(Drain::now()).await.unwrap();
        }
    }
    let runtime = start(&place).await;
    let control = Control::Running(place.path("data"));
    let filter = EntryFilter::default();
    let page = control.ask(Request::Entries { filter, after: None }).await.unwrap();
    let Response::Entries { entries, next } = page else { panic!("{page:?}") };
    assert_eq!((entries.len(), next.is_some()), (1_000, true), "one answer has a bound");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// A reader that disconnects ends a long list silently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_ends_quietly_when_its_reader_disconnects() {
    let place = Place::new();
    let runtime = start(&place).await;
    runtime.enqueue_batch((0..3_000).map(|_| Entry::to("none")).collect()).await.unwrap();
    let forebay = env!("CARGO_BIN_EXE_forebay");
    let script = format!(
        "{{ {forebay} entries --limit 0 --data-dir data; echo \"code $?\" >&2; }} | head -1"
    );
    let done = tokio::task::spawn_blocking({
        let dir = place.path("");
        move || std::process::Command::new("sh").arg("-c").arg(script).current_dir(dir).output()
    });
    let done = done.await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stderr), "code 0\n");
    assert!(done.stdout.starts_with(b"ENTRY"));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_and_status_show_that_a_service_has_no_handler() {
    let place = Place::new();
    let runtime = start(&place).await;
    for _ in 0..3 {
        runtime.enqueue(Entry::to("ghost").key("k").payload("boo")).await.unwrap();
    }
    crate::place::until("it is noticed", || {
        asked(&place, &["status"])["unserved"][0]["entries"] == 3
    });
    let shown = text(&place, &["status"]);
    assert!(shown.contains("service ghost: no handler here, 3 entries wait since"), "{shown}");
    let shown = text(&place, &["queues"]);
    assert!(shown.contains("no handler here") && shown.contains("boo"), "{shown}");
    assert_eq!(asked(&place, &["queues"])[0]["has_handler"], false);
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    assert!(!text(&place, &["queues"]).contains("no handler here"), "no process was asked");
}

/// Counters and earlier rule books are sent in parts, which the reader combines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_and_rule_books_are_sent_in_parts() {
    use forebay::{
        Limits,
        control::{Control, Request, Response},
    };

    const SCOPES: usize = 1_100;
    let place = Place::new();
    let runtime = start(&place).await;
    runtime.rules().upsert("*", Limits::concurrency(1)).await.unwrap();
    runtime.rules().pause("*").await.unwrap();
    let entry = |n: usize| Entry::to("fail").scope(&format!("scope-{n}"));
    runtime.enqueue_batch((0..SCOPES).map(entry).collect()).await.unwrap();
    let control = Control::Running(place.path("data"));
    let counters = async |in_parts| match control
        .ask(Request::Limits { scope: None, in_parts })
        .await
        .unwrap()
    {
        Response::Limits { limits, more: false } => limits,
        other => panic!("{other:?}"),
    };
    let begun = std::time::Instant::now();
    while counters(true).await.len() < SCOPES {
        assert!(begun.elapsed().as_secs() < 60, "all of them wait");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(counters(true).await, counters(false).await);
    assert_eq!(asked(&place, &["limits"]).as_array().unwrap().len(), SCOPES);
    assert_eq!(asked(&place, &["rules", "history"]).as_array().unwrap().len(), 2);
    runtime.shutdown(Drain::now()).await.unwrap();
}
