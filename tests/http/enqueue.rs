//! Enqueueing and results.

use serde_json::json;

use super::Served;

const ENVELOPE: (&str, &str) = ("content-type", "application/vnd.forebay.entry+json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

#[test]
fn an_entry_runs_and_its_result_is_waited_for() {
    let served = Served::new();
    let client = &served.client;
    let answer = client.send("POST", "/v1/services/double/entries?scope=tenant-a", &[], b"21");
    let id = answer.expect(202)["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), Some(format!("/v1/entries/{id}").as_str()));
    let result = client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    assert_eq!((&result["outcome"], &result["result"]["json"]), (&json!("success"), &json!(42)));
    let again = client.get(&format!("/v1/entries/{id}/result")).expect(200);
    assert_eq!(again, result);
    let entry = client.get(&format!("/v1/entries/{id}")).expect(200);
    assert_eq!((&entry["stage"], &entry["scope"]), (&json!("finished"), &json!("tenant-a")));
    let created = entry["created_at"].as_str().unwrap();
    assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
}

#[test]
fn a_result_that_is_not_there_yet_is_accepted_and_a_failure_says_why() {
    let served = Served::new();
    let client = &served.client;
    let later = client.enqueue("/v1/services/double/entries?delay=1h", b"1");
    for query in ["", "?wait=50ms"] {
        let pending = client.get(&format!("/v1/entries/{later}/result{query}")).expect(202);
        assert_eq!(pending["outcome"], json!(null));
    }
    let failed = client.enqueue("/v1/services/fail/entries", b"");
    let result = client.get(&format!("/v1/entries/{failed}/result?wait=30s")).expect(200);
    assert_eq!(result["outcome"], "failed");
    assert_eq!(result["failure"], "it cannot be done");
    let gone = later.replace("ent_", "ent_0");
    client.get(&format!("/v1/entries/{gone}/result?wait=1s")).problem(404, "not_found");
}

#[test]
fn envelopes_carry_options_and_any_bytes() {
    let served = Served::new();
    let client = &served.client;
    let envelope = json!({
        "payload_base64": "/wA=", "scope": "a", "limit_key": "gold/u-1", "key": "k",
        "retry": {"attempts_max": 3, "backoff_first": "1s"}, "retention": "1h30m",
    });
    let body = envelope.to_string();
    let answer = client.send("POST", "/v1/services/echo/entries", &[ENVELOPE], body.as_bytes());
    let id = answer.expect(202)["id"].as_str().unwrap().to_owned();
    let result = client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    assert_eq!(result["result"], json!({"len": 2, "base64": "/wA="}));
    let entry = client.get(&format!("/v1/entries/{id}")).expect(200);
    assert_eq!(entry["limit_key"], "gold/u-1");
    assert_eq!(entry["retention"], "1h30m");
    assert_eq!(entry["retry"]["backoff_first"], "1s");

    let send =
        |body: &str| client.send("POST", "/v1/services/echo/entries", &[ENVELOPE], body.as_bytes());
    assert!(send(r#"{"scop":"a"}"#).problem(400, "bad_input").contains("unknown field `scop`"));
    assert!(send(r#"{"delay":"soon"}"#).problem(400, "bad_input").contains("delay: `soon`"));
    let both = r#"{"delay":"1s","run_at":"2030-01-01T00:00:00Z"}"#;
    assert!(send(both).problem(400, "bad_input").contains("not both"));
    let unknown = client.send("POST", "/v1/services/echo/entries?scop=a", &[], b"");
    assert!(unknown.problem(400, "bad_input").contains("unknown field `scop`"));
    let name = client.send("POST", "/v1/services/not%20a%20service/entries", &[], b"");
    name.problem(400, "bad_input");
}

#[test]
fn each_entry_of_a_batch_has_its_own_result() {
    let served = Served::new();
    let client = &served.client;
    let lines = "{\"payload\":1}\n\n{\"payload\":2,\"limit_key\":\"no-scope\"}\n{\"payload\":3}\n";
    let target = "/v1/services/double/entries";
    let items = client.send("POST", target, &[NDJSON], lines.as_bytes()).expect(200);
    let items = items.as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert_eq!((&items[0]["existing"], &items[1]["code"]), (&json!(false), &json!("bad_input")));
    let third = items[2]["id"].as_str().unwrap();
    let result = client.get(&format!("/v1/entries/{third}/result?wait=30s")).expect(200);
    assert_eq!(result["result"]["json"], 6);

    let array = json!([{"payload": 5}, {"payload": 6}]).to_string();
    let items = client.send("POST", target, &[ENVELOPE], array.as_bytes()).expect(200);
    assert_eq!(items.as_array().unwrap().len(), 2);
    let wrong = client.send("POST", target, &[NDJSON], b"{\"payload\":1}\n{\"x\":1}\n");
    assert!(wrong.problem(400, "bad_input").contains("line 2: "));
    let keyed = [NDJSON, ("idempotency-key", "a")];
    client.send("POST", target, &keyed, lines.as_bytes()).problem(400, "bad_input");
}

#[test]
fn an_idempotency_key_adds_nothing_twice() {
    let served = Served::new();
    let client = &served.client;
    let target = "/v1/services/double/entries?scope=a&delay=1h";
    let send = |payload: &[u8]| {
        client.send("POST", target, &[("idempotency-key", "\"order-7\"")], payload)
    };
    let first = send(b"1").expect(202);
    let second = send(b"1").expect(200);
    assert_eq!((&second["id"], &second["existing"]), (&first["id"], &json!(true)));
    assert_eq!(second["payload_differs"], false);
    assert_eq!(send(b"2").expect(200)["payload_differs"], true);
}

#[test]
fn a_full_backlog_is_429_with_the_rule_and_when_to_try_again() {
    let served = Served::new();
    let client = &served.client;
    let rule = client.send(
        "PUT",
        "/v1/rules?pattern=tenant-a",
        &[("content-type", "application/json")],
        br#"{"backlog":2}"#,
    );
    rule.expect(200);
    let target = "/v1/services/double/entries?scope=tenant-a&delay=1h";
    client.enqueue(target, b"1");
    client.enqueue(target, b"2");
    let refused = client.send("POST", target, &[], b"3");
    refused.problem(429, "backlog_full");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let body = refused.json();
    assert_eq!((&body["key"], &body["pattern"]), (&json!("tenant-a"), &json!("tenant-a")));
    let item = client.send(
        "POST",
        "/v1/services/double/entries",
        &[NDJSON],
        br#"{"payload":3,"scope":"tenant-a","delay":"1h"}"#,
    );
    let items = item.expect(200);
    assert_eq!(items[0]["code"], "backlog_full");
    assert_eq!(items[0]["retry_after"], "1s");
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let served = Served::new();
    let client = &served.client;
    let target = "/v1/services/echo/entries";
    let headers = [("content-length", "2147483648"), ("connection", "close")];
    let mut stream = client.connect();
    let head = client.head("POST", target, &headers);
    std::io::Write::write_all(&mut stream, format!("{head}\r\n").as_bytes()).unwrap();
    let answer = crate::http_client::read_answer(&mut stream).unwrap();
    answer.problem(413, "too_large");
    let large = vec![b'x'; (1 << 20) + 1];
    client.send("POST", target, &[], &large).problem(413, "too_large");
}
