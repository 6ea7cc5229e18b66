//! One line of results.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use forebay_messages::{EntryId, FailureKind, Timestamp, VQueueName, outcome::Failure};
use serde::{Deserialize, Serialize};

use crate::exec::{
    item::Job,
    report::{End, Output, Report},
};

/// An ended item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    /// Its entry.
    pub(crate) id: EntryId,
    /// Its vqueue.
    pub(crate) vqueue: &'a VQueueName,
    /// Its job.
    pub(crate) job: &'a Job,
    /// Number of its attempts.
    pub(crate) attempts: u32,
    /// The report of the last attempt.
    pub(crate) report: &'a Report,
    /// Why the item failed, if it did.
    pub(crate) failure: Option<&'a Failure>,
}

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    id: String,
    line: u64,
    status: &'static str,
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    argv: Vec<String>,
    /// Only if `argv` cannot represent it: arguments that are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    argv_base64: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    attempts: u32,
    started_at: Option<String>,
    ended_at: Option<String>,
    ended_at_ms: i64,
    #[serde(flatten)]
    stdout: Stream<'a, Stdout>,
    #[serde(flatten)]
    stderr: Stream<'a, Stderr>,
}

/// An output as text, as base64, or as a file.
struct Stream<'a, Name> {
    output: &'a Output,
    dir: Option<&'a Path>,
    name: std::marker::PhantomData<Name>,
}

/// The names of the fields of an output.
trait Names {
    const TEXT: &'static str;
    const BASE64: &'static str;
    const FILE: &'static str;
    const BYTES: &'static str;
    const TRUNCATED: &'static str;
}

macro_rules! names {
    ($name:ident, $text:literal) => {
        struct $name;

        impl Names for $name {
            const TEXT: &'static str = $text;
            const BASE64: &'static str = concat!($text, "_base64");
            const FILE: &'static str = concat!($text, "_file");
            const BYTES: &'static str = concat!($text, "_bytes");
            const TRUNCATED: &'static str = concat!($text, "_truncated");
        }
    };
}

names!(Stdout, "stdout");
names!(Stderr, "stderr");

impl<N: Names> Serialize for Stream<'_, N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(N::BYTES, &self.output.len)?;
        if let Some(file) = self.file() {
            map.serialize_entry(N::FILE, &file)?;
            return map.end();
        }
        match std::str::from_utf8(&self.output.head) {
            Ok(text) => map.serialize_entry(N::TEXT, text)?,
            Err(_) => map.serialize_entry(N::BASE64, &BASE64.encode(&self.output.head))?,
        }
        if !self.output.is_whole() {
            map.serialize_entry(N::TRUNCATED, &true)?;
        }
        map.end()
    }
}

impl<'a, N> Stream<'a, N> {
    fn new(output: &'a Output, dir: Option<&'a Path>) -> Self {
        Self { output, dir, name: std::marker::PhantomData }
    }

    /// The file of the output inside the results directory, if it is (still) there.
    fn file(&self) -> Option<String> {
        let dir = self.dir?;
        let path = Path::new(OsStr::from_bytes(self.output.file.as_ref()?));
        let inside = path.strip_prefix(dir).ok()?;
        path.exists().then(|| inside.to_string_lossy().into_owned())
    }
}

/// The line of an item, without its newline. Long outputs are given by their file if it is in the
/// results directory, otherwise by their beginning.
#[must_use]
pub(crate) fn line(ended: &Ended<'_>, dir: Option<&Path>) -> String {
    let Ended { id, vqueue, job, attempts, report, failure } = *ended;
    let (exit_code, signal) = match report.end {
        Some(End::Exit(code)) => (Some(code), None),
        Some(End::Signal(signal)) => (None, Some(signal)),
        Some(End::NotStarted(_)) | None => (None, None),
    };
    let status = match failure.map(|failure| failure.kind) {
        None => "succeeded",
        Some(FailureKind::Canceled) => "canceled",
        Some(FailureKind::Killed) => "killed",
        Some(FailureKind::Terminal | FailureKind::Exhausted) => "failed",
    };
    let lossy = |arg: &Bytes| String::from_utf8_lossy(arg).into_owned();
    let all_utf8 = job.argv.iter().all(|arg| std::str::from_utf8(arg).is_ok());
    let encoded = || job.argv.iter().map(|arg| BASE64.encode(arg)).collect();
    let line = Line {
        kind: "item",
        id: id.to_string(),
        line: job.number,
        status,
        exit_code,
        signal,
        error: failure.map(|failure| failure.message.to_string()),
        argv: job.argv.iter().map(lossy).collect(),
        argv_base64: (!all_utf8).then(encoded),
        scope: vqueue.scope.as_deref(),
        limit_key: vqueue.l1.is_some().then(|| vqueue.limit_key()),
        key: vqueue.object_key.as_deref(),
        attempts,
        started_at: written_time(report.started_at),
        ended_at: written_time(report.ended_at),
        ended_at_ms: millis(report.ended_at),
        stdout: Stream::new(&report.stdout, dir),
        stderr: Stream::new(&report.stderr, dir),
    };
    serde_json::to_string(&line).expect("texts and numbers are JSON")
}

/// Milliseconds since 1970, as JSON can represent them.
pub(super) fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// ISO 8601, UTC; `None` for a time that never was.
fn written_time(time: Timestamp) -> Option<String> {
    if time == Timestamp::default() {
        return None;
    }
    jiff::Timestamp::from_millisecond(millis(time)).ok().map(|time| time.to_string())
}

/// The entry of a line, and when it ended.
pub(super) fn identify(line: &[u8]) -> Option<(EntryId, i64)> {
    #[derive(Deserialize)]
    struct Identity {
        id: String,
        ended_at_ms: i64,
    }
    let Identity { id, ended_at_ms } = serde_json::from_slice(line).ok()?;
    Some((id.parse().ok()?, ended_at_ms))
}
