//! The stages of an entry.

use std::fmt;

use bilrost::Enumeration;
use serde::{Deserialize, Serialize};

/// Stage of an entry. The numbers are stored: a new stage needs a new format.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Enumeration,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Stage {
    /// Waits in its vqueue's inbox.
    #[default]
    Inbox = 0,
    /// An attempt runs (or is about to start).
    Running = 1,
    /// Waits for another event.
    Suspended = 2,
    /// Paused by a command.
    Paused = 3,
    /// It ended; only its result is kept.
    Finished = 4,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inbox => "inbox",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Paused => "paused",
            Self::Finished => "finished",
        })
    }
}
