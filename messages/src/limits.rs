//! The limits of a rule, and a change of them.
//!
//! Owns: the list of the kinds of limits, from which both types are made. Must not know: how a
//! limit is counted.

use std::{num::NonZeroU32, time::Duration};

use bilrost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A token bucket: work is delayed until a token is available, never dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Message, Serialize, Deserialize)]
pub struct Rate {
    /// Number of tokens per period.
    #[bilrost(1)]
    pub tokens: u32,
    /// The period, in milliseconds.
    #[bilrost(2)]
    pub period_ms: u64,
    /// Capacity of the bucket, in tokens.
    #[bilrost(3)]
    pub burst: u32,
}

impl Rate {
    /// This many tokens per period, and a bucket of the same size. Periods are whole milliseconds,
    /// rounded up.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use forebay_messages::rule::Rate;
    ///
    /// let rate = Rate::per(100, Duration::from_secs(10)).with_burst(5);
    /// assert_eq!((rate.tokens, rate.period_ms, rate.burst), (100, 10_000, 5));
    /// assert_eq!(Rate::per_minute(60).period_ms, 60_000);
    /// ```
    #[must_use]
    pub fn per(tokens: u32, period: Duration) -> Self {
        let millis = period.as_nanos().div_ceil(1_000_000);
        let period_ms = u64::try_from(millis).unwrap_or(u64::MAX);
        Self { tokens, period_ms, burst: tokens }
    }

    /// This many tokens per second.
    #[must_use]
    pub fn per_second(tokens: u32) -> Self {
        Self::per(tokens, Duration::from_secs(1))
    }

    /// This many tokens per minute.
    #[must_use]
    pub fn per_minute(tokens: u32) -> Self {
        Self::per(tokens, Duration::from_secs(60))
    }

    /// This many tokens per hour.
    #[must_use]
    pub fn per_hour(tokens: u32) -> Self {
        Self::per(tokens, Duration::from_secs(3_600))
    }

    /// Sets the size of the bucket: how many entries may start at once after a pause.
    #[must_use]
    pub fn with_burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }
}

/// The change of one limit. In JSON: absent, `null`, or the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edit<T> {
    /// It keeps its value.
    #[default]
    Keep,
    /// It becomes unlimited (absent).
    Clear,
    /// It is set to this value.
    Set(T),
}

impl<T> Edit<T> {
    fn apply(self, limit: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *limit = None,
            Self::Set(value) => *limit = Some(value),
        }
    }

    fn keep_or_set(value: Option<T>) -> Self {
        value.map_or(Self::Keep, Self::Set)
    }

    fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

impl<T> From<Option<T>> for Edit<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Clear, Self::Set)
    }
}

impl<T: Serialize> Serialize for Edit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep | Self::Clear => serializer.serialize_none(),
            Self::Set(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Edit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::from)
    }
}

/// Makes [`Limits`] and [`LimitsPatch`] from the kinds of limits. The number is the tag in the
/// stored rule book.
macro_rules! limits {
    ($($(#[$attribute:meta])* $kind:ident($tag:tt): $value:ty,)*) => {
        /// The limits of a rule. `None` means unlimited.
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Message, Serialize, Deserialize,
        )]
        #[serde(default)]
        pub struct Limits {
            $($(#[$attribute])* #[bilrost($tag)] pub $kind: Option<$value>,)*
            /// Nothing starts under the pattern until it is resumed; running entries continue.
            /// Applies to every key that the pattern matches, even if a more specific rule
            /// governs it.
            #[bilrost(6)]
            pub paused: bool,
            /// Set by [`Limits::concurrency`] for a limit of 0, so that setting the rule is refused
            /// instead of applying another limit. Never stored.
            #[doc(hidden)]
            #[serde(skip)]
            #[bilrost(ignore)]
            pub concurrency_is_zero: bool,
        }

        /// A change of some limits of a rule. The default changes nothing.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct LimitsPatch {
            $(
                #[doc = concat!("The change of `", stringify!($kind), "`.")]
                #[serde(skip_serializing_if = "Edit::is_keep")]
                pub $kind: Edit<$value>,
            )*
            /// Whether it pauses or resumes; `None` does neither.
            #[serde(skip)]
            pub paused: Option<bool>,
            /// A concurrency of 0 was given (see [`Limits::concurrency`]): the change is refused.
            #[doc(hidden)]
            #[serde(skip)]
            pub concurrency_is_zero: bool,
        }

        impl LimitsPatch {
            /// Sets the limits given in `limits` and keeps the others and the pause.
            #[must_use]
            pub fn keeping_others(limits: Limits) -> Self {
                Self {
                    $($kind: Edit::keep_or_set(limits.$kind),)*
                    paused: limits.paused.then_some(true),
                    concurrency_is_zero: limits.concurrency_is_zero,
                }
            }

            /// Whether it sets no limit. It may remove some.
            #[must_use]
            pub fn only_pauses(self) -> bool {
                $(!matches!(self.$kind, Edit::Set(_)))&&*
            }

            /// The limits with this patch applied.
            #[must_use]
            pub fn applied_to(self, mut limits: Limits) -> Limits {
                $(self.$kind.apply(&mut limits.$kind);)*
                limits.paused = self.paused.unwrap_or(limits.paused);
                limits
            }
        }

        /// Replaces every limit: the ones missing from `limits` become unlimited, and a pause
        /// missing from it is lifted.
        impl From<Limits> for LimitsPatch {
            fn from(limits: Limits) -> Self {
                Self {
                    $($kind: limits.$kind.into(),)*
                    paused: Some(limits.paused),
                    concurrency_is_zero: limits.concurrency_is_zero,
                }
            }
        }
    };
}

limits! {
    /// Maximum number of entries that hold a permit at the same time.
    concurrency(1): NonZeroU32,
    /// Maximum rate of starts.
    rate(2): Rate,
    /// Maximum number of entries waiting in inboxes, for each key that the pattern governs.
    backlog(5): NonZeroU32,
    /// Share of the node's capacity relative to other scopes (1 when absent). Only a
    /// pattern of one component may have one.
    weight(3): NonZeroU32,
    /// Reserved for a guaranteed number of permits; not accepted in rules yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    guaranteed(4): NonZeroU32,
}

impl Limits {
    /// A concurrency limit, at least 1. Setting a rule with 0 is refused: to stop work, pause it
    /// with [`Limits::paused`].
    #[must_use]
    pub fn concurrency(limit: u32) -> Self {
        let concurrency = NonZeroU32::new(limit);
        Self { concurrency, concurrency_is_zero: concurrency.is_none(), ..Self::default() }
    }

    /// The same limits, and nothing starts until the pattern is resumed.
    #[must_use]
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }
}

impl LimitsPatch {
    /// Pauses or resumes and changes no limit.
    #[must_use]
    pub fn paused(paused: bool) -> Self {
        Self { paused: Some(paused), ..Self::default() }
    }

    /// Whether it leaves all limits unchanged (it may change the pause).
    #[must_use]
    pub fn keeps_limits(self) -> bool {
        self == Self { paused: self.paused, ..Self::default() }
    }
}
