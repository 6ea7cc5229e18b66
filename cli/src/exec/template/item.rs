//! An item as seen by templates, and parts of paths.

use serde_json::{Map, Value};

use super::RenderError;

/// Fields of a JSON object.
pub(crate) type Fields = Map<String, Value>;

/// One item of the input.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Item {
    args: Vec<Vec<u8>>,
    fields: Fields,
    /// Its position in the input; not part of its content.
    number: u64,
}

impl Item {
    /// A line: one argument, no fields.
    #[must_use]
    pub(crate) fn line(bytes: Vec<u8>) -> Self {
        Self { args: vec![bytes], ..Self::default() }
    }

    /// Several lines: one argument each, no fields.
    #[must_use]
    pub(crate) fn lines(args: Vec<Vec<u8>>) -> Self {
        Self { args, ..Self::default() }
    }

    /// An object: its `args`, and all of its fields.
    #[must_use]
    pub(crate) fn object(args: Vec<Vec<u8>>, fields: Fields) -> Self {
        Self { args, fields, number: 0 }
    }

    /// The same item at a position in the input.
    #[must_use]
    pub(crate) fn at(self, number: u64) -> Self {
        Self { number, ..self }
    }

    /// Its position in the input.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The arguments.
    #[must_use]
    pub(crate) fn args(&self) -> &[Vec<u8>] {
        &self.args
    }

    /// All fields of an object, sorted by name; none for a line.
    #[must_use]
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The single argument for a placeholder within a text.
    pub(super) fn one(&self, placeholder: &'static str) -> Result<&[u8], RenderError> {
        match self.args.as_slice() {
            [arg] => Ok(arg),
            args => Err(RenderError::NotOneArgument { count: args.len(), placeholder }),
        }
    }

    /// A field as text; `null` counts as missing.
    pub(crate) fn field(&self, name: &str) -> Result<String, RenderError> {
        let not_scalar = |kind| RenderError::NotScalar { name: name.to_owned(), kind };
        match self.fields.get(name) {
            None | Some(Value::Null) => Err(RenderError::Missing { name: name.to_owned() }),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => Ok(value.to_string()),
            Some(Value::Array(_)) => Err(not_scalar("an array")),
            Some(Value::Object(_)) => Err(not_scalar("an object")),
        }
    }
}

/// Without trailing slashes; `/` stays.
fn trimmed(path: &[u8]) -> &[u8] {
    let len = path.iter().rposition(|byte| *byte != b'/').map_or(1.min(path.len()), |at| at + 1);
    &path[..len]
}

/// Start of the last component, after the last slash.
fn base_at(path: &[u8]) -> usize {
    path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)
}

/// The last component of a path, like basename(1).
pub(super) fn base_name(path: &[u8]) -> &[u8] {
    let path = trimmed(path);
    if path == b"/" { path } else { &path[base_at(path)..] }
}

/// The path without its last component, like dirname(1): `.` if there is none.
pub(super) fn directory(path: &[u8]) -> &[u8] {
    let path = trimmed(path);
    match base_at(path) {
        0 => b".",
        at => trimmed(&path[..at]),
    }
}

/// Position of the extension's dot. A dot at the start of the base name does not count: `.bashrc`
/// has no extension.
fn dot_at(path: &[u8]) -> Option<usize> {
    let base = base_at(path);
    let dot = path[base..].iter().rposition(|byte| *byte == b'.')?;
    (dot > 0).then_some(base + dot)
}

/// The path without its extension.
pub(super) fn stem(path: &[u8]) -> &[u8] {
    dot_at(path).map_or(path, |dot| &path[..dot])
}

/// The extension, without its dot; empty if there is none.
pub(super) fn extension(path: &[u8]) -> &[u8] {
    dot_at(path).map_or(&[], |dot| &path[dot + 1..])
}
