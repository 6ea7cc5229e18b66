//! Rules.

use serde_json::{Value, json};

use super::Served;
use crate::http_client::{Answer, Client};

fn put(client: &Client, pattern: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    let target = format!("/v1/rules?pattern={pattern}");
    client.send("PUT", &target, &headers, body.to_string().as_bytes())
}

#[test]
fn a_rule_is_set_replaced_and_deleted_with_versions() {
    let served = Served::new();
    let client = &served.client;
    let only_new = [("if-none-match", "*")];
    let body = json!({"concurrency": 5, "rate": {"count": 10, "per": "1m"}, "description": "d"});
    let made = put(client, "tenant-a/*", &only_new, &body);
    let rule = made.expect(200);
    assert_eq!((&rule["concurrency"], &rule["rate"]["per"]), (&json!(5), &json!("1m")));
    put(client, "tenant-a/*", &only_new, &body).problem(412, "precondition_failed");
    let tag = made.header("etag").unwrap().to_owned();
    let read = client.get("/v1/rules?pattern=tenant-a/*");
    assert_eq!(read.header("etag"), Some(tag.as_str()));

    let replaced = put(client, "tenant-a/*", &[("if-match", &tag)], &json!({"concurrency": 7}));
    let rule = replaced.expect(200);
    assert_eq!((&rule["concurrency"], rule.get("rate")), (&json!(7), None));
    let stale = put(client, "tenant-a/*", &[("if-match", &tag)], &json!({"concurrency": 8}));
    stale.problem(412, "precondition_failed");
    for wrong in [json!({"concurrency": 0}), json!({"concurency": 1}), json!({"concurrency": "x"})]
    {
        put(client, "tenant-a/*", &[], &wrong).problem(400, "bad_input");
    }
    put(client, "a/b/c/d", &[], &json!({})).problem(400, "bad_input");
    put(client, "tenant-b", &[("if-match", "x")], &json!({})).problem(400, "bad_input");

    let deleted = client.send("DELETE", "/v1/rules?pattern=tenant-a/*", &[], b"").expect(200);
    assert_eq!(deleted["rules"], json!([]));
    client.send("DELETE", "/v1/rules?pattern=tenant-a/*", &[], b"").problem(404, "not_found");
    client.get("/v1/rules?pattern=tenant-a/*").problem(404, "not_found");
}

#[test]
fn a_change_is_tried_and_rolled_back() {
    let served = Served::new();
    let client = &served.client;
    let first = put(client, "tenant-a", &[], &json!({"concurrency": 1})).expect(200);
    assert_eq!(first["version"], 1);
    let version = client.get("/v1/rules").expect(200)["version"].clone();
    put(client, "tenant-a", &[], &json!({"concurrency": 9, "paused": true})).expect(200);
    client.enqueue("/v1/services/double/entries?scope=tenant-a", b"1");
    let body = json!({"rules": [{"pattern": "tenant-a", "concurrency": 2}], "key": "tenant-a"});
    let impact = client.post("/v1/rules/test", &body).expect(200);
    assert_eq!(impact["waiting"], 1);
    assert_eq!(impact["governs"][0]["then"]["concurrency"], 2);
    client.post("/v1/rules/test", &json!({"rules": [{}]})).problem(400, "bad_input");

    let back = client.post("/v1/rules/rollback", &json!({"version": version})).expect(200);
    assert_eq!(back["rules"][0]["concurrency"], 1);
    client.post("/v1/rules/rollback", &json!({"version": 99})).problem(404, "not_found");
    let history = client.get("/v1/rules/history").expect(200);
    assert_eq!(history["books"].as_array().unwrap().last().unwrap()["author"], "http");
}

#[test]
fn limits_show_what_is_used_and_waited_for() {
    let served = Served::new();
    let client = &served.client;
    put(client, "tenant-a", &[], &json!({"concurrency": 1})).expect(200);
    for key in ["x", "y"] {
        client.enqueue(&format!("/v1/services/hang/entries?scope=tenant-a&key={key}"), b"");
    }
    crate::place::until("one runs and one waits", || {
        let limits = client.get("/v1/limits?scope=tenant-a").expect(200);
        let limit = &limits["limits"][0];
        (&limit["usage"], &limit["waiters"]) == (&json!(1), &json!(1))
    });
    let limits = client.get("/v1/limits?scope=tenant-a").expect(200);
    let limit = &limits["limits"][0];
    assert_eq!((&limit["limit"], &limit["pattern"]), (&json!(1), &json!("tenant-a")));
    assert_eq!(client.get("/v1/limits?scope=tenant-b").expect(200)["limits"], json!([]));
}
