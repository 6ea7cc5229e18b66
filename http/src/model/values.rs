//! Times, durations and bytes in JSON.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use forebay_messages::Timestamp;
use jiff::{
    SignedDuration,
    fmt::friendly::{Designator, Spacing, SpanPrinter},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr, Schema, SchemaFormat,
        schema::{KnownFormat, Type},
    },
};

/// A time, in ISO 8601.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) fn timestamp(self) -> Timestamp {
        Timestamp(self.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => time.fmt(f),
            // Beyond the year 9999.
            Err(_) => jiff::Timestamp::MAX.fmt(f),
        }
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            format!("`{text}` is not a time: write one like `2026-11-30T12:00:00Z`")
        })?;
        let millis = u64::try_from(time.as_millisecond());
        millis.map(Self).map_err(|_| format!("`{text}` is before 1970"))
    }
}

/// A duration, like `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    pub(crate) fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(crate) fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printer = SpanPrinter::new().designator(Designator::Compact).spacing(Spacing::None);
        let duration = SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX);
        f.write_str(&printer.duration_to_string(&duration))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration: Result<SignedDuration, _> = text.parse();
        let positive = duration.ok().and_then(|duration| Duration::try_from(duration).ok());
        positive
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a duration: write one like `1m30s`"))
    }
}

macro_rules! text_in_json {
    ($($name:ident: $format:expr, $example:literal;)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let object = ObjectBuilder::new().schema_type(Type::String).format($format);
                object.examples([$example]).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

text_in_json! {
    Time: Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), "2026-11-30T12:00:00Z";
    Span: None, "1m30s";
}

/// Bytes that are JSON, or any others: at most one of the fields is present.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Content {
    /// Their number.
    pub(crate) len: u64,
    /// Not all of them are here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_cut: bool,
    /// The value, if the bytes are JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub(crate) json: Option<Box<RawValue>>,
    /// The text, if the bytes are UTF-8 and not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// The bytes in base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
}

impl Content {
    /// All bytes, or the beginning of them.
    pub(crate) fn of(head: &[u8], len: u64) -> Self {
        let is_cut = (head.len() as u64) < len;
        let content = Self { len, is_cut, ..Self::default() };
        match std::str::from_utf8(head) {
            _ if len == 0 => content,
            Err(_) => Self { base64: Some(STANDARD.encode(head)), ..content },
            Ok(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(json) if !is_cut => Self { json: Some(json.to_owned()), ..content },
                _ => Self { text: Some(text.to_owned()), ..content },
            },
        }
    }

    pub(crate) fn view(view: &forebay_api::BytesView) -> Self {
        Self::of(&view.head, view.len)
    }
}

/// Reads base64.
pub(crate) fn from_base64(text: &str) -> Result<Bytes, String> {
    let decoded = STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))?;
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_round_trip() {
        assert_eq!(Time(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!("2023-11-14T22:13:20.123Z".parse(), Ok(Time(1_700_000_000_123)));
        assert!(
            "yesterday".parse::<Time>().is_err() && "1960-01-01T00:00:00Z".parse::<Time>().is_err()
        );
        for text in ["1m30s", "30s", "0s", "2h", "250ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert!("-5s".parse::<Span>().is_err() && "5".parse::<Span>().is_err());
        assert!(Time(u64::MAX).to_string().starts_with("9999-"));
    }

    #[test]
    fn bytes_are_json_or_text_or_base64() {
        let json = |head: &[u8], len| serde_json::to_string(&Content::of(head, len)).unwrap();
        assert_eq!(json(b"", 0), r#"{"len":0}"#);
        assert_eq!(json(br#"{"a": 1}"#, 8), r#"{"len":8,"json":{"a": 1}}"#);
        assert_eq!(json(b"plain", 5), r#"{"len":5,"text":"plain"}"#);
        assert_eq!(json(b"\xff", 1), r#"{"len":1,"base64":"/w=="}"#);
        assert_eq!(json(b"12", 3), r#"{"len":3,"is_cut":true,"text":"12"}"#);
    }
}
