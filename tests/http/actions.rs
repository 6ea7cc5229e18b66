//! Looking at entries and changing them.

use serde_json::{Value, json};

use super::Served;

#[test]
fn entries_are_listed_in_pages_and_counted() {
    let served = Served::new();
    let client = &served.client;
    for _ in 0..5 {
        client.enqueue("/v1/services/double/entries?scope=a&delay=1h", b"1");
    }
    client.enqueue("/v1/services/double/entries?scope=b&delay=1h", b"1");
    let (mut found, mut target) = (Vec::new(), "/v1/entries?scope=a&limit=2".to_owned());
    loop {
        let page = client.get(&target).expect(200);
        found.extend(page["entries"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/v1/entries?scope=a&limit=2&cursor={next}");
    }
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|entry| entry["scope"] == "a" && entry["stage"] == "inbox"));
    let count = client.get("/v1/entries/count?scope=a").expect(200);
    assert_eq!(count, json!({"count": 5, "is_exact": true}));
    let with_bytes = client.get("/v1/entries?scope=b&bytes=10").expect(200);
    assert_eq!(with_bytes["entries"][0]["payload"]["json"], 1);

    let cursor = target.split("cursor=").nth(1).unwrap();
    let other = client.get(&format!("/v1/entries?scope=b&limit=2&cursor={cursor}"));
    assert!(other.problem(400, "bad_input").contains("another filter"));
    for wrong in ["limit=0", "limit=x", "stage=here", "cursor=x", "scope=", "color=red"] {
        client.get(&format!("/v1/entries?{wrong}")).problem(400, "bad_input");
    }
}

#[test]
fn actions_change_an_entry_or_say_why_not() {
    let served = Served::new();
    let client = &served.client;
    let id = client.enqueue("/v1/services/double/entries?scope=a&delay=1h", b"1");
    let act = |action: &str, body: Value| client.post(&format!("/v1/entries/{id}/{action}"), &body);
    act("pause", json!(null)).expect(200);
    assert!(act("pause", json!(null)).problem(409, "not_changed").contains("already paused"));
    act("resume", json!(null)).expect(200);
    act("redrive", json!(null)).problem(409, "not_changed");
    let explained = client.get(&format!("/v1/entries/{id}/explain")).expect(200);
    assert_eq!(explained["blocked_by"][0]["reason"], "run_at");
    assert!(explained["blocked_by"][0]["run_at"].as_str().unwrap().ends_with('Z'));
    act("reschedule", json!({})).problem(400, "bad_input");
    act("reschedule", json!({"delay": "0s"})).expect(200);
    let result = client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    assert_eq!(result["result"]["json"], 2);
    act("kill", json!(null)).problem(409, "not_changed");
    act("purge", json!(null)).expect(200);
    act("purge", json!(null)).problem(404, "not_found");
    client.get(&format!("/v1/entries/{id}")).problem(404, "not_found");
    client.post("/v1/entries/nonsense/cancel", &json!(null)).problem(404, "not_found");
}

#[test]
fn a_promise_is_resolved_and_the_tree_shows_the_entry_waiting_for_it() {
    let served = Served::new();
    let client = &served.client;
    let id = client.enqueue("/v1/services/approve/entries", b"");
    crate::place::until("it waits for its promise", || {
        let tree = client.get(&format!("/v1/entries/{id}/tree")).expect(200);
        tree["entries"][0]["waits_for"][0]["reason"] == "promise"
    });
    let resolve = |body: Value| client.post(&format!("/v1/entries/{id}/resolve"), &body);
    resolve(json!({"value": true})).problem(400, "bad_input");
    let resolved = resolve(json!({"name": "approved", "value": true})).expect(200);
    assert_eq!(resolved["is_rejected"], false);
    let result = client.get(&format!("/v1/entries/{id}/result?wait=30s")).expect(200);
    assert_eq!(result["result"]["json"], true);
    resolve(json!({"name": "approved", "value": true})).problem(409, "refused");
    let failed = client.enqueue("/v1/services/fail/entries", b"");
    client.get(&format!("/v1/entries/{failed}/result?wait=30s")).expect(200);
    let history = client.get(&format!("/v1/entries/{failed}/history")).expect(200);
    assert_eq!(
        (&history["outcome"], &history["failure"]),
        (&json!("failed"), &json!("it cannot be done"))
    );
}

#[test]
fn an_action_on_many_entries_is_tried_done_and_remembered() {
    let served = Served::new();
    let client = &served.client;
    for _ in 0..3 {
        client.enqueue("/v1/services/double/entries?scope=a&delay=1h", b"1");
    }
    let filter = json!({"scope": "a"});
    let bulk = |body: Value| client.post("/v1/bulk", &body);
    let tried = bulk(json!({"action": "cancel", "filter": filter, "dry_run": true})).expect(200);
    assert_eq!((&tried["state"], &tried["report"]["changed"]), (&json!("done"), &json!(3)));
    assert_eq!(client.get("/v1/entries/count?stage=inbox").expect(200)["count"], 3);
    let done = bulk(json!({"action": "cancel", "filter": filter})).expect(200);
    assert_eq!(done["report"]["changed"], 3);
    let state = client.get(&format!("/v1/bulk/{}", done["id"])).expect(200);
    assert_eq!(state, done);
    let aborted = client.send("DELETE", &format!("/v1/bulk/{}", done["id"]), &[], b"").expect(200);
    assert_eq!(aborted["state"], "done", "it had ended");
    client.get("/v1/bulk/99").problem(404, "not_found");
    client.get("/v1/bulk/x").problem(404, "not_found");

    assert!(bulk(json!({"action": "cancel"})).problem(400, "bad_input").contains("empty"));
    bulk(json!({"action": "cancel", "filter": filter, "all": true})).problem(400, "bad_input");
    bulk(json!({"action": "reschedule", "filter": filter})).problem(400, "bad_input");
    bulk(json!({"action": "explode", "all": true})).problem(400, "bad_input");
    let all = bulk(json!({"action": "purge", "all": true})).expect(200);
    assert_eq!(all["report"]["changed"], 3);
}

#[test]
fn a_queue_is_paused_as_a_whole() {
    let served = Served::new();
    let client = &served.client;
    client.enqueue("/v1/services/double/entries?scope=a&key=k&delay=1h", b"1");
    let queues = client.get("/v1/queues?scope=a").expect(200);
    let queue = &queues["queues"][0];
    assert_eq!((&queue["inbox"], &queue["key"]), (&json!(1), &json!("k")));
    let id = queue["id"].as_str().unwrap();
    client.post(&format!("/v1/queues/{id}/pause"), &json!(null)).expect(200);
    client.post(&format!("/v1/queues/{id}/pause"), &json!(null)).problem(409, "not_changed");
    assert_eq!(client.get("/v1/queues?scope=a").expect(200)["queues"][0]["is_paused"], true);
    client.post(&format!("/v1/queues/{id}/resume"), &json!(null)).expect(200);
    let partitions = client.get("/v1/partitions").expect(200);
    assert_eq!(partitions["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(partitions["partitions"][0]["role"], "leader");
}
