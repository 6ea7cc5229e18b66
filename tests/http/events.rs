//! Events and metrics.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use super::Served;
use crate::http_client::Client;

/// A reader of events.
struct Reader {
    lines: BufReader<TcpStream>,
}

impl Reader {
    fn of(client: &Client, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = client.connect();
        let head = client.head("GET", &format!("/v1/events{query}"), headers);
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains("200"), "{line}");
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        Self { lines }
    }

    /// The next event, and its data.
    fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(found) = line.strip_prefix("event: ") {
                name = found.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn events_are_followed_and_filtered() {
    let served = Served::new();
    let client = &served.client;
    let mut all = Reader::of(client, "?scope=a", &[]);
    let mut ends = Reader::of(client, "?kinds=ended,rules&service=double", &[]);
    client.enqueue("/v1/services/fail/entries?scope=b", b"");
    let id = client.enqueue("/v1/services/double/entries?scope=a", b"1");
    let (name, started) = all.next();
    assert_eq!(
        (name.as_str(), &started["id"], &started["attempt"]),
        ("started", &json!(id), &json!(1))
    );
    let (name, ended) = all.next();
    assert_eq!((name.as_str(), &ended["outcome"]), ("ended", &json!("success")));
    assert!(ended["at"].as_str().unwrap().ends_with('Z'));
    let (name, ended) = ends.next();
    assert_eq!((name.as_str(), &ended["id"]), ("ended", &json!(id)));
    client.get("/v1/events?kinds=nonsense").problem(400, "bad_input");
}

#[test]
fn a_returning_reader_gets_reset() {
    let served = Served::new();
    let mut reader = Reader::of(&served.client, "", &[("last-event-id", "7")]);
    assert_eq!(reader.next().0, "reset");
}

#[test]
fn metrics_count_what_happened() {
    let served = Served::new();
    let client = &served.client;
    let id = client.enqueue("/v1/services/double/entries?scope=a", b"1");
    client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    let failed = client.enqueue("/v1/services/fail/entries?scope=a", b"");
    client.get(&format!("/v1/entries/{failed}/result?wait=30s")).expect(200);
    client.enqueue("/v1/services/nothing/entries?scope=a", b"");
    let sum = |text: &str, name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    crate::place::until("the numbers are there", || {
        let answer = client.get("/metrics");
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).unwrap();
        sum(&text, "forebay_entries_enqueued_total{") == 3.0
            && sum(&text, "forebay_attempts_started_total{") == 2.0
            && sum(&text, "forebay_entries_unserved ") == 1.0
    });
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let ended = |outcome: &str| {
        let lines = text.lines().filter(|line| line.contains(&format!("outcome=\"{outcome}\"")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    assert_eq!((ended("success"), ended("failed"), ended("killed")), (1.0, 1.0, 0.0));
    assert!(text.contains("forebay_entries{service=\"nothing\",stage=\"inbox\"} 1"), "{text}");
    assert_eq!(sum(&text, "forebay_partition_leads{"), 2.0);
    assert!(sum(&text, "forebay_log_records_total ") >= 3.0, "{text}");
}
