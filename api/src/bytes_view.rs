//! Bytes of users: payloads, results.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
