//! The last line of a run, and its exit code.

use std::fmt;

use serde::Serialize;

use super::progress::Clock;
use crate::console::{EXIT_FAILURES, EXIT_SUCCESS};

/// The results of the items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Items of the input that were stored or found stored.
    pub(crate) accepted: u64,
    /// Of these, items that were added while it was running.
    pub(crate) added: u64,
    /// Items that the input named more than once (each counted once above).
    pub(crate) duplicates: u64,
    /// Succeeded in this run.
    pub(crate) succeeded: u64,
    /// Failed permanently in this run.
    pub(crate) failed: u64,
    /// Canceled by a user during this run.
    pub(crate) canceled: u64,
    /// Killed by a user during this run.
    pub(crate) killed: u64,
    /// Succeeded in an earlier run.
    pub(crate) succeeded_earlier: u64,
    /// Failed permanently in an earlier run, and not retried.
    pub(crate) failed_earlier: u64,
    /// Bad lines of the input.
    pub(crate) skipped: u64,
    /// Items inside the data directory, which are not run.
    pub(crate) inside: u64,
    /// Stored and unfinished, because the run was interrupted.
    pub(crate) left: u64,
    /// Processes of an earlier run that were still running and were killed.
    pub(crate) orphans_killed: u64,
    /// The name of the run, if `--again` gave it one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) again: Option<String>,
    /// How long it took, in milliseconds.
    pub(crate) elapsed_ms: u64,
    /// The signal that ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<i32>,
}

impl Summary {
    /// 0 when all items succeeded, in this run or earlier; otherwise 1. After a signal, as in a
    /// shell: 128 plus its number.
    #[must_use]
    pub(crate) fn exit_code(&self) -> u8 {
        if let Some(signal) = self.signal {
            return u8::try_from(128 + signal).unwrap_or(u8::MAX);
        }
        let amiss = self.failed
            + self.canceled
            + self.killed
            + self.failed_earlier
            + self.skipped
            + self.left;
        if amiss == 0 { EXIT_SUCCESS } else { EXIT_FAILURES }
    }

    /// One line of JSON, `"kind": "summary"` first.
    #[must_use]
    pub(crate) fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Tagged<'a> {
            kind: &'static str,
            #[serde(flatten)]
            summary: &'a Summary,
            exit_code: u8,
        }
        let exit_code = self.exit_code();
        serde_json::to_string(&Tagged { kind: "summary", summary: self, exit_code })
            .expect("numbers are JSON")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = std::time::Duration::from_millis(self.elapsed_ms);
        write!(f, "{} succeeded, {} failed", self.succeeded, self.failed)?;
        let left = match &self.again {
            // They are not in the input of this command line.
            _ if self.added > 0 => "left (forebay exec --resume continues)".to_owned(),
            Some(name) => format!("left (the same command line with --again={name} continues)"),
            None => "left (the same command line continues)".to_owned(),
        };
        let extras = [
            (self.added, "added while it ran"),
            (self.canceled, "canceled"),
            (self.killed, "killed"),
            (self.succeeded_earlier, "were done before"),
            (self.failed_earlier, "had failed before (--retry-failed runs them again)"),
            (self.duplicates, "named twice"),
            (self.skipped, "bad lines skipped"),
            (self.left, left.as_str()),
            (self.orphans_killed, "processes of a killed run ended first"),
        ];
        for (count, what) in extras {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if self.elapsed_ms < 10_000 {
            return write!(f, "; {:.1}s", elapsed.as_secs_f64());
        }
        write!(f, "; {}", Clock(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn exit_codes() {
        let good = Summary {
            accepted: 3,
            succeeded: 1,
            succeeded_earlier: 2,
            duplicates: 1,
            orphans_killed: 1,
            ..Summary::default()
        };
        assert_eq!(good.exit_code(), 0);
        for amiss in [
            Summary { failed: 1, ..good.clone() },
            Summary { canceled: 1, ..good.clone() },
            Summary { killed: 1, ..good.clone() },
            Summary { failed_earlier: 1, ..good.clone() },
            Summary { skipped: 1, ..good.clone() },
            Summary { left: 1, ..good },
        ] {
            assert_eq!(amiss.exit_code(), 1, "{amiss}");
        }
        assert_eq!(Summary { signal: Some(2), ..Summary::default() }.exit_code(), 130);
    }

    #[test]
    fn summaries_for_users_and_for_programs() {
        let summary = Summary {
            accepted: 5,
            succeeded: 3,
            failed: 1,
            skipped: 2,
            elapsed_ms: 1250,
            ..Summary::default()
        };
        assert_eq!(summary.to_string(), "3 succeeded, 1 failed, 2 bad lines skipped; 1.2s");
        let added = Summary { added: 2, left: 1, ..Summary::default() }.to_string();
        assert!(added.contains("2 added while it ran, 1 left (forebay exec --resume"), "{added}");
        let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
        assert_eq!(
            (&json["kind"], &json["failed"], &json["exit_code"]),
            (&"summary".into(), &1.into(), &1.into())
        );
    }
}
