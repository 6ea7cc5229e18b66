//! Printing and parsing of ids: a prefix and fixed-width base62.

use thiserror::Error;

use super::{
    PartitionKey, RuleId,
    wide::{EntryId, VQueueId},
};

/// Width of a `u64` in base62.
const WIDTH_U64: usize = 11;
/// Width of a `u128` in base62.
const WIDTH_U128: usize = 22;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// The prefix does not match the kind of id.
    #[error("`{text}` is not an id of this kind: it should start with `{prefix}`")]
    Prefix {
        /// The given text.
        text: String,
        /// The expected prefix.
        prefix: &'static str,
    },
    /// Wrong length, a character that is not base62, or a number that is too large.
    #[error("`{text}` is damaged: after `{prefix}` an id has {expected} letters and digits")]
    Body {
        /// The given text.
        text: String,
        /// The prefix.
        prefix: &'static str,
        /// Expected number of characters after the prefix.
        expected: usize,
    },
}

fn body<'a>(text: &'a str, prefix: &'static str) -> Result<&'a str, ParseIdError> {
    text.strip_prefix(prefix).ok_or_else(|| ParseIdError::Prefix { text: text.to_owned(), prefix })
}

fn number(digits: Option<&str>) -> Option<u128> {
    digits.and_then(|digits| base62::decode(digits).ok())
}

fn wide(text: &str, prefix: &'static str) -> Result<(PartitionKey, u128), ParseIdError> {
    let body = body(text, prefix)?;
    let damaged =
        || ParseIdError::Body { text: text.to_owned(), prefix, expected: WIDTH_U64 + WIDTH_U128 };
    if body.len() != WIDTH_U64 + WIDTH_U128 {
        return Err(damaged());
    }
    let key = number(body.get(..WIDTH_U64)).ok_or_else(damaged)?;
    let rest = number(body.get(WIDTH_U64..)).ok_or_else(damaged)?;
    let key = u64::try_from(key).map_err(|_| damaged())?;
    Ok((PartitionKey(key), rest))
}

macro_rules! printed_wide {
    ($name:ident, $prefix:literal) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let key = base62::encode(self.partition_key.0);
                let rest = base62::encode(self.rest_as_u128());
                write!(f, concat!($prefix, "{:0>11}{:0>22}"), key, rest)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let (key, rest) = wide(text, $prefix)?;
                Ok(Self::from_parts(key, rest))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

printed_wide!(EntryId, "ent_");
printed_wide!(VQueueId, "vq_");

impl RuleId {
    /// The printed form: `rul_` and 11 letters and digits.
    #[must_use]
    pub fn printed(self) -> String {
        format!("rul_{:0>11}", base62::encode(self.0))
    }

    /// Reads the printed form.
    ///
    /// # Errors
    /// [`ParseIdError`] if the text is not a printed rule id.
    pub fn parse(text: &str) -> Result<Self, ParseIdError> {
        let body = body(text, "rul_")?;
        let damaged =
            || ParseIdError::Body { text: text.to_owned(), prefix: "rul_", expected: WIDTH_U64 };
        if body.len() != WIDTH_U64 {
            return Err(damaged());
        }
        let value = number(Some(body)).ok_or_else(damaged)?;
        u64::try_from(value).map(RuleId).map_err(|_| damaged())
    }
}
