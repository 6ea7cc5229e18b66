//! `--halt now|soon,fail=N|N%`.

use std::{fmt, num::NonZeroU64, str::FromStr};

use thiserror::Error;

/// Minimum number of failures for a percentage to count.
const FAILED_MIN: u64 = 3;

/// When a run ends because of failed items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HaltArg {
    /// Running commands are stopped, too.
    pub(crate) is_now: bool,
    fail: Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fail {
    Count(NonZeroU64),
    Percent(NonZeroU64),
}

/// Not a value of `--halt`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write `now,fail=N` or `soon,fail=N`, N a number of items or a percentage (1% to 100%)")]
pub(crate) struct HaltError;

impl HaltArg {
    /// Whether this many failures out of this many items are enough.
    #[must_use]
    pub(crate) fn is_due(self, failed: u64, items: u64) -> bool {
        match self.fail {
            Fail::Count(count) => failed >= count.get(),
            Fail::Percent(percent) => {
                failed >= FAILED_MIN
                    && u128::from(failed) * 100 >= u128::from(items) * u128::from(percent.get())
            }
        }
    }
}

impl FromStr for HaltArg {
    type Err = HaltError;

    fn from_str(text: &str) -> Result<Self, HaltError> {
        let (when, fail) = text.split_once(",fail=").ok_or(HaltError)?;
        let is_now = match when {
            "now" => true,
            "soon" => false,
            _ => return Err(HaltError),
        };
        let number = |text: &str| text.parse().map_err(|_| HaltError);
        let fail = match fail.strip_suffix('%') {
            Some(percent) => Fail::Percent(number(percent)?),
            None => Fail::Count(number(fail)?),
        };
        match fail {
            Fail::Percent(percent) if percent.get() > 100 => Err(HaltError),
            _ => Ok(Self { is_now, fail }),
        }
    }
}

/// As typed.
impl fmt::Display for HaltArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.is_now { "now" } else { "soon" };
        match self.fail {
            Fail::Count(count) => write!(f, "{when},fail={count}"),
            Fail::Percent(percent) => write!(f, "{when},fail={percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HaltArg;

    #[test]
    fn halts_are_numbers_or_percentages() {
        let halt = |text: &str| text.parse::<HaltArg>();
        for text in ["now,fail=1", "soon,fail=20%", "soon,fail=100%"] {
            assert_eq!(halt(text).unwrap().to_string(), text);
        }
        let wrong =
            ["", "now", "fail=1", "later,fail=1", "now,fail=0", "now,fail=101%", "now,fail=x"];
        for text in wrong {
            assert!(halt(text).is_err(), "{text}");
        }
        assert!(halt("now,fail=2").unwrap().is_due(2, 1000));
        assert!(!halt("now,fail=2").unwrap().is_due(1, 1));
        let tenth = halt("soon,fail=10%").unwrap();
        assert!(tenth.is_due(3, 30) && !tenth.is_due(3, 31) && !tenth.is_due(2, 2));
    }
}
