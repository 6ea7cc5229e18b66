//! Words of the views: how entries end, and what a replica is doing.

use forebay_engine::leadership::Role;
use forebay_messages::{FailureKind, Outcome};
use serde::{Deserialize, Serialize};

/// How an entry ended, without what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryOutcome {
    /// Its handler succeeded.
    #[serde(rename = "success")]
    Success,
    /// Its handler said that trying again is useless.
    #[serde(rename = "failed")]
    Failed,
    /// All attempts are used up; it can be redriven.
    #[serde(rename = "dead letter")]
    DeadLetter,
    /// It was canceled.
    #[serde(rename = "canceled")]
    Canceled,
    /// It was killed.
    #[serde(rename = "killed")]
    Killed,
}

impl From<FailureKind> for EntryOutcome {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Terminal => Self::Failed,
            FailureKind::Exhausted => Self::DeadLetter,
            FailureKind::Canceled => Self::Canceled,
            FailureKind::Killed => Self::Killed,
        }
    }
}

impl From<&Outcome> for EntryOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => Self::Success,
            Outcome::Failure(failure) => failure.kind.into(),
        }
    }
}

impl std::fmt::Display for EntryOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::DeadLetter => "dead letter",
            Self::Canceled => "canceled",
            Self::Killed => "killed",
        })
    }
}

/// What a replica of a partition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaRole {
    /// It applies what the leader has decided.
    Follower,
    /// It is about to lead.
    Candidate,
    /// It leads.
    Leader,
    /// It stopped after an error.
    Stopped,
}

impl ReplicaRole {
    /// The role of a replica that has not stopped.
    pub(crate) fn of(role: Option<Role>) -> Self {
        match role {
            Some(Role::Leader { .. }) => Self::Leader,
            Some(Role::Candidate { .. }) => Self::Candidate,
            Some(Role::Follower) | None => Self::Follower,
        }
    }
}

impl std::fmt::Display for ReplicaRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use forebay_engine::partition::rows::Stage;

    use super::*;

    #[test]
    fn words_are_written_as_they_are_shown() {
        let kinds = [
            FailureKind::Terminal,
            FailureKind::Exhausted,
            FailureKind::Canceled,
            FailureKind::Killed,
        ];
        for kind in kinds {
            let outcome = EntryOutcome::from(kind);
            assert_eq!(outcome.to_string(), kind.to_string());
            assert_eq!(serde_json::to_value(outcome).unwrap(), kind.to_string());
        }
        assert_eq!(serde_json::to_value(EntryOutcome::Success).unwrap(), "success");
        let roles = [
            ReplicaRole::Follower,
            ReplicaRole::Candidate,
            ReplicaRole::Leader,
            ReplicaRole::Stopped,
        ];
        for role in roles {
            assert_eq!(serde_json::to_value(role).unwrap(), role.to_string());
        }
        let stages =
            [Stage::Inbox, Stage::Running, Stage::Suspended, Stage::Paused, Stage::Finished];
        for stage in stages {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.to_string());
        }
    }
}
