//! Pull workers over HTTP.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Served;
use crate::{
    http_client::{Client, read_answer},
    place::until,
};

/// A service without a handler in the server's process.
const TARGET: &str = "/v1/services/remote/entries";

fn lease(client: &Client, worker: &str, request: &str, max: usize) -> Vec<Value> {
    let services = json!(["remote"]);
    let body = json!({
        "worker": worker, "request": request, "services": services, "max": max, "wait": "30s",
    });
    let answer = client.post("/v1/workers/lease", &body).expect(200);
    answer["leases"].as_array().unwrap().clone()
}

#[test]
fn an_entry_is_leased_kept_alive_and_completed_once() {
    let served = Served::new();
    let client = &served.client;
    let id = client.enqueue(&format!("{TARGET}?scope=a&limit_key=x/y&key=k"), b"{\"n\":1}");
    let leased = &lease(client, "w", "1", 5)[0];
    assert_eq!((&leased["entry"], &leased["attempt"]), (&json!(id), &json!(1)));
    assert_eq!((&leased["scope"], &leased["limit_key"]), (&json!("a"), &json!("x/y")));
    assert_eq!((&leased["key"], &leased["payload"]["json"]), (&json!("k"), &json!({"n": 1})));
    let again = &lease(client, "w", "1", 5)[0];
    assert_eq!(again["lease"], leased["lease"], "a lost answer costs no lease");
    let held = json!({"leases": [leased["lease"], "lse_x"]});
    let held = client.post("/v1/workers/heartbeat", &held).expect(200);
    assert_eq!(
        (&held["leases"][0]["state"], &held["leases"][1]["state"]),
        (&json!("held"), &json!("lost"))
    );
    let end = json!({"lease": leased["lease"], "result": {"m": 2}});
    let complete = |end: &Value| client.post("/v1/workers/complete", end);
    assert_eq!(complete(&end).expect(200)["existing"], false);
    assert_eq!(complete(&end).expect(200)["existing"], true, "a lost answer");
    complete(&json!({"lease": leased["lease"], "result": 3})).problem(409, "lease_ended");
    let result = client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    assert_eq!(result["result"]["json"], json!({"m": 2}));
}

#[test]
fn an_attempt_fails_snoozes_and_fails_permanently() {
    let served = Served::new();
    let client = &served.client;
    let id = client.enqueue(&format!("{TARGET}?scope=a"), b"1");
    let first = &lease(client, "w", "1", 1)[0];
    let end = |what: &str, body: Value| client.post(&format!("/v1/workers/{what}"), &body);
    end("fail", json!({"lease": first["lease"], "message": "no"})).expect(200);
    let second = &lease(client, "w", "2", 1)[0];
    assert_eq!((&second["attempt"], &second["last_failure"]), (&json!(2), &json!("no")));
    end("snooze", json!({"lease": second["lease"], "delay": "0s"})).expect(200);
    let third = &lease(client, "w", "3", 1)[0];
    assert_eq!(third["attempt"], 2, "a snooze does not count");
    let last = json!({"lease": third["lease"], "message": "never", "kind": "terminal"});
    end("fail", last).expect(200);
    let result = client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    assert_eq!((&result["outcome"], &result["failure"]), (&json!("failed"), &json!("never")));
}

#[test]
fn a_canceled_entry_stops_its_worker_and_its_key_waits_for_it() {
    let served = Served::new();
    let client = &served.client;
    let first = client.enqueue(&format!("{TARGET}?scope=a&key=k"), b"1");
    let second = client.enqueue(&format!("{TARGET}?scope=a&key=k"), b"2");
    let leased = &lease(client, "w", "1", 2)[0];
    assert_eq!(leased["entry"], json!(first));
    client.post(&format!("/v1/entries/{first}/kill"), &json!(null)).expect(200);
    let heartbeat = json!({"leases": [leased["lease"]]});
    until("its worker is asked to stop", || {
        let states = client.post("/v1/workers/heartbeat", &heartbeat).expect(200);
        states["leases"][0]["state"] == "stop"
    });
    let none = json!({"worker": "v", "request": "1", "services": ["remote"], "wait": "300ms"});
    let none = client.post("/v1/workers/lease", &none).expect(200);
    assert_eq!(none["leases"], json!([]), "the first worker may still be at the key");
    let stopped = json!({"lease": leased["lease"], "message": "stopped", "kind": "canceled"});
    client.post("/v1/workers/fail", &stopped).expect(200);
    assert_eq!(lease(client, "v", "2", 1)[0]["entry"], json!(second));
}

#[test]
fn a_worker_that_goes_while_it_waits_holds_nothing() {
    let served = Served::new();
    let client = &served.client;
    let body = json!({"worker": "gone", "request": "1", "services": ["remote"], "wait": "1m"});
    let body = body.to_string();
    let headers =
        [("content-type", "application/json"), ("content-length", &body.len().to_string())];
    // The server notices that a worker has gone a little later; on a busy machine, much later.
    let held_nothing = (1..6_u64).any(|round| {
        for _ in 0..10 {
            let mut stream = client.connect();
            let head = client.head("POST", "/v1/workers/lease", &headers);
            stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500 * round));
        let id = client.enqueue(TARGET, b"1");
        let begun = Instant::now();
        let leases = lease(client, "w", &round.to_string(), 1);
        // After the time of a lease it would be another attempt.
        leases.iter().any(|lease| lease["entry"] == json!(id))
            && begun.elapsed() < Duration::from_secs(20)
    });
    assert!(held_nothing);
}

#[test]
fn a_shutdown_answers_waiting_workers_at_once() {
    let served = Served::new();
    let client = &served.client;
    let mut stream = client.connect();
    let body = json!({"worker": "w", "request": "1", "services": ["remote"], "wait": "1m"});
    let body = body.to_string();
    let headers =
        [("content-type", "application/json"), ("content-length", &body.len().to_string())];
    let head = client.head("POST", "/v1/workers/lease", &headers);
    stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).unwrap();
    // Its poll waits.
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let drain = forebay::http::drain_workers(&served.runtime, Duration::from_secs(30));
    served.tokio.block_on(drain);
    read_answer(&mut stream).unwrap().problem(503, "stopped");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let late = json!({"worker": "w", "request": "2", "services": ["remote"]});
    client.post("/v1/workers/lease", &late).problem(503, "stopped");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let served = Served::new();
    let client = &served.client;
    let good = json!({"worker": "w", "request": "1", "services": ["remote"], "max": 1});
    client.post("/v1/workers/lease", &good).expect(200);
    for (field, value) in [
        ("worker", json!("")),
        ("worker", json!("w".repeat(129))),
        ("request", json!("")),
        ("services", json!([])),
        ("services", json!(["no spaces"])),
        ("services", json!(vec!["s"; 65])),
        ("max", json!(0)),
        ("max", json!(101)),
        ("wait", json!("soon")),
        ("color", json!("red")),
    ] {
        let mut wrong = good.clone();
        wrong[field] = value;
        client.post("/v1/workers/lease", &wrong).problem(400, "bad_input");
    }
    let unknown = json!({"lease": "x", "result": 1});
    client.post("/v1/workers/complete", &unknown).problem(400, "bad_input");
    let both = json!({"lease": "x", "result": 1, "result_base64": "MQ=="});
    client.post("/v1/workers/complete", &both).problem(400, "bad_input");
    let many = json!({"leases": vec!["x"; 1_001]});
    client.post("/v1/workers/heartbeat", &many).problem(400, "bad_input");
    client.with(Some("fbt_wrong")).post("/v1/workers/lease", &good).problem(401, "unauthorized");
}
