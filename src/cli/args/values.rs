//! Values of options that have a grammar of their own.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use forebay_messages::rule::{Limits, Pattern, PatternError, Rate};
use jiff::SignedDuration;
use thiserror::Error;

/// Why a value was refused. clap says in which option.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ValueError {
    /// No `=` in a rule.
    #[error("a rule is written PATTERN=N, like `tenant-a/*=10`")]
    RuleShape,
    /// The pattern of a rule.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Not a number of at least one, nor `none`.
    #[error(
        "`{0}` is not a limit: write a number from 1 to 4294967295, or `none`; \
         to stop work, see `forebay rules pause`"
    )]
    Limit(String),
    /// Not a rate.
    #[error(
        "`{0}` is not a rate: write a number per time, like `100/s`, `5/m` or `3/10s`, or \
         `none`; to stop work, see `forebay rules pause`"
    )]
    Rate(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write one like `1m30s`")]
    Duration(String),
}

/// A limit of concurrency: a number of at least one, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConcurrencyArg(pub(crate) Option<NonZeroU32>);

impl FromStr for ConcurrencyArg {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "none" {
            return Ok(Self(None));
        }
        let limit = text.parse().map_err(|_| ValueError::Limit(text.to_owned()))?;
        Ok(Self(Some(limit)))
    }
}

/// One `--rule PATTERN=N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleArg {
    /// What it governs.
    pub(crate) pattern: Pattern,
    /// What it allows.
    pub(crate) limits: Limits,
}

impl FromStr for RuleArg {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (pattern, limit) = text.split_once('=').ok_or(ValueError::RuleShape)?;
        let pattern = pattern.parse()?;
        let ConcurrencyArg(concurrency) = limit.parse()?;
        Ok(Self { pattern, limits: Limits { concurrency, ..Limits::default() } })
    }
}

/// A rate, `N/s`, or `none`. Without `--burst` the bucket holds as much as comes in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateArg(pub(crate) Option<Rate>);

impl FromStr for RateArg {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || ValueError::Rate(text.to_owned());
        if text == "none" {
            return Ok(Self(None));
        }
        let (tokens, period) = text.split_once('/').ok_or_else(refused)?;
        let tokens: NonZeroU32 = tokens.parse().map_err(|_| refused())?;
        let counted = period.starts_with(|c: char| c.is_ascii_digit());
        let period = if counted { period.to_owned() } else { format!("1{period}") };
        let period = duration(&period).map_err(|_| refused())?;
        let period_ms = u64::try_from(period.as_millis()).map_err(|_| refused())?;
        if period_ms == 0 {
            return Err(refused());
        }
        Ok(Self(Some(Rate { tokens: tokens.get(), period_ms, burst: tokens.get() })))
    }
}

/// A number of seconds, or a duration.
///
/// # Errors
/// [`ValueError::Duration`].
pub(crate) fn seconds(text: &str) -> Result<Duration, ValueError> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}

/// A duration like `1m30s`, or ISO 8601.
///
/// # Errors
/// [`ValueError::Duration`], for a negative one too.
pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    let refused = || ValueError::Duration(text.to_owned());
    // jiff leaves days out of absolute durations, for they may have 23 hours; here
    // a day has 24.
    let whole = |days: &str| days.parse::<u64>().ok()?.checked_mul(86_400);
    if let Some(seconds) = text.strip_suffix('d').and_then(whole) {
        return Ok(Duration::from_secs(seconds));
    }
    let duration: SignedDuration = text.parse().map_err(|_| refused())?;
    Duration::try_from(duration).map_err(|_| refused())
}
