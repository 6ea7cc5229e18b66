//! Results after crashes and repeated runs.

use std::{fs, io::Write, path::Path};

use bytes::Bytes;
use forebay_messages::{
    EntryId, FailureKind, PartitionKey, Timestamp, VQueueName, outcome::Failure,
};
use serde_json::{Value, json};

use super::{Ended, KeptOutputs, Results, line};
use crate::exec::{
    item::Job,
    report::{End, Output, Report},
};

fn id(n: u8) -> EntryId {
    EntryId { partition_key: PartitionKey(7), uuid: [n; 16] }
}

fn output(bytes: &[u8]) -> Output {
    Output { head: Bytes::copy_from_slice(bytes), len: bytes.len() as u64, ..Output::default() }
}

fn report(end: End, ended_at: u64) -> Report {
    let stdout = output(b"out\n");
    Report { end: Some(end), ended_at: Timestamp(ended_at), stdout, ..Report::default() }
}

/// Calls `act` with an item that ended in this way.
fn with<T>(n: u8, argv: &[&[u8]], report: &Report, act: impl FnOnce(&Ended<'_>) -> T) -> T {
    let argv = argv.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
    let job = Job { argv, directory: Bytes::new(), number: u64::from(n), ..Job::default() };
    let vqueue = VQueueName::service("exec")
        .with_scope("s")
        .with_limit_key("a/b")
        .unwrap()
        .with_object_key("k");
    let kind = if report.canceled { FailureKind::Canceled } else { FailureKind::Exhausted };
    let failure = Failure { kind, message: report.failure().into(), detail: Bytes::new() };
    let failure = (!report.succeeded()).then_some(&failure);
    act(&Ended { id: id(n), vqueue: &vqueue, job: &job, attempts: 2, report, failure })
}

fn written(argv: &[&[u8]], report: &Report) -> Value {
    serde_json::from_str(&with(1, argv, report, |ended| line(ended, None))).unwrap()
}

#[test]
fn a_line_says_everything() {
    let mut ended = report(End::Exit(0), 1_700_000_000_500);
    ended.started_at = Timestamp(1_700_000_000_000);
    assert_eq!(
        written(&[b"cp", b"a"], &ended),
        json!({
            "kind": "item", "id": id(1).to_string(), "line": 1, "status": "succeeded", "exit_code": 0,
            "argv": ["cp", "a"], "scope": "s", "limit_key": "a/b", "key": "k", "attempts": 2,
            "started_at": "2023-11-14T22:13:20Z", "ended_at": "2023-11-14T22:13:20.5Z",
            "ended_at_ms": 1_700_000_000_500_u64,
            "stdout": "out\n", "stdout_bytes": 4, "stderr": "", "stderr_bytes": 0,
        })
    );
}

#[test]
fn failures_and_what_is_not_utf8() {
    let mut ended = report(End::Signal(9), 5);
    ended.canceled = true;
    ended.stdout = output(b"\xff");
    ended.stderr = Output { len: 100_000, ..output(b"why") };
    let written = written(&[b"x", b"\xfe"], &ended);
    assert_eq!(
        (&written["status"], &written["exit_code"], &written["signal"]),
        (&json!("canceled"), &Value::Null, &json!(9))
    );
    assert_eq!(written["error"], "ended by signal 9 (asked to stop): why");
    assert_eq!(
        (&written["argv"][1], &written["argv_base64"][1]),
        (&json!("\u{fffd}"), &json!("/g=="))
    );
    assert_eq!((written.get("stdout"), &written["stdout_base64"]), (None, &json!("/w==")));
    assert_eq!(
        (&written["stderr"], &written["stderr_truncated"], &written["stderr_bytes"]),
        (&json!("why"), &json!(true), &json!(100_000))
    );
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("results.ndjson")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_line_that_was_cut_off_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let ended = report(End::Exit(0), 5);
    {
        let mut results = Results::open(dir.path()).unwrap();
        for n in [1, 2] {
            assert!(results.lacks(id(n), Timestamp(5)));
            with(n, &[b"x"], &ended, |ended| results.write(ended)).unwrap();
            assert!(!results.lacks(id(n), Timestamp(5)));
        }
        results.sync().unwrap();
    }
    let path = dir.path().join("results.ndjson");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    let mut results = Results::open(dir.path()).unwrap();
    assert!(!results.lacks(id(1), Timestamp(5)) && results.lacks(id(2), Timestamp(5)));
    with(2, &[b"x"], &ended, |ended| results.write(ended)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_later_end_of_the_same_item_gets_its_own_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut results = Results::open(dir.path()).unwrap();
    with(1, &[b"x"], &report(End::Exit(1), 5), |ended| results.write(ended)).unwrap();
    let mut results = Results::open(dir.path()).unwrap();
    assert!(results.lacks(id(1), Timestamp(6)));
    with(1, &[b"x"], &report(End::Exit(0), 6), |ended| results.write(ended)).unwrap();
    assert!(!Results::open(dir.path()).unwrap().lacks(id(1), Timestamp(6)));
    let statuses: Vec<_> = lines(dir.path()).iter().map(|line| line["status"].clone()).collect();
    assert_eq!(statuses, ["failed", "succeeded"]);
}

#[test]
fn damage_in_the_middle_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(dir.path().join("results.ndjson")).unwrap();
    file.write_all(b"\0\0\0\0\n{}\n").unwrap();
    let mut results = Results::open(dir.path()).unwrap();
    with(1, &[b"x"], &report(End::Exit(0), 5), |ended| results.write(ended)).unwrap();
    assert!(!Results::open(dir.path()).unwrap().lacks(id(1), Timestamp(5)));
}

#[test]
fn long_outputs_are_moved_before_the_line_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let spilled = dir.path().join("spilled");
    fs::write(&spilled, "all of it").unwrap();
    let mut results = Results::open(&dir.path().join("r")).unwrap();
    let mut ended = report(End::Exit(0), 5);
    let file = Some(Bytes::copy_from_slice(spilled.as_os_str().as_encoded_bytes()));
    ended.stdout = Output { len: 9, file, ..output(b"all") };
    let outputs = KeptOutputs::new(dir.path().join("r"));
    outputs.keep(id(2), &mut report(End::Exit(0), 5)).unwrap();
    outputs.keep(id(1), &mut ended).unwrap();
    assert!(!spilled.exists());
    with(1, &[b"x"], &ended, |ended| results.write(ended)).unwrap();
    let written = &lines(&dir.path().join("r"))[0];
    let file = written["stdout_file"].as_str().unwrap();
    assert_eq!(file, format!("output/{}.stdout", id(1)));
    assert_eq!(fs::read_to_string(dir.path().join("r").join(file)).unwrap(), "all of it");
    assert_eq!((written.get("stdout"), &written["stdout_bytes"]), (None, &json!(9)));

    // The next attempt has short output: nothing of this one may stay, whichever process runs it.
    let path = dir.path().join("r/output").join(format!("{}.stdout", id(1)));
    for outputs in [outputs, KeptOutputs::new(dir.path().join("r"))] {
        fs::write(&path, "all of it").unwrap();
        outputs.keep(id(1), &mut report(End::Exit(0), 6)).unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn an_unusable_path_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Results::open(&dir.path().join("file")).unwrap_err().to_string();
    assert!(error.contains("file/results.ndjson: ") && error.contains("permissions"), "{error}");
}
