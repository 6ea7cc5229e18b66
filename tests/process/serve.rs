//! `forebay serve` and `forebay token`: the real binary, and clients that mean it harm.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;

use super::documents::{MARK, lines_match, sessions};
use crate::{
    http_client::{Client, read_answer},
    place::{Place, Running, say, until},
};

const HTTP: &str = include_str!("../../docs/http.md");
const WORKERS: &str = include_str!("../../docs/workers.md");
/// A megabyte, in kilobytes.
const MIB: u64 = 1_024;

/// A running server.
struct Serving {
    place: Place,
    running: Running,
    client: Client,
}

impl Serving {
    fn new(more: &[&str]) -> Self {
        let place = Place::new();
        let arguments = ["serve", "--data-dir", "data", "--listen", "127.0.0.1:0"];
        let running = place.start(&[&arguments[..], more].concat());
        let url = |running: &Running| {
            let line = running.stderr();
            let url = line.split("listening on http://").nth(1)?.split_once('\n')?.0.to_owned();
            Some(url)
        };
        until("it listens", || url(&running).is_some());
        let url = url(&running).unwrap();
        let (address, rest) = url.split_once('/').unwrap();
        let token = rest.strip_prefix("#token=").map(str::to_owned);
        let client = Client { address: address.parse().unwrap(), token };
        Self { place, running, client }
    }

    /// Resident memory of the server, in kilobytes.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// It still answers, quickly.
    #[track_caller]
    fn answers(&self) {
        let begun = Instant::now();
        self.client.get("/v1/rules").expect(200);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[test]
fn the_printed_address_works_until_a_signal_ends_it() {
    let serving = Serving::new(&[]);
    let token = serving.client.token.clone().unwrap();
    assert!(token.starts_with("fbt_") && token.len() == 68, "{token}");
    let id = serving.client.enqueue("/v1/services/mail/entries?scope=a", b"1");
    serving.client.with(None).get("/v1/rules").problem(401, "unauthorized");
    // The command line sees the same.
    let entry = serving.place.json(&["entry", &id, "--data-dir", "data"]);
    assert_eq!(entry["entry"]["service"], "mail");
    let made =
        serving.place.run(&["token", "create", "ci", "--role", "read", "--data-dir", "data"]);
    let text = made.expect(0, &[]).text().trim().to_owned();
    let ci = serving.client.with(Some(&text));
    ci.get("/v1/rules").expect(200);
    ci.post("/v1/bulk", &json!({})).problem(403, "forbidden");
    let stored = fs::read_dir(serving.place.path("data")).unwrap();
    for file in stored.flatten().filter(|file| file.path().is_file()) {
        let bytes = fs::read(file.path()).unwrap();
        let secret = text.as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file:?}");
    }
    serving.place.run(&["token", "revoke", "ci", "--data-dir", "data"]).expect(0, &[]);
    ci.get("/v1/rules").problem(401, "unauthorized");
    let again = serving.place.run(&["token", "revoke", "ci", "--data-dir", "data"]);
    again.expect_refused(&["there is no token `ci`"]);
    let Serving { running, place, .. } = serving;
    running.signal("TERM");
    running.end().expect(0, &[]);
    let count = place.json(&["entries", "--count", "--data-dir", "data"]);
    assert_eq!(count["count"], 1);
}

#[test]
fn beyond_loopback_a_token_is_needed_and_an_address_in_use_is_refused() {
    let place = Place::new();
    let serve =
        |listen: &str| place.run(&["serve", "--no-auth", "--data-dir", "data", "--listen", listen]);
    serve("0.0.0.0:0").expect_refused(&["beyond loopback every request needs a token"]);
    let open = Serving::new(&["--no-auth"]);
    assert_eq!(open.client.token, None);
    open.answers();
    serve(&open.client.address.to_string()).expect_refused(&["cannot listen on", "--listen"]);
    let name = open.client.send("GET", "/v1/rules", &[("host", "evil.example")], b"");
    name.problem(403, "forbidden");
}

#[test]
fn what_is_too_large_is_refused_and_costs_no_memory() {
    let serving = Serving::new(&[]);
    let client = &serving.client;
    serving.answers();
    let before = serving.memory();
    let target = "/v1/services/mail/entries";
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = client.connect();
        let head = client.head("POST", target, &[("content-length", "2147483648")]);
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // It may be closed by now.
        let _ = stream.write_all(&vec![b'x'; 256 << 10]);
        open.push(stream);
    }
    for stream in &mut open {
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 413");
    }
    drop(open);
    // A body without a length, which does not end.
    let mut stream = client.connect();
    let head = client.head("POST", target, &[("transfer-encoding", "chunked")]);
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    while stream.write_all(chunk.as_bytes()).is_ok() {}
    // More headers, and longer ones, than are accepted.
    let long = "x".repeat(1 << 20);
    let many: String = (0..1_000).map(|number| format!("x-{number}: y\r\n")).collect();
    for flood in [format!("x-long: {long}\r\n"), many] {
        let mut stream = client.connect();
        let head = client.head("GET", "/v1/rules", &[]);
        let _ = stream.write_all(format!("{head}{flood}\r\n").as_bytes());
        if let Some(answer) = read_answer(&mut stream) {
            assert_eq!(answer.status, 431);
        }
    }
    let path = format!("/v1/{}", "a/".repeat(1 << 19));
    let mut stream = client.connect();
    let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
    if let Some(answer) = read_answer(&mut stream) {
        assert!([404, 414, 431].contains(&answer.status), "{answer:?}");
    }
    serving.answers();
    let grown = serving.memory().saturating_sub(before);
    say(&format!("refusals: memory grew by {grown} KiB"));
    assert!(grown < 64 * MIB, "memory grew by {grown} KiB");
}

#[test]
fn slow_clients_are_dropped_and_hold_up_nothing() {
    let serving = Serving::new(&["--connections", "300"]);
    let client = &serving.client;
    let mut slow = Vec::new();
    for number in 0..100 {
        let mut stream = client.connect();
        if number % 2 == 0 {
            // Headers that never end.
            stream.write_all(b"GET /v1/rules HTTP/1.1\r\nhost: loc").unwrap();
        } else {
            // A body that never ends.
            let headers = [("content-length", "1000")];
            let head = client.head("POST", "/v1/services/mail/entries", &headers);
            stream.write_all(format!("{head}\r\nx").as_bytes()).unwrap();
        }
        slow.push(stream);
    }
    serving.answers();
    let begun = Instant::now();
    for (number, stream) in slow.iter_mut().enumerate() {
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let answer = read_answer(stream);
        if number % 2 == 1 {
            answer.expect("an answer").problem(408, "timeout");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
    serving.answers();
}

#[test]
#[expect(clippy::too_many_lines, reason = "three checks of one server")]
fn waiting_clients_cost_little_and_stuck_readers_hold_up_nothing() {
    let serving = Serving::new(&[]);
    let client = &serving.client;
    let id = client.enqueue("/v1/services/mail/entries?delay=1h&scope=a", b"1");
    serving.answers();
    let before = serving.memory();
    let mut polls = Vec::new();
    for _ in 0..1_000 {
        let mut stream = client.connect();
        let head = client.head("GET", &format!("/v1/entries/{id}/result?wait=5m"), &[]);
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
        polls.push(stream);
    }
    serving.answers();
    std::thread::sleep(Duration::from_secs(1));
    let grown = serving.memory().saturating_sub(before);
    say(&format!("1,000 long polls: {grown} KiB"));
    assert!(grown < 50 * MIB, "1,000 long polls take {grown} KiB");

    let before = serving.memory();
    let mut readers = Vec::new();
    for _ in 0..1_000 {
        let mut stream = client.connect();
        let head = client.head("GET", "/v1/events", &[]);
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        readers.push(stream);
    }
    for stream in &mut readers {
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    // The first 100 never read again; the others do, on one thread.
    let mut reading = readers.split_off(100);
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&done);
    let drain = std::thread::spawn(move || {
        let (mut buffer, mut read) = (vec![0; 64 << 10], 0);
        for stream in &reading {
            stream.set_nonblocking(true).unwrap();
        }
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            for stream in &mut reading {
                read += stream.read(&mut buffer).unwrap_or(0);
            }
        }
        read
    });
    let lines: String =
        (0..500).map(|_| "{\"payload\":1,\"delay\":\"1h\",\"scope\":\"b\"}\n").collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    for _ in 0..10 {
        let target = "/v1/services/mail/entries";
        client.send("POST", target, &ndjson, lines.as_bytes()).expect(200);
        let kill = json!({"action": "kill", "filter": {"scope": "b", "stage": "inbox"}});
        assert_eq!(client.post("/v1/bulk", &kill).expect(200)["report"]["changed"], 500);
    }
    serving.answers();
    let grown = serving.memory().saturating_sub(before);
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let read = drain.join().unwrap();
    say(&format!("1,000 readers of events, 100 stuck: {grown} KiB; {read} bytes were read"));
    assert!(read > 0);
    assert!(grown < 400 * MIB, "1,000 readers take {grown} KiB");
    client.post(&format!("/v1/entries/{id}/kill"), &json!(null)).expect(200);
    for stream in &mut polls {
        assert_eq!(read_answer(stream).unwrap().expect(200)["outcome"], "killed");
    }
}

#[test]
fn the_sessions_in_http_md_are_correct() {
    sessions_are_correct(HTTP, 15);
}

#[test]
fn the_sessions_in_workers_md_are_correct() {
    sessions_are_correct(WORKERS, 7);
}

#[track_caller]
fn sessions_are_correct(document: &str, count_min: usize) {
    let serving = Serving::new(&[]);
    let sessions = sessions(document);
    assert!(sessions.len() > count_min, "the sessions are found");
    let mut script = String::new();
    let is_server = |command: &str| command.starts_with("forebay serve");
    for (command, _) in sessions.iter().filter(|(command, _)| !is_server(command)) {
        let _ = writeln!(script, "{command}\necho '{MARK}'");
    }
    serving.place.write("script", script);
    let binary = Path::new(env!("CARGO_BIN_EXE_forebay"));
    let path = std::env::var("PATH").unwrap();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", ". ./script 2>&1"]).current_dir(serving.place.path("")).stdin(Stdio::null());
    shell.env("PATH", format!("{}:{path}", binary.parent().unwrap().display()));
    shell.env("URL", format!("http://{}", serving.client.address));
    shell.env("TOKEN", serving.client.token.as_deref().unwrap());
    let output = shell.env_remove("FOREBAY_DATA_DIR").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<Vec<&str>> =
        text.split(&format!("{MARK}\n")).map(|one| one.lines().collect()).collect();
    let expected = sessions.iter().filter(|(command, _)| !is_server(command));
    for ((command, expected), printed) in expected.zip(printed) {
        assert!(
            lines_match(&printed, expected),
            "$ {command}\nsaid {printed:#?}\nnot  {expected:#?}"
        );
    }
}

#[test]
fn the_python_client_works_against_a_real_server() {
    let serving = Serving::new(&["--lease", "2s"]);
    let client = crate::root().join("clients/python");
    let mut python = std::process::Command::new("python3");
    python.args(["-m", "unittest", "-v", "test_forebay"]).current_dir(client);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python.env("FOREBAY_URL", format!("http://{}", serving.client.address));
    python.env("FOREBAY_TOKEN", serving.client.token.as_deref().unwrap());
    let output = match python.output() {
        Ok(output) => output,
        Err(error) => {
            return say(&format!("python3 is not installed, its client is not tested: {error}"));
        }
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("OK"), "{text}");
}
