//! Everything that is known of one entry.

use bytes::Bytes;
use forebay_messages::command::RetryPolicy;
use serde::{Deserialize, Serialize};

use crate::EntryView;

/// Most bytes of a payload, and of a result, that one answer gives.
pub const DETAIL_BYTES_MAX: usize = 4 << 20;

/// Some bytes of an entry, or the beginning of them.
///
/// In JSON: `len`, and either `text` (when what is given is UTF-8) or `hex`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BytesText", into = "BytesText")]
pub struct BytesView {
    /// How many there are in all.
    pub len: u64,
    /// The first of them.
    pub head: Bytes,
}

impl BytesView {
    /// Whether the head is all there is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.head.len() as u64 == self.len
    }
}

/// [`BytesView`] as JSON has it.
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

/// Bytes up to the first digit that is none: only a program that is not forebay writes one.
fn from_hex(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let bytes = hex.as_bytes().chunks_exact(2);
    bytes.map_while(|two| Some(digit(two[0])? << 4 | digit(two[1])?)).collect()
}

/// An attempt that failed and was followed by another one, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttemptView {
    /// Its number, from 1. A redriven entry counts from 1 again.
    pub number: u32,
    /// When it started (milliseconds since 1970).
    pub started_at: u64,
    /// When it ended (milliseconds since 1970).
    pub ended_at: u64,
    /// What it said, at most 256 bytes.
    pub text: String,
}

/// What follows a failed attempt, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryView {
    /// How many attempts in all; 0 is no limit.
    pub attempts_max: u32,
    /// Wait after the first failed attempt, in milliseconds.
    pub backoff_first_ms: u64,
    /// Longest wait, in milliseconds.
    pub backoff_max_ms: u64,
    /// Growth of the wait from attempt to attempt, in percent.
    pub growth_percent: u32,
    /// Random share taken off each wait, in percent of it.
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

/// Everything that is known of an entry, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDetails {
    /// What a list of entries says of it, with its payload and its result.
    pub entry: EntryView,
    /// The last attempts that failed and were followed by another one, oldest first, at
    /// most 8. What the last attempt of a failed entry said is `entry.failure`.
    pub failed_attempts: Vec<FailedAttemptView>,
    /// What a handler that failed left beside its message.
    pub detail: Option<BytesView>,
    /// What follows a failed attempt.
    pub retry: RetryView,
    /// The idempotency key it was enqueued with.
    pub idempotency_key: Option<String>,
    /// How long its result is kept, in milliseconds; absent is the default, `u64::MAX`
    /// until it is purged.
    pub retention_ms: Option<u64>,
    /// When its result is forgotten (milliseconds since 1970); absent while it has not
    /// ended and when it is kept until it is purged.
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
    fn bytes_are_read_as_they_were_written_text_or_not() {
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
