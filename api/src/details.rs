//! Everything known about one entry.

use bytes::Bytes;
use forebay_messages::command::RetryPolicy;
use serde::{Deserialize, Serialize};

use crate::EntryView;

/// Maximum bytes of a payload, and of a result, in one answer.
pub const DETAIL_BYTES_MAX: usize = 4 << 20;

/// Bytes of an entry, or a prefix of them.
///
/// In JSON: `len`, and either `text` (if the prefix is UTF-8) or `hex`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BytesText", into = "BytesText")]
pub struct BytesView {
    /// Total length.
    pub len: u64,
    /// The beginning.
    pub head: Bytes,
}

impl BytesView {
    /// Whether the head is complete.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.head.len() as u64 == self.len
    }
}

/// [`BytesView`] as in JSON.
#[derive(Clone, Serialize, Deserialize)]
struct BytesText {
    len: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

impl From<BytesView> for BytesText {
    fn from(BytesView { len, head }: BytesView) -> Self {
        match std::str::from_utf8(&head) {
            Ok(text) => Self { len, text: Some(text.to_owned()), hex: None },
            Err(_) => {
                let hex = head.iter().map(|byte| format!("{byte:02x}")).collect();
                Self { len, text: None, hex: Some(hex) }
            }
        }
    }
}

impl From<BytesText> for BytesView {
    fn from(BytesText { len, text, hex }: BytesText) -> Self {
        let head = match (text, hex) {
            (Some(text), _) => text.into_bytes(),
            (None, hex) => from_hex(hex.as_deref().unwrap_or_default()),
        };
        Self { len, head: head.into() }
    }
}

/// Decodes up to the first invalid digit, which only other programs write.
fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let bytes = hex.as_bytes().chunks_exact(2);
    bytes.map_while(|two| Some(digit(two[0])? << 4 | digit(two[1])?)).collect()
}

/// A failed and retried attempt, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttemptView {
    /// Its number, from 1. A redriven entry counts from 1 again.
    pub number: u32,
    /// When it started (milliseconds since 1970).
    pub started_at: u64,
    /// When it ended (milliseconds since 1970).
    pub ended_at: u64,
    /// Its message, at most 256 bytes.
    pub text: String,
}

/// Retries of failed attempts, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryView {
    /// Maximum number of attempts; 0 is no limit.
    pub attempts_max: u32,
    /// Delay after the first failed attempt, in milliseconds.
    pub backoff_first_ms: u64,
    /// Maximum delay, in milliseconds.
    pub backoff_max_ms: u64,
    /// Growth of the delay with each attempt, in percent.
    pub growth_percent: u32,
    /// Random share that is subtracted from each delay, in percent of it.
    pub jitter_percent: u32,
}

impl From<RetryPolicy> for RetryView {
    fn from(retry: RetryPolicy) -> Self {
        let RetryPolicy {
            attempts_max,
            backoff_first_ms,
            backoff_max_ms,
            growth_percent,
            jitter_percent,
        } = retry;
        Self { attempts_max, backoff_first_ms, backoff_max_ms, growth_percent, jitter_percent }
    }
}

/// Everything known about an entry, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDetails {
    /// The entry as in a list, with its payload and its result.
    pub entry: EntryView,
    /// The last failed and retried attempts, oldest first, at most 8. The message of the last
    /// attempt of a failed entry is `entry.failure`.
    pub failed_attempts: Vec<FailedAttemptView>,
    /// Additional bytes of a failed handler.
    pub detail: Option<BytesView>,
    /// Retries of failed attempts.
    pub retry: RetryView,
    /// The idempotency key it was enqueued with.
    pub idempotency_key: Option<String>,
    /// How long its result is kept, in milliseconds; absent means the default, `u64::MAX` means
    /// until it is purged.
    pub retention_ms: Option<u64>,
    /// When its result is removed (milliseconds since 1970); absent before its end, and if it is
    /// kept until it is purged.
    pub expires_at: Option<u64>,
    /// It was asked to stop and has not ended yet.
    pub cancel_requested: bool,
    /// Attempts that ended because their process died.
    pub interrupted: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_as_text_or_hex() {
        for head in
            [&b"plain"[..], b"", b"\x05\x01\n\"quoted\"", b"\xff\x00\x7f", "gr\u{fc}n".as_bytes()]
        {
            let view = BytesView { len: 99, head: Bytes::copy_from_slice(head) };
            let json = serde_json::to_string(&view).unwrap();
            assert_eq!(serde_json::from_str::<BytesView>(&json).unwrap(), view, "{json}");
        }
        let odd: BytesView = serde_json::from_str(r#"{"len":3,"hex":"01zz02"}"#).unwrap();
        assert_eq!(odd.head, &b"\x01"[..]);
    }
}
