//! Values of options with their own grammar.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use forebay_messages::rule::Rate;
use jiff::SignedDuration;
use thiserror::Error;

/// Maximum growth factor of the delay between retries.
const BACKOFF_MAX: f64 = 100.0;

/// Why a value was refused. clap adds the option.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ValueError {
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
    /// Not a delimiter.
    #[error("`{0}` is not a delimiter: write one character, or `\\n`, `\\t`, `\\0` or `\\xHH`")]
    Delimiter(String),
    /// Not a growth factor.
    #[error("`{0}` is not a factor: write a number from 1 (the wait stays) to 100, like 2 or 1.5")]
    Backoff(String),
    /// Not a peer.
    #[error("`{0}` is no peer: write NAME=HOST:PORT, like `b=10.0.0.2:7000`")]
    Peer(String),
    /// Not a duration.
    #[error("`{0}` is not a duration: write one like `1m30s`")]
    Duration(String),
}

/// A concurrency limit: a number of at least one, or `none`.
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

/// The byte that ends an item of the input: a character, or `\n`, `\t`, `\0`, `\xHH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DelimiterArg(pub(crate) u8);

impl FromStr for DelimiterArg {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || ValueError::Delimiter(text.to_owned());
        if let [byte] = text.as_bytes() {
            return Ok(Self(*byte));
        }
        let escape = text.strip_prefix('\\').ok_or_else(refused)?;
        let hex = escape.strip_prefix('x').filter(|hex| hex.len() == 2);
        match (escape, hex) {
            ("n", _) => Ok(Self(b'\n')),
            ("t", _) => Ok(Self(b'\t')),
            ("r", _) => Ok(Self(b'\r')),
            ("0", _) => Ok(Self(0)),
            ("\\", _) => Ok(Self(b'\\')),
            (_, Some(hex)) => Ok(Self(u8::from_str_radix(hex, 16).map_err(|_| refused())?)),
            _ => Err(refused()),
        }
    }
}

/// The growth factor of the delay between retries: at least 1, like `2` or `1.5`. Stored in
/// percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackoffArg(pub(crate) u32);

impl FromStr for BackoffArg {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || ValueError::Backoff(text.to_owned());
        let factor: f64 = text.parse().map_err(|_| refused())?;
        if !(1.0..=BACKOFF_MAX).contains(&factor) {
            return Err(refused());
        }
        // At most 10,000: no digits are lost.
        Ok(Self((factor * 100.0).round() as u32))
    }
}

/// A rate, `N/s`, or `none`. Without `--burst` the bucket holds the tokens of one period.
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

/// A number of seconds (`0.5` too), or a duration.
///
/// # Errors
/// [`ValueError::Duration`].
pub(crate) fn seconds(text: &str) -> Result<Duration, ValueError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'));
    match text.parse().ok().filter(|_| is_number).map(Duration::try_from_secs_f64) {
        Some(Ok(seconds)) => Ok(seconds),
        _ => duration(text),
    }
}

/// A duration like `1m30s`, or ISO 8601.
///
/// # Errors
/// [`ValueError::Duration`], for a negative one too.
pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    let refused = || ValueError::Duration(text.to_owned());
    // jiff excludes days from absolute durations, because they may have 23 hours; here a day has
    // 24.
    let whole = |days: &str| days.parse::<u64>().ok()?.checked_mul(86_400);
    if let Some(seconds) = text.strip_suffix('d').and_then(whole) {
        return Ok(Duration::from_secs(seconds));
    }
    let duration: SignedDuration = text.parse().map_err(|_| refused())?;
    Duration::try_from(duration).map_err(|_| refused())
}
