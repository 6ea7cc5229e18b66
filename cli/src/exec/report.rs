//! The result of a command: sent by the spawner, and stored as the entry's result.
//!
//! Must always hold: an output knows its total length, even if not all of it is kept. Must not
//! know: how commands are run, where results go.

use std::time::Duration;

use bilrost::{Message, Oneof};
use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::Timestamp;

use super::item::Job;

/// Maximum bytes of each output that are kept in memory and with the entry's result. Longer outputs
/// are in a file as well.
pub(crate) const OUTPUT_KEPT_BYTES_MAX: usize = 64 * 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub(crate) enum End {
    /// It exited by itself with this code.
    #[bilrost(tag(1))]
    Exit(i32),
    /// A signal ended it.
    #[bilrost(tag(2))]
    Signal(i32),
    /// It could not be started.
    #[bilrost(tag(3))]
    NotStarted(ByteString),
}

/// One output of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(crate) struct Output {
    /// Its beginning, at most [`OUTPUT_KEPT_BYTES_MAX`] bytes.
    #[bilrost(1)]
    pub(crate) head: Bytes,
    /// How many bytes there were in all.
    #[bilrost(2)]
    pub(crate) len: u64,
    /// The file with all of it, if that is more than the head.
    #[bilrost(3)]
    pub(crate) file: Option<Bytes>,
    /// Why a part of it is lost (the disk was full).
    #[bilrost(4)]
    pub(crate) lost: Option<ByteString>,
}

/// The result of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(crate) struct Report {
    /// The job, if the entry's payload is not kept: in the result of a success. It comes first, so
    /// that the beginning of a report contains it.
    #[bilrost(0)]
    pub(crate) job: Option<Job>,
    /// How it ended; always there.
    #[bilrost(oneof(1, 2, 3))]
    pub(crate) end: Option<End>,
    /// It was asked to stop.
    #[bilrost(4)]
    pub(crate) canceled: bool,
    /// When it was started.
    #[bilrost(5)]
    pub(crate) started_at: Timestamp,
    /// When it ended.
    #[bilrost(6)]
    pub(crate) ended_at: Timestamp,
    /// Standard output.
    #[bilrost(7)]
    pub(crate) stdout: Output,
    /// Standard error.
    #[bilrost(8)]
    pub(crate) stderr: Output,
    /// It exceeded its time limit (`--timeout`): the limit, in milliseconds.
    #[bilrost(9)]
    pub(crate) timed_out_after_ms: Option<u64>,
}

impl Output {
    /// Whether the head is the whole output.
    #[must_use]
    pub(crate) fn is_whole(&self) -> bool {
        self.head.len() as u64 == self.len
    }
}

impl Report {
    /// Whether the command succeeded, in time.
    #[must_use]
    pub(crate) fn succeeded(&self) -> bool {
        self.end == Some(End::Exit(0)) && self.timed_out_after_ms.is_none()
    }

    /// Why a part of an output could not be kept.
    #[must_use]
    pub(crate) fn lost(&self) -> Option<&str> {
        self.stdout.lost.as_deref().or(self.stderr.lost.as_deref())
    }

    /// Why it failed, for display: `exit code 1: last line of its standard error`.
    #[must_use]
    pub(crate) fn failure(&self) -> String {
        let end = match &self.end {
            Some(End::Exit(code)) => format!("exit code {code}"),
            Some(End::Signal(signal)) => format!("ended by signal {signal}"),
            Some(End::NotStarted(reason)) => return reason.to_string(),
            None => "it is unknown how it ended".to_owned(),
        };
        let asked = if self.canceled { " (asked to stop)" } else { "" };
        let end = match self.timed_out_after_ms {
            Some(ms) => {
                let after = Duration::from_millis(ms);
                format!("timed out after {after:?}, {end}{asked}")
            }
            None => format!("{end}{asked}"),
        };
        match last_line(&self.stderr.head) {
            Some(line) => format!("{end}: {line}"),
            None => end,
        }
    }
}

/// The last non-empty line, shortened to [`FAILURE_CHARS_MAX`] and without control characters (it
/// is shown on a terminal).
fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(FAILURE_CHARS_MAX).collect())
}

/// Maximum length of standard error in a failure's message, in characters.
const FAILURE_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::{Bytes, End, FAILURE_CHARS_MAX, Message, Output, Report, Timestamp};
    use bilrost::OwnedMessage;

    fn report(end: End, stderr: &str) -> Report {
        let stderr = Output {
            head: Bytes::copy_from_slice(stderr.as_bytes()),
            len: stderr.len() as u64,
            ..Output::default()
        };
        Report { end: Some(end), stderr, started_at: Timestamp(1), ..Report::default() }
    }

    #[test]
    fn only_exit_code_0_is_success() {
        assert!(report(End::Exit(0), "warning").succeeded());
        assert!(!report(End::Exit(1), "").succeeded());
        assert!(!report(End::Signal(9), "").succeeded());
        assert!(!Report::default().succeeded());
    }

    #[test]
    fn exit_code_0_survives_encoding() {
        let report = report(End::Exit(0), "");
        assert_eq!(Report::decode(report.encode_to_bytes()).unwrap(), report);
    }

    #[test]
    fn a_failure_contains_the_last_line_of_standard_error() {
        assert_eq!(report(End::Exit(3), "a\nb \u{1b}[1mx\n\n").failure(), "exit code 3: b [1mx");
        assert_eq!(report(End::Signal(9), "").failure(), "ended by signal 9");
        assert_eq!(report(End::NotStarted("no".into()), "x").failure(), "no");
        let late = Report { timed_out_after_ms: Some(1500), ..report(End::Exit(0), "x") };
        assert_eq!(late.failure(), "timed out after 1.5s, exit code 0: x");
        assert!(!late.succeeded(), "it was asked to end before it had");
        let long = report(End::Exit(1), &"é".repeat(1000)).failure();
        assert_eq!(long.chars().count(), "exit code 1: ".len() + FAILURE_CHARS_MAX);
    }
}
