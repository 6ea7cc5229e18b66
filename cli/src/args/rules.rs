//! `forebay rules`.

use std::{num::NonZeroU32, str::FromStr};

use clap::{Args, Subcommand};
use forebay_messages::rule::{Edit, LimitsPatch, Pattern, PatternError, Rate};
use thiserror::Error;

use super::{AtArgs, ConcurrencyArg, RateArg, ValueError};

/// Why a rule as text was refused. clap adds the option.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum RuleError {
    /// No `=` in a rule.
    #[error(
        "a rule is written PATTERN=N, like `tenant-a/*=10`, or with more limits, like \
         `acme=5,rate=10/s,backlog=100`"
    )]
    RuleShape,
    /// An unknown limit of a rule.
    #[error(
        "`{0}` is no limit of a rule: there are concurrency=N (or N alone), rate=N/s, burst=N, \
         backlog=N and weight=N"
    )]
    RuleLimit(String),
    /// The same limit twice.
    #[error("`{0}` is given twice for the same rule")]
    RuleLimitTwice(String),
    /// A burst without a rate.
    #[error("`burst` needs a rate beside it, like `acme=rate=10/s,burst=30`")]
    BurstAlone,
    /// Other limits where only concurrency is allowed.
    #[error("only concurrency limits can be tested: write PATTERN=N, or PATTERN=none")]
    OnlyConcurrency,
    /// The pattern of a rule.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A limit of the rule.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Show and change the rules that limit how many entries run at the same time
///
/// On a running process if one has the data directory open (the change takes effect at once),
/// otherwise directly on the data directory. `rules set` and `rules pause` create a data directory
/// if there is none, so that rules can exist before the first run.
#[derive(Args, Clone, Debug)]
pub(crate) struct RulesArgs {
    #[command(flatten)]
    pub(crate) at: AtArgs,
    #[command(subcommand)]
    pub(crate) command: RulesCommand,
}

/// What to do with the rules.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RulesCommand {
    /// List the rules
    List,
    Set(RulesSetArgs),
    Test(RulesTestArgs),
    /// Start nothing under a pattern, or of a service, until it is resumed
    ///
    /// Applies to present and future entries, across restarts. Running entries continue. A pause
    /// applies to every key that the pattern matches, whatever their rules.
    Pause(PauseTarget),
    /// End a pause
    Resume(PauseTarget),
    /// Keep a rule without applying it
    Disable(RuleTarget),
    /// Apply a disabled rule again
    Enable(RuleTarget),
    /// Delete a rule
    Delete(RuleTarget),
    /// List the kept versions of the rule book
    History,
    /// Make an earlier version of the rule book the newest
    Rollback {
        /// The version to return to, see `forebay rules history`
        version: u64,
    },
}

/// A rule, and the version it must have.
#[derive(Args, Clone, Debug)]
pub(crate) struct RuleTarget {
    /// The rule's pattern: scope, scope/l1 or scope/l1/l2, each exact or `*`
    pub(crate) pattern: Pattern,
    /// Change it only if the rule has this version
    #[arg(long, value_name = "V")]
    pub(crate) if_version: Option<u64>,
}

/// A target of a pause, and the version its rule must have.
#[derive(Args, Clone, Debug)]
pub(crate) struct PauseTarget {
    /// A pattern (scope, scope/l1 or scope/l1/l2, each exact or `*`), or `service:NAME`
    pub(crate) pattern: Pattern,
    /// Change it only if its rule has this version
    #[arg(long, value_name = "V")]
    pub(crate) if_version: Option<u64>,
}

/// Create a rule, or change the given fields of one
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct RulesSetArgs {
    #[command(flatten)]
    pub(crate) target: RuleTarget,
    /// How many may run at the same time; `none` removes the limit
    #[arg(long, value_name = "N|none", group = "change")]
    pub(crate) concurrency: Option<ConcurrencyArg>,
    /// How many may start per time: `100/s`, `5/m`, `1000/h` or `3/10s`; `none` removes the limit
    #[arg(long, value_name = "N/s|none", group = "change")]
    pub(crate) rate: Option<RateArg>,
    /// How many may start at once when none has started for a while
    #[arg(long, value_name = "N", requires = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: Option<u32>,
    /// How many entries may wait; beyond it new ones are refused. `none` removes the limit
    #[arg(long, value_name = "N|none", group = "change")]
    pub(crate) backlog: Option<ConcurrencyArg>,
    /// Share of `--jobs` relative to other scopes (1 unless given); for patterns of one
    /// component
    #[arg(long, value_name = "N|none", group = "change")]
    pub(crate) weight: Option<ConcurrencyArg>,
    /// The purpose of the rule, as a note for readers
    #[arg(long, value_name = "TEXT", group = "change")]
    pub(crate) description: Option<String>,
}

impl RulesSetArgs {
    /// The changes of limits.
    pub(crate) fn limits(&self) -> LimitsPatch {
        fn edit<T>(given: Option<Option<T>>) -> Edit<T> {
            given.map_or(Edit::Keep, Edit::from)
        }
        let with_burst = |rate: Rate| Rate { burst: self.burst.unwrap_or(rate.burst), ..rate };
        LimitsPatch {
            concurrency: edit(self.concurrency.map(|arg| arg.0)),
            rate: edit(self.rate.map(|arg| arg.0.map(with_burst))),
            backlog: edit(self.backlog.map(|arg| arg.0)),
            weight: edit(self.weight.map(|arg| arg.0)),
            ..LimitsPatch::default()
        }
    }
}

/// Show what rules would do, without setting them
///
/// Which rule would govern a key, and how many of the waiting entries could start or would wait.
/// Only concurrency limits count: rates, `--jobs` and times are ignored.
#[derive(Args, Clone, Debug)]
pub(crate) struct RulesTestArgs {
    /// The rules as they would be set, like `tenant-a/*=10`; `none` removes a limit
    #[arg(required = true, value_name = "PATTERN=N")]
    pub(crate) rules: Vec<TestedRule>,
    /// Show which rules govern this key: scope, scope/l1 or scope/l1/l2
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<Pattern>,
    /// List at most this many keys, the most affected ones first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
}

/// One `--rule PATTERN=N`, with further limits after commas: `acme=5,rate=10/s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleArg {
    /// The pattern.
    pub(crate) pattern: Pattern,
    /// The changes; omitted limits stay as they are.
    pub(crate) limits: LimitsPatch,
}

impl FromStr for RuleArg {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (pattern, limits) = text.split_once('=').ok_or(RuleError::RuleShape)?;
        Ok(Self { pattern: pattern.parse()?, limits: rule_limits(limits)? })
    }
}

/// The limits of a rule, as written after its pattern.
fn rule_limits(text: &str) -> Result<LimitsPatch, RuleError> {
    let mut limits = LimitsPatch::default();
    let mut burst = None;
    for limit in text.split(',') {
        let (name, value) = limit.split_once('=').unwrap_or(("concurrency", limit));
        let number = || value.parse::<ConcurrencyArg>().map(|ConcurrencyArg(limit)| limit);
        let is_first = match name {
            "concurrency" => set(&mut limits.concurrency, number()?),
            "backlog" => set(&mut limits.backlog, number()?),
            "weight" => set(&mut limits.weight, number()?),
            "rate" => set(&mut limits.rate, value.parse::<RateArg>()?.0),
            "burst" => burst.replace(number()?).is_none(),
            _ => return Err(RuleError::RuleLimit(name.to_owned())),
        };
        if !is_first {
            return Err(RuleError::RuleLimitTwice(name.to_owned()));
        }
    }
    match (burst, &mut limits.rate) {
        (None, _) => Ok(limits),
        (Some(Some(burst)), Edit::Set(rate)) => {
            rate.burst = burst.get();
            Ok(limits)
        }
        (Some(_), _) => Err(RuleError::BurstAlone),
    }
}

/// Sets or removes a limit; whether it was unset before.
fn set<T>(edit: &mut Edit<T>, value: Option<T>) -> bool {
    matches!(std::mem::replace(edit, value.into()), Edit::Keep)
}

/// One rule of `rules test`, which only supports concurrency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestedRule {
    /// The pattern.
    pub(crate) pattern: Pattern,
    /// How many may run at the same time.
    pub(crate) concurrency: Option<NonZeroU32>,
}

impl FromStr for TestedRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let RuleArg { pattern, limits } = text.parse()?;
        let concurrency = match limits.concurrency {
            Edit::Set(limit) => Some(limit),
            Edit::Clear => None,
            Edit::Keep => return Err(RuleError::OnlyConcurrency),
        };
        let alone = LimitsPatch { concurrency: limits.concurrency, ..LimitsPatch::default() };
        if limits == alone {
            Ok(Self { pattern, concurrency })
        } else {
            Err(RuleError::OnlyConcurrency)
        }
    }
}
