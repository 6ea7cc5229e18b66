//! Why a command does not change an entry (or a vqueue).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reasons with their texts, which are also their values in JSON.
macro_rules! skips {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why an entry was not changed.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum Skip {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl fmt::Display for Skip {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

skips! {
    /// There is no such entry (any more).
    Unknown = "unknown or purged",
    /// It has ended.
    Finished = "already finished",
    /// It has not ended.
    NotFinished = "not finished",
    /// It runs.
    Running = "running",
    /// It is suspended.
    Suspended = "suspended",
    /// It is already paused.
    AlreadyPaused = "already paused",
    /// It is not paused.
    NotPaused = "not paused",
    /// It runs and was already asked to stop.
    AlreadyCanceled = "already asked to stop",
    /// It succeeded, so there is nothing to retry.
    Succeeded = "succeeded",
    /// Its payload was not kept.
    NoPayload = "payload not kept",
    /// It does not match the selector (any more).
    NoMatch = "changed meanwhile",
    /// Its journal has no such operation.
    NoSuchOperation = "no such operation in its journal",
    /// The command names more entries than one command may, or has much to do for the ones named
    /// before.
    OverLimit = "too many in one command",
}
