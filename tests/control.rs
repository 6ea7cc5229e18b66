//! The control socket with misbehaving clients: silent, slow, verbose, or too many.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use forebay::{
    Context, Drain, Entry, HandlerError, Runtime,
    control::{
        CONNECTIONS_MAX, Control, ControlError, IDLE_MAX, REQUEST_LEN_MAX, Request, Response,
        SOCKET_NAME,
    },
};
use forebay_api::EntryFilter;

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

async fn start(dir: &Path) -> Runtime {
    Runtime::builder()
        .data_dir(dir)
        .partitions(1)
        .handler("work", |_: Context, (): ()| async { Ok::<_, HandlerError>(()) })
        .start()
        .await
        .unwrap()
}

fn connect(dir: &Path) -> UnixStream {
    let stream = UnixStream::connect(dir.join(SOCKET_NAME)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Everything received until the other side closes the connection.
async fn read_to_end(mut stream: UnixStream) -> String {
    let read = move || {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn answer_to(dir: &Path, request: &[u8]) -> String {
    let mut stream = connect(dir);
    let request = request.to_vec();
    let sent = tokio::task::spawn_blocking(move || {
        // An overlong request is refused before all of it is sent.
        let _ = stream.write_all(&request);
        stream
    });
    read_to_end(sent.await.unwrap()).await
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn gone<T>(what: &str, node: Weak<T>) {
    until(what, || node.strong_count() == 0).await;
}

const STATUS: &[u8] = b"{\"ask\":\"status\"}\n";

/// Regression: each connection kept the node alive while it waited for a request, without a time
/// limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_keep_the_node_alive() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let silent: Vec<_> = (0..5).map(|_| connect(dir.path())).collect();
    let mut half = connect(dir.path());
    half.write_all(&STATUS[..5]).unwrap();
    let node = Arc::downgrade(runtime.node());
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    let begun = Instant::now();
    gone("the node is dropped", node).await;
    for stream in silent.into_iter().chain([half]) {
        assert_eq!(read_to_end(stream).await, "");
    }
    assert!(begun.elapsed() < IDLE_MAX, "closed by the shutdown, not by its own time limit");
    let runtime = start(dir.path()).await;
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_closed_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let begun = Instant::now();
    let answer = read_to_end(connect(dir.path())).await;
    assert!(begun.elapsed() >= IDLE_MAX && answer.contains("no request came"), "{answer}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: there was no limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_above_the_limit_is_refused_until_another_closes() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect(dir.path())).collect();
    let answer = answer_to(dir.path(), STATUS).await;
    assert!(answer.contains("64 connections") && answer.contains("try again later"), "{answer}");
    drop(silent);
    let control = Control::Running(dir.path().to_owned());
    let begun = Instant::now();
    while let Response::Error { message, .. } = control.ask(Request::Status).await.unwrap() {
        assert!(begun.elapsed() < TIMEOUT, "{message}");
    }
    runtime.shutdown(Drain::now()).await.unwrap();
}

/// Regression: a line could have 256 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_and_invalid_requests_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let len = usize::try_from(REQUEST_LEN_MAX).unwrap();
    let answer = answer_to(dir.path(), &vec![b'x'; 3 * len]).await;
    assert!(answer.contains("longer than 1048576 bytes"), "{answer}");
    let nonsense: [&[u8]; 4] = [b"hello\n", b"\xff\xfe\x00\n", b"[[[[\n", b"{\"ask\":\"tea\"}\n"];
    for nonsense in nonsense {
        let answer = answer_to(dir.path(), nonsense).await;
        assert!(answer.contains("does not understand the request"), "{nonsense:?}: {answer}");
    }
    let answer = answer_to(dir.path(), STATUS).await;
    assert!(answer.contains("\"answer\":\"status\""), "{answer}");

    let control = Control::Running(dir.path().to_owned());
    let entry = forebay::EntryId { partition_key: forebay::PartitionKey(1), uuid: [1; 16] };
    let target = forebay::control::Target { entries: vec![entry; 50_000], ..Default::default() };
    let action = forebay::EntryAction::Purge;
    let error = control.ask(Request::Act { action, target, dry_run: true }).await.unwrap_err();
    assert!(matches!(error, ControlError::TooLong { .. }), "{error}");
    runtime.shutdown(Drain::now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_answer_does_not_keep_the_node_alive() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let later = SystemTime::now() + Duration::from_secs(3_600);
    let entry = || Entry::to("work").run_at(later);
    runtime.enqueue_batch((0..5_000).map(|_| entry()).collect()).await.unwrap();
    let filter = EntryFilter { limit: 5_000, ..Default::default() };
    let mut request = serde_json::to_vec(&Request::Entries { filter, after: None }).unwrap();
    request.push(b'\n');
    let ask = || {
        let mut stream = connect(dir.path());
        stream.write_all(&request).unwrap();
        // The answer has started but cannot continue, because it is longer than the socket's
        // buffer.
        stream.read_exact(&mut [0; 1]).unwrap();
        stream
    };
    let stream = ask();
    tokio::time::sleep(2 * IDLE_MAX).await;
    let answer = read_to_end(stream).await;
    assert!(!answer.ends_with('\n'), "the connection was closed in the middle");

    let stream = ask();
    let node = Arc::downgrade(runtime.node());
    runtime.shutdown(Drain::now()).await.unwrap();
    drop(runtime);
    gone("the node is dropped although its answer is not read", node).await;
    drop(stream);
}

/// Regression: the client waited forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gives_up_on_a_process_that_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let control = Control::Running(dir.path().to_owned());
    let waited = Duration::from_millis(200);
    let request = control.ask_within(Request::Status, waited);
    let error =
        tokio::time::timeout(TIMEOUT, request).await.expect("the client gives up").unwrap_err();
    assert!(matches!(error, ControlError::NoAnswer { .. }), "{error}");
    assert!(error.to_string().contains("may still carry out"), "{error}");

    // Keep-alives count as activity, and white space before an answer is not part of it.
    listener.set_nonblocking(false).unwrap();
    let server = std::thread::spawn(move || {
        // The first connection has ended.
        let _ = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..5 {
            std::thread::sleep(waited);
            stream.write_all(b" ").unwrap();
        }
        let answer = Response::Partitions { partitions: Vec::new() };
        stream.write_all(&serde_json::to_vec(&answer).unwrap()).unwrap();
        stream.write_all(b"\n").unwrap();
    });
    let answered = control.ask_within(Request::Partitions, 4 * waited).await.unwrap();
    assert_eq!(answered, Response::Partitions { partitions: Vec::new() });
    server.join().unwrap();
}

/// Regression: depending on the umask, any user of the machine could connect.
#[tokio::test]
async fn only_the_owner_may_open_the_socket() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let runtime = start(dir.path()).await;
    let mode = std::fs::metadata(dir.path().join(SOCKET_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    runtime.shutdown(Drain::now()).await.unwrap();
}
