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
