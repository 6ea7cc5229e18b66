//! From text to pieces. Cannot fail: text that is not a placeholder is literal.

use super::{Piece, Source};

/// Splits a template into literal text and placeholders; adjacent literals are one.
pub(super) fn pieces(text: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while let Some(&first) = rest.first() {
        if first == b'{' && literal.last() != Some(&b'$') {
            if let Some(len) = escaped(rest) {
                literal.extend_from_slice(&rest[1..len - 1]);
                rest = &rest[len..];
                continue;
            }
            if let Some((piece, len)) = placeholder(rest) {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(piece);
                rest = &rest[len..];
                continue;
            }
        }
        literal.push(first);
        rest = &rest[1..];
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    pieces
}

/// The length of a `{{placeholder}}` at the start of `text`.
fn escaped(text: &[u8]) -> Option<usize> {
    let inner = text.strip_prefix(b"{")?;
    let (_, len) = placeholder(inner)?;
    inner[len..].starts_with(b"}").then_some(len + 2)
}

/// The placeholder at the start of `text`, and its length.
fn placeholder(text: &[u8]) -> Option<(Piece, usize)> {
    let inner = text.strip_prefix(b"{")?;
    let end = inner.iter().position(|byte| matches!(byte, b'{' | b'}'))?;
    if inner[end] != b'}' {
        return None;
    }
    let inner = &inner[..end];
    let default_at = inner.windows(2).position(|pair| pair == b":-");
    let (name, default) = match default_at {
        Some(at) => (&inner[..at], Some(inner[at + 2..].to_vec())),
        None => (inner, None),
    };
    Some((Piece::Placeholder { source: source(name)?, default }, end + 2))
}

fn source(name: &[u8]) -> Option<Source> {
    Some(match name {
        b"" => Source::Whole,
        b"/" => Source::BaseName,
        b"//" => Source::Directory,
        b"." => Source::Stem,
        b"/." => Source::BaseStem,
        b"ext" => Source::Extension,
        b"#" => Source::Number,
        [first, rest @ ..] => {
            let starts = first.is_ascii_alphabetic() || *first == b'_';
            let continues = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
            if !starts || !rest.iter().all(continues) {
                return None;
            }
            Source::Field(String::from_utf8(name.to_vec()).ok()?)
        }
    })
}
