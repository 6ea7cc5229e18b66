//! From an item of the input to an entry: its command, its vqueue, its identity.
//!
//! Owns: the [`Job`] that is an entry's payload, and the identity of items. Must always hold: the
//! same item under the same command has the same 16 bytes in every run and on every machine; an
//! accepted item can be enqueued (its names are valid) and started (execve accepts its arguments).
//! Must not know: the runtime.
//!
//! Identity: xxh3-128 of the directory and the object's `id`; otherwise of the command template,
//! the directory and the item (the line; or the object with its fields sorted). Templates of key,
//! scope and limit key are not part of it. The entry id also contains the partition key, which is
//! derived from the scope (or else the key): the run's book finds an item that was stored with
//! another one.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use bilrost::Message;
use bytes::Bytes;
use forebay_messages::{EntryId, VQueueName, vqueue::NameError};
use serde_json::Value;
use thiserror::Error;

use super::{
    input::Numbered,
    runs::{Identity, SERVICE, place_of, put},
    template::{CommandTemplate, Item, Offer, RenderError, Template, TemplateError},
};

/// Maximum length of a single argument on Linux, without its terminator.
pub(crate) const ARG_BYTES_MAX: usize = 128 * 1024 - 1;

/// Maximum length of a job: more than Linux allows for all arguments of a command (2 MiB with a
/// stack of 8) plus the item.
pub(crate) const JOB_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The work of one entry: its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub(crate) struct Job {
    /// The program and its arguments, any bytes but NUL.
    #[bilrost(1)]
    pub(crate) argv: Vec<Bytes>,
    /// Working directory of the command.
    #[bilrost(2)]
    pub(crate) directory: Bytes,
    /// Its number in the input, for display.
    #[bilrost(3)]
    pub(crate) number: u64,
    /// Index in `argv` of the item's arguments; 0 when they are not there unchanged (then `item`
    /// has them), and in jobs of earlier versions.
    #[bilrost(4)]
    pub(crate) item_from: u64,
    /// Number of these arguments.
    #[bilrost(5)]
    pub(crate) item_len: u64,
    /// See [`Job::item`]; empty when `argv` has it.
    #[bilrost(6)]
    pub(crate) item: Bytes,
}

impl Job {
    /// The item as in the input, for display: a line, arguments separated by spaces, or an object
    /// as JSON. Empty when it is unknown.
    #[must_use]
    pub(crate) fn item(&self) -> Bytes {
        let from = usize::try_from(self.item_from).unwrap_or(usize::MAX);
        let len = usize::try_from(self.item_len).unwrap_or(usize::MAX);
        match from.checked_add(len).and_then(|to| self.argv.get(from..to)) {
            Some([one]) if from > 0 => one.clone(),
            Some(args) if from > 0 => args.join(&b' ').into(),
            _ => self.item.clone(),
        }
    }
}

/// An item whose arguments are not in `argv`: see [`Job::item`].
fn written(item: &Item) -> Bytes {
    match item.args() {
        [] if !item.fields().is_empty() => {
            serde_json::to_vec(item.fields()).unwrap_or_default().into()
        }
        args => args.join(&b' ').into(),
    }
}

/// An item that can be enqueued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// The entry's id; enqueueing it twice adds nothing.
    pub(crate) id: EntryId,
    /// Its vqueue; checked.
    pub(crate) vqueue: VQueueName,
    /// The payload.
    pub(crate) job: Job,
    /// The entry that a version without runs created from it.
    pub(crate) before: Option<EntryId>,
}

/// Why an item was refused. The caller knows its number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ItemError {
    /// A template does not fit the item.
    #[error("{place}: {source}")]
    Render {
        /// The option or field.
        place: &'static str,
        /// The reason.
        source: RenderError,
    },
    /// Scope, limit key or key are not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that is not UTF-8.
    #[error("{place} `{text}` is not UTF-8")]
    NotUtf8 {
        /// The option.
        place: &'static str,
        /// The text, with replacement characters.
        text: String,
    },
    /// `id` is empty.
    #[error("`id` is empty; leave it out to identify the item by its content")]
    EmptyId,
    /// The command of this item has no program.
    #[error("nothing to run: the program's name is empty")]
    NoProgram,
    /// An argument is longer than the system allows.
    #[error("argument {index} has {len} bytes; the system takes at most {ARG_BYTES_MAX}")]
    ArgumentTooLong {
        /// The index; 0 is the program.
        index: usize,
        /// Its length.
        len: usize,
    },
    /// Its arguments are too long in total.
    #[error(
        "its command has {len} bytes, at most {JOB_BYTES_MAX} can be stored: put long parts into \
         a file and pass its name to the command"
    )]
    TooLarge {
        /// Their length.
        len: usize,
    },
    /// The path of `--chdir` contains a NUL.
    #[error("--chdir: the path holds a NUL character, which no path can")]
    NulInDirectory,
    /// An argument contains a NUL.
    #[error("argument {index} holds a NUL character, which no argument can")]
    Nul {
        /// The index; 0 is the program.
        index: usize,
    },
}

/// The command line's templates, as typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Templates<'a> {
    /// The command and its arguments.
    pub(crate) command: &'a [OsString],
    /// `--key`.
    pub(crate) key: Option<&'a OsString>,
    /// `--scope`.
    pub(crate) scope: Option<&'a OsString>,
    /// `--limit-key`.
    pub(crate) limit_key: Option<&'a OsString>,
    /// `--chdir`.
    pub(crate) chdir: Option<&'a OsString>,
}

/// Makes entries from items.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    command: CommandTemplate,
    command_canonical: Vec<u8>,
    key: Option<Template>,
    scope: Option<Template>,
    limit_key: Option<Template>,
    chdir: Option<Template>,
    identity: Identity,
    service: String,
}

impl Plan {
    /// Compiles the templates. Commands will run in `directory` (absolute). `again` names a
    /// separate run, whose items differ from those of all other runs.
    ///
    /// # Errors
    /// [`TemplateError`] for placeholders that no item can fill.
    pub(crate) fn compile(
        templates: &Templates<'_>,
        offer: Offer,
        directory: &std::path::Path,
        again: Option<&str>,
    ) -> Result<Self, TemplateError> {
        let compile = |text: Option<&OsString>| {
            text.map(|text| Template::compile(text.as_bytes(), offer)).transpose()
        };
        let words = || templates.command.iter().map(|word| word.as_bytes());
        let mut command_canonical = Vec::new();
        for word in words() {
            put(&mut command_canonical, b'w', word);
        }
        let identity = Identity {
            command: words().map(Bytes::copy_from_slice).collect(),
            directory: Bytes::copy_from_slice(directory.as_os_str().as_bytes()),
            again: again.map(Into::into),
            started_at: 0,
            chdir: templates.chdir.map(|text| Bytes::copy_from_slice(text.as_bytes())),
        };
        Ok(Self {
            command: CommandTemplate::compile(words(), offer)?,
            command_canonical,
            key: compile(templates.key)?,
            scope: compile(templates.scope)?,
            limit_key: compile(templates.limit_key)?,
            chdir: compile(templates.chdir)?,
            service: identity.id().service(),
            identity,
        })
    }

    /// The run of its items.
    #[must_use]
    pub(crate) fn run(&self) -> &Identity {
        &self.identity
    }

    /// The program, if it is the same for every item.
    #[must_use]
    pub(crate) fn program(&self) -> Option<&[u8]> {
        self.command.program()
    }

    /// Makes an entry from an item.
    ///
    /// # Errors
    /// [`ItemError`] when the item does not fit the templates, or when its names or arguments are
    /// not allowed.
    pub(crate) fn prepare(&self, numbered: &Numbered) -> Result<Prepared, ItemError> {
        let item = &numbered.item;
        let argv = self
            .command
            .render(item)
            .map_err(|source| ItemError::Render { place: "COMMAND", source })?;
        check_argv(&argv)?;
        let vqueue = self.vqueue(item)?;
        let own_id = own_field(item, "id", "id")?;
        let uuid = self.uuid(item, own_id.as_deref())?;
        // An `id` means the same item for any command: its partition must be the same, too.
        let service = if own_id.is_some() { SERVICE } else { &self.service };
        let partition_key = match (&vqueue.scope, &vqueue.object_key) {
            (None, None) => place_of(service),
            _ => vqueue.partition_key(None, &uuid),
        };
        let id = EntryId { partition_key, uuid };
        let before = self.id_before(item, own_id.as_deref(), &vqueue);
        let (item_from, item_len) = match self.command.spread_at() {
            Some(at @ 1..) if !item.args().is_empty() => (at as u64, item.args().len() as u64),
            _ => (0, 0),
        };
        let job = Job {
            argv: argv.into_iter().map(Bytes::from).collect(),
            directory: self.directory(item)?,
            number: numbered.number,
            item_from,
            item_len,
            item: if item_from == 0 { written(item) } else { Bytes::new() },
        };
        match job.encoded_len() {
            len if len > JOB_BYTES_MAX => Err(ItemError::TooLarge { len }),
            _ => Ok(Prepared { id, vqueue, job, before }),
        }
    }

    /// The command's working directory: the run's directory, or the path of `--chdir` from there.
    fn directory(&self, item: &Item) -> Result<Bytes, ItemError> {
        let here = &self.identity.directory;
        let Some(chdir) = &self.chdir else { return Ok(here.clone()) };
        let to =
            chdir.render(item).map_err(|source| ItemError::Render { place: "--chdir", source })?;
        if to.contains(&0) {
            return Err(ItemError::NulInDirectory);
        }
        let path = Path::new(OsStr::from_bytes(here)).join(OsStr::from_bytes(&to));
        Ok(Bytes::from(path.into_os_string().into_vec()))
    }

    fn vqueue(&self, item: &Item) -> Result<VQueueName, ItemError> {
        let mut name = VQueueName::service(&self.service);
        if let Some(scope) = name_part(item, "scope", self.scope.as_ref(), "--scope")? {
            name = name.with_scope(&scope);
        }
        if let Some(key) = name_part(item, "limit_key", self.limit_key.as_ref(), "--limit-key")? {
            name = name.with_limit_key(&key)?;
        }
        if let Some(key) = name_part(item, "key", self.key.as_ref(), "--key")? {
            name = name.with_object_key(&key);
        }
        name.check()?;
        Ok(name)
    }

    fn uuid(&self, item: &Item, own_id: Option<&str>) -> Result<[u8; 16], ItemError> {
        let mut canonical = Vec::with_capacity(256);
        put(&mut canonical, b'd', &self.identity.directory);
        match own_id {
            Some("") => return Err(ItemError::EmptyId),
            Some(id) => put(&mut canonical, b'i', id.as_bytes()),
            None => self.put_item(&mut canonical, item),
        }
        if let Some(again) = &self.identity.again {
            put(&mut canonical, b'n', again.as_bytes());
        }
        if let Some(chdir) = &self.identity.chdir {
            put(&mut canonical, b'c', chdir);
        }
        Ok(xxhash_rust::xxh3::xxh3_128(&canonical).to_be_bytes())
    }

    /// The entry that a version without runs created from an item: its identity had no directory.
    fn id_before(&self, item: &Item, own_id: Option<&str>, now: &VQueueName) -> Option<EntryId> {
        if self.identity.again.is_some() || self.chdir.is_some() {
            return None;
        }
        let mut canonical = Vec::with_capacity(256);
        match own_id {
            Some(id) => put(&mut canonical, b'i', id.as_bytes()),
            None => self.put_item(&mut canonical, item),
        }
        let uuid = xxhash_rust::xxh3::xxh3_128(&canonical).to_be_bytes();
        let name = VQueueName { service: SERVICE.into(), ..now.clone() };
        Some(EntryId { partition_key: name.partition_key(None, &uuid), uuid })
    }

    fn put_item(&self, canonical: &mut Vec<u8>, item: &Item) {
        canonical.extend_from_slice(&self.command_canonical);
        if !item.fields().is_empty() {
            return put_object(canonical, item.fields());
        }
        for arg in item.args() {
            put(canonical, b'a', arg);
        }
    }
}

/// A field of the object, if it exists and is not null.
fn own_field(item: &Item, name: &str, place: &'static str) -> Result<Option<String>, ItemError> {
    match item.field(name) {
        Ok(text) => Ok(Some(text)),
        Err(RenderError::Missing { .. }) => Ok(None),
        Err(source) => Err(ItemError::Render { place, source }),
    }
}

/// A part of the vqueue's name: the object's own field, or else the option's template. Empty means
/// none.
fn name_part(
    item: &Item,
    field: &'static str,
    template: Option<&Template>,
    option: &'static str,
) -> Result<Option<String>, ItemError> {
    let text = match (own_field(item, field, field)?, template) {
        (Some(text), _) => text,
        (None, None) => return Ok(None),
        (None, Some(template)) => {
            let bytes = template
                .render(item)
                .map_err(|source| ItemError::Render { place: option, source })?;
            String::from_utf8(bytes).map_err(|error| ItemError::NotUtf8 {
                place: option,
                text: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            })?
        }
    };
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn check_argv(argv: &[Vec<u8>]) -> Result<(), ItemError> {
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(ItemError::NoProgram);
    }
    for (index, arg) in argv.iter().enumerate() {
        if arg.contains(&0) {
            return Err(ItemError::Nul { index });
        }
        if arg.len() > ARG_BYTES_MAX {
            return Err(ItemError::ArgumentTooLong { index, len: arg.len() });
        }
    }
    Ok(())
}

fn put_object(canonical: &mut Vec<u8>, fields: &super::template::Fields) {
    // Sorted here: the order of the map depends on a feature of serde_json.
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    put(canonical, b'o', &(fields.len() as u64).to_be_bytes());
    for (name, value) in fields {
        put(canonical, b'f', name.as_bytes());
        put_value(canonical, value);
    }
}

/// serde_json bounds the depth of what it parses, so this recursion is bounded.
fn put_value(canonical: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(fields) => put_object(canonical, fields),
        Value::Array(values) => {
            put(canonical, b'l', &(values.len() as u64).to_be_bytes());
            for value in values {
                put_value(canonical, value);
            }
        }
        Value::String(text) => put(canonical, b's', text.as_bytes()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            put(canonical, b'v', value.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
