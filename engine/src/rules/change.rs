//! What can be asked of a book, and why it may be refused.
//!
//! Must always hold: a refusal says what to do about it. Must not know: how a batch is
//! applied (`batch`).

use std::num::NonZeroU32;

use bytestring::ByteString;
use forebay_messages::{
    RuleId,
    rule::{Limits, Pattern, Rate},
};
use thiserror::Error;

use super::BookVersion;

/// Most rules in one book, unless configured otherwise.
pub const MAX_RULES_PER_BOOK: usize = 10_000;
/// Longest description of a rule, in bytes.
pub const DESCRIPTION_LEN_MAX: usize = 1024;

/// What must hold for a change to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// There is no rule with the pattern.
    DoesNotExist,
    /// There is a rule with the pattern, and it has this version.
    Matches(BookVersion),
}

/// What happens to one field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edit<T> {
    /// It stays.
    #[default]
    Keep,
    /// It becomes unlimited (absent).
    Clear,
    /// It takes this value.
    Set(T),
}

impl<T> Edit<T> {
    fn apply(self, field: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *field = None,
            Self::Set(value) => *field = Some(value),
        }
    }
}

impl<T> From<Option<T>> for Edit<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Clear, Self::Set)
    }
}

/// A change of some limits of a rule. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsPatch {
    /// See [`Limits::concurrency`].
    pub concurrency: Edit<NonZeroU32>,
    /// See [`Limits::rate`].
    pub rate: Edit<Rate>,
    /// See [`Limits::weight`].
    pub weight: Edit<NonZeroU32>,
    /// See [`Limits::guaranteed`].
    pub guaranteed: Edit<NonZeroU32>,
    /// See [`Limits::backlog`].
    pub backlog: Edit<NonZeroU32>,
}

impl LimitsPatch {
    /// The limits with this patch applied.
    #[must_use]
    pub fn applied_to(self, mut limits: Limits) -> Limits {
        self.concurrency.apply(&mut limits.concurrency);
        self.rate.apply(&mut limits.rate);
        self.weight.apply(&mut limits.weight);
        self.guaranteed.apply(&mut limits.guaranteed);
        self.backlog.apply(&mut limits.backlog);
        limits
    }
}

/// Replaces every limit: what `limits` does not limit becomes unlimited.
impl From<Limits> for LimitsPatch {
    fn from(limits: Limits) -> Self {
        Self {
            concurrency: limits.concurrency.into(),
            rate: limits.rate.into(),
            weight: limits.weight.into(),
            guaranteed: limits.guaranteed.into(),
            backlog: limits.backlog.into(),
        }
    }
}

/// A change of some fields of a rule. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePatch {
    /// Its limits.
    pub limits: LimitsPatch,
    /// Its description, when given.
    pub description: Option<ByteString>,
    /// Whether it is disabled, when given.
    pub disabled: Option<bool>,
}

impl RulePatch {
    /// Replaces all limits and nothing else.
    #[must_use]
    pub fn limits(limits: Limits) -> Self {
        Self { limits: limits.into(), ..Self::default() }
    }

    /// Enables or disables the rule and changes nothing else.
    #[must_use]
    pub fn disabled(disabled: bool) -> Self {
        Self { disabled: Some(disabled), ..Self::default() }
    }
}

/// What is done to the rule with a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes a rule; refused when there is one. Fields that the patch keeps are those
    /// of an empty rule.
    Create(RulePatch),
    /// Changes a rule; refused when there is none.
    Patch(RulePatch),
    /// Deletes a rule; refused when there is none.
    Delete,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChange {
    /// Whose rule.
    pub pattern: Pattern,
    /// What is done to it.
    pub change: Change,
    /// What must hold, checked against the book as the batch's earlier changes left it.
    pub precondition: Precondition,
}

impl RuleChange {
    /// A change without a precondition.
    #[must_use]
    pub fn new(pattern: Pattern, change: Change) -> Self {
        Self { pattern, change, precondition: Precondition::None }
    }

    /// The same change under a precondition.
    #[must_use]
    pub fn only_if(mut self, precondition: Precondition) -> Self {
        self.precondition = precondition;
        self
    }
}

/// Whether all that these changes set has an effect. A book may say more than this
/// forebay does; people are told.
///
/// # Errors
/// [`ChangeError::WeightBelowScope`] and [`ChangeError::Guaranteed`].
pub fn check_supported(changes: &[RuleChange]) -> Result<(), ChangeError> {
    for RuleChange { pattern, change, .. } in changes {
        let (Change::Create(patch) | Change::Patch(patch)) = change else { continue };
        if matches!(patch.limits.weight, Edit::Set(_)) && pattern.depth() > 1 {
            return Err(ChangeError::WeightBelowScope { pattern: pattern.clone() });
        }
        if matches!(patch.limits.guaranteed, Edit::Set(_)) {
            return Err(ChangeError::Guaranteed { pattern: pattern.clone() });
        }
    }
    Ok(())
}

/// Why a batch was refused. Nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Create of a rule that is there.
    #[error("rule `{pattern}` exists already (version {version}): patch it, or delete it first")]
    AlreadyExists {
        /// Its pattern.
        pattern: Pattern,
        /// Its version.
        version: BookVersion,
    },
    /// Patch or delete of a rule that is not there.
    #[error("there is no rule `{pattern}`: create it first")]
    UnknownRule {
        /// Its pattern.
        pattern: Pattern,
    },
    /// Something changed since the author looked.
    #[error(
        "rule `{pattern}`: expected {}, found {}; look at it again and repeat the change",
        Expected(*expected), Found(*found)
    )]
    PreconditionFailed {
        /// The rule.
        pattern: Pattern,
        /// What was asked for.
        expected: Precondition,
        /// The version found; `None` when there is no such rule.
        found: Option<BookVersion>,
    },
    /// Two patterns have one id.
    #[error(
        "rule `{pattern}` has the same id ({}) as rule `{existing}`: write the pattern \
         differently, or delete the other rule",
        id.printed()
    )]
    IdCollision {
        /// The new pattern.
        pattern: Pattern,
        /// The pattern that is there.
        existing: Pattern,
        /// The id of both.
        id: RuleId,
    },
    /// The book is full.
    #[error("rule `{pattern}` would be rule {}: a book holds at most {rules_max}", rules_max + 1)]
    TooManyRules {
        /// The rule that was one too many.
        pattern: Pattern,
        /// The cap.
        rules_max: usize,
    },
    /// A weight that nothing is shared by.
    #[error(
        "rule `{pattern}`: weights share the capacity between scopes; give one to a pattern of \
         one component"
    )]
    WeightBelowScope {
        /// The rule.
        pattern: Pattern,
    },
    /// Guarantees are not there yet.
    #[error("rule `{pattern}`: a guaranteed share is not supported yet; use weights instead")]
    Guaranteed {
        /// The rule.
        pattern: Pattern,
    },
    /// The description is too long.
    #[error(
        "the description of rule `{pattern}` has {len} bytes; at most {DESCRIPTION_LEN_MAX} \
         are allowed"
    )]
    DescriptionTooLong {
        /// The rule.
        pattern: Pattern,
        /// How long it is, in bytes.
        len: usize,
    },
}

struct Expected(Precondition);

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Precondition::None => f.write_str("anything"),
            Precondition::DoesNotExist => f.write_str("no such rule"),
            Precondition::Matches(version) => write!(f, "version {version}"),
        }
    }
}

struct Found(Option<BookVersion>);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => f.write_str("no such rule"),
            Some(version) => write!(f, "version {version}"),
        }
    }
}
