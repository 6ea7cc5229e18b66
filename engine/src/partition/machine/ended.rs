//! Attempts whose handlers ended, on their way into the log.
//!
//! Must always hold: an accepted end is proposed once, or dropped with the leadership; a record has
//! a bounded number of ends and, except for a single larger one, of bytes.

use forebay_messages::AttemptToken;
use forebay_messages::command::{
    Command, Complete, CompleteOutcome, EndAttempts, EndRun, RetryAttempt,
};

use super::bounds::END_FIXED_LEN;

/// Maximum number of ends in one record.
pub const ENDS_PER_RECORD_MAX: usize = 512;
/// Number of bytes of results and reasons after which a record is full.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The entry ends too.
    Complete(Complete),
    /// Its entry returns to its inbox.
    Retry(RetryAttempt),
    /// Its run ends, or it cannot continue it. In a record of its own: such ends are rare.
    Run(EndRun),
}

impl End {
    /// The attempt.
    pub(super) fn token(&self) -> AttemptToken {
        match self {
            Self::Complete(complete) => complete.token,
            Self::Retry(retry) => retry.token,
            Self::Run(end) => end.token,
        }
    }

    /// Length of the handler's output.
    fn len(&self) -> usize {
        match self {
            Self::Retry(retry) => retry.message.len() + retry.detail.len(),
            Self::Run(_) => 0,
            Self::Complete(complete) => match &complete.outcome {
                Some(CompleteOutcome::Success(bytes)) => bytes.len(),
                Some(CompleteOutcome::Failure(failure)) => {
                    failure.message.len() + failure.detail.len()
                }
                None => 0,
            },
        }
    }
}

/// Groups ends into records, in their order; each has room for this many bytes.
pub(super) fn records(ends: Vec<End>, room: usize) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut run = Vec::with_capacity(ends.len().min(ENDS_PER_RECORD_MAX));
    let mut bytes = 0;
    for end in ends {
        if let End::Run(end) = end {
            commands.push(Command::EndRun(end));
            continue;
        }
        let len = end.len();
        let is_full = run.len() == ENDS_PER_RECORD_MAX
            || bytes + len > RECORD_BYTES_MAX
            || bytes + len + (run.len() + 1) * END_FIXED_LEN > room;
        if !run.is_empty() && is_full {
            commands.push(record(std::mem::take(&mut run)));
            bytes = 0;
        }
        bytes += len;
        run.push(end);
    }
    if !run.is_empty() {
        commands.push(record(run));
    }
    commands
}

fn record(mut ends: Vec<End>) -> Command {
    if ends.len() == 1 {
        return match ends.remove(0) {
            End::Complete(complete) => Command::Complete(complete),
            End::Retry(retry) => Command::Retry(retry),
            End::Run(end) => Command::EndRun(end),
        };
    }
    // Nearly all attempts end with their entries.
    let completed = Vec::with_capacity(ends.len());
    let mut command = EndAttempts { completed, retried: Vec::new() };
    for end in ends {
        match end {
            End::Complete(complete) => command.completed.push(complete),
            End::Retry(retry) => command.retried.push(retry),
            End::Run(_) => unreachable!("it has a record of its own"),
        }
    }
    Command::EndAttempts(command)
}

#[cfg(test)]
mod tests {
    use forebay_messages::{Outcome, Timestamp, command::RetryReason};

    use super::*;

    fn complete(len: usize) -> End {
        let outcome = Outcome::Success(vec![7; len].into());
        End::Complete(Complete {
            entry: Default::default(),
            token: Default::default(),
            outcome: Some(outcome.into()),
            heeds_cancel: false,
        })
    }

    fn retry() -> End {
        End::Retry(RetryAttempt {
            entry: Default::default(),
            token: Default::default(),
            reason: RetryReason::Failed,
            run_at: Timestamp::default(),
            message: "no".into(),
            detail: Default::default(),
            heeds_cancel: false,
            interrupted: 0,
            keeps_failure: false,
        })
    }

    /// The number of each kind in each record.
    fn counts(ends: Vec<End>) -> Vec<(usize, usize)> {
        records_in(ends, 64 << 20)
    }

    fn records_in(ends: Vec<End>, room: usize) -> Vec<(usize, usize)> {
        let count = |command: Command| match command {
            Command::Complete(_) => (1, 0),
            Command::Retry(_) => (0, 1),
            Command::EndAttempts(ends) => (ends.completed.len(), ends.retried.len()),
            other => panic!("{other:?}"),
        };
        records(ends, room).into_iter().map(count).collect()
    }

    #[test]
    fn records_of_ends_are_bounded() {
        assert_eq!(counts(Vec::new()), []);
        assert_eq!(counts(vec![complete(0)]), [(1, 0)]);
        assert_eq!(counts(vec![retry()]), [(0, 1)]);
        assert_eq!(counts(vec![complete(0), retry(), complete(3)]), [(2, 1)]);
        let many = (0..ENDS_PER_RECORD_MAX + 1).map(|_| complete(1)).collect();
        assert_eq!(counts(many), [(ENDS_PER_RECORD_MAX, 0), (1, 0)]);
        let large = vec![complete(RECORD_BYTES_MAX), complete(1), complete(2 * RECORD_BYTES_MAX)];
        assert_eq!(counts(large), [(1, 0), (1, 0), (1, 0)]);
        let halves = (0..4).map(|_| complete(RECORD_BYTES_MAX / 2)).collect();
        assert_eq!(counts(halves), [(2, 0), (2, 0)]);
        let many = || (0..10).map(|_| complete(100)).collect();
        let room = 4 * (100 + END_FIXED_LEN);
        assert_eq!(records_in(many(), room), [(4, 0), (4, 0), (2, 0)]);
        assert_eq!(records_in(many(), 1), [(1, 0); 10], "one end at least");
    }
}
