//! Events of a runtime, for readers that follow them live.

use forebay_messages::{EntryId, PartitionId};
use serde::{Deserialize, Serialize};

use crate::{EntryOutcome, ReplicaRole};

/// Something that happened in a runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When (milliseconds since 1970).
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// An attempt of an entry started.
    Started {
        /// The entry.
        #[serde(flatten)]
        entry: EventEntry,
        /// Number of the attempt, from 1.
        attempt: u32,
    },
    /// An entry ended.
    Ended {
        /// The entry.
        #[serde(flatten)]
        entry: EventEntry,
        /// How.
        outcome: EntryOutcome,
    },
    /// A partition applied a changed rule book.
    Rules {
        /// The partition.
        partition: PartitionId,
        /// The version of the book.
        version: u64,
    },
    /// The role of a replica here changed.
    Leader {
        /// The partition.
        partition: PartitionId,
        /// The role.
        role: ReplicaRole,
        /// The epoch of a leader or a candidate.
        epoch: Option<u64>,
    },
}

impl EventKind {
    /// The entry that it is about.
    #[must_use]
    pub fn entry(&self) -> Option<&EventEntry> {
        match self {
            Self::Started { entry, .. } | Self::Ended { entry, .. } => Some(entry),
            Self::Rules { .. } | Self::Leader { .. } => None,
        }
    }

    /// Its name, as in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Ended { .. } => "ended",
            Self::Rules { .. } => "rules",
            Self::Leader { .. } => "leader",
        }
    }
}

/// The entry that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEntry {
    /// Its id.
    pub id: EntryId,
    /// The handler that runs it; absent if its rows are gone already.
    pub service: Option<String>,
    /// Its scope.
    pub scope: Option<String>,
    /// Its limit key.
    pub limit_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let entry =
            EventEntry { id: EntryId::default(), service: None, scope: None, limit_key: None };
        let kind = EventKind::Ended { entry, outcome: EntryOutcome::DeadLetter };
        let event = Event { at: 7, kind };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["at"], &json["event"]), (&7.into(), &"ended".into()));
        assert_eq!(json["outcome"], "dead letter");
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
