//! Application features besides queues: state, the runtime within handlers, errors, status, logs,
//! the control socket.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use forebay::{
    Context, Drain, Entry, HandlerError, HandlerOptions, Json, Limits, Rate, ResultError,
    RetryPolicy, Runtime, RuntimeError, Stage,
    control::{Control, Request, Response},
};

fn once() -> HandlerOptions {
    let retry = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    HandlerOptions { retry, ..HandlerOptions::default() }
}

#[tokio::test]
async fn a_handler_enqueues_through_its_context_and_does_not_keep_the_runtime_up() {
    let runtime = Runtime::builder()
        .in_memory()
        .handler("order", |context: Context, (): ()| async move {
            let mail = context.runtime().enqueue(Entry::to("mail").key("one")).await?;
            Ok(Json(mail.id()))
        })
        .handler("mail", |_: Context, (): ()| async { Ok(Json("sent")) })
        .start()
        .await
        .unwrap();
    let order = runtime.enqueue(Entry::to("order")).await.unwrap();
    let mail = runtime.attach(order.result().await.unwrap());
    assert_eq!(mail.result::<String>().await.unwrap(), "sent");
    let weak = runtime.downgrade();
    assert!(weak.upgrade().is_some());
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    assert!(weak.upgrade().is_none(), "handlers' handles do not keep it alive");
    assert!(weak.enqueue(Entry::to("mail")).await.is_err());
}

#[tokio::test]
async fn states_are_found_by_their_types_and_two_of_a_type_are_refused() {
    struct Greeting(&'static str);
    struct Name(String);
    let builder =
        || Runtime::builder().in_memory().state(Greeting("hello")).state(Name("world".to_owned()));
    let runtime = builder()
        .handler("greet", |context: Context, (): ()| async move {
            let (greeting, name) = (context.state::<Greeting>(), context.state::<Name>());
            assert!(context.state::<String>().is_none());
            Ok(Json(format!("{} {}", greeting.unwrap().0, name.unwrap().0)))
        })
        .start()
        .await
        .unwrap();
    let entry = runtime.enqueue(Entry::to("greet")).await.unwrap();
    assert_eq!(entry.result::<String>().await.unwrap(), "hello world");
    runtime.shutdown(Drain::now()).await.unwrap();

    let refused = builder().state(Greeting("again")).start().await;
    let Err(RuntimeError::TwoStates { type_name }) = refused else {
        panic!("two states of a type are an error")
    };
    assert!(type_name.ends_with("Greeting"), "{type_name}");
}

#[derive(Debug)]
struct Layer(&'static str, Option<Box<Layer>>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Layer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|layer| layer as _)
    }
}

/// Converts like `anyhow::Error`: not an error itself, but it becomes a boxed one.
struct Report(Box<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Report {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<Report> for Box<dyn std::error::Error + Send + Sync> {
    fn from(report: Report) -> Self {
        report.0
    }
}

/// Regression: the failure of an error with causes contained only its outermost text.
#[tokio::test]
async fn the_question_mark_accepts_any_error_and_keeps_its_causes() {
    fn fails() -> Result<(), Report> {
        let connect = Layer("connection refused", None);
        Err(Layer("cannot send", Some(Box::new(Layer("smtp", Some(Box::new(connect)))))))?
    }
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("mail", once(), |_: Context, (): ()| async { Ok(fails()?) })
        .handler_with("text", once(), |_: Context, (): ()| async {
            Err::<(), HandlerError>("only a text".into())
        })
        .start()
        .await
        .unwrap();
    for (service, expected) in
        [("mail", "cannot send: smtp: connection refused"), ("text", "only a text")]
    {
        let entry = runtime.enqueue(Entry::to(service)).await.unwrap();
        let Err(ResultError::Failed { message, .. }) = entry.result_bytes().await else {
            panic!("{service} fails")
        };
        assert_eq!(message, expected);
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn the_status_of_an_entry_is_available_before_its_end() {
    let runtime = Runtime::builder().in_memory().start().await.unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let entry = runtime.enqueue(Entry::to("work").run_at(later)).await.unwrap();
    let status = entry.status().await.unwrap();
    assert_eq!((status.id, status.stage, status.outcome), (entry.id(), Stage::Inbox, None));
    entry.kill().await.unwrap();
    let ended = entry.status().await.unwrap();
    let outcome = ended.outcome.map(|outcome| outcome.to_string());
    assert_eq!((ended.stage, outcome.as_deref()), (Stage::Finished, Some("killed")));
    runtime.entries().all().purge().await.unwrap();
    assert!(matches!(entry.status().await, Err(ResultError::Unknown(_))));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[test]
fn limits_are_read_from_and_written_to_configuration_files() {
    let limits =
        Limits { rate: Some(Rate::per_minute(90).with_burst(3)), ..Limits::concurrency(4) };
    let text = serde_json::to_string(&limits).unwrap();
    assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
    let short: Limits = serde_json::from_str(r#"{"concurrency":4}"#).unwrap();
    assert_eq!(short, Limits::concurrency(4));
    assert!(serde_json::from_str::<Limits>(r#"{"concurrency":0}"#).is_err());
}

/// Regression: a data directory with a long path could not be used, because the address of a socket
/// holds only 107 bytes.
#[tokio::test]
async fn a_long_data_path_has_a_control_socket_too() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("d".repeat(120)).join("e".repeat(60));
    let runtime = Runtime::builder().data_dir(&path).partitions(1).start().await.unwrap();
    let control = Control::open(&path).await.unwrap();
    assert!(matches!(control, Control::Running(_)), "through the socket");
    let answered = control.ask(Request::Status).await.unwrap();
    let Response::Status { node } = answered else { panic!("{answered:?}") };
    assert_eq!(node.pid, Some(std::process::id()));
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test]
async fn the_control_socket_can_be_switched_off() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || Runtime::builder().data_dir(dir.path()).partitions(1);
    let socket = dir.path().join(forebay::control::SOCKET_NAME);
    let runtime = builder().control_socket(false).start().await.unwrap();
    assert!(!socket.exists());
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let runtime = builder().start().await.unwrap();
    assert!(socket.exists());
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn failed_attempts_and_dead_letters_are_logged() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let retry = RetryPolicy { attempts_max: 2, backoff_first_ms: 1, ..RetryPolicy::default() };
    let options = HandlerOptions { retry, ..HandlerOptions::default() };
    let runtime = Runtime::builder()
        .in_memory()
        .handler_with("mail", options, |_: Context, (): ()| async {
            Err::<(), _>(HandlerError::retry("no route to host"))
        })
        .start()
        .await
        .unwrap();
    let entry = runtime.enqueue(Entry::to("mail").scope("a")).await.unwrap();
    assert!(!entry.outcome().await.unwrap().is_success());
    runtime.shutdown(Drain::now()).await.unwrap();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for (attempt, what) in [(1, "an attempt failed"), (2, "the entry is a dead letter")] {
        let is_logged = text.lines().any(|line| {
            let all = [what, &entry.id().to_string(), "mail", "no route to host"];
            line.contains(&format!("attempt={attempt}")) && all.iter().all(|it| line.contains(it))
        });
        assert!(is_logged, "attempt {attempt}: {text}");
    }
}
