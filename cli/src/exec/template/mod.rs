//! Templates: `{}`, `{/}`, `{//}`, `{.}`, `{/.}`, `{ext}`, `{#}`, `{name}`, `{x:-default}`.
//!
//! Owns: their grammar and their results. Must always hold: a template is compiled once and renders
//! many items; rendering an item reads only the item; bytes that are not part of a placeholder stay
//! unchanged (file names and commands may contain any bytes). Must not know: where items come from.
//!
//! Grammar. A placeholder is `{` name `}` or `{` name `:-` default `}`, where name is
//! nothing, `/`, `//`, `.`, `/.`, `#`, or a field: a letter or `_`, then letters, digits, `_` and
//! `-`. A default is any text without braces. All other braces are literal text, and
//! so is a placeholder behind a `$`: `awk '{print $1}'`, `${HOME}`, `${1:-x}`, `{1..3}`
//! and JSON need no escapes. `{{name}}` is the literal text `{name}`.

mod item;
mod parse;

use std::borrow::Cow;

use thiserror::Error;

pub(crate) use item::{Fields, Item};

/// The value of a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// `{}`: the item.
    Whole,
    /// `{/}`: its base name.
    BaseName,
    /// `{//}`: its directory; `.` without one.
    Directory,
    /// `{.}`: without the extension.
    Stem,
    /// `{/.}`: its base name without the extension.
    BaseStem,
    /// `{ext}`: its extension, without the dot; empty without one.
    Extension,
    /// `{#}`: its number in the input.
    Number,
    /// `{name}`: a field of a JSON object.
    Field(String),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Placeholder { source: Source, default: Option<Vec<u8>> },
}

/// Which fields the items of an input provide for templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// A line: no fields.
    Line,
    /// A JSON object: any field, known only when it is read.
    Object,
}

/// Why a template was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TemplateError {
    /// A field where items have none.
    #[error(
        "unknown template field `{{{name}}}` in `{template}`: lines offer {{}} {{/}} {{//}} {{.}} \
         {{/.}} {{ext}} {{#}}; write `{{{{{name}}}}}` for the literal text, or read objects with --ndjson"
    )]
    UnknownField {
        /// The field.
        name: String,
        /// The whole template.
        template: String,
    },
}

/// Why an item does not fit a template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum RenderError {
    /// The object does not have the field.
    #[error("no field `{name}` in the object; add it, or write `{{{name}:-default}}`")]
    Missing {
        /// The field.
        name: String,
    },
    /// The field is an array or an object.
    #[error("field `{name}` is {kind}; a template needs a string, a number or a boolean")]
    NotScalar {
        /// The field.
        name: String,
        /// Its type.
        kind: &'static str,
    },
    /// One argument is needed, and there are none or several.
    #[error(
        "the item has {count} arguments (`args` with --ndjson, or as many as -n says), but \
         `{placeholder}` within a text stands for exactly one; only `{{}}` on its own takes several"
    )]
    NotOneArgument {
        /// The number of arguments.
        count: usize,
        /// The placeholder.
        placeholder: &'static str,
    },
}

/// A compiled template for one text: a key, a scope, or an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`TemplateError`] for placeholders that no item can fill.
    pub(crate) fn compile(text: &[u8], offer: Offer) -> Result<Self, TemplateError> {
        let pieces = parse::pieces(text);
        if offer == Offer::Line {
            for piece in &pieces {
                if let Piece::Placeholder { source: Source::Field(name), .. } = piece {
                    let template = String::from_utf8_lossy(text).into_owned();
                    return Err(TemplateError::UnknownField { name: name.clone(), template });
                }
            }
        }
        Ok(Self { pieces })
    }

    /// Renders the template for one item.
    ///
    /// # Errors
    /// [`RenderError`] when the item lacks something that the template needs.
    pub(crate) fn render(&self, item: &Item) -> Result<Vec<u8>, RenderError> {
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Placeholder { source, default } => {
                    out.extend_from_slice(&resolve(source, default.as_deref(), item)?);
                }
            }
        }
        Ok(out)
    }

    /// The text itself, if no part of it depends on the item.
    #[must_use]
    pub(crate) fn literal(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [] => Some(&[]),
            [Piece::Literal(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// Whether it is only `{}`: all arguments are inserted there.
    fn is_spread(&self) -> bool {
        let [Piece::Placeholder { source: Source::Whole, default: None }] = self.pieces.as_slice()
        else {
            return false;
        };
        true
    }
}

/// A compiled command: the program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandTemplate {
    words: Vec<Template>,
    /// No word has a placeholder: the item is appended.
    appends: bool,
}

impl CommandTemplate {
    /// Compiles a command of at least one word.
    ///
    /// # Errors
    /// [`TemplateError`] for placeholders that no item can fill.
    pub(crate) fn compile<W: AsRef<[u8]>>(
        words: impl IntoIterator<Item = W>,
        offer: Offer,
    ) -> Result<Self, TemplateError> {
        let words = words
            .into_iter()
            .map(|word| Template::compile(word.as_ref(), offer))
            .collect::<Result<Vec<_>, _>>()?;
        assert!(!words.is_empty(), "a command has at least the program");
        let appends = words.iter().all(|word| word.literal().is_some());
        Ok(Self { words, appends })
    }

    /// The program and its arguments for one item.
    ///
    /// # Errors
    /// [`RenderError`] when the item lacks something that the command needs.
    pub(crate) fn render(&self, item: &Item) -> Result<Vec<Vec<u8>>, RenderError> {
        let mut argv = Vec::with_capacity(self.words.len() + item.args().len());
        for word in &self.words {
            if word.is_spread() {
                argv.extend_from_slice(item.args());
            } else {
                argv.push(word.render(item)?);
            }
        }
        if self.appends {
            argv.extend_from_slice(item.args());
        }
        Ok(argv)
    }

    /// Index in the command where all items' arguments are inserted unchanged, if there is one.
    #[must_use]
    pub(crate) fn spread_at(&self) -> Option<usize> {
        if self.appends {
            return Some(self.words.len());
        }
        self.words.iter().position(Template::is_spread)
    }

    /// The program, if it is the same for every item: worth searching before anything is stored.
    #[must_use]
    pub(crate) fn program(&self) -> Option<&[u8]> {
        self.words.first().and_then(Template::literal)
    }
}

fn resolve<'a>(
    source: &Source,
    default: Option<&'a [u8]>,
    item: &'a Item,
) -> Result<Cow<'a, [u8]>, RenderError> {
    let value: Result<Cow<'a, [u8]>, RenderError> = match source {
        Source::Whole => item.one("{}").map(Cow::Borrowed),
        Source::BaseName => item.one("{/}").map(|arg| Cow::Borrowed(item::base_name(arg))),
        Source::Directory => item.one("{//}").map(|arg| Cow::Borrowed(item::directory(arg))),
        Source::Stem => item.one("{.}").map(|arg| Cow::Borrowed(item::stem(arg))),
        Source::BaseStem => {
            item.one("{/.}").map(|arg| Cow::Borrowed(item::stem(item::base_name(arg))))
        }
        Source::Extension => item.one("{ext}").map(|arg| Cow::Borrowed(item::extension(arg))),
        Source::Number => Ok(Cow::Owned(item.number().to_string().into_bytes())),
        Source::Field(name) => item.field(name).map(|text| Cow::Owned(text.into_bytes())),
    };
    let absent = |error: &RenderError| {
        matches!(error, RenderError::Missing { .. } | RenderError::NotOneArgument { count: 0, .. })
    };
    match (value, default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(Cow::Borrowed(default)),
        (Err(error), Some(default)) if absent(&error) => Ok(Cow::Borrowed(default)),
        (value, _) => value,
    }
}

#[cfg(test)]
mod tests;
