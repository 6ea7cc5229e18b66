//! Tokens for the HTTP server.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a token allows; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TokenRole {
    /// Reading: entries, queues, limits, rules, events, metrics.
    Read,
    /// Enqueueing, and actions on entries and queues.
    Write,
    /// Changing the rules.
    Admin,
}

impl TokenRole {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TokenRole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Read, Self::Write, Self::Admin];
        let found = all.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("`{text}` is no role: write read, write or admin"))
    }
}

/// A token, for display: without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
    /// When it was made (milliseconds since 1970).
    pub created_at: u64,
}
