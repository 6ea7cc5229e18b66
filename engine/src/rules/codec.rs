//! The bytes of a book: a format byte, then bilrost.
//!
//! Must always hold: equal books have equal bytes, pinned by a golden test; bytes that are not a
//! book are refused with a typed error, never misread. Other crates carry these bytes without
//! looking inside.

use std::collections::BTreeMap;

use bilrost::{Message, OwnedMessage};
use bytestring::ByteString;
use forebay_messages::{
    RuleId, Timestamp,
    rule::{Limits, PatternError},
};
use thiserror::Error;

use super::{BookVersion, PersistedRule, RuleBook};

/// The newest format this code reads and writes: a book with pauses, which an older forebay would
/// otherwise read as a book without them.
pub const BOOK_FORMAT: u8 = 2;
/// The format of a book without pauses: the same bytes as before pauses existed.
const BOOK_FORMAT_PLAIN: u8 = 1;
/// The format of commands and rows that a partition must know before it applies a book with pauses.
const PAUSES_FORMAT_MIN: u32 = 2;

/// The lowest format of commands and rows that may apply this encoded book. If it is `Some`, a
/// `VersionBarrier` must come first: an older forebay would refuse the book and continue without
/// its pauses.
#[must_use]
pub fn barrier_before(book: &[u8]) -> Option<u32> {
    match book.first() {
        Some(&BOOK_FORMAT) => Some(PAUSES_FORMAT_MIN),
        _ => None,
    }
}

/// The format these rules need.
pub(super) fn format_of(has_pauses: bool) -> u8 {
    if has_pauses { BOOK_FORMAT } else { BOOK_FORMAT_PLAIN }
}

/// Why bytes are not a rule book. The current book stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeBookError {
    /// No bytes at all.
    #[error("the rule book has no bytes: its format byte is missing")]
    Empty,
    /// Written by a newer version of forebay.
    #[error(
        "the rule book has format {found}, this forebay reads formats up to {BOOK_FORMAT}: \
         use a newer forebay"
    )]
    NewerFormat {
        /// The format found.
        found: u8,
    },
    /// A format byte that no version writes.
    #[error("the rule book is damaged: it says format 0, which does not exist")]
    UnknownFormat,
    /// The bytes do not decode.
    #[error("the rule book is damaged: {0}")]
    Damaged(#[source] bilrost::DecodeError),
    /// A pattern in it does not parse.
    #[error("the rule book is damaged: rule {}: {source}", id.printed())]
    Pattern {
        /// Id of the rule.
        id: RuleId,
        /// What is wrong with its pattern.
        source: PatternError,
    },
    /// A rule is not stored under its own id.
    #[error("the rule book is damaged: rule `{pattern}` is stored under the id {}", id.printed())]
    Misfiled {
        /// The rule's pattern.
        pattern: String,
        /// The id it is stored under.
        id: RuleId,
    },
}

#[derive(Message)]
pub(super) struct WireBook {
    #[bilrost(1)]
    version: u64,
    #[bilrost(2)]
    rules: BTreeMap<RuleId, WireRule>,
}

#[derive(Message)]
struct WireRule {
    #[bilrost(1)]
    pattern: ByteString,
    #[bilrost(2)]
    version: u64,
    #[bilrost(3)]
    limits: Limits,
    #[bilrost(4)]
    description: ByteString,
    #[bilrost(5)]
    disabled: bool,
    #[bilrost(6)]
    last_modified: Timestamp,
    #[bilrost(7)]
    only_pauses: bool,
}

impl From<&RuleBook> for WireBook {
    fn from(book: &RuleBook) -> Self {
        let rules = book.rules.iter().map(|(id, rule)| {
            let wire = WireRule {
                pattern: ByteString::from(rule.pattern.to_string()),
                version: rule.version.0,
                limits: rule.limits,
                description: rule.description.clone(),
                disabled: rule.disabled,
                last_modified: rule.last_modified,
                only_pauses: rule.only_pauses,
            };
            (*id, wire)
        });
        Self { version: book.version.0, rules: rules.collect() }
    }
}

impl TryFrom<WireBook> for RuleBook {
    type Error = DecodeBookError;

    fn try_from(wire: WireBook) -> Result<Self, DecodeBookError> {
        let mut rules = BTreeMap::new();
        for (id, rule) in wire.rules {
            let pattern: forebay_messages::rule::Pattern =
                rule.pattern.parse().map_err(|source| DecodeBookError::Pattern { id, source })?;
            if pattern.rule_id() != id {
                return Err(DecodeBookError::Misfiled { pattern: pattern.to_string(), id });
            }
            let rule = PersistedRule {
                pattern,
                version: BookVersion(rule.version),
                limits: rule.limits,
                description: rule.description,
                disabled: rule.disabled,
                only_pauses: rule.only_pauses,
                last_modified: rule.last_modified,
            };
            rules.insert(id, rule);
        }
        Ok(Self { version: BookVersion(wire.version), rules })
    }
}

impl RuleBook {
    /// The book's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        framed(format_of(self.has_pauses()), &WireBook::from(self))
    }

    /// The inverse of [`Self::encode`]. Accepts any bytes; never panics on them.
    ///
    /// # Errors
    /// [`DecodeBookError`] saying what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeBookError> {
        let body = match bytes.split_first() {
            None => return Err(DecodeBookError::Empty),
            Some((0, _)) => return Err(DecodeBookError::UnknownFormat),
            Some((&(BOOK_FORMAT_PLAIN | BOOK_FORMAT), body)) => body,
            Some((&found, _)) => return Err(DecodeBookError::NewerFormat { found }),
        };
        WireBook::decode(body).map_err(DecodeBookError::Damaged)?.try_into()
    }
}

/// A format byte followed by a message.
pub(super) fn framed(format: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(format);
    message.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}
