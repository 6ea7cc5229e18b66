//! The possible changes of a book, and the reasons to refuse one.
//!
//! Must always hold: an error says what to do about it. Must not know: how a batch is applied
//! (`batch`).

use bytestring::ByteString;
pub use forebay_messages::rule::{Edit, LimitsPatch};
use forebay_messages::{
    RuleId,
    rule::{Limits, Pattern, RATE_PERIOD_MS_MAX, Rate},
};
use thiserror::Error;

use super::BookVersion;

/// Maximum number of rules in one book, unless configured otherwise.
pub const MAX_RULES_PER_BOOK: usize = 10_000;
/// Longest description of a rule, in bytes.
pub const DESCRIPTION_LEN_MAX: usize = 1024;

/// A condition under which a change is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// No condition.
    #[default]
    None,
    /// The pattern has no rule.
    DoesNotExist,
    /// The pattern has a rule of this version.
    Matches(BookVersion),
}

/// A change of some fields of a rule. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePatch {
    /// Its limits.
    pub limits: LimitsPatch,
    /// Its description; `None` keeps it.
    pub description: Option<ByteString>,
    /// Whether it is disabled; `None` keeps it.
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

/// The effect of a change on the rule of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates a rule; refused if one exists. Fields that the patch keeps are those of an empty
    /// rule.
    Create(RulePatch),
    /// Changes a rule; refused if there is none.
    Patch(RulePatch),
    /// Deletes a rule; refused if there is none.
    Delete,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleChange {
    /// The pattern of the rule.
    pub pattern: Pattern,
    /// The effect on it.
    pub change: Change,
    /// The condition, checked against the book as left by the batch's earlier changes.
    pub precondition: Precondition,
}

impl RuleChange {
    /// A change without a precondition.
    #[must_use]
    pub fn new(pattern: Pattern, change: Change) -> Self {
        Self { pattern, change, precondition: Precondition::None }
    }

    /// The same change with a precondition.
    #[must_use]
    pub fn only_if(mut self, precondition: Precondition) -> Self {
        self.precondition = precondition;
        self
    }
}

/// Rejects changes that would have no effect: a book can express more than this forebay enforces.
///
/// # Errors
/// The first [`ChangeError`] about a limit: a zero, a period that is too long, a limit of a
/// service, [`ChangeError::WeightBelowScope`] or [`ChangeError::Guaranteed`].
pub fn check_supported(changes: &[RuleChange]) -> Result<(), ChangeError> {
    for RuleChange { pattern, change, .. } in changes {
        let (Change::Create(patch) | Change::Patch(patch)) = change else { continue };
        let limits = patch.limits;
        if limits.concurrency_is_zero {
            return Err(ChangeError::ZeroConcurrency { pattern: pattern.clone() });
        }
        if let Edit::Set(rate) = limits.rate {
            check_rate(pattern, rate)?;
        }
        if pattern.service().is_some() && !limits.only_pauses() {
            return Err(ChangeError::LimitsOfService { pattern: pattern.clone() });
        }
        if matches!(limits.weight, Edit::Set(_)) && pattern.depth() > 1 {
            return Err(ChangeError::WeightBelowScope { pattern: pattern.clone() });
        }
        if matches!(limits.guaranteed, Edit::Set(_)) {
            return Err(ChangeError::Guaranteed { pattern: pattern.clone() });
        }
    }
    Ok(())
}

fn check_rate(pattern: &Pattern, rate: Rate) -> Result<(), ChangeError> {
    let zero = match rate {
        Rate { tokens: 0, .. } => Some(RatePart::Tokens),
        Rate { period_ms: 0, .. } => Some(RatePart::Period),
        Rate { burst: 0, .. } => Some(RatePart::Burst),
        Rate { .. } => None,
    };
    let pattern = || pattern.clone();
    if let Some(part) = zero {
        return Err(ChangeError::ZeroRate { pattern: pattern(), part });
    }
    if rate.period_ms > RATE_PERIOD_MS_MAX {
        let period_ms = rate.period_ms;
        return Err(ChangeError::PeriodTooLong { pattern: pattern(), period_ms });
    }
    Ok(())
}

/// A part of a rate that must not be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatePart {
    /// The number of tokens per period.
    Tokens,
    /// The period.
    Period,
    /// The capacity of the bucket.
    Burst,
}

impl std::fmt::Display for RatePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokens => "a rate of 0 tokens",
            Self::Period => "a rate with a period of 0 ms",
            Self::Burst => "a rate with a burst of 0",
        })
    }
}

/// Why a batch was refused. None of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// A rule to create exists already.
    #[error("rule `{pattern}` already exists (version {version}): patch it, or delete it first")]
    AlreadyExists {
        /// Its pattern.
        pattern: Pattern,
        /// Its version.
        version: BookVersion,
    },
    /// A rule to patch or delete does not exist.
    #[error("there is no rule `{pattern}`: create it first")]
    UnknownRule {
        /// Its pattern.
        pattern: Pattern,
    },
    /// The book changed since the author read it.
    #[error(
        "rule `{pattern}`: expected {}, found {}; look at it again and repeat the change",
        Expected(*expected), Found(*found)
    )]
    PreconditionFailed {
        /// The rule.
        pattern: Pattern,
        /// What was expected.
        expected: Precondition,
        /// The version found; `None` if there is no such rule.
        found: Option<BookVersion>,
    },
    /// Two patterns have the same id.
    #[error(
        "rule `{pattern}` has the same id ({}) as rule `{existing}`: write the pattern \
         differently, or delete the other rule",
        id.printed()
    )]
    IdCollision {
        /// The new pattern.
        pattern: Pattern,
        /// The existing pattern.
        existing: Pattern,
        /// The id of both.
        id: RuleId,
    },
    /// The book is full.
    #[error("rule `{pattern}` would be rule {}: a book holds at most {rules_max}", rules_max + 1)]
    TooManyRules {
        /// The rule that exceeded the cap.
        pattern: Pattern,
        /// The cap.
        rules_max: usize,
    },
    /// A weight on a pattern that does not share the capacity.
    #[error(
        "rule `{pattern}`: weights share the capacity between scopes; give one to a pattern of \
         one component"
    )]
    WeightBelowScope {
        /// The rule.
        pattern: Pattern,
    },
    /// A concurrency limit of zero.
    #[error(
        "rule `{pattern}`: a concurrency limit is at least 1; to stop work, pause it \
         (`Rules::pause`, `forebay rules pause {pattern}`)"
    )]
    ZeroConcurrency {
        /// The rule.
        pattern: Pattern,
    },
    /// A rate with a zero part.
    #[error(
        "rule `{pattern}`: {part} starts nothing; use at least 1, or pause it to stop work \
         (`Rules::pause`, `forebay rules pause {pattern}`)"
    )]
    ZeroRate {
        /// The rule.
        pattern: Pattern,
        /// Which part is zero.
        part: RatePart,
    },
    /// A rate with a period that is too long.
    #[error(
        "rule `{pattern}`: the period of a rate has at most {RATE_PERIOD_MS_MAX} ms (366 days), \
         this one has {period_ms}; use fewer tokens in a shorter period, or a concurrency limit"
    )]
    PeriodTooLong {
        /// The rule.
        pattern: Pattern,
        /// The period, in milliseconds.
        period_ms: u64,
    },
    /// A limit for a service.
    #[error(
        "rule `{pattern}`: a service can only be paused; limits count scopes: give the work a \
         scope and limit that"
    )]
    LimitsOfService {
        /// The rule.
        pattern: Pattern,
    },
    /// Guaranteed shares are not implemented yet.
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
