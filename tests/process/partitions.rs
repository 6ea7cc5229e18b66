//! `forebay partitions`: lists leaders, and tells a replica to lead or to stop leading.

use serde_json::Value;

use super::{exec, ran};
use crate::place::{Place, until};

fn ask(place: &Place, words: &[&str]) -> Value {
    place.json(&[&["partitions", "--data-dir", "data"], words].concat())
}

#[test]
fn a_running_process_stops_leading_and_leads_again_on_request() {
    let place = Place::new();
    place.write("items", super::numbers(6));
    let script = "echo {} >> started; while ! test -e go; do sleep 0.02; done";
    let running = place.start(&exec(&[
        "--jobs",
        "1",
        "--retries",
        "0",
        "--input",
        "items",
        "--",
        "sh",
        "-c",
        script,
    ]));
    until("the first has started", || !ran(&place, "started").is_empty());
    let before = ask(&place, &[]);
    for partition in before.as_array().unwrap() {
        assert_eq!((&partition["role"], &partition["open"]), (&"leader".into(), &true.into()));
        let id = partition["id"].to_string();
        let after = ask(&place, &["step-down", &id, "--within", "0s"]);
        let after = after.as_array().unwrap().iter().find(|p| p["id"] == partition["id"]).unwrap();
        assert_eq!(after["role"], "follower", "{after}");
    }
    place.write("go", "");
    let count = ran(&place, "started").len();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(ran(&place, "started").len(), count, "no leader, so nothing starts");
    // Items that start from now on keep running until they were checked.
    std::fs::remove_file(place.path("go")).unwrap();
    for partition in before.as_array().unwrap() {
        let after = ask(&place, &["lead", &partition["id"].to_string()]);
        let after = after.as_array().unwrap().iter().find(|p| p["id"] == partition["id"]).unwrap();
        assert!(after["epoch"].as_u64() > partition["epoch"].as_u64(), "{after}");
    }
    let wrong = ["partitions", "lead", "4711", "--data-dir", "data"];
    place.run(&wrong).expect_refused(&["there is no partition 4711"]);
    let text = place.run(&["partitions", "--data-dir", "data"]).expect(0, &[]).text();
    assert!(text.contains("leader") && text.contains("DURABLE"), "{text}");
    place.write("go", "");
    running.end().expect(0, &["6 succeeded"]);
    let idle = ["partitions", "lead", "0", "--data-dir", "data"];
    place.run(&idle).expect_refused(&["no process has the data directory open"]);
}
