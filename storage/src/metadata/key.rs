//! Names of metadata keys, including the well-known ones.

use std::{borrow::Cow, fmt};

use forebay_messages::PartitionId;
use thiserror::Error;

/// Longest key, in bytes.
pub const KEY_LEN_MAX: usize = 256;

/// A metadata key: 1 to 256 bytes of printable ASCII without spaces, by convention
/// words joined by `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetaKey(Cow<'static, str>);

/// Why a text is not a metadata key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a metadata key: 1 to 256 printable ASCII characters without spaces")]
pub struct KeyError {
    /// The text.
    pub text: String,
}

impl MetaKey {
    /// A custom key.
    ///
    /// # Errors
    /// [`KeyError`] when it is empty, too long or has other characters.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        let allowed = text.bytes().all(|byte| byte.is_ascii_graphic());
        match allowed && (1..=KEY_LEN_MAX).contains(&text.len()) {
            true => Ok(Self(Cow::Owned(text))),
            false => Err(KeyError { text }),
        }
    }

    /// Ranges of the key space and the partitions that own them.
    #[must_use]
    pub const fn partition_table() -> Self {
        Self(Cow::Borrowed("partition-table"))
    }

    /// The highest epoch allocated to leaders of a partition.
    #[must_use]
    pub fn leader_epoch(partition: PartitionId) -> Self {
        Self(Cow::Owned(format!("leader-epoch/{partition}")))
    }

    /// The last LSN covered by the newest snapshot of a partition.
    #[must_use]
    pub fn snapshot(partition: PartitionId) -> Self {
        Self(Cow::Owned(format!("snapshot/{partition}")))
    }

    /// When the data was restored from a snapshot, in milliseconds: the incarnation of its
    /// partitions.
    #[must_use]
    pub const fn restored() -> Self {
        Self(Cow::Borrowed("restored"))
    }

    /// The current rule book.
    #[must_use]
    pub const fn rule_book() -> Self {
        Self(Cow::Borrowed("rule-book"))
    }

    /// The earlier rule books.
    #[must_use]
    pub const fn rule_book_history() -> Self {
        Self(Cow::Borrowed("rule-book-history"))
    }

    /// What the keys of [`Self::rule_book_version`] begin with.
    pub const RULE_BOOK_VERSIONS: &str = "rule-book-history/";

    /// A version of the rule book, in the metadata of a cluster. In the order of their versions.
    #[must_use]
    pub fn rule_book_version(version: u64) -> Self {
        Self(Cow::Owned(format!("{}{version:020}", Self::RULE_BOOK_VERSIONS)))
    }

    /// Aliases: which handlers serve services of other names.
    #[must_use]
    pub const fn aliases() -> Self {
        Self(Cow::Borrowed("aliases"))
    }

    /// Tokens for the HTTP server.
    #[must_use]
    pub const fn tokens() -> Self {
        Self(Cow::Borrowed("tokens"))
    }

    /// The identity of this node.
    #[must_use]
    pub const fn node_id() -> Self {
        Self(Cow::Borrowed("node-id"))
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MetaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
