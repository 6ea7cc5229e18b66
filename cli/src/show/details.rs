//! `forebay entry`: everything known about one entry.

use std::fmt::Write as _;

use bilrost::OwnedMessage;
use bytes::Bytes;
use forebay::{BytesView, EntryDetails, Stage};
use serde_json::{Value, json};

use super::{
    entries::{entry_json, stage_word, work_of},
    format::{span, time},
    work::{Work, is_exec, item_of, safe},
};
use crate::exec::report::{End, Output, Report};

/// Maximum bytes of a payload, a result or an output printed as text.
const PRINTED_BYTES_MAX: usize = 4 << 10;

/// Text for the user.
pub(super) fn as_text(details: &EntryDetails) -> String {
    let EntryDetails { entry, .. } = details;
    let mut text = format!("{}: {}\n", entry.id, stage_word(entry));
    let key = [&entry.scope, &entry.limit_key].map(Option::as_deref);
    let key: Vec<String> = key.into_iter().flatten().map(safe).collect();
    put(&mut text, "vqueue", &format!("{} of service {}", entry.vqueue, entry.service));
    if !key.is_empty() {
        put(&mut text, "limits", &key.join("/"));
    }
    if let Some(key) = &entry.key {
        put(&mut text, "key", &safe(key));
    }
    if let Some(key) = &details.idempotency_key {
        put(&mut text, "idempotency", &safe(key));
    }
    let work = work_of(entry);
    put_work(&mut text, &work);
    put_times(&mut text, details);
    put_attempts(&mut text, details);
    match report_of(details) {
        Some(report) => put_report(&mut text, &report),
        None => {
            if let Some(result) = &entry.result {
                put_bytes(&mut text, "result", result);
            }
            if let Some(detail) = &details.detail {
                put_bytes(&mut text, "detail", detail);
            }
        }
    }
    text
}

/// As JSON: an item of `exec` has its command and its report in place of their bytes.
pub(super) fn json(details: &EntryDetails) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(details)?;
    let Value::Object(object) = &mut value else { return Ok(value) };
    object.insert("entry".to_owned(), entry_json(&details.entry));
    if let Some(report) = report_of(details) {
        object.insert("report".to_owned(), report_json(&report));
        object.remove("detail");
    }
    Ok(value)
}

fn put(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<12} {value}");
}

fn put_work(text: &mut String, work: &Work) {
    match work {
        Work::Command { job, is_whole } => {
            put(text, "command", &work.line());
            if let Some(item) = item_of(job) {
                put(text, "item", &safe(&item));
            }
            if *is_whole {
                put(text, "directory", &safe(&String::from_utf8_lossy(&job.directory)));
                put(text, "line", &format!("{} of the input", job.number));
            }
        }
        Work::Payload(payload) => put_bytes(text, "payload", payload),
        Work::Unknown => put(text, "payload", "no longer stored"),
    }
}

fn put_times(text: &mut String, details: &EntryDetails) {
    let entry = &details.entry;
    put(text, "enqueued", &time(entry.created_at));
    if let (Stage::Inbox | Stage::Paused, Some(run_at)) = (entry.stage, entry.run_at)
        && run_at > entry.created_at
    {
        put(text, "runs at", &time(run_at));
    }
    if let Some(started) = entry.started_at {
        let name = if entry.stage == Stage::Running { "runs since" } else { "started" };
        put(text, name, &time(started));
    }
    if let Some(finished) = entry.finished_at {
        let took = entry.started_at.map(|started| format!(", after {}", span(started, finished)));
        put(text, "ended", &format!("{}{}", time(finished), took.unwrap_or_default()));
    }
    if let Some(expires) = details.expires_at {
        put(text, "forgotten", &time(expires));
    }
}

fn put_attempts(text: &mut String, details: &EntryDetails) {
    let entry = &details.entry;
    let most = match details.retry.attempts_max {
        0 => "without limit".to_owned(),
        most => format!("of {most}"),
    };
    put(text, "attempts", &format!("{} {most}", entry.attempts));
    if details.cancel_requested {
        put(text, "canceled", "asked to stop, has not ended yet");
    }
    if details.interrupted > 0 {
        put(text, "interrupted", &format!("{} times its process died", details.interrupted));
    }
    for (at, failed) in details.failed_attempts.iter().enumerate() {
        let name = if at == 0 { "failed" } else { "" };
        let took = span(failed.started_at, failed.ended_at);
        let (number, ended, said) = (failed.number, time(failed.ended_at), safe(&failed.text));
        put(text, name, &format!("attempt {number} at {ended}, after {took}: {said}"));
    }
    if let (Stage::Finished, Some(failure)) = (entry.stage, &entry.failure) {
        put(text, "failure", &safe(failure));
    }
}

/// The report of `exec` on an item's last attempt.
fn report_of(details: &EntryDetails) -> Option<Report> {
    if !is_exec(&details.entry.service) {
        return None;
    }
    let bytes = details.entry.result.as_ref().or(details.detail.as_ref())?;
    let report = Report::decode(bytes.head.clone()).ok()?;
    report.end.is_some().then_some(report)
}

fn put_report(text: &mut String, report: &Report) {
    let end = match &report.end {
        Some(End::Exit(code)) => format!("with code {code}"),
        Some(End::Signal(signal)) => format!("by signal {signal}"),
        Some(End::NotStarted(why)) => format!("not started: {}", safe(why)),
        None => return,
    };
    put(text, "exited", &end);
    for (name, output) in [("stdout", &report.stdout), ("stderr", &report.stderr)] {
        put_bytes(text, name, &BytesView { len: output.len, head: output.head.clone() });
        if let Some(file) = &output.file {
            put(text, "", &format!("all of it: {}", safe(&String::from_utf8_lossy(file))));
        }
        if let Some(lost) = &output.lost {
            put(text, "", &format!("a part of it is lost: {}", safe(lost)));
        }
    }
}

fn report_json(report: &Report) -> Value {
    let (exit_code, signal, error) = match &report.end {
        Some(End::Exit(code)) => (Some(*code), None, None),
        Some(End::Signal(signal)) => (None, Some(*signal), None),
        Some(End::NotStarted(why)) => (None, None, Some(why.to_string())),
        None => (None, None, None),
    };
    let output = |output: &Output| {
        let view = BytesView { len: output.len, head: output.head.clone() };
        let file = output.file.as_ref().map(|file| String::from_utf8_lossy(file).into_owned());
        json!({ "bytes": view, "file": file, "lost": output.lost.as_deref() })
    };
    json!({
        "exit_code": exit_code,
        "signal": signal,
        "error": error,
        "canceled": report.canceled,
        "started_at": report.started_at.0,
        "ended_at": report.ended_at.0,
        "stdout": output(&report.stdout),
        "stderr": output(&report.stderr),
    })
}

/// Bytes with their length; text after it or, with several lines, below it.
fn put_bytes(text: &mut String, name: &str, view: &BytesView) {
    let what = match view.len {
        0 => return put(text, name, "empty"),
        1 => "1 byte".to_owned(),
        len => format!("{len} bytes"),
    };
    let shown: Bytes = view.head.slice(..view.head.len().min(PRINTED_BYTES_MAX));
    let said = match std::str::from_utf8(&shown) {
        Ok(said) => said,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&shown[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return put(text, name, &format!("{what} that are not text")),
    };
    let is_cut = (said.len() as u64) < view.len;
    let lines: Vec<String> = said.lines().map(safe).collect();
    match lines.as_slice() {
        [one] if !is_cut => put(text, name, &format!("{what}: {one}")),
        lines => {
            let cut =
                if is_cut { format!(", the first {} of them", said.len()) } else { String::new() };
            put(text, name, &format!("{what}{cut}:"));
            for line in lines {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
}
