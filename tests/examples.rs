//! Runs the examples as a user would.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// The program of an example, built next to this test.
fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let deps = this.parent().unwrap();
    let built = deps.parent().unwrap().join("examples").join(name);
    assert!(built.exists(), "{} is not built: use `make test`", built.display());
    built
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(data_dir: &std::path::Path) -> Self {
        let mut child = Command::new(example("axum"))
            .arg(data_dir)
            .arg("127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { child, address }
    }

    /// One HTTP request; returns status and body.
    fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it ended on its own, the test has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_axum_application_enqueues_waits_and_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (status, body) = server.request("PUT", "/tenants/acme/limit", "2");
    assert_eq!((status, body.as_str()), (204, ""));
    let text = r#"{"text": "to be or not to be"}"#;
    let (status, body) = server.request("POST", "/tenants/acme/words", text);
    assert_eq!(status, 202, "{body}");
    let accepted: serde_json::Value = serde_json::from_str(&body).unwrap();
    let path = format!("/entries/{}", accepted["entry"].as_str().unwrap());
    let (status, counts) = server.request("GET", &path, "");
    assert_eq!((status, counts.as_str()), (200, r#"{"be":2,"not":1,"or":1,"to":2}"#));
    let (status, body) = server.request("POST", "/tenants/not%20allowed/words", text);
    assert_eq!(status, 400, "{body}");
    drop(server);

    let again = Server::start(dir.path());
    let (status, kept) = again.request("GET", &path, "");
    assert_eq!((status, kept), (200, counts), "the result survived the kill");
}

/// The order of `examples/order.rs`, on a directory.
struct Order {
    child: Child,
    out: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Order {
    fn start(data_dir: &std::path::Path) -> Self {
        let mut command = Command::new(example("order"));
        let mut child = command.arg(data_dir).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, out }
    }

    /// Reads its output up to a line that contains this.
    fn until(&mut self, text: &str) -> String {
        let mut lines = self.out.by_ref().map(Result::unwrap);
        lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("it never says {text}"))
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn an_order_that_is_killed_again_and_again_continues() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let effects = || std::fs::read_to_string(data.join("effects")).unwrap_or_default();
    for text in ["charge", "ship", "mail"] {
        let mut order = Order::start(data);
        if !effects().contains(text) {
            order.until(text);
        }
        order.kill();
    }
    let mut order = Order::start(data);
    let waits = order.until("waits for its approval");
    let entry = waits.split(' ').next().unwrap().to_owned();
    order.kill();
    let before = effects();
    // Every repetition of a step had the same id, which another system recognizes.
    for what in ["charge", "ship", "mail"] {
        let ids: std::collections::BTreeSet<_> =
            before.lines().filter(|line| line.starts_with(what)).collect();
        assert_eq!(ids.len(), 1, "{before}");
    }
    let mut order = Order::start(data);
    order.until("waits for its approval");
    // Suspended by now, or soon.
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    let forebay = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .arg("--data-dir")
        .arg(data)
        .args(["resolve", &entry, "approved", "--value", "true"])
        .output()
        .unwrap();
    assert!(forebay.status.success(), "{forebay:?}");
    assert_eq!(order.until("receipt"), "receipt: charge-done, ship-done");
    assert!(order.child.wait().unwrap().success());
    // The mail was killed before its entry ended: it was sent again.
    let steps = |effects: String| -> Vec<String> {
        effects.lines().filter(|line| !line.starts_with("mail")).map(str::to_owned).collect()
    };
    assert_eq!(steps(effects()), steps(before), "nothing that was remembered was done again");
}
